"""Recordings of any model, from a file of its states: .npz, or HDF5 in the layout of LSTMVis.

A .npz file contains an array layer_L/QUANTITY [N, H] for each layer and quantity, as `charrnn
states` writes it. An HDF5 file contains a dataset QUANTITYL [N, H], for example states1. Row t is
the state after character t of the text. If all quantities of each layer have the same H, they are
quantities of the same units, as in recurrent networks. Otherwise, each is a unit of its own kind.
"""

import contextlib
import itertools
import math
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from charrnn import errors
from charrnn.analysis import effects, recording

ROWS = 1024  # number of characters that are read at once
HDF5 = (".h5", ".hdf5")
_NPZ_NAME = re.compile(r"layer_(?P<layer>0|[1-9]\d{0,3})/(?P<quantity>[a-z]{1,16})")
_HDF5_NAME = re.compile(r"(?P<quantity>[a-z]{1,16})_?(?P<layer>0|[1-9]\d{0,3})")


class States(NamedTuple):
  """An array of states in a file."""

  name: str
  layer: int
  quantity: str
  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[int], Iterator[np.ndarray]]  # yields the first rows, in blocks


def read(
  path: str,
  files: Sequence[tuple[str, str]],
  characters: int,
  target: pathlib.Path,
  progress: effects.Progress,
) -> tuple[recording.Recording, recording.Text]:
  """Read the states of texts, files (path, text), that were read one after another.

  Return the first `characters` characters; the recording is a file at `target`. Raise UserError if
  the file is not readable, does not fit the texts, or contains values that are not finite.
  """
  with _open(path) as (arrays, tokens):
    _check(path, arrays)
    whole = "".join(text for _, text in files)
    if tokens is not None:
      _check_tokens(path, tokens, whole)
    if (count := arrays[0].shape[0]) != len(whole):
      raise errors.UserError(_mismatch(path, count, whole, files))
    text = recording.plain_text(files, characters)
    return _copy(path, arrays, len(text.ids_N), target, progress), text


@contextlib.contextmanager
def _open(path: str) -> Iterator[tuple[list[States], np.ndarray | None]]:
  """Yield the arrays of states in a file, and its tokens if it has them."""
  try:
    if pathlib.Path(path).suffix.lower() in HDF5:
      with _hdf5().File(path) as file:
        yield _named(path, _HDF5_NAME, "states1", _datasets(file)), None
    else:
      with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        arrays = ((name, *_npy(archive, name)) for name in names)
        tokens = None
        if "tokens" in names:
          with archive.open("tokens.npy") as member:
            tokens = np.lib.format.read_array(member, allow_pickle=False)
        yield _named(path, _NPZ_NAME, "layer_0/h", arrays), tokens
  except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
    reason = getattr(error, "strerror", None) or errors.first_line(error)
    raise errors.UserError(
      f"cannot read states from {path}: {reason}; use a file .npz, or .h5 (HDF5)"
    ) from error


def _hdf5() -> Any:
  try:
    import h5py
  except ImportError as error:
    raise errors.UserError(
      "HDF5 files need the package h5py: run pip install 'h5py>=3.10,<4'"
    ) from error
  return h5py


def _datasets(file) -> Iterator[tuple]:
  """Yield (name, shape, dtype, reader) of the datasets at the top of an HDF5 file."""

  def reader(dataset, count):
    for start in range(0, count, ROWS):
      yield dataset[start : min(start + ROWS, count)]

  for name, dataset in file.items():
    if hasattr(dataset, "shape"):  # The others are groups.
      read = lambda count, dataset=dataset: reader(dataset, count)  # noqa: E731
      yield name, dataset.shape, dataset.dtype, read


def _npy(archive: zipfile.ZipFile, name: str) -> tuple:
  """Return (shape, dtype, reader) of an array in a .npz file."""

  def header(member):
    version = np.lib.format.read_magic(member)
    one = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if one else np.lib.format.read_array_header_2_0
    return read(member)

  def reader(count):
    with archive.open(f"{name}.npy") as member:
      shape, by_columns, dtype = header(member)
      if by_columns:
        member.seek(0)
        yield np.lib.format.read_array(member, allow_pickle=False)[:count]
        return
      for start in range(0, count, ROWS):
        rows = min(ROWS, count - start)
        data = member.read(rows * math.prod(shape[1:]) * dtype.itemsize)
        yield np.frombuffer(data, dtype).reshape(rows, *shape[1:])

  with archive.open(f"{name}.npy") as member:
    shape, _, dtype = header(member)
  return shape, dtype, reader


