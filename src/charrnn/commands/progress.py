"""How far a long command is, on stderr."""

import sys
import time

from charrnn import terminal


class Phases:
  """A bar for the phase on a terminal; in a log a line for each phase when it is done."""

  WIDTH = 24

  def __init__(self):
    self._live = sys.stderr.isatty()
    self._phase, self._began, self._drawn = None, 0.0, 0.0

  def __call__(self, phase):
    self.end()
    self._phase, self._began, self._drawn = phase, time.monotonic(), 0.0
    return self._update

  def _update(self, done, total):
    now = time.monotonic()
    if not self._live or (now - self._drawn < 0.1 and done < total):
      return
    self._drawn, spent = now, now - self._began
    bar = "#" * round(self.WIDTH * done / total)
    left = spent * (total - done) / done if done else 0.0
    line = f"{self._phase:<28}[{bar:<{self.WIDTH}}] {done / total:4.0%}  {left:.0f} s left"
    terminal.draw(f"\r\x1b[K{line[: terminal.size().columns - 1]}")

  def end(self):
    """The phase is over."""
    if self._phase:
      clear = "\r\x1b[K" if self._live else ""
      terminal.say(f"{clear}{self._phase}: {time.monotonic() - self._began:.1f} s")
    self._phase = None
