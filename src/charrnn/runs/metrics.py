"""metrics.jsonl of a run, its copy for TensorBoard, and the loss curve."""

import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from charrnn import console, files, plotting


class MetricsLog:
  """Writer of metrics.jsonl, one object a line, and of the same numbers for TensorBoard."""

  def __init__(self, workdir: pathlib.Path, after_step: int):
    """Drop the lines beyond `after_step`: a run that was killed computes those steps again."""
    self._path = workdir / "metrics.jsonl"
    lines = [line for line in read(workdir) if line["step"] <= after_step]
    files.write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))
    self._file = self._path.open("a")
    self._first_step, self._board = after_step + 1, None

  def write(self, step: int, values: Mapping[str, float]):
    """Write numbers by name. JSON has no NaN or infinity: they become null."""
    finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps({"step": step, **finite}) + "\n")
    self._file.flush()
    self._board = self._board or self._open_board()
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def _open_board(self):
    # Not before the first step: it imports PyTorch if that is installed, which takes a second.
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(self._path.parent), purge_step=self._first_step)

  def close(self):
    self._file.close()
    if self._board:
      self._board.close()


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Return the objects of metrics.jsonl. Lines that are incomplete or damaged are skipped."""
  path = workdir / "metrics.jsonl"
  lines = path.read_bytes().splitlines() if path.exists() else []
  return [line for line in map(parse, lines) if line is not None]


def parse(line: bytes) -> dict[str, Any] | None:
  """Return the object of a line, or None if it is damaged."""
  try:
    value = json.loads(line)
  except ValueError:
    return None
  return value if isinstance(value, dict) and isinstance(value.get("step"), int) else None


def curve(lines: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
  """Return the points (step, value) of a metric, such as valid/loss."""
  return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def plot(workdir: pathlib.Path, title: str, xlabel: str = "step"):
  """Write loss.png: training and validation loss by step."""
  lines = read(workdir)
  train, valid = curve(lines, "train/loss"), curve(lines, "valid/loss")
  with plotting.figure(workdir / "loss.png", title, figsize=(7, 4.5)) as figure:
    axes = figure.subplots()
    for points, label, style in (
      (train, "train/loss", {"lw": 0.9}),
      (valid, "valid/loss", {"marker": "o", "ms": 4}),
    ):
      if points:
        axes.plot(*zip(*points), label=label, color=plotting.COLORS[label == "valid/loss"], **style)
    if valid:
      losses = [loss for _, loss in valid]
      axes.axhline(min(losses), color="grey", lw=0.7, ls=":", label=f"best {min(losses):.4f}")
      # The limit is a little above the first validation loss: the fall from log V hides the rest.
      lowest = min(loss for _, loss in train + valid)
      axes.set_ylim(lowest - 0.05, max(losses[0], min(losses) + 0.3) + 0.1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel=xlabel, ylabel="nats per character")
    axes.grid(True)
    if train or valid:
      axes.legend()


class Progress:
  """One line that is redrawn on a terminal; in a log, a plain line now and then."""

  def __init__(self, steps, first_step, chars_per_step, steps_per_epoch, every=10.0):
    self.steps, self.first_step = steps, first_step
    self.chars_per_step, self.steps_per_epoch = chars_per_step, steps_per_epoch
    self._every = every
    self._live = sys.stderr.isatty()
    self._clock = self._last = time.monotonic()
    self._counted = first_step
    self._drawn = False
    self.rate = math.nan  # characters a second, smoothed
    self._stepping = self._dry = 0.0  # seconds of steps, and of them without work

  def pause(self):
    """Before other text or work: clears the line. `resume` starts the clock again."""
    if self._drawn:
      console.write("\r\x1b[K")
      self._drawn = False

  def resume(self):
    self._clock = time.monotonic()

  def hands_over(self, previous):
    """Before the next step is handed over; `previous`: what the one before gives, if there is one.

    If that is done by now, the devices had run dry, at some moment since the loop was last back
    from waiting for them (`update`). All that time counts.
    """
    if previous is not None and previous["loss"].is_ready():
      self._dry += time.monotonic() - self._clock

  def take_idle(self):
    """The share of time since it was last asked in which the devices stood idle, at most.

    Of the time of steps alone: evaluations, and the first step, which compiles, do not count.
    """
    idle = self._dry / self._stepping if self._stepping else math.nan
    self._stepping = self._dry = 0.0
    return idle

  def update(self, step, loss):
    """After waiting for a step: its numbers are here."""
    now = time.monotonic()
    done, self._counted = step - self._counted, step
    if self._counted == self.first_step + 1:
      self._dry = 0.0
    elif now > self._clock:
      rate = done * self.chars_per_step / (now - self._clock)
      self.rate = rate if math.isnan(self.rate) else 0.9 * self.rate + 0.1 * rate
      self._stepping += now - self._clock
    self._clock = now
    if self._live and now - self._last > 0.1:
      console.write(f"\r\x1b[K{self._line(step, loss)[: console.size().width]}")
      self._drawn = True
    elif not self._live and (now - self._last > self._every or step == self.steps):
      console.say(self._line(step, loss))
    else:
      return
    self._last = now

  def _line(self, step, loss):
    left = (self.steps - step) * self.chars_per_step / self.rate if self.rate > 0 else math.nan
    left = console.duration(left) if math.isfinite(left) else "?"
    return (
      f"step {step}/{self.steps}  epoch {step / self.steps_per_epoch:.2f}  "
      f"loss {console.nats_and_bits(loss)}  {self.rate / 1000:.1f}k chars/s  {left} left"
    )
