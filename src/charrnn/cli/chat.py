"""`charrnn sample --interactive`: prompts in turn, and one network that reads and writes it all."""

import contextlib
import sys

from charrnn import console, errors
from charrnn.cli import written
from charrnn.sampling import stream

MARK = "> "


def stop(asked, tokenizer):
  """The stop text: an empty line, if none is asked for and the run's alphabet has line ends."""
  return "\n\n" if asked is None and "\n" in tokenizer.tokens else asked


def talk(loaded, prompt_ids, **asked):
  """Reads the prompt, then line after line of stdin, and writes on after each of these."""
  from charrnn.sampling import session as session_lib

  typed = sys.stdin.isatty()
  session = session_lib.Session(loaded, prompt_ids, **asked)
  write = written.writer(sys.stdout)
  write(stream.Reader(loaded.tokenizer, prompt_ids).prompt)
  for line in _lines(typed):
    try:
      session.read(loaded.tokenizer.encode(_read(line, loaded.tokenizer)))
    except errors.UserError as error:
      console.say(f"not read: {error}")
      continue
    last = ""
    try:
      for piece in session.write():
        write(piece)
        last = piece or last
    except KeyboardInterrupt:
      if not typed:
        raise
    if typed and not last.endswith("\n"):
      console.say()


def _read(line, tokenizer):
  """What the network is to read of a line: nothing of an empty one."""
  line = line if line != "\n" else ""
  return line if "\n" in tokenizer.tokens else line.removesuffix("\n")


def _lines(typed):
  """Lines of stdin; from a terminal with a mark, line editing, and Ctrl-C for a new line."""
  sys.stdin.reconfigure(errors="surrogateescape")
  ask = _editor() if typed else sys.stdin.readline
  while True:
    try:
      line = ask()
    except KeyboardInterrupt:
      if not typed:
        raise
      console.say()
      continue
    if not line:
      return
    yield line


def _editor():
  """ask() -> a line, or nothing at the end."""
  with contextlib.suppress(ImportError):
    import readline  # noqa: F401 (input() edits by it)

  def ask():
    # Where stdout goes elsewhere, input() would write the mark there.
    if not sys.stdout.isatty():
      console.write(MARK)
      return sys.stdin.readline()
    try:
      return input(MARK) + "\n"
    except EOFError:
      console.say()
      return ""

  return ask
