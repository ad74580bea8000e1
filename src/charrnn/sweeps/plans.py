"""From a command line to trials: an experiment file's sweeps, or its space, named and checked."""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from charrnn import command_line, errors
from charrnn import config as config_lib
from charrnn.launching import record
from charrnn.sweeps import experiment, spaces, sweep
from charrnn.sweeps import trials as trials_lib


def expand(line: command_line.CommandLine) -> sweep.Trials:
  """The sweeps that --sweep names, combined by product; none named: the file's only one."""
  names = [name for name in line.flags.sweep.split(",") if name]
  module = experiment.module(line)
  if not names:
    return _default(module, line.variant)
  return sweep.product([_of_name(module, name, line.variant) for name in names])


def draw(line: command_line.CommandLine) -> sweep.Trials:
  """As many trials as --trials says of the file's space, at random."""
  return spaces.drawn(read_space(line), line.flags.trials, line.config.seed)


def read_space(line) -> spaces.Space:
  """The experiment file's space, each of whose ends makes a run by itself."""
  module = experiment.module(line)
  if not hasattr(module, "space"):
    raise errors.UserError(f"{module.__file__} has no space(): write one to search in")
  space = experiment.called(module, "space", line.variant, into=spaces.checked)
  if texts := [field for field in space if field.startswith("text.")]:
    raise errors.UserError(
      f"{module.__file__}, space(): {texts[0]}: losses of other texts do not compare"
    )
  if line.config.text.valid_fraction == 0:
    raise errors.UserError("--search: without a validation part no trial is better than another")
  for overrides in spaces.ends(space):
    _config(make(line, pathlib.Path(), sweep.trial_name(overrides), overrides))
  return space


def _default(module, variant: str) -> sweep.Trials:
  if hasattr(module, "sweep") and callable(module.sweep) and module.sweep is not sweep.sweep:
    return experiment.called(module, "sweep", variant, into=sweep.listed)
  if hasattr(module, "get_hyper"):
    return experiment.called(module, "get_hyper", variant, sweep, into=sweep.listed)
  known = _named_sweeps(module)
  remedy = f"name one: --sweep={known[0]}" if known else "write a function sweep() in it"
  raise errors.UserError(f"{module.__file__} has no sweep() of its own: {remedy}")


def _of_name(module, name: str, variant: str) -> sweep.Trials:
  if f"sweep_{name}" not in vars(module):
    known = _named_sweeps(module)
    raise errors.UserError(
      f"--sweep={name}: {module.__file__} has no sweep_{name}(): "
      + (f"there are {', '.join(known)}" if known else "it has no named sweeps")
    )
  return experiment.called(module, f"sweep_{name}", variant, into=sweep.listed)


def _named_sweeps(module) -> list[str]:
  return [name.removeprefix("sweep_") for name in vars(module) if name.startswith("sweep_")]


def make_all(line, folder, named: dict[str, dict[str, Any]]) -> list[trials_lib.Trial]:
  """Every trial, whose command has been read as its own process will read it.

  Raises UserError for two that are the same run, and for a trial that was begun, or is done, with
  another config.
  """
  trials = [make(line, folder, name, overrides) for name, overrides in named.items()]
  seen: dict[str, str] = {}
  for trial in trials:
    config = _config(trial)
    if (other := seen.setdefault(config.to_json(sort_keys=True), trial.name)) != trial.name:
      raise errors.UserError(f"two trials of the sweep are the same run: {other} and {trial.name}")
    if stored := record.stored(trial.folder):
      _check_begun(trial, config, stored)
  return trials


def _check_begun(trial, config, stored: dict):
  done = is_done(trial)
  try:
    config = config_lib.fill_stored(config, stored)
    config_lib.check_resumable(stored, config_lib.to_json(config))
  except errors.UserError as error:
    raise errors.UserError(f"trial {trial.name}: {error}") from error
  for name in ("epochs", "max_steps"):
    if done and config[name] != stored[name]:
      raise errors.UserError(
        f"trial {trial.name} is done with {name}={stored[name]} and is asked for with "
        f"{name}={config[name]}: give another --workdir"
      )


def make(line, folder, name: str, overrides: dict[str, Any]) -> trials_lib.Trial:
  """A trial and its command, which nobody has checked yet."""
  if both := line.overrides.keys() & overrides.keys():
    raise errors.UserError(f"--config.{min(both)}: the trials set it too: leave it out")
  values = line.overrides | overrides
  arguments = [f"--config={line.argument}"]
  arguments += [f"--config.{field}={value}" for field, value in values.items()]
  own = folder / name
  command = [sys.executable, os.path.abspath(sys.argv[0]), *arguments, f"--workdir={own}"]
  return trials_lib.Trial(name, overrides, own, command)


def _config(trial: trials_lib.Trial):
  """Of a trial, as its process will read it; a UserError names the trial."""
  own = [each for each in trial.command if each.startswith("--config")]
  try:
    config = command_line.parse(["launch.py", *own]).config
    config_lib.check(config)
  except errors.UserError as error:
    raise errors.UserError(f"trial {trial.name}: {error}") from error
  return config


def is_done(trial, good: Sequence[str] = trials_lib.ENDED) -> bool:
  """Whether its last launch ended in one of the states `good`."""
  ended = trials_lib.outcome(trial.folder)
  return ended is not None and ended.state in good
