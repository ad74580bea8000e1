"""Output for people on stderr and stdout: status lines, progress, tables and exit codes."""

import contextlib
import errno
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import rich.console
import rich.live
import rich.progress
import rich.table
import rich.text

from charrnn import errors

Update = Callable[..., None]  # (done, total, note="")
REDRAW = 0.1  # seconds between two drawings on a terminal
# C0, DEL and C1, which a terminal obeys, as escapes: text.translate(CONTROLS).
CONTROLS = {c: f"\\x{c:02x}" for c in (*range(32), *range(0x7F, 0xA0)) if chr(c) not in "\n\t"}


class _Stderr(io.TextIOBase):
  """The stderr of the moment. It goes on silently when the terminal or the reader is gone."""

  encoding = "utf-8"

  def isatty(self) -> bool:
    return sys.stderr is not None and sys.stderr.isatty()

  def fileno(self) -> int:
    if sys.stderr is None:
      raise OSError(errno.EBADF, "stderr is closed")
    return sys.stderr.fileno()

  def write(self, text: str) -> int:
    if sys.stderr is not None:
      with self._bear_loss():
        sys.stderr.write(text)
    return len(text)

  def flush(self):
    if sys.stderr is not None:
      with self._bear_loss():
        sys.stderr.flush()

  @contextlib.contextmanager
  def _bear_loss(self):
    try:
      yield
    except OSError as error:
      if error.errno not in (errno.EIO, errno.EPIPE):
        raise
      with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), sys.stderr.fileno())


_console = rich.console.Console(file=_Stderr(), highlight=False, markup=False, emoji=False)


def say(text: str = ""):
  """Write a line to stderr, above the progress bar if one is shown; control characters escaped."""
  _console.print(rich.text.Text(text.translate(CONTROLS)), soft_wrap=True)


def write(text: str):
  """Write text to stderr as it is, without a line end."""
  _console.file.write(text)
  _console.file.flush()


def size() -> rich.console.ConsoleDimensions:
  """Return the width and height of the terminal; 80 x 25 if there is none."""
  return _console.size


def is_live() -> bool:
  """Return whether stderr is a terminal on which lines can be redrawn."""
  return _console.is_terminal and not _console.is_dumb_terminal


def visible(text: str) -> str:
  """Return the text with control characters, and all that has no glyph, as escapes."""
  return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def duration(seconds: float) -> str:
  """Format seconds as M:SS or H:MM:SS."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def nats_and_bits(nats: float) -> str:
  """Format a loss in both units."""
  return f"{nats:.4f} nats ({nats / math.log(2):.3f} bits)"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> list[str]:
  """Return the lines of an aligned table: the first `names` columns left, the others right."""
  grid = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
  for n in range(len(header)):
    grid.add_column(justify="left" if n < names else "right", no_wrap=True)
  for row in (header, *rows):
    grid.add_row(*map(rich.text.Text, row))
  file = io.StringIO()
  rich.console.Console(file=file, width=10_000, color_system=None).print(grid, soft_wrap=True)
  return [line.rstrip() for line in file.getvalue().splitlines()]


class Progress:
  """A bar for the phase at hand on a terminal; plain lines in a log.

  A context manager. In a log, a phase gets a line when it is done. With `every`, a phase is one of
  counted steps: the count is shown, in a log about every so many seconds and at the last step.
  """

  def __init__(self, every: float = math.inf):
    self._every = every
    self._bar: rich.progress.Progress | None = None
    self._phase, self._start, self._last, self._note = "", 0.0, 0.0, ""

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.end()

  def __call__(self, phase: str) -> Update:
    """Begin a phase, and end the one before; return the function that moves its bar."""
    self.end()
    self._phase, self._start = phase, time.monotonic()
    self._last = self._start
    if is_live():
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(None, table_column=rich.table.Column(max_width=24)),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
        rich.progress.TextColumn("{task.fields[left]}"),
        console=_console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,  # our stderr would write to itself
        redirect_stderr=False,
      )
      self._bar.start()
      self._task = self._bar.add_task(phase, total=None, note="", left="")
      self._bar.refresh()
    return self.update

  def update(self, done: float, total: float, note: str = "", left: float | None = None):
    """Move the bar. `left`: seconds to the end, if better known than from the rate so far."""
    now, self._note = time.monotonic(), note
    if left is None:
      left = (now - self._start) * (total - done) / done if done else math.nan
    is_counted = math.isfinite(self._every)
    name = f"{self._phase} {done:,.0f}/{total:,.0f}" if is_counted else self._phase
    shown = f"{duration(left)} left" if math.isfinite(left) else ""
    if self._bar and (now - self._last >= REDRAW or done >= total):
      self._bar.update(
        self._task, description=name, completed=done, total=total, note=note, left=shown
      )
      self._bar.refresh()
    elif not self._bar and (now - self._last >= self._every or (is_counted and done >= total)):
      say("  ".join(filter(None, [name, note, shown])))
    else:
      return
    self._last = now

  def end(self, report: bool = True):
    """End the phase. Its duration is reported unless `report` is false."""
    if self._bar:
      self._bar.stop()
      self._bar = None
    if self._phase and report:
      say(f"{self._phase}: {time.monotonic() - self._start:.1f} s")
    self._phase = ""


class LiveTable:
  """Lines that are redrawn in place on a terminal. Nothing is drawn elsewhere."""

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
    """Return the number of lines that fit."""
    return _console.size.height

  def draw(self, lines: Iterable[str]):
    if self._live.is_started:
      text = rich.text.Text("\n".join(lines), no_wrap=True, overflow="crop")
      self._live.update(text, refresh=True)


def run(name: str, program: Callable[[], int | None]) -> int:
  """Run a program's main function and return its exit code.

  Expected failures become one line on stderr: 2 for a UserError or a full disk, 130 for Ctrl-C. A
  reader of stdout that went away, as `head` does, is no failure.
  """
  for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, stream) is None:  # closed by the caller
      setattr(sys, stream, open(os.devnull, mode))  # noqa: SIM115
  try:
    code = program() or 0
    sys.stdout.flush()
  except errors.UserError as error:
    say(f"{name}: error: {error}")
    return 2
  except BrokenPipeError:
    _drop_stdout()
    return 0
  except OSError as error:  # of stdout: modules report themselves what they cannot read or write
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    say(f"{name}: error: cannot write {error.filename or 'the output'}: {error.strerror}")
    _drop_stdout()
    return 2
  except KeyboardInterrupt:
    return 130
  return code


def _drop_stdout():
  """Point stdout at /dev/null, so that flushing it at exit does not fail again."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
