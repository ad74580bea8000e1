"""The sweep runner: expands a sweep or search into trials, runs missing trials, and reports."""

import functools
import math
import pathlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from charrnn import command_line, console, errors, files, process
from charrnn import config as config_lib
from charrnn.data import sources
from charrnn.runs import lock
from charrnn.runs import run as run_lib
from charrnn.runs import status as status_lib
from charrnn.runs.status import RunStatus
from charrnn.sweeps import local, outcomes, slurm, spaces
from charrnn.sweeps import trials as trials_lib

STOPPING = "stopping: running trials save and exit. Press Ctrl-C again to kill them."
TOKENIZER_FIELDS = ("text.tokenizer", "text.vocab_size")


def run(line: command_line.CommandLine, folder: pathlib.Path) -> int:
  """Run the missing trials of a sweep or search in `folder`; return the exit code."""
  flags = line.flags
  _check(flags)
  run_lib.check_workdir(folder)
  if (folder / "config.json").exists():
    raise errors.UserError(f"{folder} is a run directory: use another --workdir")
  if flags.search == "optuna":
    return _run_optuna(line, folder, trials_lib.read_space(line))
  if flags.search is None:
    overrides = trials_lib.expand(line)
  else:
    overrides = spaces.draw(trials_lib.read_space(line), flags.trials, line.config.seed)
  trials = trials_lib.make_all(line, folder, trials_lib.by_name(overrides))
  resources = None
  if flags.backend == "slurm":
    resources = slurm.read_resources(trials_lib.experiment(line), line.variant)
  if flags.dry_run:
    commands = "\n".join(shlex.join(trial.command) for trial in trials)
    text = slurm.describe(trials, resources, flags.parallel) if resources else commands
    console.show(text.splitlines())
    return 0
  if resources:
    slurm.check()
  for source in {trial.overrides.get("text.source", line.config.text.source) for trial in trials}:
    sources.resolve(source)
  final = outcomes.FINAL if flags.search is None else outcomes.FINAL_IN_SEARCH
  with lock.hold(folder, is_sweep=True):
    _write_sweep(folder, line, trials)
    missing = [trial for trial in trials if outcomes.last(trial).status not in final]
    console.say(
      f"sweep     {folder}: {errors.plural(len(trials), 'trial')}, {len(trials) - len(missing)} "
      "already done"
    )
    if resources:
      interrupted = slurm.run(trials, missing, flags, resources)
    else:
      interrupted = _run_local(folder, trials, missing, len(trials), flags)
    return report(folder, trials, interrupted, final, len(trials))


def _run_optuna(line, folder, space: spaces.Space) -> int:
  flags, count = line.flags, line.flags.trials
  spaces.check_optuna()
  sources.resolve(line.config.text.source)
  fields = config_lib.flatten(config_lib.to_json(line.config))
  about = {
    "space": {field: [type(values).__name__, *values] for field, values in space.items()},
    "config": {k: v for k, v in fields.items() if not config_lib.is_free(k)},
  }
  make = functools.partial(trials_lib.make, line, folder)
  with lock.hold(folder, is_sweep=True):
    _read_sweep(folder, line)  # raises UserError for the wrong folder before anything is written
    search = spaces.Search(folder, space, count, line.config.seed, make, about)
    _write_sweep(folder, line, search.trials)
    total = errors.plural(search.total, "trial")
    console.say(f"search    {folder}: {total}, {search.done} already done")

    def ask():
      for trial in search.ask():
        _write_sweep(folder, line, search.trials)
        yield trial

    interrupted = _run_local(folder, search.trials, ask(), count, flags, search.watch)
    return report(folder, search.trials, interrupted, outcomes.FINAL_IN_SEARCH, search.total)


def check_time_limit(minutes: float | None):
  """Raise UserError for an invalid value of --time_limit."""
  is_valid = minutes is None or 0 < minutes < math.inf
  errors.check("--time_limit", minutes, is_valid, "must be above 0 minutes")


def _check(flags):
  """Raise UserError for invalid options and for options that exclude each other."""
  is_search, is_optuna = flags.search is not None, flags.search == "optuna"
  backends = ("local", "slurm")
  errors.check("--backend", flags.backend, flags.backend in backends, "use local or slurm")
  errors.check("--parallel", flags.parallel, flags.parallel >= 1, "must be at least 1")
  check_time_limit(flags.time_limit)
  if flags.distributed:
    raise errors.UserError(
      "--distributed is for a single run: remove it, or remove --sweep and --search"
    )
  if flags["trials"].present and not is_search:
    raise errors.UserError(
      "--trials needs --search: add --search=random or --search=optuna, or remove --trials"
    )
  if is_search and flags.sweep is not None:
    raise errors.UserError("--sweep and --search exclude each other: remove one")
  is_valid = flags.search in (None, "random", "optuna")
  errors.check("--search", flags.search, is_valid, "use random or optuna")
  is_valid = flags.trials >= 1 or not is_search
  errors.check("--trials", flags.trials, is_valid, "must be at least 1")
  if is_optuna and flags.backend != "local":
    raise errors.UserError(
      f"--search=optuna runs on this machine only: use --search=random with "
      f"--backend={flags.backend}"
    )
  if is_optuna and flags.dry_run:
    raise errors.UserError(
      "--dry_run: Optuna chooses each trial from earlier losses, so the trials are not known yet: "
      "use --search=random"
    )


