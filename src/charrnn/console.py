"""Output for users: status lines, progress bars and tables."""

import collections
import contextlib
import csv
import errno
import io
import math
import os
import shlex
import statistics
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import rich.console
import rich.live
import rich.progress
import rich.table
import rich.text

Update = Callable[..., None]  # called as update(done, total, note="")
REDRAW = 0.1  # minimum seconds between two updates of a terminal
# Errors of a stream that will not work again: its reader or its terminal is closed.
_CLOSED = (errno.EPIPE, errno.EIO, errno.EBADF)


class _Stderr(io.TextIOBase):
  """The current sys.stderr, except that text that cannot be written is silently discarded."""

  encoding = "utf-8"

  def isatty(self) -> bool:
    return sys.stderr is not None and sys.stderr.isatty()

  def fileno(self) -> int:
    if sys.stderr is None:
      raise OSError(errno.EBADF, "stderr is closed")
    return sys.stderr.fileno()

  def write(self, text: str) -> int:
    if sys.stderr is not None:
      try:
        sys.stderr.write(text)
      except OSError:
        self.flush()
    return len(text)

  def flush(self):
    if sys.stderr is not None:
      flush(sys.stderr)


_console = rich.console.Console(file=_Stderr(), highlight=False, markup=False, emoji=False)


def say(text: str = ""):
  """Write one or more lines to stderr, above any progress bar, escaped for a terminal."""
  _console.print(rich.text.Text(visible(text, lines=True)), soft_wrap=True)


def show(lines: Iterable[str]):
  """Write lines to stdout, escaped for a terminal."""
  print(*(visible(line).rstrip() for line in lines), sep="\n", flush=True)


def write(text: str):
  """Write text to stderr unchanged, without adding a line end."""
  _console.file.write(text)
  _console.file.flush()


def flush(stream):
  """Flush an output stream; discard its text if that is impossible.

  A stream that is closed for good is redirected to /dev/null. A stream on a full disk may work
  again later.
  """
  try:
    stream.flush()
  except OSError as error:
    descriptor = stream.fileno()
    with contextlib.ExitStack() as stack:
      if error.errno not in _CLOSED:
        copy = os.dup(descriptor)
        stack.callback(os.close, copy)
        stack.callback(os.dup2, copy, descriptor)
      devnull = os.open(os.devnull, os.O_WRONLY)
      stack.callback(os.close, devnull)
      os.dup2(devnull, descriptor)
      stream.flush()


def is_live() -> bool:
  """Return whether stderr is a terminal on which lines can be redrawn."""
  return _console.is_terminal and not _console.is_dumb_terminal


def visible(text: str, lines: bool = False) -> str:
  """Escape the characters of a text that a terminal would execute, reorder or hide.

  Everything that comes from a file, a name or the network must pass through this function before
  it is shown. With `lines`, the text may have several lines: line ends, tabs, all spaces and the
  joiners between letters or emoji are kept. A byte that is not UTF-8, which Python represents by a
  surrogate, becomes \\xHH.
  """
  if text.isprintable():
    return text
  return "".join(c if c.isprintable() or (lines and _is_text(c)) else _escape(c) for c in text)


def _is_text(character: str) -> bool:
  return character in "\n\t\u200c\u200d" or unicodedata.category(character) in ("Zs", "Co", "Cn")


def _escape(character: str) -> str:
  byte = ord(character) - 0xDC00  # of a surrogate that represents a byte
  return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()


def argument(path: str | os.PathLike) -> str:
  """Return a path as an argument in a shell, where no command mistakes it for an option."""
  name = os.fspath(path)
  return shlex.quote(f"./{name}" if name.startswith("-") else name)


def encode(text: str) -> bytes:
  """Return a text as UTF-8 without losing a character.

  Surrogates that represent bytes become these bytes. If there are other surrogates, which UTF-8
  cannot represent, all are escaped.
  """
  try:
    return text.encode("utf-8", "surrogateescape")
  except UnicodeEncodeError:
    return text.encode("utf-8", "backslashreplace")


def set_encodings():
  """Make stdout and stderr keep every character, whatever the locale or PYTHONIOENCODING.

  Files and pipes get UTF-8. A terminal gets escapes for the characters that it does not support.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # A notebook replaces them with other objects.
      encoding = stream.encoding if stream.isatty() else "utf-8"
      stream.reconfigure(encoding=encoding, errors="backslashreplace")


def duration(seconds: float) -> str:
  """Return a duration in seconds as M:SS or H:MM:SS."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def nats_and_bits(nats: float, per_byte: float | None = None) -> str:
  """Return a loss in nats as text in nats and bits, and in bits per byte if these differ."""
  bits = f"{nats / math.log(2):.3f} bits"
  if per_byte is None or bits == f"{per_byte:.3f} bits":
    return f"{nats:.4f} nats ({bits})"
  return f"{nats:.4f} nats ({bits}; {per_byte:.4f} bits per byte)"


