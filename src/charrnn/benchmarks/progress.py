"""What is going on: one line that is redrawn on a terminal; in a log, a line for every race."""

import sys
import time

from charrnn import console


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
      spent = console.duration(time.monotonic() - self._start)
      line = f"{spent}  {self._title}: {text}"[: console.size().width - 1]
      console.write(f"\r\x1b[K{line}")

  def clear(self):
    """Before other text."""
    if self._live:
      console.write("\r\x1b[K")

  def note(self, text):
    self.clear()
    console.say(text)
