"""Safe reading and writing of the files of a run, atomic writes of outputs, and checks of paths."""

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import pathlib
import re
import secrets
import stat
import tempfile
import time
import typing
from collections.abc import Iterator
from typing import IO, Any

from charrnn import errors

try:
  import fcntl
except ImportError:  # Windows has no flock(2).
  fcntl = None

MAX_BYTES = 1 << 28  # maximum size of a file of a run that is read as a whole
MAX_JSON = 1 << 25  # maximum size of a JSON file; once parsed, it takes 20 times as much memory
MAX_STREAM = 1 << 28  # maximum bytes of an input that is a pipe or a device, for example /dev/zero
MAX_DEPTH = 20  # maximum nesting of a JSON file
TEMPORARY = ".tmp-"  # prefix of files that are not complete yet
RANDOM_BYTES = 8  # number of random bytes in the name of a temporary file
LOCK_POLL = 0.02  # seconds between two attempts to lock a file
_KINDS = (
  (stat.S_ISLNK, "a link"),
  (stat.S_ISDIR, "a folder"),
  (stat.S_ISFIFO, "a FIFO"),
  (stat.S_ISSOCK, "a socket"),
)
ANOTHER_OUT = "use another --out"
# Flags of os.open. Windows has only O_BINARY, and no links, FIFOs or folders that can be opened.
NOFOLLOW, DIRECTORY, _NONBLOCK, _BINARY = (
  getattr(os, f"O_{name}", 0) for name in ("NOFOLLOW", "DIRECTORY", "NONBLOCK", "BINARY")
)
HAS_LOCKS = fcntl is not None
# An address of a file or folder on another machine. On Windows, C:/ is a local path.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
COPY_RESULTS = "write to one, copy the results afterwards"


def read_bytes(path: pathlib.Path, limit: int = MAX_BYTES) -> bytes:
  """Return the content of a file of a run; raise UserError if it cannot be read.

  A run directory may come from somebody else, so links are not followed, and FIFOs, devices and
  files of more than `limit` bytes are errors.
  """
  with _report_unreadable(path), _open(path, os.O_RDONLY, "rb") as file:
    data = file.read(limit + 1)
  if len(data) > limit:
    raise errors.UserError(f"{path} is larger than {limit:,} bytes: restore it from a copy")
  return data


@contextlib.contextmanager
def _report_unreadable(path: pathlib.Path) -> Iterator[None]:
  """Turn an OSError of reading into a UserError that names the path."""
  try:
    yield
  except OSError as error:
    if error.errno == errno.ELOOP:
      raise _not_regular(path, "a link") from None
    if error.errno == errno.ENOENT:
      raise errors.UserError(f"{path} is missing: restore it from a copy") from error
    raise errors.UserError(f"cannot read {path}: {error.strerror}: {errors.CHECK_PATH}") from error


def read_input(path: str | pathlib.Path, name: str | None = None) -> bytes:
  """Return the content of a file or a pipe that the user names.

  `name` identifies the option in error messages; the default is the path.
  """
  try:
    with open(path, "rb") as file:
      is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
      data = file.read() if is_regular else file.read(MAX_STREAM + 1)
  except (OSError, ValueError) as error:  # ValueError: there is a NUL in the path.
    reason = getattr(error, "strerror", None) or error
    raise errors.UserError(f"cannot read {name or path}: {reason}: use another file") from error
  if len(data) > MAX_STREAM and not is_regular:
    raise errors.UserError(f"{name or path} does not end: use a regular file")
  return data


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Return the object in a JSON file of a run; raise UserError if the file cannot be read."""
  try:
    value = parse_json(read_bytes(path, MAX_JSON))
  except (ValueError, RecursionError):
    value = None
  if not isinstance(value, dict):
    raise damaged(path)
  return value


def parse_json(data: bytes) -> Any:
  """Return the value of JSON data.

  Raises ValueError or RecursionError if it is damaged, too deep, or has a number that is too large
  for a float.
  """
  value = json.loads(data, parse_int=_whole_number)
  _check_depth(value, MAX_DEPTH)
  return value


def _whole_number(digits: str) -> int:
  if math.isinf(float(digits)):
    raise ValueError("a number is too large")
  return int(digits)


def read_sealed(path: pathlib.Path, needs_digest: bool = False) -> dict[str, Any]:
  """Return the object in a JSON file without its digest; raise UserError if they do not match.

  Runs that were written before files had digests are not checked: without `needs_digest`, a file
  may have none.
  """
  value, problem = read_json(path), None
  if "sha256" not in value:
    problem = "has no digest" if needs_digest else None
  elif value.pop("sha256") != digest(value):
    problem = "does not match its digest"
  if problem:
    raise errors.UserError(
      f"{path} {problem}: restore it from a copy, or if the change is deliberate, run charrnn "
      f"verify {path.parent} --accept"
    )
  return value


def digest(value: Any) -> str:
  """Return the SHA-256 digest of JSON data."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def seal(value: dict[str, Any]) -> dict[str, Any]:
  """Return a copy of a JSON object with its own digest added under the key `sha256`."""
  value = json.loads(json.dumps(value))
  return {**value, "sha256": digest(value)}


