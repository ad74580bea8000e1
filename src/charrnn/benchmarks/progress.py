"""What is going on: one line that is redrawn on a terminal; in a log, a line for every race."""

import sys
import time

from charrnn import terminal
from charrnn.training import metrics


class Progress:
  def __init__(self):
    self._live = sys.stderr.isatty()
    self._start = time.monotonic()
    self._title = ""

  def begin(self, title):
    self._title = title
    if not self._live:
      self.note(title)

  def say(self, text):
    if self._live:
      spent = metrics.duration(time.monotonic() - self._start)
      line = f"{spent}  {self._title}: {text}"[: terminal.size().columns - 1]
      terminal.draw(f"\r\x1b[K{line}")

  def clear(self):
    """Before other text."""
    if self._live:
      terminal.draw("\r\x1b[K")

  def note(self, text):
    self.clear()
    terminal.say(text)