def _read_sweep(folder, line) -> tuple[dict[str, Any], dict[str, Any]]:
  """Return the identity of the sweep, and the trials of earlier launches that have a folder.

  Raises UserError if the folder belongs to another sweep.
  """
  path, identity = folder / "sweep.json", {"experiment": line.experiment, "variant": line.variant}
  identity |= {"sweep": line.flags.sweep, "search": line.flags.search}
  stored = files.read_json(path) if path.exists() else identity
  for name, value in identity.items():
    if stored.get(name) != value:
      raise errors.UserError(
        f"{folder} belongs to a sweep with {name} {stored.get(name)!r}, not {value!r}: "
        "use another --workdir"
      )
  trials = stored.get("trials", {}).items()
  return identity, {name: values for name, values in trials if (folder / name).is_dir()}


def _write_sweep(folder, line, trials: Sequence[outcomes.Trial]):
  value, named = _read_sweep(folder, line)
  named |= {trial.name: trial.overrides for trial in trials}
  value |= {"overrides": line.overrides, "command": shlex.join(sys.argv), "trials": named}
  files.write_json(folder / "sweep.json", value)


def _run_local(
  folder: pathlib.Path,
  trials: Sequence[outcomes.Trial],
  missing: Iterable[outcomes.Trial],
  count: int,  # number of all trials: with it, a trial gets the same share of cores at each launch
  flags,
  watch: Callable[[local.Pool], None] = lambda pool: None,
) -> bool:
  """Run the missing trials on this machine; return whether a signal interrupted them."""
  _wait_for_others(folder, trials)
  limit = flags.time_limit * 60 if flags.time_limit else None
  pool = local.Pool(missing, min(flags.parallel, count), limit)

  def stop(number, _):
    # SIGHUP and SIGUSR1 may come several times, and a second call of pool.stop kills the trials.
    if number in (signal.SIGINT, signal.SIGTERM) or not pool.stopping:
      pool.stop()

  def update(pool):
    watch(pool)
    table.update(_statuses(trials, pool), note=STOPPING if pool.stopping else "")

  handlers = process.replace_handlers(stop)
  try:
    with outcomes.StatusTable(trials) as table:
      pool.run(update)
      table.update(_statuses(trials, pool), final=True)
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
  return bool(pool.stopping)


def _wait_for_others(folder, trials):
  """Wait until trials of a killed launcher have saved; raise UserError if they keep running."""
  if slurm.has_jobs(folder):
    raise errors.UserError(
      f"SLURM jobs are running trials of {folder}: watch them with --backend=slurm, or cancel them"
    )
  deadline, is_reported = time.monotonic() + local.GRACE, False
  while locked := [trial for trial in trials if lock.is_held(trial.folder)]:
    if time.monotonic() > deadline:
      raise errors.UserError(f"another process is training in {locked[0].folder}: stop it first")
    if not is_reported:
      console.say(f"waiting   for another process that is training in {locked[0].folder}")
      is_reported = True
    time.sleep(local.POLL)


def _statuses(trials, pool) -> dict[str, RunStatus]:
  running = {running.trial.name: RunStatus.RUNNING for running in pool.running}
  return {trial.name: outcomes.last(trial).status for trial in trials} | running


def report(folder, trials, interrupted: bool, final: Sequence[RunStatus], total: int) -> int:
  """Write summary.csv; print each failure with the end of its log, and the best trial.

  `final` contains the statuses that need no further launch. `total` is the number of trials,
  including those that the search has not chosen yet. Returns the exit code.
  """
  files.write_text(folder / "summary.csv", outcomes.summary(trials))
  ended = [(trial, outcomes.last(trial)) for trial in trials]
  failed = set(outcomes.FAILURES) - set(final)
  failures = [(trial, outcome) for trial, outcome in ended if outcome.status in failed]
  for trial, (status, code, seconds) in failures:
    reason = f"signal {-code}" if code and code < 0 else f"exit code {code}"
    console.say(f"\n{trial.name}: {status} ({reason}) after {seconds:.0f} s, {trial.log}")
    for text in outcomes.tail(trial.log, 3):
      console.say(f"    {text[:160]}")
  usable = [trial for trial, outcome in ended if outcome.status not in outcomes.UNUSABLE]
  # Nats per token of different tokenizers do not compare.
  metric, unit = "valid/loss", ""
  if len({tuple(map(trial.overrides.get, TOKENIZER_FIELDS)) for trial in usable}) > 1:
    metric, unit = "valid/bits_per_byte", " bits per byte"
  bests = ((outcomes.progress(trial.folder)[1].get(metric), trial.name) for trial in usable)
  if losses := [(loss, name) for loss, name in bests if loss is not None]:
    loss, name = min(losses)
    console.say(f"\nbest      {name}: validation loss {loss:.4f}{unit}")
  if missing := total - sum(outcome.status in final for _, outcome in ended):
    is_late = any(outcome.status == RunStatus.TIMEOUT for _, outcome in ended)
    limit = ", with a higher --time_limit" if is_late else ""
    console.say(
      f"{missing} of {total} trials are not done: repeat the command to run only these{limit}"
    )
  console.say(f"summary   {folder / 'summary.csv'}")
  console.say(f"\nnext:\n  charrnn compare {console.argument(folder)}")
  if interrupted:
    return status_lib.STOPPED_CODE
  if failures:
    return 1
  return status_lib.STOPPED_CODE if missing else 0