class Absent:
  """In a schema, the type of a key that may be missing."""


def has_types(value: Any, schema: Any) -> bool:
  """Return whether JSON data has the types of a schema: a type or union, or a dict of schemas.

  Types are exact: a boolean is not an `int`.
  """
  if not isinstance(schema, dict):
    return type(value) in (typing.get_args(schema) or (schema,))
  return isinstance(value, dict) and all(
    has_types(value.get(key, Absent()), each) for key, each in schema.items()
  )


def damaged(path: pathlib.Path) -> errors.UserError:
  """Return the error for a damaged file of a run."""
  return errors.UserError(f"{path} is damaged: restore it from a copy of the run")


def _check_depth(value, limit: int):
  if limit < 0:
    raise ValueError("too many levels")
  if isinstance(value, dict | list):
    for child in value.values() if isinstance(value, dict) else value:
      _check_depth(child, limit - 1)


def _check_regular(path, mode: int):
  if not stat.S_ISREG(mode):
    raise _not_regular(path, next((name for test, name in _KINDS if test(mode)), "a device"))


def _not_regular(path, kind: str) -> errors.UserError:
  return errors.UserError(f"{path} is {kind}, not a regular file: restore or remove it")


def check_tree(folder: pathlib.Path, recursive: bool = True):
  """Raise UserError unless a run directory contains only regular files and folders.

  Training calls this before it writes, because links could lead out of the run directory.
  """
  for root, folders, names in itertools.islice(os.walk(folder), None if recursive else 1):
    for path in (pathlib.Path(root, name) for name in (*folders, *names)):
      with contextlib.suppress(FileNotFoundError):  # Another process has deleted it.
        mode = path.lstat().st_mode
        if not stat.S_ISDIR(mode):
          _check_regular(path, mode)


def remove_temporary(folder: pathlib.Path):
  """Remove the incomplete files that a killed process left in a folder."""
  for path in pathlib.Path(folder).glob(TEMPORARY + "[0-9a-f]" * 2 * RANDOM_BYTES):
    with contextlib.suppress(OSError):
      path.unlink()


def write_json(path: pathlib.Path, value):
  """Write a JSON file of a run like `write_bytes`."""
  write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: pathlib.Path, text: str):
  """Write a text file of a run like `write_bytes`."""
  write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: pathlib.Path, data: bytes):
  """Write a file of a run atomically, so that it is complete even after a power failure.

  Raises UserError if that is impossible, or if there is a link or a device in place of the file.
  """
  with report_unwritable(path):
    _check_replaceable(path)
    with _new_file(path) as file:
      file.write(data)


def remove(path: pathlib.Path):
  """Remove a file of a run if it exists; raise UserError if that is impossible."""
  with report_unwritable(path, "remove it by hand"):
    path.unlink(missing_ok=True)


def tail(path: pathlib.Path, size: int) -> bytes:
  """Return the last `size` bytes of a file of a run; raise UserError if it cannot be read."""
  with _report_unreadable(path), _open(path, os.O_RDONLY, "rb") as file:
    file.seek(max(0, os.fstat(file.fileno()).st_size - size))
    return file.read(size)


def append(path: pathlib.Path) -> IO[bytes]:
  """Open a file of a run for appending, unbuffered, without following a link."""
  with report_unwritable(path):
    _check_replaceable(path)
    return _open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, "ab", buffering=0)


