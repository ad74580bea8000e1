"""What is going on: one line that is redrawn on a terminal; in a log, a line for every race."""

import os
import sys
import time

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
      columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
      line = f"{spent}  {self._title}: {text}"[: columns - 1]
      self._write(f"\r\x1b[K{line}")

  def clear(self):
    """Before other text."""
    if self._live:
      self._write("\r\x1b[K")

  def note(self, text):
    self.clear()
    self._write(f"{text}\n")

  def _write(self, text):
    sys.stderr.write(text)
    sys.stderr.flush()
