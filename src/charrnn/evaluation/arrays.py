"""Large arrays in a .npz file, written piece by piece, so that they need not fit in memory."""

import contextlib
import itertools
import math
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, NamedTuple

import numpy as np

from charrnn import errors, files

SUFFIX = ".npz"
BLOCK = 1 << 22  # bytes that are copied at a time
Put = Callable[
  [str, np.ndarray, np.ndarray], None
]  # (name, numbers of the rows [R], rows [R, ...])


def check_output(path: pathlib.Path, option: str):
  """Raise UserError if no .npz file can be written at `path`, the value of `option`."""
  if path.suffix != SUFFIX:
    raise errors.UserError(f"{option}={path}: the name must end in {SUFFIX}")
  files.check_output(path, f"{option}={path}")


class Lookup(NamedTuple):
  """The array `values[indices]` as an array of a file, without holding it in memory."""

  values: np.ndarray
  indices: np.ndarray

  @property
  def nbytes(self) -> int:
    return self.values.itemsize * len(self.indices)

  def write(self, file: IO[bytes]):
    descr = np.lib.format.dtype_to_descr(self.values.dtype)
    header = {"descr": descr, "fortran_order": False, "shape": self.indices.shape}
    np.lib.format.write_array_header_1_0(file, header)
    rows = max(1, BLOCK // self.values.itemsize)
    for first in range(0, len(self.indices), rows):
      file.write(self.values[self.indices[first : first + rows]].tobytes())


def texts(tokenizer) -> np.ndarray:
  """Return the text of each token, [V]. NumPy would drop NULs at the end: they become \\x00."""
  stripped = ((text, text.rstrip("\0")) for text in tokenizer.texts)
  return np.array([kept + "\\x00" * (len(text) - len(kept)) for text, kept in stripped])


def describe(tokenizer, ids_N) -> dict[str, np.ndarray | Lookup]:
  """Return arrays that describe tokens: their ids and texts."""
  ids_N = np.asarray(ids_N, np.int32)
  return {"ids": ids_N, "tokens": Lookup(texts(tokenizer), ids_N)}


@contextlib.contextmanager
def replace_npz(
  path: pathlib.Path, shapes: Mapping[str, tuple[int, ...]], **whole: np.ndarray | Lookup
) -> Iterator[Put]:
  """Yield a function that writes rows of float32 arrays with these shapes; then replace `path`.

  Every row must be written. `whole` contains other arrays of the file. The rows are first written
  to temporary files in the same folder, so the disk must have space for twice their size. Raise
  UserError if it does not.
  """
  size = sum(array.nbytes for array in whole.values())
  _check_disk_space(path, size + 2 * 4 * sum(map(math.prod, shapes.values())))
  with files.replace_file(path) as output, contextlib.ExitStack() as stack:
    parts = {name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for name in shapes}

    def put(name, numbers, rows):
      rows, part = np.ascontiguousarray(rows, "<f4"), parts[name]
      starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1).tolist()  # of adjacent rows
      for start, stop in itertools.pairwise([*starts, len(numbers)]):
        part.seek(int(numbers[start]) * rows[0].nbytes)
        part.write(rows[start:stop].data)

    yield put
    with zipfile.ZipFile(output, "w") as archive:
      for name, array in whole.items():
        with _member(archive, name) as member:
          if isinstance(array, Lookup):
            array.write(member)
          else:
            np.lib.format.write_array(member, array, allow_pickle=False)
      for name, shape in shapes.items():
        with _member(archive, name) as member:
          header = {"descr": "<f4", "fortran_order": False, "shape": shape}
          np.lib.format.write_array_header_1_0(member, header)
          parts[name].seek(0)
          shutil.copyfileobj(parts[name], member, BLOCK)


def _member(archive: zipfile.ZipFile, name: str):
  """Open a new array of the archive. As in np.savez, the archive does not contain the time."""
  return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


def _check_disk_space(path: pathlib.Path, size: int):
  free = shutil.disk_usage(path.parent).free
  if size > free:
    raise errors.UserError(
      f"{path}: writing it needs {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free in "
      f"{path.parent}: use a shorter text (--characters), or another folder"
    )
