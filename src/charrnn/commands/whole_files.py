"""A file that a command writes: whole, or not at all."""

import contextlib
import os
import pathlib

from charrnn import errors


def check(out: pathlib.Path, said: str | None = None):
  """Raises UserError, before any work is done, where there can be no such file.

  `said`: how the user named it, if not as it is.
  """
  said = said or str(out)
  try:
    folder = out.is_dir()
  except OSError as error:
    raise errors.UserError(f"{said}: {error.strerror}") from error
  if folder:
    raise errors.UserError(f"{said} is a folder: give the name of a file")
  if (out.parent / "config.json").exists() and (out.parent / "run.json").exists():
    raise errors.UserError(f"{said} would be among the files of a run: write it elsewhere")
  if not out.parent.is_dir():
    raise errors.UserError(f"{said}: there is no folder {out.parent}")
  if not os.access(out.parent, os.W_OK):
    raise errors.UserError(f"{said}: {out.parent} cannot be written to")


@contextlib.contextmanager
def replacing(out: pathlib.Path):
  """A binary file that takes the name `out` once it is whole; else nothing is left of it.

  What is there and no plain file, as /dev/stdout, is written to as it is.
  """
  temporary = None
  try:
    if out.exists() and not out.is_file():
      with open(out, "wb") as file:
        yield file
      return
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
      yield file
    os.replace(temporary, out)
  except BrokenPipeError:  # of /dev/stdout: the reader has what it wants
    raise
  except OSError as error:
    raise errors.UserError(f"cannot write {out}: {error.strerror or error}") from error
  finally:
    if temporary:
      temporary.unlink(missing_ok=True)
