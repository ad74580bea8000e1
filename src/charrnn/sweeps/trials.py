"""Trials of a sweep: combinators for experiment files, names, and trial expansion.

A trial is a dict of overrides by dotted field name, and a sweep a list of trials:

  def sweep():
    return trials.product(
      trials.sweep("model.cell", ["rnn", "lstm"]), trials.sweep("seed", range(3))  # 6 trials
    )

`get_hyper(hyper)` of big_vision's and scenic's config files receives this module as `hyper`, hence
the names `zipit` and `chainit`. The prefix "config." of a field is dropped.
"""

import functools
import inspect
import itertools
import math
import os
import pathlib
import random
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from charrnn import command_line, errors
from charrnn import config as config_lib
from charrnn.runs import run as run_lib
from charrnn.sweeps import outcomes, spaces

Trials = list[dict[str, Any]]


def discrete(values: Iterable[Any]) -> list[Any]:
  """Return the values as a list, for `sweep`; config files of big_vision use it."""
  return list(values)


def sweep(field: str, values: Iterable[Any]) -> Trials:
  """Return a trial for each value of a field."""
  return [{config_lib.current_name(field): value} for value in values]


def fixed(field: str, value: Any, length: int = 1) -> Trials:
  """Return trials that all set one value."""
  return sweep(field, [value] * length)


def product(*sweeps: Trials | list[Trials]) -> Trials:
  """Combine every trial of one sweep with every trial of the others.

  This and the next two take sweeps one by one or as one list.
  """
  return [_merge(trials) for trials in itertools.product(*_separate(sweeps))]


def zipit(*sweeps: Trials | list[Trials]) -> Trials:
  """Combine the first trials of all sweeps, then the second ones, and so on; lengths are equal."""
  separate = _separate(sweeps)
  if len(lengths := {len(trials) for trials in separate}) > 1:
    raise errors.UserError(f"zipit: sweeps of different lengths: {sorted(lengths)}")
  return [_merge(trials) for trials in zip(*separate)]


def chainit(*sweeps: Trials | list[Trials]) -> Trials:
  """Concatenate sweeps."""
  return [dict(trial) for trials in _separate(sweeps) for trial in trials]


def log_uniform(field: str, low: float, high: float, count: int, seed: int = 0) -> Trials:
  """Return `count` random values, uniform in their logarithm; they depend on the seed alone."""
  if not 0 < low <= high:
    raise errors.UserError(f"log_uniform({field}): {low} to {high} is not a range above 0")
  logarithms = _random(field, math.log(low), math.log(high), count, seed)
  return sweep(field, map(spaces.rounded, map(math.exp, logarithms)))


def uniform(field: str, low: float, high: float, count: int, seed: int = 0) -> Trials:
  """Return `count` random values between low and high; they depend on the seed alone."""
  return sweep(field, map(spaces.rounded, _random(field, low, high, count, seed)))


def _random(field: str, low: float, high: float, count: int, seed: int) -> list[float]:
  source = random.Random(f"{field} {seed}")
  return [source.uniform(low, high) for _ in range(count)]


def _separate(sweeps) -> list[Trials]:
  """Return the sweeps of a combinator's arguments: several sweeps, or one list of them."""
  if len(sweeps) == 1 and sweeps[0] and not isinstance(sweeps[0][0], dict):
    sweeps = sweeps[0]
  return [list(trials) for trials in sweeps]


def _merge(trials) -> dict[str, Any]:
  merged: dict[str, Any] = {}
  for trial in trials:
    for field in trial:
      if field in merged:
        raise errors.UserError(f"{field} is set by two sweeps that are combined: leave one out")
    merged |= trial
  return merged


def as_list(trials: Iterable[dict[str, Any]]) -> Trials:
  """Return the result of a sweep function as a list with plain numbers instead of NumPy's."""

  def plain(value):
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value

  trials = list(trials)
  for trial in trials:
    if not isinstance(trial, dict):
      raise errors.UserError(f"a sweep gives dicts of overrides, not {trial!r}")
  return [{str(field): plain(value) for field, value in trial.items()} for trial in trials]


def by_name(trials: Trials) -> dict[str, dict[str, Any]]:
  """Return trials by name; raise UserError for unknown fields, wrong types and repeated trials.

  A name depends on the overrides of its trial alone, so it stays when other trials are added.
  """
  named: dict[str, dict[str, Any]] = {}
  for trial in trials:
    overrides = {config_lib.current_name(field): value for field, value in trial.items()}
    for field, value in overrides.items():
      if field not in config_lib.BY_NAME:
        raise errors.UserError(f"a sweep sets {field!r}: {config_lib.unknown_field(field)}")
      if not isinstance(value, bool | int | float | str):
        raise errors.UserError(f"a sweep sets {field} to {value!r}: numbers and text can be set")
    if (name := outcomes.trial_name(overrides)) in named:
      raise errors.UserError(f"two trials of the sweep are the same: {name}")
    named[name] = overrides
  if not named:
    raise errors.UserError("the sweep has no trials")
  return named


def experiment(line: command_line.CommandLine) -> types.ModuleType:
  """Return the experiment file of a command line as a module."""
  if line.module is None:
    raise errors.UserError(f"{line.argument} is the config of one run: name an experiment file")
  return line.module


