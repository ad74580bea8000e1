"""A file by its bytes: its digest, its size, and a block at a time."""

import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Iterator

from charrnn import errors

BLOCK = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class File:
  name: str  # how the user knows it: relative to the folder, or a play's name
  path: pathlib.Path
  sha256: str
  size: int  # bytes, from its beginning
  binary: bool  # holds a NUL


def blocks(path: pathlib.Path, size: float = math.inf) -> Iterator[bytes]:
  """The first `size` bytes of a file, a block at a time."""
  try:
    with open(path, "rb") as file:
      while block := file.read(min(BLOCK, size)):
        size -= len(block)
        yield block
  except OSError as error:
    raise errors.UserError(f"cannot read {path}: {error.strerror}") from error


def fingerprint(path: pathlib.Path, name: str, limit: float = math.inf) -> File:
  """The file at a path, or as much of it as the first `limit` bytes."""
  digest, size, binary = hashlib.sha256(), 0, False
  for block in blocks(path, limit):
    digest.update(block)
    size += len(block)
    binary = binary or b"\0" in block
  return File(name, path, digest.hexdigest(), size, binary)
