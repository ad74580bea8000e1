"""The process of a program: its signals, output streams, errors, exit code and end.

This module imports nothing slow, so that a program handles signals from its first moment.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

from charrnn import errors

# The signals that ask a program to stop. SLURM sends SIGUSR1 with --signal=USR1@SECONDS.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
INTERRUPTED_CODE = 130  # exit code of a program that a signal stopped before it saved anything
# Maximum seconds between the end of a program and the end of its process. After a failed save,
# threads of Orbax wait for a long time. After success, other processes of the run may be slower.
MAX_LINGER, MAX_LINGER_FAILED = 10.0, 2.0
MAX_DELAY = 1.0  # maximum seconds from a signal to its handler


def run(name: str, program: Callable[[], int | None], ends_process: bool = False) -> int:
  """Run the main function of a program and return its exit code.

  The exit code is 2 after a UserError, a system error or a lack of memory, which are reported on
  stderr in one line, and 130 after a signal. It is 0 if the reader of stdout, for example `head`,
  has closed it. With `ends_process`, the process ends soon after this function returns, even if
  threads of a library hang.
  """
  _open_streams()
  if ends_process and not sys.warnoptions:  # Users can do nothing about warnings of packages.
    warnings.simplefilter("ignore")
  with _interruption() as numbers:
    try:
      code = _run(name, program)
    except BaseException as error:
      # A signal may have arrived while a package was imported, which can change the exception.
      if not numbers and not isinstance(error, KeyboardInterrupt):
        raise
      code = INTERRUPTED_CODE
    from charrnn import console

    console.flush(sys.stdout)
    console.flush(sys.stderr)
  if ends_process:
    threading.Thread(target=_end, args=(code,), daemon=True).start()
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
    if error.filename is None and error.errno not in errors.REMEDIES:
      raise
    path = "the output" if error.filename is None else os.fsdecode(error.filename)
    text = f"{path}: {error.strerror}: check the path and its permissions"
    if error.errno in errors.REMEDIES:
      text = errors.describe(error, path)
  except MemoryError as error:
    text = f"out of memory{f' ({error})' if str(error) else ''}: {errors.REMEDIES[errno.ENOMEM]}"
  console.say(console.visible(f"{name}: error: {text}"))
  return 2


@contextlib.contextmanager
def _interruption() -> Iterator[list[int]]:
  """Raise KeyboardInterrupt at the first of STOP_SIGNALS, and end the process at the second.

  Yield a list of the signals that have arrived. Signals that the caller of the program ignores, as
  nohup does, stay ignored.
  """
  numbers, former = [], {}

  def interrupt(number, _):
    numbers.append(number)
    if len(numbers) > 1:
      os._exit(INTERRUPTED_CODE)
    raise KeyboardInterrupt

  if threading.current_thread() is not threading.main_thread():
    yield numbers  # Only the main thread receives signals.
    return
  for number in STOP_SIGNALS:
    if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
      former[number] = signal.signal(number, interrupt)
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  former_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

  def is_unhandled(number):
    return signal.getsignal(number) is interrupt and not numbers

  threading.Thread(target=_end_if, args=(is_unhandled, reader), daemon=True).start()
  try:
    yield numbers
  finally:
    signal.set_wakeup_fd(former_writer)
    os.close(writer)
    for number, handler in former.items():
      # A signal must not change the exit code of a program that has finished.
      if signal.getsignal(number) is interrupt:
        signal.signal(number, handler)


def _end_if(is_unhandled: Callable[[int], bool], reader: int):
  """End the process at a signal whose handler does not run, for example while XLA compiles.

  Python runs handlers in the main thread, between two operations of the interpreter. The numbers
  of the signals arrive at once in the pipe `reader`.
  """
  with open(reader, "rb", buffering=0) as file:
    while number := file.read(1):
      time.sleep(MAX_DELAY)
      if is_unhandled(number[0]):
        os._exit(INTERRUPTED_CODE)


def _open_streams():
  """Replace the standard streams that the caller of the program has closed by /dev/null.

  Otherwise the next file that is opened would receive their output.
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
  """End the process some time after its main thread, if threads of libraries do not end."""
  threading.main_thread().join()
  time.sleep(MAX_LINGER_FAILED if code else MAX_LINGER)
  os._exit(code)
