"""Files by digest, downloads, and atomic builds in the cache folder."""

import contextlib
import dataclasses
import errno
import hashlib
import http.client
import math
import os
import pathlib
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator

from charrnn import errors, runtime

BLOCK = 1 << 20  # bytes
STALL_SECONDS = 30.0  # without any data
DOWNLOAD_SECONDS = 3600.0
OLD_BUILD_SECONDS = 86_400.0  # a build of this age was left behind by a process that was killed


@dataclasses.dataclass(frozen=True)
class File:
  name: str  # relative to the folder of the corpus, or a play's name
  path: pathlib.Path
  sha256: str
  size: int  # bytes, from the beginning
  binary: bool  # contains a NUL


def blocks(path: pathlib.Path, size: float = math.inf) -> Iterator[bytes]:
  """Yield the first `size` bytes of a file, a block at a time; raise UserError if unreadable."""
  try:
    with open(path, "rb") as file:
      while block := file.read(min(BLOCK, size)):
        size -= len(block)
        yield block
  except OSError as error:
    raise errors.UserError(f"cannot read {path}: {error.strerror}") from error


def fingerprint(path: pathlib.Path, name: str = "", limit: float = math.inf) -> File:
  """Return the file at a path, or its first `limit` bytes, with its digest and perhaps a name."""
  digest, size, binary = hashlib.sha256(), 0, False
  for block in blocks(path, limit):
    digest.update(block)
    size += len(block)
    binary = binary or b"\0" in block
  return File(name or path.name, path, digest.hexdigest(), size, binary)


def check_digest(name: str, actual: str, expected: str | None):
  if expected not in (None, actual):
    raise errors.UserError(f"{name} has the SHA-256 {actual}, not {expected}: correct the digest")


def fetch(url: str, digest: str | None, name: str) -> pathlib.Path:
  """Return the path of a download in the cache folder; use an earlier one that has the digest."""
  target = runtime.cache_folder() / name
  if target.is_file() and digest in (None, fingerprint(target).sha256):
    return target
  with building() as folder:
    with open(folder / name, "wb") as file:
      file.writelines(_receive(url, target))
    check_digest(url, fingerprint(folder / name).sha256, digest)
    return publish(folder / name)


def _receive(url: str, target: pathlib.Path) -> Iterator[bytes]:
  deadline = time.monotonic() + DOWNLOAD_SECONDS
  try:
    with urllib.request.urlopen(url, timeout=STALL_SECONDS) as response:
      missing = int(response.headers.get("Content-Length") or 0)
      while block := response.read(BLOCK):
        missing -= len(block)
        yield block
        if time.monotonic() > deadline:
          raise TimeoutError(f"it takes longer than {DOWNLOAD_SECONDS:.0f} s")
    if missing > 0:
      raise ConnectionError(f"the last {missing} bytes are missing")
  except (OSError, ValueError, http.client.HTTPException) as error:
    raise errors.UserError(
      f"cannot download {url}: {error}\n"
      f"download it by other means and give its path, or put it at {target}"
    ) from error


@contextlib.contextmanager
def building() -> Iterator[pathlib.Path]:
  """Yield a temporary folder inside the cache folder; an OSError inside becomes a UserError."""
  root = runtime.cache_folder()
  try:
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob(".building-*"):
      with contextlib.suppress(FileNotFoundError):
        if time.time() - old.stat().st_mtime > OLD_BUILD_SECONDS:
          shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".building-") as temporary:
      yield pathlib.Path(temporary)
  except OSError as error:
    raise errors.UserError(
      f"cannot write the cache folder {root}: {error.strerror or error}\n"
      "set the environment variable CHARRNN_CACHE to a folder that can be written"
    ) from error


def publish(built: pathlib.Path) -> pathlib.Path:
  """Move a finished file or folder from `building` to the cache folder; return its path there.

  An entry of its name is damaged, or another process built the same: it is moved to the temporary
  folder, where it stays readable to those who have mapped it, and is removed with that folder.
  """
  target = runtime.cache_folder() / built.name
  with contextlib.suppress(FileNotFoundError):
    os.replace(target, tempfile.mkdtemp(dir=built.parent) + "/old")
  try:
    os.replace(built, target)
  except OSError as error:
    # Another process may have published the same in this moment: leave it there.
    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
      raise
  return target
