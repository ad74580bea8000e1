"""How a sweep stands: a table that is drawn over on a terminal, a line for each change in a log.

And in a log now and then how far those have come that run.
"""

import math
import sys
import time

from charrnn import console
from charrnn.runs import run as run_lib
from charrnn.sweeps import trials as trials_lib

EVERY = 1.0  # seconds between drawings
REMIND = 60.0  # seconds between lines in a log when nothing changes
_ORDER = (*trials_lib.BAD, trials_lib.STOPPED, trials_lib.RUNNING, trials_lib.WAITING)
_ORDER += (trials_lib.PRUNED,)
HEAD = ("trial", "state", "step", "train", "best valid", "chars/s", "left")


class Board:
  """Watches trials by their directories alone, whoever runs them."""

  def __init__(self, trials):
    self._trials, self._live = trials, sys.stderr.isatty()
    self._drawn, self._lines, self._told = 0.0, 0, {}
    self._note = ""

  def update(self, states: dict[str, str], final: bool = False, note: str = ""):
    """`states` by the trials' names; `note` is a line for whoever watches."""
    now = time.monotonic()
    if note != self._note:
      self._note, self._drawn = note, 0.0
      if not self._live:
        console.say(note)
    if self._live and (final or now - self._drawn >= EVERY):
      self._draw(states)
      self._drawn = now
    elif not self._live and (states != self._told or now - self._drawn >= REMIND):
      self._log(states)
      self._drawn, self._told = now, dict(states)

  def _draw(self, states):
    size = console.size()
    # Those that ask for attention first; what does not fit is counted.
    rank = {state: n for n, state in enumerate(_ORDER)}
    chosen = sorted(self._trials, key=lambda each: rank.get(states[each.name], len(rank)))
    room = max(1, size.height - 5)
    rows = [row(each, states[each.name]) for each in chosen[:room]]
    lines = [*table([HEAD, *rows]), counted(states), *([self._note] if self._note else [])]
    up = f"\x1b[{self._lines}A\x1b[J" if self._lines else ""
    console.write(up + "".join(f"{line[: size.width - 1]}\n" for line in lines))
    self._lines = len(lines)

  def _log(self, states):
    for trial in self._trials:
      state = states[trial.name]
      is_new = state != self._told.get(trial.name, trials_lib.WAITING)
      if is_new or (states == self._told and state == trials_lib.RUNNING):
        cells = [f"{name} {cell}" for name, cell in zip(HEAD[2:], row(trial, state)[2:]) if cell]
        console.say(f"{trial.name}: {state}  {'  '.join(cells)}".rstrip())
    console.say(counted(states))


def counted(states: dict[str, str]) -> str:
  """How many trials are in which state."""
  names = (trials_lib.DONE, *reversed(_ORDER))
  counts = {name: list(states.values()).count(name) for name in names}
  told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
  return f"{time.strftime('%H:%M:%S')}  {len(states)} trials: {told}"


def row(trial: trials_lib.Trial, state: str) -> tuple[str, ...]:
  """A trial as cells of the table."""
  at = trials_lib.progress(trial.folder)
  running = state == trials_lib.RUNNING
  return (
    trial.name,
    state,
    "" if at.step is None else f"{at.step:,}",
    "" if at.train_loss is None else _loss(at.train_loss),
    "" if at.valid_loss is None else _loss(at.valid_loss),
    f"{at.rate:,.0f}" if running and at.rate else "",
    left(trial, at) if running else "",
  )


def _loss(value: float) -> str:
  return f"{value:.4f}" if abs(value) < 1000 else f"{value:.2g}"


def left(trial: trials_lib.Trial, at: trials_lib.Progress) -> str:
  """The time to the end at the rate of now; "" where nobody can say."""
  if not (at.step and at.epoch and at.rate):
    return ""
  try:
    config = run_lib.Run.open(trial.folder).config
  except Exception:  # a run that only begins: it says so itself if something is wrong
    return ""
  by_epochs = (config.epochs or math.inf) * at.step / at.epoch
  steps = min(config.max_steps or math.inf, by_epochs) - at.step
  seconds = max(0, steps) * config.batch_size * config.window / at.rate
  return console.duration(seconds) if math.isfinite(seconds) else ""


def table(rows) -> list[str]:
  """Columns side by side, names left and numbers right."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  return [
    "  ".join(
      cell.ljust(width) if n < 2 else cell.rjust(width)
      for n, (cell, width) in enumerate(zip(cells, widths))
    ).rstrip()
    for cells in rows
  ]
