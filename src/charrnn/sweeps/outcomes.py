"""Trials on disk: outcomes of launches, progress, summary.csv and the status table.

SWEEP/
  sweep.json                 the trials: name -> overrides
  NAME/                      a run directory, with
    log.txt                  output of the trial's process, appended by each launch
    outcome.json             how the last launch ended; absent until it has ended
    diverged.txt             the error message, if training diverged
  summary.csv                one row per trial
"""

import hashlib
import json
import pathlib
import re
import signal
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from charrnn import config as config_lib
from charrnn import console, errors, files, process
from charrnn.runs import metrics
from charrnn.runs import run as run_lib
from charrnn.runs import status as status_lib
from charrnn.runs.status import RunStatus

FAILURES = (RunStatus.FAILED, RunStatus.DIVERGED, RunStatus.KILLED, RunStatus.TIMEOUT)
FINAL = (RunStatus.FINISHED, RunStatus.PRUNED)  # statuses that need no further launch
# In a search, a diverged trial is final too: the search learns from it which values are bad.
FINAL_IN_SEARCH = (*FINAL, RunStatus.DIVERGED)
UNUSABLE = (RunStatus.FAILED, RunStatus.DIVERGED, RunStatus.KILLED)  # losses are ignored
MAX_NAME = 100  # maximum length of a trial's name, in characters
NAME, NUMBER = 4, 12  # lengths to which names and values are abbreviated first, in characters
UNSAFE = r"[^A-Za-z0-9_.,=+-]+"  # characters that names of folders do not contain
LAUNCH = "---- launched"  # start of the line that marks a launch in a log
ALIASES = {"status": "state"}  # former name of a column
REDRAW = 1.0  # seconds between two updates of the table on a terminal
REMIND = 60.0  # seconds between progress lines in a log while no status changes
HEADER = ("trial", "status", "step", "train loss", "best valid loss", "tokens/s", "time left")
_ORDER = (*FAILURES, RunStatus.STOPPED, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PRUNED)


class Trial(NamedTuple):
  """A trial of a sweep: a run with its overrides and its command."""

  name: str
  overrides: dict[str, Any]
  folder: pathlib.Path
  command: list[str]

  @property
  def log(self) -> pathlib.Path:
    return self.folder / "log.txt"


def trial_name(overrides: dict[str, Any]) -> str:
  """Return "field=value,field=value" as a safe folder name that is unique to the overrides."""
  values = {config_lib.short(field): str(value) for field, value in overrides.items()}
  text = ",".join(f"{name}={value}" for name, value in values.items()) or "only"
  safe = re.sub(UNSAFE, "_", text)
  if safe == text and len(safe) <= MAX_NAME and not text.startswith("."):
    return safe
  values = {name: re.sub(UNSAFE, "_", value) for name, value in values.items()}
  return f"{abbreviate(values, ',', MAX_NAME - 9).strip('_.')}-{digest(overrides)}"


def abbreviate(values: dict[str, str], separator: str, longest: int) -> str:
  """Return "name=value" pairs as a text of at most `longest` characters.

  If it is too long, the names are shortened to their beginnings, the longest first, and then the
  values in the middle. Numbers stay whole as long as that is possible.
  """
  sizes = [(size, longest) for size in range(longest, NAME, -1)]
  sizes += [(NAME, size) for size in range(longest, NUMBER, -1)]
  sizes += [(size, NUMBER) for size in range(NAME, 1, -1)]
  sizes += [(1, size) for size in range(NUMBER, 3, -1)]
  for size, value_size in sizes:
    pairs = (f"{name[:size]}={shorten(value, value_size)}" for name, value in values.items())
    if len(text := separator.join(pairs)) <= longest:
      return text
  return text[:longest]


def shorten(text: str, longest: int) -> str:
  """Return the text, with two dots in the middle if it is longer than `longest`, at least 4."""
  half = longest // 2 - 1
  return text if len(text) <= longest else f"{text[:half]}..{text[-half:]}"


def digest(values: dict[str, Any]) -> str:
  """Return eight hexadecimal digits that identify the values of some fields."""
  return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:8]


def last(trial: Trial) -> status_lib.Outcome:
  """Return how the last launch ended: WAITING if there was none or its outcome is unknown."""
  return status_lib.read_outcome(trial.folder) or status_lib.Outcome(RunStatus.WAITING)


def is_out_of_time(trial: Trial, limit: float | None) -> bool:
  """Return whether all launches of a trial together have taken the `limit` of seconds."""
  status, _, seconds = last(trial)
  return status == RunStatus.TIMEOUT and limit is not None and seconds >= limit


