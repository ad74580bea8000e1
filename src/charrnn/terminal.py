"""What is said to people: on stderr, even when nobody is left to read it."""

import errno
import os
import sys


def say(text: str = ""):
  """A line."""
  draw(f"{text}\n")


def draw(text: str):
  """The text as it is. Where the terminal is closed or the pipe's reader gone, work goes on."""
  if sys.stderr is None:  # whoever called has closed it
    return
  try:
    sys.stderr.write(text)
    sys.stderr.flush()
  except OSError as error:
    if error.errno not in (errno.EIO, errno.EPIPE):
      raise
    with open(os.devnull, "w") as nobody:
      os.dup2(nobody.fileno(), sys.stderr.fileno())


def size() -> os.terminal_size:
  """Of stderr's terminal; 80 x 24 where it does not say."""
  try:
    found = os.get_terminal_size(sys.stderr.fileno())
  except OSError:  # it is none, or none any more
    found = os.terminal_size((0, 0))
  return os.terminal_size((found.columns or 80, found.lines or 24))