def call(
  module: types.ModuleType, function: str, variant: str, convert: Callable, arguments: tuple = ()
) -> Any:
  """Return convert(result) of an experiment file's function, with the variant if it takes one.

  Every failure of the function, or of a generator that it returns, becomes a UserError.
  """
  where = f"{module.__file__}, {function}()"
  try:
    called = getattr(module, function)
    options = {"variant": variant} if "variant" in inspect.signature(called).parameters else {}
    return convert(called(*arguments, **options))
  except errors.UserError as error:
    raise errors.UserError(f"{where}: {error}") from error
  except (Exception, SystemExit) as error:  # an experiment file may raise anything
    text = (str(error).splitlines() or [""])[0]
    raise errors.UserError(f"{where}: {type(error).__name__}: {text}") from error


def expand(line: command_line.CommandLine) -> Trials:
  """Return the product of the sweeps that --sweep names; without names, the file's own sweep."""
  module = experiment(line)
  result = functools.partial(call, module, variant=line.variant, convert=as_list)
  known = [name.removeprefix("sweep_") for name in vars(module) if name.startswith("sweep_")]
  names = [name for name in line.flags.sweep.split(",") if name]
  for name in names:
    if name not in known:
      remedy = f"there are {', '.join(known)}" if known else "it has no named sweeps"
      raise errors.UserError(f"--sweep={name}: {module.__file__} has no sweep_{name}(): {remedy}")
  if names:
    return product([result(f"sweep_{name}") for name in names])
  if callable(getattr(module, "sweep", None)) and module.sweep is not sweep:
    return result("sweep")
  if hasattr(module, "get_hyper"):
    return result("get_hyper", arguments=(sys.modules[__name__],))
  remedy = f"name one: --sweep={known[0]}" if known else "write a function sweep() in it"
  raise errors.UserError(f"{module.__file__} has no sweep() of its own: {remedy}")


def read_space(line: command_line.CommandLine) -> spaces.Space:
  """Return the experiment file's space; raise UserError if one of its extreme values is refused."""
  module = experiment(line)
  if not hasattr(module, "space"):
    raise errors.UserError(f"{module.__file__} has no space(): write one to search in")
  space = call(module, "space", line.variant, convert=spaces.checked)
  if texts := [field for field in space if field.startswith("text.")]:
    raise errors.UserError(
      f"{module.__file__}, space(): {texts[0]}: losses on different texts cannot be compared"
    )
  if line.config.text.valid_fraction == 0:
    raise errors.UserError("--search: it needs validation losses: set --config.text.valid_fraction")
  for overrides in spaces.extremes(space):
    _parse(make(line, pathlib.Path(), outcomes.trial_name(overrides), overrides))
  return space


def make_all(line, folder: pathlib.Path, named: dict[str, dict[str, Any]]) -> list[outcomes.Trial]:
  """Return all trials; their commands have been parsed as their own processes will do.

  Raises UserError if two trials are the same run, or if one was begun with another config.
  """
  trials = [make(line, folder, name, overrides) for name, overrides in named.items()]
  names: dict[str, str] = {}
  for trial in trials:
    config = _parse(trial)
    if (other := names.setdefault(config.to_json(sort_keys=True), trial.name)) != trial.name:
      raise errors.UserError(f"two trials of the sweep are the same run: {other} and {trial.name}")
    if (trial.folder / "config.json").exists():
      _check_stored(trial, config)
  return trials


def make(line, folder: pathlib.Path, name: str, overrides: dict[str, Any]) -> outcomes.Trial:
  """Return a trial with its command, unchecked."""
  if both := line.overrides.keys() & overrides.keys():
    raise errors.UserError(f"--config.{min(both)}: the trials set it too: leave it out")
  values = line.overrides | overrides
  workdir = folder / name
  command = [sys.executable, os.path.abspath(sys.argv[0]), f"--config={line.argument}"]
  command += [f"--config.{field}={value}" for field, value in values.items()]
  return outcomes.Trial(name, overrides, workdir, [*command, f"--workdir={workdir}"])


def _parse(trial: outcomes.Trial):
  """Return a trial's config as its process will parse it; a UserError names the trial."""
  arguments = [argument for argument in trial.command if argument.startswith("--config")]
  try:
    config = command_line.parse(["launch.py", *arguments]).config
    config_lib.check(config)
  except errors.UserError as error:
    raise errors.UserError(f"trial {trial.name}: {error}") from error
  return config


def _check_stored(trial: outcomes.Trial, config):
  """Raise UserError if the run in a trial's folder cannot become the trial."""
  try:
    stored = config_lib.to_json(run_lib.Run.open(trial.folder).config)
    config = config_lib.fill(config, stored)
    config_lib.check_resumable(stored, config_lib.to_json(config))
  except errors.UserError as error:
    raise errors.UserError(f"trial {trial.name}: {error}") from error
  for name in ("epochs", "max_steps"):
    if config[name] != stored[name] and outcomes.last(trial).status in outcomes.FINAL:
      raise errors.UserError(
        f"trial {trial.name} is finished with {name}={stored[name]} and is asked for with "
        f"{name}={config[name]}: give another --workdir"
      )
