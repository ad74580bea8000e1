"""The sweep program: from an experiment file's sweeps to trials, a backend, and what came of it."""

import importlib.util
import inspect
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any

from charrnn import config as config_lib
from charrnn import errors, startup
from charrnn.launching import board, local, resources, slurm, sweep
from charrnn.launching import trials as trials_lib
from charrnn.training import runs, sizing

BACKENDS = ("local", "slurm")


def run(line: config_lib.CommandLine, folder: pathlib.Path) -> int:
  """Runs what is missing of a sweep in `folder`; returns the exit code."""
  flags = line.flags
  _check(flags)
  trials = _trials(line, folder, sweep.named(expand(line)))
  is_local = flags.backend == "local"
  wanted = None if is_local else resources.read(_module(_path(line)), line.variant)
  if flags.dry_run:
    if wanted:
      print(slurm.described(trials, wanted, flags.parallel))
    else:
      print("\n".join(shlex.join(trial.command) for trial in trials))
    return 0
  if wanted:
    slurm.check()
  with startup.lock(folder):
    _remember(folder, line, trials)
    missing = [each for each in trials if not _is_done(each)]
    say(f"sweep     {folder}: {len(trials)} trials, {len(trials) - len(missing)} done before")
    if wanted:
      interrupted = slurm.run(trials, missing, flags, wanted)
    else:
      interrupted = _run_local(trials, missing, flags)
    (folder / "summary.csv").write_text(trials_lib.summary(trials))
  return conclude(folder, trials, interrupted)


def _check(flags):
  if flags.backend not in BACKENDS:
    raise errors.UserError(f"--backend={flags.backend}: there are {' and '.join(BACKENDS)}")
  if flags.parallel < 1:
    raise errors.UserError(f"--parallel={flags.parallel}: must be at least 1")
  if flags.time_limit is not None and not flags.time_limit > 0:
    raise errors.UserError(f"--time_limit={flags.time_limit}: minutes above 0 are wanted")
  if flags.distributed:
    raise errors.UserError("--distributed is for the processes of one run: leave out --sweep")


def expand(line: config_lib.CommandLine) -> sweep.Trials:
  """The sweeps that --sweep names, combined by product; none named: the file's only one."""
  names = [name for name in line.flags.sweep.split(",") if name]
  module = _module(_path(line))
  if not names:
    return _default(module, line.variant)
  return sweep.product([_of_name(module, name, line.variant) for name in names])


def _path(line) -> str:
  return line.argument.partition(":")[0]


def _module(path: str):
  spec = importlib.util.spec_from_file_location("charrnn_experiment", path)
  if spec is None:
    raise errors.UserError(f"--sweep: {path} is the config of one run: name an experiment file")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)  # it was read before, for its get_config
  return module


def _default(module, variant: str) -> sweep.Trials:
  if hasattr(module, "sweep") and callable(module.sweep) and module.sweep is not sweep.sweep:
    return _called(module, "sweep", variant)
  if hasattr(module, "get_hyper"):
    return _called(module, "get_hyper", variant, sweep)
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
  return _called(module, f"sweep_{name}", variant)


def _named_sweeps(module) -> list[str]:
  return [name.removeprefix("sweep_") for name in vars(module) if name.startswith("sweep_")]


def _called(module, function: str, variant: str, *arguments) -> sweep.Trials:
  """What a function of the experiment file gives; it is told the variant if it asks for it."""
  try:
    call = getattr(module, function)
    asks = "variant" in inspect.signature(call).parameters
    return list(call(*arguments, **({"variant": variant} if asks else {})))
  except errors.UserError as error:
    raise errors.UserError(f"{module.__file__}, {function}(): {error}") from error
  except Exception as error:  # whatever an experiment file may raise
    raise errors.UserError(
      f"{module.__file__}, {function}(): {type(error).__name__}: {error}"
    ) from error


def _trials(line, folder, named: dict[str, dict[str, Any]]) -> list[trials_lib.Trial]:
  """Every trial with its command, which has been read as its own process will read it."""
  trials = []
  for name, overrides in named.items():
    if both := line.overrides.keys() & overrides.keys():
      raise errors.UserError(f"--config.{min(both)}: the sweep sets it too: leave it out")
    values = line.overrides | overrides
    arguments = [f"--config={line.argument}"]
    arguments += [f"--config.{field}={value}" for field, value in values.items()]
    try:
      sizing.check(config_lib.parse(["launch.py", *arguments]).config)
    except errors.UserError as error:
      raise errors.UserError(f"trial {name}: {error}") from error
    own = folder / name
    command = [sys.executable, os.path.abspath(sys.argv[0]), *arguments, f"--workdir={own}"]
    trials.append(trials_lib.Trial(name, overrides, own, command))
  return trials


def _remember(folder, line, trials: Sequence[trials_lib.Trial]):
  runs.write_json(
    folder / "sweep.json",
    {
      "experiment": line.experiment,
      "variant": line.variant,
      "overrides": line.overrides,
      "sweep": line.flags.sweep,
      "command": shlex.join(sys.argv),
      "trials": {trial.name: trial.overrides for trial in trials},
    },
  )


def _is_done(trial) -> bool:
  ended = trials_lib.outcome(trial.folder)
  return ended is not None and ended.state == trials_lib.DONE


def _run_local(trials, missing, flags) -> bool:
  limit = flags.time_limit * 60 if flags.time_limit else None
  pool = local.Pool(missing, min(flags.parallel, max(1, len(missing))), limit)
  table = board.Board(trials)

  def stop(number, frame):
    say("\nstopping: trials save and end; once more to end them at once")
    pool.stop()

  before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    pool.run(lambda pool: table.update(_states(trials, pool)))
    table.update(_states(trials, pool), final=True)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  return pool.stopping


def _states(trials, pool) -> dict[str, str]:
  running = {each.trial.name for each in pool.running}
  states = {}
  for trial in trials:
    ended = trials_lib.outcome(trial.folder)
    known = ended.state if ended else trials_lib.WAITING
    states[trial.name] = trials_lib.RUNNING if trial.name in running else known
  return states


def conclude(folder, trials, interrupted: bool) -> int:
  """Says what came of it: the best, what failed and why, and how to go on."""
  ended = [trials_lib.outcome(trial.folder) for trial in trials]
  bad = [pair for pair in zip(trials, ended) if pair[1] and pair[1].state in trials_lib.BAD]
  for trial, seen in bad:
    why = f"signal {-seen.code}" if seen.code and seen.code < 0 else f"exit code {seen.code}"
    say(f"\n{trial.name}: {seen.state} ({why}) after {seen.seconds:.0f} s, {trial.log}")
    for text in trials_lib.tail(trial.log, 3):
      say(f"    {text[:160]}")
  reached = [(trials_lib.progress(trial.folder).valid_loss, trial.name) for trial in trials]
  if known := [each for each in reached if each[0] is not None]:
    loss, name = min(known)
    say(f"\nbest      {name}: validation loss {loss:.4f}")
  undone = sum(each is None or each.state != trials_lib.DONE for each in ended)
  if undone:
    say(f"{undone} of {len(trials)} trials are not done: the same command runs these only")
  say(f"summary   {folder / 'summary.csv'}")
  say(f"\nnext:\n  charrnn compare {shlex.quote(str(folder))}")
  if bad:
    return 1
  return trials_lib.INTERRUPTED if interrupted or undone else 0


def say(text: str):
  print(text, file=sys.stderr, flush=True)