def _check_replaceable(path: pathlib.Path):
  """Raise UserError if there is something other than a regular file at `path`."""
  with contextlib.suppress(FileNotFoundError):
    _check_regular(path, os.lstat(path).st_mode)


def _open(path, flags: int, mode: str, **options) -> IO[bytes]:
  """Open a regular file; raise UserError if there is something else at its path."""
  # Without O_NONBLOCK, opening a FIFO would wait for another process.
  descriptor = os.open(path, flags | NOFOLLOW | _NONBLOCK | _BINARY, 0o666)
  try:
    _check_regular(path, os.fstat(descriptor).st_mode)
    return open(descriptor, mode, **options)
  except BaseException:
    os.close(descriptor)
    raise


def make_subfolder(path: pathlib.Path):
  """Create a folder in a run directory unless it exists; a link in its place is an error."""
  with report_unwritable(path):
    with contextlib.suppress(FileExistsError):
      path.mkdir()
    if not stat.S_ISDIR(mode := path.lstat().st_mode):
      kind = next((name for test, name in _KINDS if test(mode)), "a file")
      raise errors.UserError(f"{path} is {kind}, not a folder: restore or remove it")


@contextlib.contextmanager
def report_unwritable(path: pathlib.Path, remedy: str = errors.CHECK_FOLDER) -> Iterator[None]:
  """Turn an OSError into a UserError that names the path and a remedy; see errors.describe."""
  try:
    yield
  except BrokenPipeError:  # `path` is /dev/stdout, and its reader has closed it.
    raise
  except OSError as error:
    if error.errno == errno.ELOOP:
      raise _not_regular(path, "a link") from error
    raise errors.UserError(errors.describe(error, path, remedy)) from error


@contextlib.contextmanager
def _new_file(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """Yield a new file that replaces `path` at the end, and that is removed after an error."""
  temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(RANDOM_BYTES)}")
  try:
    with open(temporary, "xb") as file:  # Never write to a file or link that exists already.
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(path: str | pathlib.Path, flags: int = 0) -> Iterator[int]:
  """Yield the descriptor of a file or folder, opened for reading without waiting for a FIFO."""
  descriptor = os.open(path, os.O_RDONLY | _NONBLOCK | flags)
  try:
    yield descriptor
  finally:
    os.close(descriptor)


def lock(descriptor: int, seconds: float = 0.0):
  """Lock an open file or folder; raise BlockingIOError if another process holds its lock.

  Wait at most `seconds` for the other process. The lock ends with this process at the latest. Raise
  another OSError if the system or the file system has no locks.
  """
  end = time.monotonic() + seconds
  while True:
    try:
      return _flock(descriptor, "LOCK_EX")
    except BlockingIOError:
      if time.monotonic() >= end:
        raise
      time.sleep(LOCK_POLL)


def is_locked(descriptor: int) -> bool:
  """Return whether another process holds the lock of an open file or folder."""
  try:
    # Try a shared lock, so that two readers do not mistake each other for a writer.
    _flock(descriptor, "LOCK_SH")
  except BlockingIOError:
    return True
  except OSError:
    pass
  return False


def _flock(descriptor: int, kind: str):
  if fcntl is None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
  fcntl.flock(descriptor, getattr(fcntl, kind) | fcntl.LOCK_NB)


def sync_folder(folder: pathlib.Path):
  """Write the entries of a folder to disk, so that renamed files survive a power failure."""
  try:
    with opened(folder, DIRECTORY) as descriptor:
      os.fsync(descriptor)
  except OSError as error:
    if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
      raise  # Other errors mean that the file system cannot do this, or that reading is forbidden.


def sync_tree(folder: pathlib.Path):
  """Write all files below a folder to disk, so that they survive a power failure."""
  for root, _, names in os.walk(folder, topdown=False):
    for name in names:
      with open(os.path.join(root, name), "rb") as file:
        os.fsync(file.fileno())
    sync_folder(pathlib.Path(root))


# Paths of the open files of this process. They may be links to regular files.
_STREAM = re.compile(r"/dev/(?:std(out|err)|fd/(\d{1,5}))")


