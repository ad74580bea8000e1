"""The metrics of a run: metrics.jsonl, and a plot of the losses."""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import IO, Any

from charrnn import files, plotting
from charrnn.runs.status import RunStatus

_VALUE = int | float | None  # type of a metric in JSON
MAX_STEP = 1 << 53  # Larger steps are damage, and floats cannot represent all of them.


class MetricsLog:
  """The writer of metrics.jsonl, with one object per line. It is a `tracking.Tracker`.

  This file is the record of the run, so unlike those of other trackers, its errors end the run.
  """

  def __init__(self, workdir: pathlib.Path):
    self._path = workdir / "metrics.jsonl"
    self._size, self._sha256 = 0, hashlib.sha256()
    self._file: IO[bytes] | None = None

  def start(self, first_step: int):
    """Remove the lines from `first_step` on, because the run computes them again."""
    self.finish()
    lines = [line for line in read(self._path.parent) if line["step"] < first_step]
    content = b"".join(map(_to_bytes, lines))
    files.write_bytes(self._path, content)
    self._size, self._sha256 = len(content), hashlib.sha256(content)
    self._file = files.append(self._path)

  def log(self, step: int, values: Mapping[str, float]):
    """Write the values of a step by name. NaN and infinity become null, since JSON has neither."""
    finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
    line = memoryview(_to_bytes({"step": step, **finite}))
    self._size += len(line)
    self._sha256.update(line)
    with files.report_unwritable(self._path):
      while line:  # A nearly full disk accepts only a part.
        line = line[self._file.write(line) :]

  def sync(self) -> dict[str, Any]:
    """Write everything to disk; return size and digest, which the next checkpoint stores."""
    with files.report_unwritable(self._path):
      os.fsync(self._file.fileno())
    return {"bytes": self._size, "sha256": self._sha256.hexdigest()}

  def finish(self, status: RunStatus = RunStatus.FINISHED):
    """Close the file."""
    if self._file:
      self._file.close()


def _to_bytes(line: dict[str, Any]) -> bytes:
  return json.dumps(line).encode() + b"\n"


def matches(workdir: pathlib.Path, stored: dict[str, Any]) -> bool:
  """Return whether metrics.jsonl starts with the lines whose size and digest `sync` returned."""
  return _describe(_content(workdir)[: stored["bytes"]]) == stored


def prefix(workdir: pathlib.Path, step: int) -> dict[str, Any]:
  """Return size and digest of the lines up to a step, like `MetricsLog.sync`."""
  lines = _content(workdir).splitlines(keepends=True)
  parsed = list(map(parse, lines))
  last = max((n for n, line in enumerate(parsed, 1) if line and line["step"] <= step), default=0)
  return _describe(b"".join(lines[:last]))


def _describe(content: bytes) -> dict[str, Any]:
  return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _content(workdir: pathlib.Path) -> bytes:
  """Return the content of metrics.jsonl; it is empty if the file is missing."""
  path = workdir / "metrics.jsonl"
  return files.read_bytes(path) if os.path.lexists(path) else b""


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Return the objects in metrics.jsonl. Incomplete and damaged lines are skipped."""
  lines = _content(workdir).splitlines()
  return list(filter(None, map(parse, lines)))  # A valid object has a step, so it is not empty.


def parse(line: bytes) -> dict[str, Any] | None:
  """Return the object in a line, or None if the line is damaged."""
  try:
    value = files.parse_json(line)
  except (ValueError, RecursionError):
    return None
  schema = {**dict.fromkeys(value, _VALUE), "step": int} if isinstance(value, dict) else dict
  is_valid = files.has_types(value, schema)
  if not is_valid or abs(value["step"]) >= MAX_STEP:
    return None
  # Python reads NaN and infinity, which `MetricsLog.log` replaces.
  return {k: v if v is not None and math.isfinite(v) else None for k, v in value.items()}


def curve(lines: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
  """Return the points (step, value) of a metric, for example valid/loss."""
  return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def plot(workdir: pathlib.Path, title: str, xlabel: str = "training step", unit: str = "character"):
  """Write loss.png, the training and validation loss by step, in nats per `unit`."""
  lines = read(workdir)
  train, valid = curve(lines, "train/loss"), curve(lines, "valid/loss")
  title = f"{title}: loss by {xlabel}"
  with plotting.figure(workdir / "loss.png", title, figsize=(7, 4.5)) as figure:
    axes = figure.subplots()
    if train:
      axes.plot(*zip(*train), label="training loss", color=plotting.COLORS[0], lw=0.9)
    if valid:
      color = plotting.COLORS[1]
      axes.plot(*zip(*valid), label="validation loss", color=color, marker="o", ms=4)
      losses, bits = [loss for _, loss in valid], dict(curve(lines, "valid/bits_per_byte"))
      best_step, best = min(valid, key=lambda point: point[1])
      label = f"lowest validation loss: {best:.4f}"
      label += f" ({bits[best_step]:.4f} bits per byte)" if best_step in bits else ""
      axes.axhline(min(losses), color=plotting.GRAY, lw=0.7, ls=":", label=label)
      # The training loss starts near log V. Showing all of it would flatten the rest of the curve,
      # so the axis ends a little above the first validation loss.
      lowest = min(loss for _, loss in train + valid)
      axes.set_ylim(lowest - 0.05, max(losses[0], min(losses) + 0.3) + 0.1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel=xlabel, ylabel=f"loss (nats per {unit})")
    axes.grid(True)
    if train or valid:
      axes.legend()