def begin(trial: Trial):
  """Prepare a launch: make the folder, remove the last outcome, and mark the launch in the log."""
  with files.report_unwritable(trial.log):
    trial.folder.mkdir(parents=True, exist_ok=True)
    files.remove(trial.folder / "outcome.json")
    files.remove(status_lib.diverged_file(trial.folder))
    with files.append(trial.log) as log:
      log.write(f"{LAUNCH} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())


def conclude(
  trial: Trial, code: int, seconds: float, reason: RunStatus | None = None
) -> status_lib.Outcome:
  """Write and return the outcome of a launch, from the exit code of its process.

  `seconds` is the time of all launches together.
  `reason` is TIMEOUT, PRUNED or STOPPED if the launcher asked the trial to save and exit.
  """
  # A trial that has nothing to save yet ends with another exit code.
  early_codes = (process.INTERRUPTED_CODE, -signal.SIGTERM)
  stopped_early = reason == RunStatus.STOPPED and code in early_codes
  if code == 0:
    status = RunStatus.FINISHED
  elif reason in (RunStatus.TIMEOUT, RunStatus.PRUNED):
    status = reason
  elif code == status_lib.STOPPED_CODE or stopped_early:
    status = RunStatus.STOPPED
  elif code < 0:
    status = RunStatus.KILLED
  elif status_lib.diverged_file(trial.folder).exists():
    status = RunStatus.DIVERGED
  else:
    status = RunStatus.FAILED
  outcome = status_lib.Outcome(status, code, seconds)
  trial.folder.mkdir(parents=True, exist_ok=True)
  status_lib.write_outcome(trial.folder, outcome)
  return outcome


def tail(path: pathlib.Path, count: int) -> list[str]:
  """Return the last `count` non-empty lines of the last launch, as a terminal would show them."""
  try:
    text = files.tail(path, 20_000).decode("utf-8", "replace")
  except errors.UserError:
    return []
  launch = f"\n{text}".rpartition(f"\n{LAUNCH}")[2]
  lines = [line.rpartition("\r")[2] for line in launch.split("\n")[1:] if line.strip()]
  return lines[-count:]


def progress(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Return the latest value of each metric, and the line with the best validation loss, if any."""
  latest, lines = {}, metrics.read(folder)
  for line in lines:
    latest |= line
  evaluated = [line for line in lines if line.get("valid/loss") is not None]
  return latest, min(evaluated, key=lambda line: line["valid/loss"], default={})


def summary(trials: Sequence[Trial]) -> str:
  """Return CSV with a row per trial: its outcome, its best validation loss and its overrides."""
  fields = list(dict.fromkeys(field for trial in trials for field in trial.overrides))
  losses = ("valid/loss", "valid/bits_per_byte")
  columns = ("trial", "status", "exit", "seconds", "step", *losses, "at step", *fields)
  rows = []
  for trial in trials:
    outcome, (latest, best) = last(trial), progress(trial.folder)
    values = (trial.name, outcome.status, outcome.code, f"{outcome.seconds:.0f}")
    values += (latest.get("step"), *map(best.get, losses), best.get("step"))
    row = dict(zip(columns, values)) | trial.overrides
    rows.append(files.with_aliases(row, ALIASES))
  return console.csv_text([*columns, *ALIASES.values()], rows)


class StatusTable(console.LiveTable):
  """A table of all trials on a terminal; in a log, a line for each change.

  It reads the trials' folders, so it works for local processes and for SLURM jobs.
  """

  def __init__(self, trials: Sequence[Trial]):
    super().__init__()
    self._trials, self._time, self._statuses, self._note = trials, 0.0, {}, ""

  def update(self, statuses: dict[str, RunStatus], final: bool = False, note: str = ""):
    """Show the status of each trial, by name, and a note below the table."""
    now, is_live = time.monotonic(), console.is_live()
    if note != self._note:
      self._note, self._time = note, 0.0
      if not is_live:
        console.say(note)
    if is_live and (final or now - self._time >= REDRAW):
      self._draw(statuses)
      self._time = now
    elif not is_live and (statuses != self._statuses or now - self._time >= REMIND):
      self._log(statuses)
      self._time, self._statuses = now, dict(statuses)

  def _draw(self, statuses):
    # Failures come first. Trials that do not fit on the terminal appear only in the counts.
    rank = {status: n for n, status in enumerate(_ORDER)}
    trials = sorted(self._trials, key=lambda trial: rank.get(statuses[trial.name], len(rank)))
    rows = [row(trial, statuses[trial.name]) for trial in trials[: max(1, self.height - 5)]]
    lines = console.table(HEADER, rows, names=2)
    self.draw([*lines, counts(statuses), *filter(None, [self._note])])

  def _log(self, statuses):
    for trial in self._trials:
      status = statuses[trial.name]
      is_new = status != self._statuses.get(trial.name, RunStatus.WAITING)
      if is_new or (statuses == self._statuses and status == RunStatus.RUNNING):
        cells = zip(HEADER[2:], row(trial, status)[2:])
        text = "  ".join(f"{name} {cell}" for name, cell in cells if cell)
        console.say(f"{trial.name}: {status}  {text}".rstrip())
    console.say(counts(statuses))


def counts(statuses: dict[str, RunStatus]) -> str:
  """Return a line with the time and the number of trials of each status."""
  values = list(statuses.values())
  names = [name for name in (RunStatus.FINISHED, *reversed(_ORDER)) if name in values]
  text = ", ".join(f"{values.count(name)} {name}" for name in names)
  return f"{time.strftime('%H:%M:%S')}  {errors.plural(len(values), 'trial')}: {text}"


def row(trial: Trial, status: RunStatus) -> tuple[str, ...]:
  """Return a trial's row of the status table."""
  latest, best = progress(trial.folder)
  step, train, valid = latest.get("step"), latest.get("train/loss"), best.get("valid/loss")
  rate = latest.get("chars_per_second") if status == RunStatus.RUNNING else None
  return (
    trial.name,
    status,
    "" if step is None else f"{step:,}",
    *("" if loss is None else loss_text(loss) for loss in (train, valid)),
    *((f"{rate:,.0f}", time_left(trial, step, rate)) if rate else ("", "")),
  )


def loss_text(value: float) -> str:
  """Format a loss; it may be huge after a divergence."""
  return f"{value:.4f}" if abs(value) < 1000 else f"{value:.2g}"


def time_left(trial: Trial, step: int, rate: float) -> str:
  """Return the remaining training time at `rate` tokens per second; "" if it is unknown."""
  try:
    run = run_lib.Run.open(trial.folder)
    tokens = max(0, run.total_steps - step) * run.config.batch_size * run.config.window
    return console.duration(tokens / rate)
  except Exception:  # The run may be starting. It reports its errors in its own log.
    return ""
