"""The sweep program: trials, a backend, and what came of it."""

import functools
import pathlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from charrnn import command_line, console, errors, files
from charrnn import config as config_lib
from charrnn.data import sources
from charrnn.runs import lock
from charrnn.sweeps import board, experiment, local, plans, resources, slurm, spaces, sweep
from charrnn.sweeps import search as search_lib
from charrnn.sweeps import trials as trials_lib

BACKENDS = ("local", "slurm")
STOPPING = "stopping: trials save and end; once more to end them at once"
SEARCHES = ("random", "optuna")


def run(line: command_line.CommandLine, folder: pathlib.Path) -> int:
  """Runs what is missing of a sweep or a search in `folder`; returns the exit code."""
  flags = line.flags
  _check(flags)
  if (folder / "config.json").exists():
    raise errors.UserError(f"{folder} is a run: give another --workdir")
  if flags.search == "optuna":
    return _run_search(line, folder, plans.read_space(line))
  chosen = plans.expand(line) if flags.search is None else plans.draw(line)
  trials = plans.make_all(line, folder, sweep.named(chosen))
  is_local = flags.backend == "local"
  wanted = None if is_local else resources.read(experiment.module(line), line.variant)
  if flags.dry_run:
    if wanted:
      print(slurm.described(trials, wanted, flags.parallel))
    else:
      print("\n".join(shlex.join(trial.command) for trial in trials))
    return 0
  if wanted:
    slurm.check()
  for source in {trial.overrides.get("text.source", line.config.text.source) for trial in trials}:
    sources.resolve(source)
  with lock.hold(folder):
    _check_sweep(folder, line)
    _remember(folder, line, trials)
    good = trials_lib.ENDED if flags.search is None else trials_lib.SEEN
    missing = [each for each in trials if not plans.is_done(each, good)]
    console.say(
      f"sweep     {folder}: {len(trials)} trials, {len(trials) - len(missing)} done before"
    )
    if wanted:
      interrupted = slurm.run(trials, missing, flags, wanted)
    else:
      interrupted = _run_local(folder, trials, missing, len(trials), flags)
    (folder / "summary.csv").write_text(trials_lib.summary(trials))
  return conclude(folder, trials, interrupted, good)


def _run_search(line, folder, space: spaces.Space) -> int:
  """Trials that Optuna chooses one after another."""
  flags, count = line.flags, line.flags.trials
  search_lib.check()
  sources.resolve(line.config.text.source)
  fields = config_lib.flatten(config_lib.to_json(line.config))
  about = {
    "space": {field: [type(each).__name__, *each] for field, each in space.items()},
    "config": {k: v for k, v in fields.items() if not config_lib.is_free(k)},
  }
  make = functools.partial(plans.make, line, folder)
  with lock.hold(folder):
    _check_sweep(folder, line)
    found = search_lib.Search(folder, space, count, line.config.seed, make, about)
    _remember(folder, line, found.trials)
    console.say(f"search    {folder}: {found.wanted} trials, {found.done} done before")

    def asked():
      for trial in found.asks():
        _remember(folder, line, found.trials)
        yield trial

    interrupted = _run_local(folder, found.trials, asked(), count, flags, found.watch)
    (folder / "summary.csv").write_text(trials_lib.summary(found.trials))
  return conclude(folder, found.trials, interrupted, trials_lib.SEEN, found.wanted)


def _check(flags):
  if flags.backend not in BACKENDS:
    raise errors.UserError(f"--backend={flags.backend}: there are {' and '.join(BACKENDS)}")
  if flags.parallel < 1:
    raise errors.UserError(f"--parallel={flags.parallel}: must be at least 1")
  if flags.time_limit is not None and not flags.time_limit > 0:
    raise errors.UserError(f"--time_limit={flags.time_limit}: minutes above 0 are wanted")
  if flags.distributed:
    raise errors.UserError("--distributed is for the processes of one run: leave it out")
  if flags.search is None:
    if flags["trials"].present:
      raise errors.UserError("--trials is of a search: add --search, or leave it out")
  else:
    _check_search(flags)


def _check_search(flags):
  if flags.sweep is not None:
    raise errors.UserError("--sweep and --search exclude each other: leave one out")
  if flags.search not in SEARCHES:
    raise errors.UserError(f"--search={flags.search}: there are {' and '.join(SEARCHES)}")
  if flags.trials < 1:
    raise errors.UserError(f"--trials={flags.trials}: must be at least 1")
  if flags.search == "optuna" and flags.backend != "local":
    raise errors.UserError(
      f"--search=optuna runs on this machine alone: with --backend={flags.backend} use "
      "--search=random"
    )
  if flags.search == "optuna" and flags.dry_run:
    raise errors.UserError(
      "--dry_run: Optuna chooses a trial only when it has seen others: --search=random tells all"
    )