def _named(path: str, pattern: re.Pattern, example: str, arrays) -> list[States]:
  """Return the arrays whose name has a layer and a quantity, ordered by layer."""
  named, others = [], []
  for name, shape, dtype, reader in arrays:
    if match := pattern.fullmatch(name):
      place = int(match["layer"]), match["quantity"]
      named.append(States(name, *place, tuple(shape or ()), dtype, reader))
    elif name not in ("ids", "tokens"):
      others.append(name)
  if not named or others:
    found = f"unknown arrays ({errors.some(others, 5)})" if others else "no arrays"
    raise errors.UserError(
      f"{path}: contains {found}: it needs arrays [time, units] of states with names like {example}"
    )
  return sorted(named, key=lambda each: each.layer)


def _check(path: str, arrays: Sequence[States]):
  """Raise UserError unless all arrays are real numbers [N, H] with the same N."""
  for each in arrays:
    if len(each.shape) != 2 or not each.shape[1] or each.dtype.kind not in "fiu":
      raise errors.UserError(
        f"{path}: {each.name} has the shape {each.shape} and the type {each.dtype}: use an array "
        "[time, units] of real numbers"
      )
    if each.shape[0] != arrays[0].shape[0]:
      raise errors.UserError(
        f"{path}: {arrays[0].name} has {arrays[0].shape[0]:,} rows, but {each.name} has "
        f"{each.shape[0]:,}: use one row for each character in all of them"
      )


def _check_tokens(path: str, tokens: np.ndarray, text: str):
  """Raise UserError unless the tokens in a file are the characters, or the bytes, of a text."""
  if tokens.ndim != 1 or tokens.dtype.kind != "U" or not tokens.dtype.itemsize:
    raise errors.UserError(f"{path}: tokens is not a list of texts: remove it")
  if (sizes := np.char.str_len(tokens)).max(initial=0) > 1:
    longest = str(tokens[sizes.argmax()])
    raise errors.UserError(
      f"{path}: its tokens are not characters (for example {longest[:40]!r}), which the hypotheses "
      "are about: use the states of a model of characters or bytes"
    )
  actual = tokens.astype("<U1").view("<u4")
  is_byte = (actual >= 0xDC80) & (actual <= 0xDCFF)  # a byte that is not UTF-8
  actual = np.where(is_byte, actual - 0xDC00, actual)
  expected = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
  shared = min(len(actual), len(expected))
  wrong = np.flatnonzero(actual[:shared] != expected[:shared])
  # States of bytes differ in number from the characters of a text that is not ASCII.
  if len(wrong) and (len(actual) == len(expected) or not is_byte.any()):
    first = int(wrong[0])
    raise errors.UserError(
      f"{path}: its states are of another text: character {first} is {chr(actual[first])!r}, but "
      f"{text[first]!r} in --text: use the text that the model read"
    )


def _mismatch(path: str, count: int, text: str, files) -> str:
  """Return the message for numbers of states and characters that differ, with a likely remedy."""
  remedies = {
    len(text.replace("\r\n", "\n")): "the model read CRLF as one character: convert the line ends "
    "of the text to LF",
    len(text) + 1: "the first one is probably that of a token before the text: leave it out",
    len(text) - 1: "a state is missing: record it after every character, also after the last one"
    if not text.startswith("\ufeff")
    else "the text begins with a byte order mark: add --encoding=utf-8-sig",
    len(text.encode("utf-8", "surrogatepass")): "the states are of bytes: add --encoding=latin-1, "
    "which makes each byte of the text a character",
  }
  remedies.pop(len(text), None)
  remedy = remedies.get(count, "use the text that the model read, with one state per character")
  names = " and ".join(name for name, _ in files[:2]) + (" ..." if len(files) > 2 else "")
  return f"{path} has {count:,} states, but {names} has {len(text):,} characters: {remedy}"


def _copy(path: str, arrays: Sequence[States], count: int, target, progress) -> recording.Recording:
  """Copy the first rows of all arrays to a file; return it as a recording."""
  starts = [0, *itertools.accumulate(each.shape[1] for each in arrays)]
  recording.check_disk_space(target, 4 * count * starts[-1])
  values = np.memmap(target, np.float32, mode="w+", shape=(count, starts[-1]))
  for number, each in enumerate(arrays):
    row = 0
    for block in each.read(count):
      with np.errstate(over="ignore"):
        part = block.astype(np.float32)
      if not (finite := np.isfinite(part)).all():
        t, unit = (int(index[0]) for index in np.nonzero(~finite))
        raise errors.UserError(
          f"{path}: {each.name} is {block[t, unit]} at character {row + t}, unit {unit}: use "
          "states that are finite as float32"
        )
      values[row : row + len(part), starts[number] : starts[number + 1]] = part
      row += len(part)
    progress(number + 1, len(arrays))
  columns = tuple(
    recording.Column(each.layer, each.quantity, unit)
    for each in arrays
    for unit in range(each.shape[1])
  )
  by_layer = itertools.groupby(arrays, lambda each: each.layer)
  shares = all(len({each.shape[1] for each in layer}) == 1 for _, layer in by_layer)
  units = tuple(
    recording.Unit(layer, "" if shares else quantity, number) for layer, quantity, number in columns
  )
  return recording.Recording(columns, units, values, None)
