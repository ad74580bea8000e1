"""Trials of a sweep: combinators for experiment files, names, and trial expansion.

A trial is a dict of overrides by dotted field name. A sweep is a list of trials:

  def sweep():
    return trials.product(
      trials.sweep("model.cell", ["rnn", "lstm"]), trials.sweep("seed", range(3))  # 6 trials
    )

Config files of big_vision and scenic define `get_hyper(hyper)`. It works here too, with this module
as `hyper`: hence the names `zipit` and `chainit`. The prefix "config." of a field is dropped.
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

from charrnn import command_line, errors, models
from charrnn import config as config_lib
from charrnn.runs import run as run_lib
from charrnn.runs import tracking
from charrnn.sweeps import outcomes, spaces

Trials = list[dict[str, Any]]


def discrete(values: Iterable[Any]) -> list[Any]:
  """Return the values as a list, for `sweep`; big_vision's config files use this function."""
  return list(values)


def sweep(field: str, values: Iterable[Any]) -> Trials:
  """Return a trial for each value of a field."""
  return [{config_lib.current_name(field): value} for value in values]


def fixed(field: str, value: Any, length: int = 1) -> Trials:
  """Return `length` trials that all set the field to the same value."""
  return sweep(field, [value] * length)


def product(*sweeps: Trials | list[Trials]) -> Trials:
  """Return the Cartesian product of sweeps: every combination of their trials.

  Like `zipit` and `chainit`, it takes the sweeps as separate arguments or as one list.
  """
  return [_merge(trials) for trials in itertools.product(*_separate(sweeps))]


def zipit(*sweeps: Trials | list[Trials]) -> Trials:
  """Combine sweeps of equal length element by element: the first trials, the second ones, etc."""
  separate = _separate(sweeps)
  if len(lengths := {len(trials) for trials in separate}) > 1:
    raise errors.UserError(f"zipit: the sweeps must have equal lengths, not {sorted(lengths)}")
  return [_merge(trials) for trials in zip(*separate)]


def chainit(*sweeps: Trials | list[Trials]) -> Trials:
  """Concatenate sweeps."""
  return [dict(trial) for trials in _separate(sweeps) for trial in trials]


def log_uniform(field: str, low: float, high: float, count: int, seed: int = 0) -> Trials:
  """Return trials with `count` log-uniform random values, which depend only on field and seed."""
  if not 0 < low <= high:
    raise errors.UserError(
      f"log_uniform({field}): {low} to {high} is not a range above 0: use 0 < low <= high"
    )
  logarithms = _random(field, math.log(low), math.log(high), count, seed)
  return sweep(field, map(spaces.rounded, map(math.exp, logarithms)))


def uniform(field: str, low: float, high: float, count: int, seed: int = 0) -> Trials:
  """Return trials with `count` uniform random values, which depend only on field and seed."""
  return sweep(field, map(spaces.rounded, _random(field, low, high, count, seed)))


def _random(field: str, low: float, high: float, count: int, seed: int) -> list[float]:
  source = random.Random(f"{field} {seed}")
  return [source.uniform(low, high) for _ in range(count)]


def _separate(sweeps) -> list[Trials]:
  """Return the arguments of a combinator as a list of sweeps."""
  if len(sweeps) == 1 and sweeps[0] and not isinstance(sweeps[0][0], dict):
    sweeps = sweeps[0]
  return [list(trials) for trials in sweeps]


def _merge(trials) -> dict[str, Any]:
  merged: dict[str, Any] = {}
  for trial in trials:
    for field in trial:
      if field in merged:
        raise errors.UserError(f"{field} is set by two of the combined sweeps: remove one of them")
    merged |= trial
  return merged


def as_list(trials: Iterable[dict[str, Any]]) -> Trials:
  """Return the result of a sweep function as a list, with NumPy numbers as Python numbers."""

  def plain(value):
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value

  trials = list(trials)
  for trial in trials:
    if not isinstance(trial, dict):
      raise errors.UserError(f"a sweep must contain dicts of overrides, not {trial!r}")
  return [{str(field): plain(value) for field, value in trial.items()} for trial in trials]


def by_name(trials: Trials) -> dict[str, dict[str, Any]]:
  """Return trials by name; raise UserError for unknown fields, wrong types and repeated trials.

  A name depends only on the trial's overrides, so it does not change when other trials are added.
  """
  named: dict[str, dict[str, Any]] = {}
  for trial in trials:
    overrides = {config_lib.current_name(field): value for field, value in trial.items()}
    for field, value in overrides.items():
      if field not in config_lib.BY_NAME:
        raise errors.UserError(f"a sweep sets {field!r}: {config_lib.unknown_field(field)}")
      if not isinstance(value, bool | int | float | str):
        raise errors.UserError(f"a sweep sets {field} to {value!r}: use a number or text")
    if (name := outcomes.trial_name(overrides)) in named:
      raise errors.UserError(f"two trials of the sweep are the same: {name}: remove one of them")
    named[name] = overrides
  if not named:
    raise errors.UserError("the sweep has no trials: return at least one")
  return named


def experiment(line: command_line.CommandLine) -> types.ModuleType:
  """Return the experiment file of a command line as a module."""
  if line.module is None:
    raise errors.UserError(
      f"{line.argument} is the config of one run: use an experiment file instead"
    )
  return line.module


