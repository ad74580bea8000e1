"""The C source of the Linux kernel, from this machine or a Debian package; reading of archives."""

import bz2
import codecs
import gzip
import hashlib
import heapq
import itertools
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

from charrnn import errors, process, runtime
from charrnn.data import downloads

DEFAULT_PART = "kernel"
_TARBALLS = (".tar.xz", ".tar.bz2", ".tar.gz")
_ARCHIVE = re.compile(r".*\.tar\.(xz|bz2|gz)|linux-source.*\.deb")
_OPENERS = {".xz": lzma.open, ".bz2": bz2.open, ".gz": gzip.open, ".tgz": gzip.open}
_SYSTEM = pathlib.Path("/usr/src")
_UNPACKING = 1  # version of the format of unpacked folders
_SEED = 2015  # seed of the order of the files
_PAPER_BYTES = 6_206_996  # size of the kernel text in arXiv 1506.02078
# An archive may unpack to this multiple of its size, plus a constant. The kernel's unpacks to 11
# times its size; a small archive of zeros could fill the memory.
_MAX_RATIO, _MIN_BYTES = 20, 1 << 24
_MAX_FILE = 1 << 26  # maximum size of an unpacked file, in bytes


def members(path: pathlib.Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
  """Yield (name, content) of the regular files with these suffixes, in archive order.

  The archive is a source tarball, or a Debian package that contains one. Names are relative to the
  outermost folder of the tarball.
  """
  try:
    with open(path, "rb") as file:
      size, is_package = path.stat().st_size, path.suffix == ".deb"
      for name, content in _packaged(path) if is_package else _unpack(path.name, file, size):
        parts = pathlib.PurePosixPath(name).parts[1:]
        if name.endswith(suffixes) and parts and ".." not in parts:
          yield "/".join(parts), _read(name, content)
  except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
    raise errors.UserError(
      f"cannot read the archive {path}: {error}; remove it, or replace it with an intact copy"
    ) from error


class _Bounded:
  """A stream of unpacked bytes that raises ValueError if there are too many for the packed size."""

  def __init__(self, stream: IO[bytes], packed_size: int):
    self._stream, self._left = stream, _MAX_RATIO * packed_size + _MIN_BYTES

  def read(self, size: int) -> bytes:
    block = self._stream.read(min(size, self._left + 1))
    self._left -= len(block)
    if self._left < 0:
      raise ValueError(f"it unpacks to more than {_MAX_RATIO} times its size")
    return block


def _read(name: str, content: IO[bytes]) -> bytes:
  """Return the content of a file; raise ValueError if it is too large."""
  result = content.read(_MAX_FILE + 1)
  if len(result) > _MAX_FILE:
    raise ValueError(f"{name} is larger than {_MAX_FILE >> 20} MiB")
  return result


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
  """Yield the regular files of a tar archive; raise ValueError for a negative size."""
  for member in tar:
    if member.size < 0:  # The next member would be an earlier one.
      raise ValueError(f"the size of {member.name} is negative")
    if member.isfile():
      yield member


def _unpack(name: str, packed: IO[bytes], size: int) -> Iterator[tuple[str, IO[bytes]]]:
  """Yield the regular files of a tarball called `name` that has `size` bytes.

  Read each file before requesting the next.
  """
  with _OPENERS[pathlib.PurePosixPath(name).suffix](packed) as unpacked:
    stream = _Bounded(unpacked, size)
    # The decompression built into tarfile does not detect a truncated archive.
    with tarfile.open(fileobj=stream, mode="r|") as tar:
      for member in _files(tar):
        yield member.name, tar.extractfile(member)
    while stream.read(downloads.BLOCK):  # raises EOFError if the archive is truncated
      pass


def _packaged(path: pathlib.Path) -> Iterator[tuple[str, IO[bytes]]]:
  """Yield the files of the source tarball that a Debian package installs in /usr/src."""
  command = ["dpkg-deb", "--fsys-tarfile", path]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
    try:
      stream = _Bounded(child.stdout, path.stat().st_size)
      with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in _files(tar):
          if "usr/src/" in member.name and member.name.endswith(_TARBALLS):
            yield from _unpack(member.name, tar.extractfile(member), member.size)
            return
    finally:
      child.kill()
  raise ValueError("the package contains no tarball in /usr/src")


def find(part: str) -> tuple[pathlib.Path, list[tuple[str, int]], dict[str, str]]:
  """Return the root, the (name, number of bytes to read) of each C file, and provenance facts.

  `part` is a folder of the kernel tree, `all` for the whole tree, or `paper` for the paper's text;
  only .c and .h files are selected. The files are sorted by the SHA-256 of "2015 NAME". This
  shuffle is the same on every machine, and the validation split contains files of all folders. The
  text described in the 2015 paper is all files, shuffled, concatenated and truncated after
  6,206,996 bytes.
  """
  origin = _newest(_SYSTEM) or _newest(runtime.cache_folder()) or _download()
  root = origin if origin.is_dir() else _unpacked(origin, part)
  files = sorted(_sizes(root, part), key=lambda file: _rank(file[0]))
  if not files:
    raise _no_such_part(part, origin)
  if part == "paper":
    starts = itertools.accumulate((size for _, size in files), initial=0)
    limits = [(*file, _PAPER_BYTES - start) for file, start in zip(files, starts)]
    files = [(name, min(size, limit)) for name, size, limit in limits if limit > 0]
  return root, files, _facts(origin, root)


def _no_such_part(part: str, origin: pathlib.Path) -> errors.UserError:
  return errors.UserError(
    f"linux:{part}: {origin.name} has no folder {part} with .c or .h files; "
    "use linux:all for the whole tree, or a folder, for example linux:drivers/usb"
  )


def _belongs(name: str, part: str) -> bool:
  is_inside = part in ("all", "paper") or name.startswith(f"{part}/")
  return is_inside and name.endswith((".c", ".h"))


def _rank(name: str) -> int:
  """Return the sort key of a file in the shuffled order."""
  return int(hashlib.sha256(f"{_SEED} {name}".encode()).hexdigest(), 16)


def _newest(folder: pathlib.Path) -> pathlib.Path | None:
  """Return the kernel tree or archive in a folder that has the highest version in its name."""
  paths = [
    path
    for path in folder.glob("linux*")
    if (path / "kernel" / "fork.c").is_file()  # absent from trees that contain only headers
    or (_ARCHIVE.fullmatch(path.name) and path.is_file())
  ]
  return max(paths, key=lambda path: _version(path.name), default=None)


def _version(name: str) -> list[int]:
  return [int(number) for number in re.findall(r"\d+", name)]


def _download() -> pathlib.Path:
  """Download the newest linux-source package that apt-get offers into the cache folder."""
  downloads.check_allowed("the kernel source")
  if not shutil.which("apt-get"):
    raise _missing("it is not installed, and there is no apt-get to download it")
  search = ["apt-cache", "search", "--names-only", r"^linux-source-[0-9.]+$"]
  offers = _call(search).stdout.decode(errors="replace").split("\n")
  names = [line.partition(" ")[0] for line in offers if line]
  if not names:
    raise _missing("apt-get offers no linux-source package", "sudo apt-get update")
  package = max(names, key=_version)
  with downloads.building() as folder:
    # Send the progress of apt-get to our stderr, and report its errors in our message.
    result = _call(["apt-get", "download", package], cwd=folder, stdout=2)
    debs = list(folder.glob("*.deb"))
    if result.returncode or len(debs) != 1:
      text = result.stderr.decode(errors="replace")
      lines = [line for line in text.splitlines() if line.startswith("E:")]
      reason = (lines or ["E: apt-get downloaded no package"])[0]
      raise _missing(reason, f"sudo apt-get install {package}")
    return downloads.publish(debs[0])


def _call(command: list[str], **options) -> subprocess.CompletedProcess[bytes]:
  """Run a program that uses the network; raise UserError if it takes too long."""
  try:
    return process.call(command, downloads.DOWNLOAD_SECONDS, **options)
  except TimeoutError as error:
    raise _missing(error.strerror) from error


def _missing(reason: str, command: str = "") -> errors.UserError:
  run = f"run {command}, or " if command else ""
  return errors.UserError(
    f"cannot find the kernel source for the corpus linux: {reason}; {run}download a tarball of it: "
    f"curl -L --create-dirs -o {runtime.cache_folder()}/linux-6.12.tar.xz "
    "https://cdn.kernel.org/pub/linux/kernel/v6.x/linux-6.12.tar.xz"
  )


def _unpacked(archive: pathlib.Path, part: str) -> pathlib.Path:
  """Return a cache folder with the files of a part, unpacked from an archive, and its Makefile."""
  status = archive.stat()
  key = f"{_UNPACKING} {archive.name} {status.st_size} {status.st_mtime_ns} {part}"
  target = runtime.cache_folder() / f"unpacked-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
  if target.is_dir():
    return target
  with downloads.building() as folder:
    built = folder / target.name
    packed = members(archive, (".c", ".h", "/Makefile"))
    files = (file for file in packed if file[0] == "Makefile" or _belongs(file[0], part))
    for name, content in _first(files) if part == "paper" else files:
      path = built / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content)
    if not any(_sizes(built, part)):
      raise _no_such_part(part, archive)
    return downloads.publish(built)


