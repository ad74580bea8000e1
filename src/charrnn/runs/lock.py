"""The lock of a directory that one process writes to."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from charrnn import errors


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
  """Hold a run or sweep directory; raise UserError if another process holds it.

  Two writers would overwrite each other's checkpoints silently. The kernel releases the lock when
  the process ends. A directory in which nothing else was written is removed again.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    file = open(workdir / "lock", "a")  # noqa: SIM115 (held open on purpose)
  except OSError as error:
    raise errors.UserError(f"cannot write to {workdir}: {error.strerror}") from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise errors.UserError(
        f"another process is training in {workdir}: wait for it, or give another --workdir"
      ) from error
    except OSError as error:
      raise errors.UserError(
        f"cannot lock {workdir}: {error.strerror}; give a --workdir on another file system"
      ) from error
    try:
      yield
    finally:
      if os.listdir(workdir) == ["lock"]:
        (workdir / "lock").unlink()
        workdir.rmdir()


def is_held(workdir: pathlib.Path) -> bool:
  """Return whether a process holds the lock at this moment."""
  try:
    with open(workdir / "lock", "rb") as file:
      # A shared lock, so that two readers do not take each other for a trainer.
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:  # there is no lock file, or we may not open it
    return False
  return False
