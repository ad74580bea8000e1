"""File digests, downloads, and atomic writes to the cache folder."""

import contextlib
import contextvars
import dataclasses
import enum
import errno
import hashlib
import http
import http.client
import math
import os
import pathlib
import queue
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

from charrnn import console, errors, files, runtime

BLOCK = 1 << 20  # bytes
STALL_SECONDS = 30.0  # maximum time without data; then a download fails
DOWNLOAD_SECONDS = 3600.0  # maximum time of a whole download
MAX_BYTES = 20_000_000_000  # maximum size of a download
MAX_BLOCKS = 8  # maximum number of blocks of a download in memory
OLD_BUILD_SECONDS = 600.0  # minimum age of a build folder that is removed if no process uses it
_PAGE = (b"<!doctype", b"<html")


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


class Mode(enum.Enum):
  """Which files are downloaded."""

  NONE = "none"
  MISSING = "those that are not in the cache folder"
  ALL = "all, also those in the cache folder"


_mode = contextvars.ContextVar("mode", default=Mode.MISSING)


@contextlib.contextmanager
def mode(value: Mode) -> Iterator[None]:
  """Set which files are downloaded."""
  token = _mode.set(value)
  try:
    yield
  finally:
    _mode.reset(token)


def check_allowed(name: str):
  """Raise UserError if nothing may be downloaded. Call this before any other access to a network.

  A run directory may come from somebody else, so its config alone must not start a download.
  """
  if _mode.get() == Mode.NONE:
    raise errors.UserError(
      f"{name} is not in the cache folder, and nothing is downloaded for a run directory: add "
      "--fetch to download it"
    )


def fetch(url: str, digest: str | None, name: str) -> pathlib.Path:
  """Return the path of a download in the cache folder; reuse a cached file with this digest."""
  target = runtime.cache_folder() / name
  is_cached = target.is_file() and digest in (None, fingerprint(target).sha256)
  if is_cached and _mode.get() != Mode.ALL:
    return target
  check_allowed(url)
  with building() as folder:
    with open(folder / name, "wb") as file:
      file.writelines(_receive(url, digest, target))
    check_digest(url, fingerprint(folder / name).sha256, digest)
    return publish(folder / name)


def _receive(url: str, digest: str | None, target: pathlib.Path) -> Iterator[bytes]:
  """Yield the content of a URL in blocks; raise UserError if it is incomplete or exceeds a limit.

  A thread receives the blocks, because the timeout of a socket limits neither a name lookup nor a
  server that sends a byte now and then.
  """
  deadline = time.monotonic() + DOWNLOAD_SECONDS
  received: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
  room, stop = threading.Semaphore(MAX_BLOCKS), threading.Event()

  def receive():
    try:
      for block in _blocks_of(url, digest):
        received.put(block)
        room.acquire()
        if stop.is_set():
          return
      received.put(b"")
    except Exception as error:
      received.put(error)

  threading.Thread(target=receive, daemon=True).start()
  try:
    while block := received.get(timeout=max(0, deadline - time.monotonic())):
      if isinstance(block, Exception):
        raise block
      yield block
      room.release()
  except (OSError, ValueError, http.client.HTTPException, queue.Empty) as error:
    is_late = isinstance(error, queue.Empty)
    reason = f"it took longer than {DOWNLOAD_SECONDS:.0f} s" if is_late else _reason(error)
    raise errors.UserError(
      f"cannot download {url}: {reason}; "
      f"download it in another way, and use its path as the source or save it as {target}"
    ) from error
  finally:
    stop.set()
    room.release()


def _reason(error: Exception) -> str:
  """Return the message of an error, without Python's names of classes and functions."""
  if isinstance(error, urllib.error.URLError):
    error = error.reason
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if isinstance(error, http.client.IncompleteRead):
    return "the answer is incomplete"
  if isinstance(error, UnicodeError):
    return "the URL contains characters that are not ASCII: replace them by %HH"
  return errors.first_line(error) or type(error).__name__


class _Redirects(urllib.request.HTTPRedirectHandler):
  """Follows redirects to HTTP and HTTPS only, and reports them."""

  def redirect_request(self, request, file, code, message, headers, url):
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
      file.close()
      raise ValueError(f"it redirects to {url}, which is not a web address")
    console.say(f"{request.full_url} redirects to {url}")
    return super().redirect_request(request, file, code, message, headers, url)


def _blocks_of(url: str, digest: str | None) -> Iterator[bytes]:
  """Yield the blocks of an answer; raise OSError or ValueError if it is not the requested text."""
  try:
    opener = urllib.request.build_opener(_Redirects)
    response = opener.open(url, timeout=STALL_SECONDS)
  except urllib.error.HTTPError as error:
    with error:  # It is also a response, with a socket.
      raise ValueError(f"the server answered {error.code} {error.reason}") from error
  with response:
    if response.status != http.HTTPStatus.OK:
      raise ValueError(f"the server answered {response.status} {response.reason}")
    length = response.headers.get("Content-Length", "")
    # Python refuses to read numbers of thousands of digits.
    expected = int(length[:20]) if length.isascii() and length.isdigit() else None
    _check_size(expected or 0)
    size = 0
    while block := response.read1(BLOCK):
      if not size and digest is None:
        _check_kind(url, response.headers, block)
      size += len(block)
      _check_size(size)
      yield block
    if expected is not None and size < expected:
      raise ValueError(f"the last {expected - size} bytes are missing")
    if not size:
      raise ValueError("the answer is empty")


def _check_size(size: int):
  if size > MAX_BYTES:
    raise ValueError(f"it is larger than {MAX_BYTES / 1e9:g} GB")


def _check_kind(url: str, headers: http.client.HTTPMessage, beginning: bytes):
  """Raise ValueError if a compressed text or a web page was sent instead of a text."""
  if (encoding := headers.get("Content-Encoding", "identity")) != "identity":
    raise ValueError(f"the answer is compressed ({encoding}), although charrnn did not allow that")
  starts_as_page = beginning.lstrip()[:9].lower().startswith(_PAGE)
  is_page = headers.get_content_type() == "text/html" or starts_as_page
  if is_page and not urllib.parse.urlsplit(url).path.lower().endswith((".html", ".htm")):
    raise ValueError("the answer is a web page, not a text (add #sha256=HEX to use it anyway)")


@contextlib.contextmanager
def building() -> Iterator[pathlib.Path]:
  """Yield a temporary folder inside the cache folder; convert an OSError to a UserError."""
  root = runtime.cache_folder()
  try:
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob(".building-*"):
      with contextlib.suppress(OSError), _lock(old) as is_unused:
        minimum = OLD_BUILD_SECONDS if is_unused else 24 * 3600
        if time.time() - old.stat().st_mtime > minimum:
          shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".building-") as temporary, _lock(temporary):
      yield pathlib.Path(temporary)
  except OSError as error:
    raise errors.UserError(
      f"cannot write to the cache folder {root}: {error.strerror or error}; "
      "set the environment variable CHARRNN_CACHE to a writable folder"
    ) from error


@contextlib.contextmanager
def _lock(folder: str | pathlib.Path) -> Iterator[bool]:
  """Lock a folder; raise BlockingIOError if another process has locked it.

  The lock ends with this process at the latest. Yield False if the file system has no locks.
  """
  if not files.HAS_LOCKS:
    yield False
    return
  with files.opened(folder, files.DIRECTORY | files.NOFOLLOW) as descriptor:
    try:
      files.lock(descriptor)
      is_locked = True
    except BlockingIOError:
      raise
    except OSError:
      is_locked = False
    yield is_locked


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