def _sizes(root: pathlib.Path, part: str) -> Iterator[tuple[str, int]]:
  """Yield (name, size in bytes) of the C files in a part of a tree; skip symbolic links."""
  for folder, _, names in os.walk(root):
    for path in (pathlib.Path(folder, name) for name in names):
      name = path.relative_to(root).as_posix()
      if _belongs(name, part) and not path.is_symlink():
        yield name, path.stat().st_size


def _first(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
  """Yield the Makefile and the files of the paper's text; `files` may be in any order."""
  heap, total = [], 0  # The top of the heap is the file that is last in the shuffled order.
  for name, content in files:
    if name == "Makefile":
      yield name, content
      continue
    heapq.heappush(heap, (-_rank(name), name, content))
    total += len(content)
    while total - len(heap[0][2]) >= _PAPER_BYTES:
      total -= len(heapq.heappop(heap)[2])
  yield from (file for _, *file in heap)


def _facts(origin: pathlib.Path, root: pathlib.Path) -> dict[str, str]:
  """Return the Debian package or the path of the source, and the version of the kernel."""
  package, _, rest = origin.stem.partition("_")
  is_deb = origin.suffix == ".deb"
  facts = {"package": f"{package} {rest.rpartition('_')[0]}"} if is_deb else {"origin": str(origin)}
  makefile = root / "Makefile"
  text = makefile.read_text(errors="replace") if makefile.is_file() else ""
  if numbers := re.findall(r"^(?:VERSION|PATCHLEVEL|SUBLEVEL) *= *(\d+)", text, re.MULTILINE):
    facts["version"] = ".".join(numbers)
  return facts


def utf8(content: bytes) -> bytes:
  """Convert a file to UTF-8; content that is not UTF-8, as in old kernels, is read as Latin-1.

  Drop an incomplete character at the end, which can occur where the paper's text is truncated.
  """
  try:
    return codecs.getincrementaldecoder("utf-8")().decode(content).encode()
  except UnicodeDecodeError:
    return content.decode("latin-1").encode()
