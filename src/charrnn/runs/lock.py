"""An exclusive lock for a run or sweep directory, so that only one process writes to it."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator

from charrnn import console, errors, files

WAIT_SECONDS = 1.0  # maximum time to wait for readers, which hold the lock for an instant


@contextlib.contextmanager
def hold(
  workdir: pathlib.Path, is_sweep: bool = False, remedy: str = "use another --workdir"
) -> Iterator[None]:
  """Hold the lock of a run or sweep directory; raise UserError if another process holds it.

  Without the lock, two processes could silently overwrite each other's checkpoints. The directory
  is created if necessary. On exit a new one is removed if nothing but the lock was written to it.
  The kernel releases the lock when the process ends. Also raises UserError if the directory
  contains links, because they could lead out of it. In the directory of a sweep, only the top level
  is checked: each trial checks its own directory, and submitit links to the scripts of jobs.
  `remedy` is what the user of the command can do if the directory cannot be locked.
  """
  is_new = not os.path.lexists(workdir)
  with files.report_unwritable(workdir, remedy):
    workdir.mkdir(parents=True, exist_ok=True)
    files.sync_folder(workdir.parent)
    file = files.append(workdir / "lock")
  with file, contextlib.ExitStack() as stack:
    if files.HAS_LOCKS:
      folder = stack.enter_context(files.opened(workdir))
      _lock(workdir, file.fileno(), folder, remedy)
    else:
      console.say(
        f"warning: this system has no file locks: do not start another process in {workdir}"
      )
    try:
      files.check_tree(workdir, recursive=not is_sweep)
      yield
    finally:
      with contextlib.suppress(OSError):  # The directory may be gone.
        if is_new and os.listdir(workdir) == ["lock"]:
          (workdir / "lock").unlink()
          workdir.rmdir()


def is_held(workdir: pathlib.Path) -> bool:
  """Return whether a process currently holds the lock."""
  for path, flags in ((workdir / "lock", files.NOFOLLOW), (workdir, files.DIRECTORY)):
    # Files and folders that are missing, or that this user may not open, count as not locked.
    with contextlib.suppress(OSError), files.opened(path, flags) as descriptor:
      if files.is_locked(descriptor):
        return True
  return False


def _lock(workdir, file: int, folder: int, remedy: str):
  """Lock the file and the folder; raise UserError if that is impossible."""
  try:
    files.lock(file, WAIT_SECONDS)
    try:
      files.lock(folder, WAIT_SECONDS)  # The file could be deleted; the directory cannot.
    except OSError as error:
      if error.errno != errno.EBADF:  # NFS cannot lock a folder.
        raise
  except BlockingIOError as error:
    raise errors.UserError(
      f"another process is training in {workdir}: wait for it, or {remedy}"
    ) from error
  except OSError as error:
    raise errors.UserError(
      f"cannot lock {workdir}: {error.strerror}: {remedy} on another file system"
    ) from error
