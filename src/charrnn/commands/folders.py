"""Where a command writes."""

import contextlib
import os
import pathlib
import tempfile

from charrnn import errors


def checked(asked: str | None, default: pathlib.Path) -> pathlib.Path:
  """The folder that --out asks for, not made yet; a UserError where it could not be written to."""
  out = default if asked is None else pathlib.Path(asked)
  try:
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
      raise NotADirectoryError(20, "Not a directory")
    if not os.access(there, os.W_OK):
      raise PermissionError(13, "Permission denied")
  except OSError as error:
    raise errors.UserError(
      f"cannot write to {out}: {error.strerror}; give another --out"
    ) from error
  return out


def made(asked: str | None, default: pathlib.Path) -> pathlib.Path:
  """The folder of `checked`, made if need be."""
  out = checked(asked, default)
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.UserError(
      f"cannot write to {out}: {error.strerror}; give another --out"
    ) from error
  return out


@contextlib.contextmanager
def replacing(out: pathlib.Path):
  """A folder for new files and folders, which in the end take the place of those of their names in
  `out`, which is made if need be.

  Only once all are written: what an earlier call left is not lost where that fails.
  """
  made(str(out), out)
  with tempfile.TemporaryDirectory(prefix=".new-", dir=out) as folder:
    new = pathlib.Path(folder)
    try:
      yield new
      made_now = list(new.iterdir())
      old = new / "old"
      old.mkdir()
      for path in made_now:
        if path.is_dir() and (out / path.name).exists():  # no folder replaces a full one
          os.replace(out / path.name, old / path.name)
        os.replace(path, out / path.name)
    except OSError as error:
      raise errors.UserError(f"cannot write to {out}: {error.strerror or error}") from error
