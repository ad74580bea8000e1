"""The status of a run, and outcome.json, in which the sweep runner stores how a launch ended."""

import enum
import pathlib
from typing import NamedTuple

from charrnn import errors, files

STOPPED_CODE = 75  # exit code of a run that a signal stopped and that has saved a checkpoint


class RunStatus(enum.StrEnum):
  """The status of a run, as shown and as stored in outcome.json."""

  WAITING = "waiting"  # not launched yet
  RUNNING = "running"
  FINISHED = "finished"
  STOPPED = "stopped"  # stopped by a signal; the same command resumes it
  DIVERGED = "diverged"
  FAILED = "failed"
  KILLED = "killed"
  PRUNED = "pruned"  # ended early by a search because of its losses
  TIMEOUT = "timeout"

  @classmethod
  def _missing_(cls, value):
    return cls.FINISHED if value == "done" else None  # Older versions wrote "done".


RESUMABLE = (RunStatus.STOPPED, RunStatus.KILLED, RunStatus.TIMEOUT)


class Outcome(NamedTuple):
  """The result of a launch."""

  status: RunStatus
  code: int | None = None  # the exit code; a negative code is the signal that ended the process
  seconds: float = 0.0


def read_outcome(workdir: pathlib.Path) -> Outcome | None:
  """Return the content of outcome.json, or None if it is missing or damaged."""
  try:
    value = files.read_json(workdir / "outcome.json")
    status = RunStatus(value.get("status", value.get("state")))
    if not files.has_types(value, {"code": int | None, "seconds": float | int}):
      return None
    return Outcome(status, value["code"], float(value["seconds"]))
  except (errors.UserError, ValueError, KeyError, TypeError):
    return None


def diverged_file(workdir: pathlib.Path) -> pathlib.Path:
  """Return the path of the file to which diverged training writes its error message."""
  return workdir / "diverged.txt"


def write_outcome(workdir: pathlib.Path, outcome: Outcome):
  """Write outcome.json."""
  value = files.with_aliases(outcome._asdict(), {"status": "state"})
  files.write_json(workdir / "outcome.json", value)
