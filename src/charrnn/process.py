"""The process of a program: its signals, output streams, errors, exit code and end.

This module imports nothing slow, so that a program handles signals from its first moment.
"""

import contextlib
import errno
import functools
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

from charrnn import errors

# The signals that ask a program to stop. SLURM sends SIGUSR1 with --signal=USR1@SECONDS.
# Windows has neither of SIGHUP, SIGUSR1 and SIGUSR2.
SIGHUP, SIGUSR1, SIGUSR2 = (getattr(signal, f"SIG{name}", None) for name in ("HUP", "USR1", "USR2"))
STOP_SIGNALS = tuple(filter(None, (signal.SIGTERM, signal.SIGINT, SIGHUP, SIGUSR1)))
INTERRUPTED_CODE = 130  # exit code of a program that a signal stopped before it saved anything
# Maximum seconds between the end of a program and the end of its process: more after success, when
# slower processes of the run may still need this one, than after a failed save, when threads of
# Orbax wait for minutes.
MAX_LINGER, MAX_LINGER_FAILED = 10.0, 2.0
# Maximum seconds from a signal to its handler, and from the handler to the end of the program.
MAX_DELAY, MAX_CLEANUP = 1.0, 5.0
# A program that kills its process group when its stdin ends.
_GUARD = ("/bin/sh", "-c", "read -r _; kill -KILL 0")


def launching_folder() -> pathlib.Path:
  """Return the folder of launch.py and experiments: a checkout, or the copy in a wheel."""
  copy = pathlib.Path(__file__).with_name("launcher")  # setup.py puts it there.
  return copy if copy.is_dir() else pathlib.Path(__file__).parents[2]


def run(name: str, program: Callable[[], int | None], ends_process: bool = False) -> int:
  """Run the main function of a program and return its exit code.

  The exit code is 2 after a UserError, a system error or a lack of memory, each of which is
  reported on stderr in one line, and 130 after a signal. It is 0 if a reader such as `head` has
  closed stdout. With `ends_process`, the process ends soon after this function returns, even if
  threads of a library hang.
  """
  _open_streams()
  if ends_process and not sys.warnoptions:  # Users cannot act on them.
    warnings.simplefilter("ignore")
  numbers, code = [], None
  try:
    with _interruption(numbers, ends_process):
      code = _run(name, program)
  except BaseException as error:
    # A package may turn the exception of a signal into another one.
    if not numbers and not isinstance(error, KeyboardInterrupt):
      raise
    # A signal must not change the exit code of a program that has finished.
    code = INTERRUPTED_CODE if code is None else code
  from charrnn import console

  console.flush(sys.stdout)
  console.flush(sys.stderr)
  if ends_process:
    _start_thread(functools.partial(_end, code))
  return code


def _run(name, program) -> int:
  from charrnn import console  # It imports rich, which is slow.

  try:
    console.set_encodings()
    try:
      code = program() or 0
    except SystemExit as end:  # argparse ends the program after it has printed the help.
      code = end.code or 0
    sys.stdout.flush()
    return code
  except BrokenPipeError:
    return 0
  except errors.UserError as error:
    text = str(error)
  except OSError as error:
    if (text := _describe(error)) is None:
      raise
  except (MemoryError, RuntimeError) as error:
    if errors.is_lack_of_threads(error):
      text = f"{error}: {errors.REMEDIES[errno.EAGAIN]}"
    elif (text := errors.lack_of_memory(error)) is None:
      raise
  except ValueError as error:
    if not _is_raised_by_settings(error):
      raise
    text = f"{error}: correct the environment variable, or unset it"
  console.say(console.visible(f"{name}: error: {text}"))
  return 2


def _describe(error: OSError) -> str | None:
  """Return one line with the reason and the remedy of a system error; None if it is unexpected."""
  remedy, text = errors.REMEDIES.get(error.errno), None
  if error.filename is not None:
    path = os.fsdecode(error.filename)
    text = f"{path}: {error.strerror}: {errors.CHECK_PATH}"
    text = errors.describe(error, path) if remedy else text
  elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
    text = errors.describe(error, "the output")
  elif error.errno == errno.EBADF:
    text = "cannot write to the output: it is not open for writing"
  elif error.errno == errno.ENOENT:  # Only os.getcwd and tempfile raise it without a path.
    text = "the current folder was deleted: change to another folder"
    if error.strerror != os.strerror(errno.ENOENT):
      text = f"{error.strerror}: set TMPDIR to a folder with free space"
  elif remedy:
    text = f"{error.strerror}: {remedy}"
  return text


def _is_raised_by_settings(error: ValueError) -> bool:
  """Return whether JAX raised an error while it read its settings from environment variables."""
  frames = list(traceback.walk_tb(error.__traceback__))
  return frames[-1][0].f_code.co_filename.endswith(os.path.join("jax", "_src", "config.py"))


def call(command: Sequence[str], seconds: float, **options) -> subprocess.CompletedProcess[bytes]:
  """Run another program and return its result; raise TimeoutError if it takes too long.

  After an error, and if this process ends, kill the program and its children, but do not wait long
  for them: a program that waits for a driver or a disk cannot end before that answers.
  """
  pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
  if sys.platform == "win32":  # It has no process groups of this kind.
    try:
      return subprocess.run(command, timeout=seconds, check=False, **pipes | options)
    except subprocess.TimeoutExpired as error:
      raise _timeout(command, seconds) from error
  with _killed_group() as (group, end_of_group):
    child = subprocess.Popen(command, **pipes | options, process_group=group)
    try:
      out, err = child.communicate(timeout=seconds)
    except BaseException as error:
      end_of_group.close()
      for pipe in filter(None, (child.stdout, child.stderr)):
        pipe.close()
      with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(1.0)
      if isinstance(error, subprocess.TimeoutExpired):
        raise _timeout(command, seconds) from error
      raise
  return subprocess.CompletedProcess(command, child.returncode, out, err)


