"""The cache folder: what was downloaded or built once, and can be again."""

import contextlib
import errno
import os
import pathlib
import tempfile
from collections.abc import Iterator

from charrnn import errors, runtime


@contextlib.contextmanager
def building() -> Iterator[pathlib.Path]:
  """An empty folder to build in, which goes away; an OSError inside it is a UserError outside."""
  try:
    runtime.cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runtime.cache_folder(), prefix=".building-") as temporary:
      yield pathlib.Path(temporary)
  except OSError as error:
    raise errors.UserError(
      f"cannot write the cache folder {runtime.cache_folder()}: {error.strerror or error}\n"
      "set the environment variable CHARRNN_CACHE to a folder that can be written"
    ) from error


def publish(built: pathlib.Path, name: str):
  """Moves a finished file or folder from `building` to its name in the cache.

  What has the name already is damaged, or is what another process built of the same: it is moved
  aside, where it stays readable to those who have it mapped, and goes away with the building.
  """
  target = runtime.cache_folder() / name
  with contextlib.suppress(FileNotFoundError):
    os.replace(target, tempfile.mkdtemp(dir=built.parent) + "/old")
  try:
    os.replace(built, target)
  except OSError as error:
    # Another process may have published the same at this very moment: then leave it there.
    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
      raise
