"""File digests, downloads, and atomic writes to the cache folder."""

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
STALL_SECONDS = 30.0  # maximum time without data; then a download fails
DOWNLOAD_SECONDS = 3600.0  # maximum time of a whole download
OLD_BUILD_SECONDS = 86_400.0  # age of a build folder at which its process is considered dead


@dataclasses.dataclass(frozen=True)
class File:
  """A file of a corpus."""

  name: str  # the path relative to the folder of the corpus, or the name of a play
  path: pathlib.Path
  sha256: str
  size: int  # number of bytes to read from the beginning of the file
  binary: bool  # True if these bytes contain a NUL


def blocks(path: pathlib.Path, size: float = math.inf) -> Iterator[bytes]:
  """Yield the first `size` bytes of a file in blocks; raise UserError if it is unreadable."""
  try:
    with open(path, "rb") as file:
      while block := file.read(min(BLOCK, size)):
        size -= len(block)
        yield block
  except OSError as error:
    text = f"cannot read {path}: {error.strerror}; correct its permissions, or use another file"
    raise errors.UserError(text) from error


def fingerprint(path: pathlib.Path, name: str = "", limit: float = math.inf) -> File:
  """Return a File with the digest of the first `limit` bytes at a path (default: all bytes)."""
  digest, size, binary = hashlib.sha256(), 0, False
  for block in blocks(path, limit):
    digest.update(block)
    size += len(block)
    binary = binary or b"\0" in block
  return File(name or path.name, path, digest.hexdigest(), size, binary)


def check_digest(name: str, actual: str, expected: str | None):
  """Raise UserError if the digest differs from the expected one; None accepts any digest."""
  if expected not in (None, actual):
    raise errors.UserError(
      f"{name} has the SHA-256 {actual}, expected {expected}: correct the digest or the source"
    )


def fetch(url: str, digest: str | None, name: str) -> pathlib.Path:
  """Return the path of a download in the cache folder; reuse a cached file with this digest."""
  target = runtime.cache_folder() / name
  if target.is_file() and digest in (None, fingerprint(target).sha256):
    return target
  with building() as folder:
    with open(folder / name, "wb") as file:
      file.writelines(_receive(url, target))
    check_digest(url, fingerprint(folder / name).sha256, digest)
    return publish(folder / name)


def _receive(url: str, target: pathlib.Path) -> Iterator[bytes]:
  """Yield the content of a URL in blocks; raise UserError if it is incomplete or too slow."""
  deadline = time.monotonic() + DOWNLOAD_SECONDS
  try:
    with urllib.request.urlopen(url, timeout=STALL_SECONDS) as response:
      remaining = int(response.headers.get("Content-Length") or 0)
      while block := response.read(BLOCK):
        remaining -= len(block)
        yield block
        if time.monotonic() > deadline:
          raise TimeoutError(f"the download took longer than {DOWNLOAD_SECONDS:.0f} s")
    if remaining > 0:
      raise ConnectionError(f"the last {remaining} bytes are missing")
  except (OSError, ValueError, http.client.HTTPException) as error:
    raise errors.UserError(
      f"cannot download {url}: {error}; "
      f"download it in another way, and use its path as the source or save it as {target}"
    ) from error


@contextlib.contextmanager
def building() -> Iterator[pathlib.Path]:
  """Yield a temporary folder inside the cache folder; convert an OSError to a UserError."""
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
      f"cannot write to the cache folder {root}: {error.strerror or error}; "
      "set the environment variable CHARRNN_CACHE to a writable folder"
    ) from error


def publish(built: pathlib.Path) -> pathlib.Path:
  """Move a finished file or folder from `building` to the cache folder; return its path there.

  An existing entry of this name is damaged, or another process has just built it. It is moved to
  the temporary folder and removed with that folder. Memory maps of it stay valid.
  """
  target = runtime.cache_folder() / built.name
  with contextlib.suppress(FileNotFoundError):
    os.replace(target, tempfile.mkdtemp(dir=built.parent) + "/old")
  try:
    os.replace(built, target)
  except OSError as error:
    # Another process may have just published the same entry: keep that one.
    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
      raise
  return target
