"""The files in a tarball, or in the tarball that a Debian package carries, streamed one by one."""

import bz2
import gzip
import io
import lzma
import pathlib
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO

from charrnn import errors

SUFFIXES = (".deb", ".tar.xz", ".tar.bz2", ".tar.gz")
_OPENERS = {".xz": lzma.open, ".bz2": bz2.open, ".gz": gzip.open, ".tgz": gzip.open}
_BLOCK = 1 << 20  # bytes


def members(path: pathlib.Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
  """(name, content) of the regular files whose names end so, in the order of the archive.

  Names are without the folder that the whole of a source tarball lies in.
  """
  try:
    with open(path, "rb") as file:
      for name, content in _carried(file) if path.suffix == ".deb" else _files(path.name, file):
        parts = pathlib.PurePosixPath(name).parts[1:]
        if name.endswith(suffixes) and parts and ".." not in parts:
          yield "/".join(parts), content.read()
  except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
    raise errors.UserError(
      f"cannot read the archive {path}: {error}; remove it, or put a whole one in its place"
    ) from error


def _files(name: str, packed: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
  """The regular files of a tarball called `name`, to be read in turn."""
  opener = _OPENERS.get(pathlib.PurePosixPath(name).suffix)
  if opener is None:
    raise ValueError(f"{name} is not packed with xz, bzip2 or gzip (apt-get install unpacks it)")
  with opener(packed) as stream:
    # Not tarfile's own unpacking, which takes an archive that was cut for one that ends.
    with tarfile.open(fileobj=stream, mode="r|") as tar:
      for member in tar:
        if member.isfile():
          yield member.name, tar.extractfile(member)
    while stream.read(_BLOCK):  # raises EOFError if the end is missing
      pass


def _carried(deb: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
  """The files of the source tarball that a Debian package installs in /usr/src."""
  for name, content in _files(*_data(deb)):
    if "usr/src/" in name and name.endswith(SUFFIXES):
      yield from _files(name, content)
      return
  raise ValueError("the package has no tarball for /usr/src")


def _data(deb: IO[bytes]) -> tuple[str, IO[bytes]]:
  """Name and content of a Debian package's data.tar.*: an ar archive, see deb(5) and ar(5)."""
  if deb.read(8) != b"!<arch>\n":
    raise ValueError("it is not a Debian package")
  while len(header := deb.read(60)) == 60:
    name, size = header[:16].decode("ascii").rstrip(" /"), int(header[48:58])
    if name.startswith("data.tar"):
      return name, io.BufferedReader(_Section(deb, size), _BLOCK)
    deb.seek(size + size % 2, io.SEEK_CUR)
  raise ValueError("the package has no data.tar")


class _Section(io.RawIOBase):
  """The next `size` bytes of a file."""

  def __init__(self, file: IO[bytes], size: int):
    self._file, self._left = file, size

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    block = self._file.read(min(len(buffer), self._left))
    self._left -= len(block)
    buffer[: len(block)] = block
    return len(block)