def number(value: float | None, style: str = ".3f") -> str:
  """Return a number as text in a style of `format`, or "-" for None."""
  return "-" if value is None else format(value, style)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> list[str]:
  """Return the lines of an aligned table.

  The first `names` columns are aligned to the left, the others to the right.
  """
  grid = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
  for n in range(len(header)):
    grid.add_column(justify="left" if n < names else "right", no_wrap=True)
  for row in (header, *rows):
    grid.add_row(*(rich.text.Text(visible(cell)) for cell in row))
  file = io.StringIO()
  rich.console.Console(file=file, width=10_000, color_system=None).print(grid, soft_wrap=True)
  return [line.rstrip() for line in file.getvalue().splitlines()]


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
  """Return CSV with a row per mapping. A missing value is an empty cell."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator="\n")
  writer.writerow(map(cell, columns))
  writer.writerows([cell(row.get(name, "")) for name in columns] for row in rows)
  return file.getvalue()


def cell(value) -> Any:
  """Return a value for a cell of a CSV or TSV table. Control characters and formulas are escaped.

  A spreadsheet executes the formulas in a table that it opens, but shows a cell that begins with an
  apostrophe as text.
  """
  if not isinstance(value, str):
    return value
  is_formula = value.startswith(("=", "+", "-", "@")) and not _is_number(value)
  return visible(f"'{value}" if is_formula else value)


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


class Progress:
  """The progress of a sequence of phases: a bar on a terminal, plain lines in a log.

  It is a context manager. A line is written when a phase ends. If `every` is finite, a phase
  consists of counted steps: their number is shown, and a log gets a line about every `every`
  seconds and at the last step.
  """

  def __init__(self, every: float = math.inf):
    self._every = every
    self._bar: rich.progress.Progress | None = None
    self._phase, self._start, self._last, self._note = "", 0.0, 0.0, ""
    self._done, self._updated = 0.0, 0.0
    self._recent = collections.deque(maxlen=50)  # seconds per unit of `done` of each recent update

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    self.end(report=kind is None)  # An error is reported in one line.

  def __call__(self, phase: str) -> Update:
    """End the current phase and begin another; return the function that updates its bar."""
    self.end()
    self._phase, self._start = visible(phase), time.monotonic()
    self._last = self._updated = self._start
    self._done = 0.0
    self._recent.clear()
    if is_live():
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(None, table_column=rich.table.Column(max_width=24)),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("{task.fields[note]}", markup=False),
        rich.progress.TextColumn("{task.fields[left]}"),
        console=_console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,  # A redirected stderr would write to itself.
        redirect_stderr=False,
      )
      self._bar.start()
      self._task = self._bar.add_task(self._phase, total=None, note="", left="")
      self._bar.refresh()
    return self.update

  def update(self, done: float, total: float, note: str = "", left: float | None = None):
    """Update the bar: `done` of `total` is complete, and `note` is shown beside it.

    `left` overrides the estimate of the remaining seconds.
    """
    now, self._note = time.monotonic(), note
    if done > self._done:
      self._recent.append((now - self._updated) / (done - self._done))
      self._done, self._updated = done, now
    if left is None:  # A median hardly changes when the process is paused.
      left = (total - done) * statistics.median(self._recent) if self._recent else math.nan
    is_counted = math.isfinite(self._every)
    name = f"{self._phase} {done:,.0f}/{total:,.0f}" if is_counted else self._phase
    remaining = f"{duration(left)} left" if math.isfinite(left) else ""
    if self._bar and (now - self._last >= REDRAW or done >= total):
      self._bar.update(
        self._task, description=name, completed=done, total=total, note=note, left=remaining
      )
      self._bar.refresh()
    elif not self._bar and (now - self._last >= self._every or (is_counted and done >= total)):
      say("  ".join(filter(None, [name, note, remaining])))
    else:
      return
    self._last = now

  def end(self, report: bool = True):
    """End the current phase and report its duration, unless `report` is false."""
    if self._bar:
      self._bar.stop()
      self._bar = None
    if self._phase and report:
      say(f"{self._phase}: {time.monotonic() - self._start:.1f} s")
    self._phase = ""


class LiveTable:
  """Lines that are updated in place on a terminal. Without a terminal, nothing is shown."""

  def __init__(self):
    self._live = rich.live.Live(
      console=_console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    )

  def __enter__(self):
    if is_live():
      self._live.start()
    return self

  def __exit__(self, *_):
    self._live.stop()

  @property
  def height(self) -> int:
    """Return the number of lines that fit on the terminal."""
    return _console.size.height

  def draw(self, lines: Iterable[str]):
    """Replace the lines that are shown."""
    if self._live.is_started:
      text = rich.text.Text("\n".join(map(visible, lines)), no_wrap=True, overflow="crop")
      self._live.update(text, refresh=True)