def _about(line) -> dict[str, Any]:
  """What a sweep's directory is of."""
  names = {"experiment": line.experiment, "variant": line.variant}
  return names | {"sweep": line.flags.sweep, "search": line.flags.search}


def _remembered(folder) -> dict[str, Any]:
  path = folder / "sweep.json"
  return files.read_json(path) if path.exists() else {}


def _check_sweep(folder, line):
  """Raises UserError if the directory is another sweep's."""
  before = _remembered(folder)
  for name, value in _about(line).items():
    if before and before.get(name) != value:
      raise errors.UserError(
        f"{folder} is of {name} {before.get(name)!r}, not {value!r}: give another --workdir"
      )


def _remember(folder, line, trials: Sequence[trials_lib.Trial]):
  begun = {
    name: overrides
    for name, overrides in _remembered(folder).get("trials", {}).items()
    if (folder / name).is_dir()
  }
  files.write_json(
    folder / "sweep.json",
    {
      **_about(line),
      "overrides": line.overrides,
      "command": shlex.join(sys.argv),
      "trials": begun | {trial.name: trial.overrides for trial in trials},
    },
  )


def _run_local(
  folder: pathlib.Path,
  trials: Sequence[trials_lib.Trial],
  missing: Iterable[trials_lib.Trial],
  count: int,  # of all: what is missing is to get the same share of the cores at any time
  flags,
  tell: Callable[[local.Pool], None] = lambda pool: None,  # of how they do
) -> bool:
  """Whether it was stopped before the end of all."""
  _wait_for_others(folder, trials)
  limit = flags.time_limit * 60 if flags.time_limit else None
  pool = local.Pool(missing, min(flags.parallel, count), limit)
  table = board.Board(trials)

  def stop(number, frame):
    pool.stop()

  def watch(pool):
    tell(pool)
    table.update(_states(trials, pool), note=STOPPING if pool.stopping else "")

  before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    pool.run(watch)
    table.update(_states(trials, pool), final=True)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  return bool(pool.stopping)


def _wait_for_others(folder, trials):
  """Until the trials of a launcher that was killed have saved; a UserError if they do not end."""
  if slurm.holds(folder):
    raise errors.UserError(
      f"SLURM has trials of {folder}: watch them with --backend=slurm, or end them by scancel"
    )
  until, told = time.monotonic() + local.GRACE, False
  while held := [each for each in trials if lock.is_held(each.folder)]:
    if time.monotonic() > until:
      raise errors.UserError(f"another process is training in {held[0].folder}: end it first")
    if not told:
      console.say(f"waiting   for what still trains in {held[0].folder}")
      told = True
    time.sleep(local.POLL)


def _states(trials, pool) -> dict[str, str]:
  running = {each.trial.name for each in pool.running}
  states = {}
  for trial in trials:
    ended = trials_lib.outcome(trial.folder)
    known = ended.state if ended else trials_lib.WAITING
    states[trial.name] = trials_lib.RUNNING if trial.name in running else known
  return states


def conclude(
  folder, trials, interrupted: bool, good: Sequence[str], wanted: int | None = None
) -> int:
  """Says what came of it: the best, what failed and why, and how to go on.

  `good`: the states of trials that need no other launch; `wanted`: if there are to be more trials.
  """
  wanted = len(trials) if wanted is None else wanted
  ended = [trials_lib.outcome(trial.folder) for trial in trials]
  states = [each and each.state for each in ended]
  bad = [
    (trial, seen)
    for trial, seen, state in zip(trials, ended, states)
    if state in trials_lib.BAD and state not in good
  ]
  for trial, seen in bad:
    why = f"signal {-seen.code}" if seen.code and seen.code < 0 else f"exit code {seen.code}"
    console.say(f"\n{trial.name}: {seen.state} ({why}) after {seen.seconds:.0f} s, {trial.log}")
    for text in trials_lib.tail(trial.log, 3):
      console.say(f"    {text[:160]}")
  reached = [
    (trials_lib.progress(trial.folder).valid_loss, trial.name)
    for trial, state in zip(trials, states)
    if state not in trials_lib.RUINED
  ]
  if known := [each for each in reached if each[0] is not None]:
    loss, name = min(known)
    console.say(f"\nbest      {name}: validation loss {loss:.4f}")
  undone = wanted - sum(state in good for state in states)
  if undone:
    console.say(f"{undone} of {wanted} trials are not done: the same command runs these only")
  console.say(f"summary   {folder / 'summary.csv'}")
  console.say(f"\nnext:\n  charrnn compare {shlex.quote(str(folder))}")
  if bad:
    return 1
  return trials_lib.INTERRUPTED if interrupted or undone else 0
