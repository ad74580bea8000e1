"""An exclusive lock for a run or sweep directory, so that only one process writes to it."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from charrnn import errors


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
  """Hold the lock of a run or sweep directory; raise UserError if another process holds it.

  Without the lock, two processes could silently overwrite each other's checkpoints. The directory
  is created if necessary. On exit it is removed if nothing but the lock was written to it. The
  kernel releases the lock when the process ends.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    file = open(workdir / "lock", "a")  # noqa: SIM115 (stays open while the lock is held)
  except OSError as error:
    raise errors.UserError(
      f"cannot write to {workdir}: {error.strerror}: use another --workdir"
    ) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise errors.UserError(
        f"another process is training in {workdir}: wait for it, or use another --workdir"
      ) from error
    except OSError as error:
      raise errors.UserError(
        f"cannot lock {workdir}: {error.strerror}: use a --workdir on another file system"
      ) from error
    try:
      yield
    finally:
      if os.listdir(workdir) == ["lock"]:
        (workdir / "lock").unlink()
        workdir.rmdir()


def is_held(workdir: pathlib.Path) -> bool:
  """Return whether a process currently holds the lock."""
  try:
    with open(workdir / "lock", "rb") as file:
      # Try a shared lock, so that two readers do not mistake each other for a training process.
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:  # The lock file does not exist, or this user may not open it.
    return False
  return False