def check_local(path: str | pathlib.Path, remedy: str, option: str = ""):
  """Raise UserError if `path` is an address, for example gs://bucket/run, and not a local path.

  The files of a run need the locks, renames and syncs of a file system, which no bucket has.
  `option` is the option of the path, and `remedy` what to do instead.
  """
  if match := _ADDRESS.match(str(path)):
    address = f"{match[1]}://{str(path)[match.end() :]}"  # pathlib merges slashes.
    raise errors.UserError(
      f"{option}{'=' if option else ''}{address}: is an address, not a local folder: {remedy}, and "
      "see docs/sweeps.md"
    )


def check_output(path: pathlib.Path, name: str | None = None):
  """Raise UserError if no file can be written at `path`. Call this before any long work.

  `name` identifies the option in error messages; the default is the path.
  """
  check_local(path, COPY_RESULTS)
  name = name or str(path)
  try:
    is_folder = path.is_dir()
  except OSError as error:
    raise errors.UserError(f"{name}: {error.strerror}") from error
  if is_folder:
    raise errors.UserError(f"{name} is a folder: use the path of a file")
  if _is_special(path):
    return
  if (path.parent / "config.json").exists() and (path.parent / "run.json").exists():
    raise errors.UserError(f"{name} is in a run directory: use a path in another folder")
  if not path.parent.is_dir():
    raise errors.UserError(f"{name}: there is no folder {path.parent}: create it first")
  if not os.access(path.parent, os.W_OK):
    raise errors.UserError(f"{name}: cannot write to {path.parent}: use another folder")


def _is_special(path: pathlib.Path) -> bool:
  """Return whether `path` is a device, a pipe or an open file, none of which is replaced."""
  return path.exists() and (not path.is_file() or _STREAM.fullmatch(str(path)) is not None)


def _open_special(path: pathlib.Path) -> IO[bytes]:
  """Open a special file for writing. A stream such as /dev/stdout keeps its position."""
  match = _STREAM.fullmatch(str(path))
  return open(os.dup(int(match[2] or {"out": 1, "err": 2}[match[1]])) if match else path, "wb")


@contextlib.contextmanager
def replace_file(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """Yield a temporary binary file that replaces `path` at the end; remove it after an error.

  If `path` exists and is not a regular file, for example /dev/stdout, write to it directly.
  """
  with (
    report_unwritable(path),
    _open_special(path) if _is_special(path) else _new_file(path) as file,
  ):
    yield file


def output_folder(out: str | None, default: pathlib.Path) -> pathlib.Path:
  """Return the folder of --out without creating it; raise UserError if it is not writable.

  The default is usually in a run directory, so it must not be a link, which could lead out of it.
  """
  folder = default if out is None else pathlib.Path(out)
  check_local(folder, COPY_RESULTS)
  if out is None and folder.is_symlink():
    raise errors.UserError(f"{folder} is a link, not a folder: remove it, or {ANOTHER_OUT}")
  with report_unwritable(folder, ANOTHER_OUT):
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
      raise NotADirectoryError(20, "Not a directory")
    if not os.access(existing, os.W_OK):
      raise PermissionError(13, "Permission denied")
  return folder


def make_folder(out: str | None, default: pathlib.Path) -> pathlib.Path:
  """Create the folder of --out and return it."""
  folder = output_folder(out, default)
  with report_unwritable(folder, ANOTHER_OUT):
    folder.mkdir(parents=True, exist_ok=True)
  return folder


@contextlib.contextmanager
def replace_in_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield a temporary folder, and move its contents into `folder` at the end.

  Existing files with the same names are replaced only after everything has been written, so a
  failure leaves earlier results unchanged.
  """
  make_folder(str(folder), folder)
  with (
    report_unwritable(folder, ANOTHER_OUT),
    tempfile.TemporaryDirectory(prefix=".new-", dir=folder, ignore_cleanup_errors=True) as name,
  ):
    new = pathlib.Path(name)
    yield new
    results = list(new.iterdir())
    old = new / "old"
    old.mkdir()
    for path in results:
      target, former = folder / path.name, old / path.name
      # A rename cannot replace a folder that is not empty.
      is_moved = path.is_dir() and target.exists()
      if is_moved:
        os.replace(target, former)
      try:
        os.replace(path, target)
      except OSError:
        if is_moved:
          os.replace(former, target)
        raise


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
