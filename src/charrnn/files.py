"""Atomic writing of files and folders, and checks of output paths."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from charrnn import errors


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Return the object in a JSON file of a run; raise UserError if the file cannot be read."""
  try:
    value = json.loads(path.read_bytes())
  except OSError as error:
    raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
  except ValueError:
    value = None
  if not isinstance(value, dict):
    raise damaged(path)
  return value


def damaged(path: pathlib.Path) -> errors.UserError:
  """Return the error for a damaged file of a run."""
  return errors.UserError(f"{path} is damaged: restore it from a copy of the same run")


def write_json(path: pathlib.Path, value):
  """Write a JSON file atomically."""
  write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: pathlib.Path, text: str):
  """Write a text file atomically, so that it is never incomplete."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  temporary.write_text(text)
  os.replace(temporary, path)


def check_output(path: pathlib.Path, name: str | None = None):
  """Raise UserError if no file can be written at `path`. Call this before any long work.

  `name` identifies the option in error messages; the default is the path.
  """
  name = name or str(path)
  try:
    is_folder = path.is_dir()
  except OSError as error:
    raise errors.UserError(f"{name}: {error.strerror}") from error
  if is_folder:
    raise errors.UserError(f"{name} is a folder: use the path of a file")
  if (path.parent / "config.json").exists() and (path.parent / "run.json").exists():
    raise errors.UserError(f"{name} is in a run directory: use a path in another folder")
  if not path.parent.is_dir():
    raise errors.UserError(f"{name}: there is no folder {path.parent}: create it first")
  if not os.access(path.parent, os.W_OK):
    raise errors.UserError(f"{name}: cannot write to {path.parent}: use another folder")


@contextlib.contextmanager
def replace_file(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """Yield a temporary binary file that replaces `path` at the end; remove it after an error.

  If `path` exists and is not a regular file, for example /dev/stdout, write to it directly.
  """
  temporary = None
  try:
    if path.exists() and not path.is_file():
      with open(path, "wb") as file:
        yield file
      return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
      yield file
    os.replace(temporary, path)
  except BrokenPipeError:  # `path` is /dev/stdout, and its reader has closed it.
    raise
  except OSError as error:
    raise errors.UserError(f"cannot write {path}: {error.strerror or error}") from error
  finally:
    if temporary:
      temporary.unlink(missing_ok=True)


def output_folder(out: str | None, default: pathlib.Path) -> pathlib.Path:
  """Return the folder of --out without creating it; raise UserError if it is not writable."""
  folder = default if out is None else pathlib.Path(out)
  with _report_unwritable(folder):
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
      raise NotADirectoryError(20, "Not a directory")
    if not os.access(existing, os.W_OK):
      raise PermissionError(13, "Permission denied")
  return folder


def make_folder(out: str | None, default: pathlib.Path) -> pathlib.Path:
  """Create the folder of --out and return it."""
  folder = output_folder(out, default)
  with _report_unwritable(folder):
    folder.mkdir(parents=True, exist_ok=True)
  return folder


@contextlib.contextmanager
def replace_in_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield a temporary folder, and move its contents into `folder` at the end.

  Existing files with the same names are replaced only after everything has been written, so a
  failure leaves earlier results unchanged.
  """
  make_folder(None, folder)
  with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as name, _report_unwritable(folder):
    new = pathlib.Path(name)
    yield new
    results = list(new.iterdir())
    old = new / "old"
    old.mkdir()
    for path in results:
      if (
        path.is_dir() and (folder / path.name).exists()
      ):  # A rename cannot replace a non-empty folder.
        os.replace(folder / path.name, old / path.name)
      os.replace(path, folder / path.name)


@contextlib.contextmanager
def _report_unwritable(folder: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    text = f"cannot write to {folder}: {error.strerror or error}; use another --out"
    raise errors.UserError(text) from error


def with_aliases(value: Any, aliases: dict[str, str]) -> Any:
  """Return JSON data in which every renamed key is also stored under its old name.

  `aliases` maps new names to old names. Scripts that read the old names work for one more release.
  """
  if isinstance(value, list | tuple):
    return [with_aliases(item, aliases) for item in value]
  if not isinstance(value, dict):
    return value
  items = ((name, with_aliases(item, aliases)) for name, item in value.items())
  return {key: item for name, item in items for key in (name, aliases.get(name, name))}