def call(
  module: types.ModuleType, function: str, variant: str, convert: Callable, arguments: tuple = ()
) -> Any:
  """Call a function of an experiment file and return convert(result).

  The function receives `variant` if it has a parameter of that name. Every exception, also one from
  a generator that the function returns, becomes a UserError.
  """
  where = f"{module.__file__}, {function}()"
  try:
    called = getattr(module, function)
    options = {"variant": variant} if "variant" in inspect.signature(called).parameters else {}
    return convert(called(*arguments, **options))
  except errors.UserError as error:
    raise errors.UserError(f"{where}: {error}") from error
  except (Exception, SystemExit) as error:  # An experiment file may raise anything.
    text = f"{where}: {type(error).__name__}: {errors.first_line(error)}"
    raise errors.UserError(text) from error


def expand(line: command_line.CommandLine) -> Trials:
  """Return the product of the sweeps that --sweep names, or of sweep() if it names none."""
  module = experiment(line)
  result = functools.partial(call, module, variant=line.variant, convert=as_list)
  available = [name.removeprefix("sweep_") for name in vars(module) if name.startswith("sweep_")]
  names = [name for name in line.flags.sweep.split(",") if name]
  for name in names:
    if name not in available:
      remedy = f"use {', '.join(available)}" if available else "write this function or use --sweep"
      raise errors.UserError(f"--sweep={name}: {module.__file__} has no sweep_{name}(): {remedy}")
  if names:
    return product([result(f"sweep_{name}") for name in names])
  if callable(getattr(module, "sweep", None)) and module.sweep is not sweep:
    return result("sweep")
  if hasattr(module, "get_hyper"):
    return result("get_hyper", arguments=(sys.modules[__name__],))
  remedy = f"use a named sweep: --sweep={available[0]}" if available else "write this function"
  raise errors.UserError(f"{module.__file__} has no sweep(): {remedy}")


def read_space(line: command_line.CommandLine) -> spaces.Space:
  """Return an experiment file's search space; raise UserError if an extreme value is invalid."""
  module = experiment(line)
  if not hasattr(module, "space"):
    raise errors.UserError(f"{module.__file__} has no space(): write this function to use --search")
  space = call(module, "space", line.variant, convert=spaces.checked)
  if texts := [field for field in space if field.startswith("text.")]:
    raise errors.UserError(
      f"{module.__file__}, space(): {texts[0]}: losses on different texts cannot be compared: "
      "remove this field"
    )
  if not config_lib.has_validation(line.config):
    raise errors.UserError(
      "--search needs validation losses: set --config.text.valid_fraction above 0, or "
      "--config.text.valid_source"
    )
  for overrides in spaces.extremes(space):
    _parse(make(line, pathlib.Path(), outcomes.trial_name(overrides), overrides))
  return space


def make_all(line, folder: pathlib.Path, named: dict[str, dict[str, Any]]) -> list[outcomes.Trial]:
  """Return all trials, after parsing their commands as their own processes will do.

  Raises UserError if two trials are the same run, or if a trial was started with another config.
  """
  trials = [make(line, folder, name, overrides) for name, overrides in named.items()]
  names: dict[str, str] = {}
  for trial in trials:
    config = _parse(trial)
    if (other := names.setdefault(config.to_json(sort_keys=True), trial.name)) != trial.name:
      raise errors.UserError(
        f"two trials of the sweep are the same run: {other} and {trial.name}: remove one"
      )
    if (trial.folder / "config.json").exists():
      _check_stored(trial, config)
  return trials


def make(line, folder: pathlib.Path, name: str, overrides: dict[str, Any]) -> outcomes.Trial:
  """Return a trial with its command; the overrides are not checked.

  --rollback applies to the networks of a sweep only, because n-grams do not diverge.
  """
  if both := line.overrides.keys() & overrides.keys():
    raise errors.UserError(
      f"--config.{min(both)}: the trials set this field too: remove the option"
    )
  values = line.overrides | overrides
  workdir = folder / name
  command = [sys.executable, os.path.abspath(sys.argv[0]), f"--config={line.argument}"]
  command += [f"--config.{field}={value}" for field, value in values.items()]
  is_trained = models.has_gradient({"cell": values.get("model.cell", line.config.model.cell)})
  command += ["--rollback"] if line.flags.rollback and is_trained else []
  return outcomes.Trial(name, overrides, workdir, [*command, f"--workdir={workdir}"])


def _parse(trial: outcomes.Trial):
  """Return a trial's config as its process will parse it; errors name the trial."""
  arguments = [argument for argument in trial.command if argument.startswith("--config")]
  try:
    line = command_line.parse(["launch.py", *arguments])
    config_lib.check(line.config, line.overrides)
    tracking.check(line.config.tracker)
    if "--rollback" in trial.command:
      config_lib.check_rollback(line.config)
  except errors.UserError as error:
    raise errors.UserError(f"trial {trial.name}: {error}") from error
  return line.config


def _check_stored(trial: outcomes.Trial, config):
  """Raise UserError if the run in a trial's folder cannot be resumed as this trial."""
  try:
    stored = config_lib.to_json(run_lib.Run.open(trial.folder).config)
    config = config_lib.fill(config, stored)
    config_lib.check_resumable(stored, config_lib.to_json(config))
  except errors.UserError as error:
    raise errors.UserError(f"trial {trial.name}: {error}") from error
  for name in ("epochs", "max_steps"):
    if config[name] != stored[name] and outcomes.last(trial).status in outcomes.FINAL:
      raise errors.UserError(
        f"trial {trial.name} is finished with {name}={stored[name]}, which differs from "
        f"{name}={config[name]}: use another --workdir"
      )
