"""The trials of a sweep on disk: what each has come to, and what it says of itself meanwhile.

SWEEP/
  sweep.json                 the trials: name -> overrides
  NAME/                      a run directory, with
    log.txt                  what its process printed, launch after launch
    outcome.json             how the last launch ended; absent while there was none
  summary.csv
"""

import csv
import io
import json
import math
import pathlib
import signal
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from charrnn import files
from charrnn.runs import metrics

DONE, FAILED, DIVERGED, KILLED, TIMEOUT = "done", "failed", "diverged", "killed", "timeout"
PRUNED = "pruned"  # given up by a search for its losses
STOPPED = "stopped"  # by a signal, saved: goes on when it is launched again
WAITING, RUNNING = "waiting", "running"
BAD = (FAILED, DIVERGED, KILLED, TIMEOUT)
ENDED = (DONE, PRUNED)  # not to be launched again
SEEN = (*ENDED, DIVERGED)  # in a search, where it tells which values are bad
RUINED = (FAILED, DIVERGED, KILLED)  # whose losses are no measure of anything
INTERRUPTED = 75  # the exit code of a run that was stopped by a signal and has saved
LAUNCH = "---- launched"  # begins the line in a log that begins a launch


class Trial(NamedTuple):
  name: str
  overrides: dict[str, Any]
  folder: pathlib.Path
  command: list[str]

  @property
  def log(self) -> pathlib.Path:
    return self.folder / "log.txt"


class Outcome(NamedTuple):
  state: str
  code: int | None = None  # negative: the signal that ended it
  seconds: float = 0.0


class Progress(NamedTuple):
  """The last of what metrics.jsonl has; None for what it does not say yet."""

  step: int | None = None
  epoch: float | None = None
  train_loss: float | None = None
  valid_loss: float | None = None  # the best so far
  valid_step: int | None = None
  rate: float | None = None  # characters a second


def outcome(folder: pathlib.Path) -> Outcome | None:
  """How the last launch ended; None if none has, or if nobody was there to see it."""
  try:
    found = json.loads((folder / "outcome.json").read_bytes())
    return Outcome(str(found["state"]), found["code"], float(found["seconds"]))
  except (OSError, ValueError, KeyError, TypeError):
    return None


def begin(trial: Trial):
  """Before a launch: a directory, a log that says so, and no word of how the last one ended."""
  trial.folder.mkdir(parents=True, exist_ok=True)
  (trial.folder / "outcome.json").unlink(missing_ok=True)
  with trial.log.open("a") as log:
    log.write(f"{LAUNCH} {time.strftime('%Y-%m-%d %H:%M:%S')}\n")


def conclude(trial: Trial, code: int, seconds: float, reason: str = "") -> Outcome:
  """Writes how a launch ended, by its exit code.

  `reason`: it was asked to save and end, and why: TIMEOUT, PRUNED or STOPPED.
  """
  early = reason == STOPPED and code == -signal.SIGTERM  # it had nothing to save yet
  if code == 0:
    state = DONE
  elif reason in (TIMEOUT, PRUNED):
    state = reason
  elif code == INTERRUPTED or early:
    state = STOPPED
  elif code < 0:
    state = KILLED
  else:
    state = DIVERGED if "training diverged" in "".join(tail(trial.log, 3)) else FAILED
  found = Outcome(state, code, seconds)
  trial.folder.mkdir(parents=True, exist_ok=True)
  files.write_json(trial.folder / "outcome.json", found._asdict())
  return found


def tail(path: pathlib.Path, lines: int) -> list[str]:
  """The last lines of a log's last launch that are not empty, as they were last drawn over."""
  try:
    with path.open("rb") as file:
      file.seek(max(0, path.stat().st_size - 20_000))
      text = file.read().decode("utf-8", "replace")
  except OSError:
    return []
  text = f"\n{text}".rpartition(f"\n{LAUNCH}")[2]
  found = [line.rpartition("\r")[2] for line in text.split("\n")[1:] if line.strip()]
  return found[-lines:]


def progress(folder: pathlib.Path) -> Progress:
  """Of a run that may be writing just now."""
  values: dict[str, Any] = {}
  best, best_step = math.inf, None
  for record in metrics.read(folder):
    values |= record
    loss = record.get("valid/loss")
    if loss is not None and loss < best:
      best, best_step = loss, record["step"]
  return Progress(
    values.get("step"),
    values.get("epoch"),
    values.get("train/loss"),
    None if best_step is None else best,
    best_step,
    values.get("chars_per_second"),
  )


def summary(trials: Sequence[Trial]) -> str:
  """All trials as CSV: how they ended, what they reached, and what they were told."""
  fields = list(dict.fromkeys(field for trial in trials for field in trial.overrides))
  file = io.StringIO()
  writer = csv.writer(file, lineterminator="\n")
  writer.writerow(["trial", "state", "exit", "seconds", "step", "valid/loss", "at step", *fields])
  for trial in trials:
    ended, reached = outcome(trial.folder) or Outcome(WAITING), progress(trial.folder)
    told = [trial.overrides.get(field, "") for field in fields]
    numbers = [ended.code, f"{ended.seconds:.0f}", reached.step]
    writer.writerow(
      [trial.name, ended.state, *numbers, reached.valid_loss, reached.valid_step, *told]
    )
  return file.getvalue()