def _timeout(command, seconds: float) -> TimeoutError:
  return TimeoutError(errno.ETIMEDOUT, f"{command[0]} took more than {seconds:g} s")


def use_cores(ids: Iterable[int]):
  """Restrict this process to some cores, except on macOS and Windows, where this is impossible."""
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, ids)


def replace_handlers(handler: Callable) -> dict[signal.Signals, object]:
  """Set the handler of STOP_SIGNALS, and return their former handlers.

  SIGHUP stays ignored under nohup.
  """
  return {
    number: signal.signal(number, handler)
    for number in STOP_SIGNALS
    if number != SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
  }


class StopRequest:
  """Request a graceful stop after the current step on any of STOP_SIGNALS.

  The handler that was there before gets the second SIGTERM or SIGINT, which therefore ends the
  program. SIGHUP is sent when the terminal or the launcher is closed, and SIGUSR1 by SLURM. They
  may come several times, so they never end the program. SIGHUP is ignored under nohup.
  """

  def __init__(self):
    self.is_requested = False
    self._received = set()
    self._former = {}

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():  # Other threads get no signals.
      self._former = replace_handlers(self._request)
    return self

  def __exit__(self, *_):
    for number, handler in self._former.items():
      # After a stop request, a further signal must not kill the process while it finishes.
      if number == signal.SIGINT or not self.is_requested:
        signal.signal(number, handler)

  def _request(self, number, frame):
    if number in self._received and number in (signal.SIGTERM, signal.SIGINT):
      former = self._former[number]
      if callable(former):
        former(number, frame)
      else:
        signal.signal(number, former)
        os.kill(os.getpid(), number)
    self._received.add(number)
    self.is_requested = True


@contextlib.contextmanager
def _killed_group() -> Iterator[tuple[int, BinaryIO]]:
  """Yield a process group, and a file whose end kills all processes of the group.

  The kernel closes the file when this process ends, whatever ends it. The exception of a signal may
  occur at any moment, even between the start of a program and the moment at which its number is
  known here.
  """
  reader, writer = os.pipe()
  pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
  with (
    open(writer, "wb") as end_of_group,
    open(reader, "rb") as stdin,
    subprocess.Popen(_GUARD, stdin=stdin, **pipes, process_group=0) as guard,
    end_of_group,
  ):
    yield guard.pid, end_of_group


@contextlib.contextmanager
def _interruption(numbers: list[int], ends_process: bool) -> Iterator[None]:
  """Raise KeyboardInterrupt at one of STOP_SIGNALS, and add its number to `numbers`.

  With `ends_process`, end the process at once at the second signal, and also at the first one
  during an import, because modules written in C++ crash or swallow the exception. Signals that the
  caller of the program ignores, as nohup does, stay ignored.
  """

  def interrupt(number, frame):
    numbers.append(number)
    if ends_process and (len(numbers) > 1 or _is_importing(frame)):
      os._exit(INTERRUPTED_CODE)
    raise KeyboardInterrupt

  if threading.current_thread() is not threading.main_thread():
    yield  # Only the main thread receives signals.
    return
  former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
  with contextlib.ExitStack() as stack:
    if ends_process and hasattr(os, "set_blocking"):  # Python 3.11 lacks it on Windows.
      stack.enter_context(_enforcement(numbers, interrupt))
    try:
      for number in STOP_SIGNALS:
        if former[number] in (signal.SIG_DFL, signal.default_int_handler):
          signal.signal(number, interrupt)
      yield
    finally:
      for number, handler in former.items():
        if signal.getsignal(number) is interrupt:
          signal.signal(number, handler)


def _is_importing(frame: types.FrameType | None) -> bool:
  """Return whether the code of a frame runs because of an import."""
  while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
    frame = frame.f_back
  return frame is not None


@contextlib.contextmanager
def _enforcement(numbers: list[int], interrupt: Callable) -> Iterator[None]:
  """End the process if the handler `interrupt` does not run, or if its exception is lost.

  Python runs handlers in the main thread, between two bytecode instructions, so they do not run
  while XLA compiles. A package may also catch the exception. A thread therefore reads the numbers
  of the signals from a pipe, into which Python writes them at once.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  former, is_over = signal.set_wakeup_fd(writer, warn_on_full_buffer=False), threading.Event()

  def watch():
    with open(reader, "rb", buffering=0) as file:
      while number := file.read(1):
        if signal.getsignal(number[0]) is not interrupt:
          continue  # Another handler has replaced `interrupt`: the program saves before it ends.
        is_over.wait(MAX_DELAY)
        if numbers:
          is_over.wait(MAX_CLEANUP)
        if not is_over.is_set():
          os._exit(INTERRUPTED_CODE)

  _start_thread(watch)
  try:
    yield
  finally:
    is_over.set()
    signal.set_wakeup_fd(former)
    os.close(writer)


def _start_thread(target: Callable[[], None]):
  """Start a daemon thread, unless the limit of processes is reached: the program may need none."""
  with contextlib.suppress(RuntimeError):
    threading.Thread(target=target, daemon=True).start()


def _open_streams():
  """Open /dev/null in place of each standard stream that the caller of the program has closed.

  Otherwise the next file to be opened would receive the output of the stream.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      descriptor = os.open(os.devnull, os.O_RDWR)
      if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
  for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _end(code: int):
  """End the process soon after its main thread, even if threads of libraries do not end."""
  threading.main_thread().join()
  time.sleep(MAX_LINGER_FAILED if code else MAX_LINGER)
  os._exit(code)
