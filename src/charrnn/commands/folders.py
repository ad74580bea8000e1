"""Where a command writes."""

import contextlib
import os
import pathlib
import tempfile

from charrnn import errors


def made(asked: str | None, default: pathlib.Path) -> pathlib.Path:
  """The folder that --out asks for, made if need be; a UserError where it cannot be written to."""
  out = default if asked is None else pathlib.Path(asked)
  try:
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
      raise PermissionError(13, "Permission denied")
  except OSError as error:
    raise errors.UserError(
      f"cannot write to {out}: {error.strerror}; give another --out"
    ) from error
  return out


@contextlib.contextmanager
def replacing(out: pathlib.Path):
  """A folder for new files, which in the end take the place of those of their names in `out`.

  All of them or, if anything fails, none: what an earlier call left is not lost.
  """
  with tempfile.TemporaryDirectory(prefix=".new-", dir=out) as folder:
    new = pathlib.Path(folder)
    try:
      yield new
      for path in new.iterdir():
        os.replace(path, out / path.name)
    except OSError as error:
      raise errors.UserError(f"cannot write to {out}: {error.strerror or error}") from error
