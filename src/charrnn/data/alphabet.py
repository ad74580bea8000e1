"""Characters or bytes become ids from 0 to V-1, and ids become text again."""

import codecs
import dataclasses
import functools
import json
import os
import pathlib

import numpy as np

from charrnn import errors

KINDS = ("char", "byte")
_NAMED = 8  # foreign characters that an error names


@dataclasses.dataclass(frozen=True)
class Alphabet:
  """The V symbols of a corpus in code point order, and how often each occurs there.

  A byte alphabet always has all 256 symbols, so that it can read any text; its symbol for byte
  i is chr(i).
  """

  kind: str
  symbols: tuple[str, ...]
  counts: tuple[int, ...]

  @classmethod
  def of_counts(cls, kind: str, counts: np.ndarray) -> "Alphabet":
    """From the number of occurrences of every code point (or byte): counts[code point]."""
    points = np.arange(256) if kind == "byte" else np.flatnonzero(counts)
    counts = np.pad(counts, (0, 256))[points]
    return cls(kind, tuple(map(chr, points.tolist())), tuple(counts.tolist()))

  @classmethod
  def of_text(cls, text: str, kind: str = "char") -> "Alphabet":
    return cls.of_counts(kind, np.bincount(_points(text, kind)))

  @property
  def size(self) -> int:
    return len(self.symbols)

  @property
  def dtype(self) -> np.dtype:
    """The smallest unsigned type that holds every id."""
    return np.min_scalar_type(self.size - 1)

  @functools.cached_property
  def _point_of_id(self) -> np.ndarray:
    return np.array([ord(symbol) for symbol in self.symbols], "<u4")

  @functools.cached_property
  def _id_of_point(self) -> np.ndarray:
    """Ids by code point; V where there is none, as in the last place, for all points beyond."""
    table = np.full(self._point_of_id[-1] + 2, self.size, np.uint32)
    table[self._point_of_id] = np.arange(self.size)
    return table

  def encode(self, text: str) -> np.ndarray:
    return self.encode_points(_points(text, self.kind))

  def encode_points(self, points: np.ndarray) -> np.ndarray:
    """Code points (of a byte alphabet: bytes) as ids of `dtype`; a UserError names the foreign."""
    table = self._id_of_point
    ids = table[np.minimum(points, np.uint32(len(table) - 1))]
    if np.any(foreign := ids == self.size):
      raise errors.UserError(_foreign_message(points[foreign], int(np.argmax(foreign))))
    return ids.astype(self.dtype)

  def decode(self, ids) -> str:
    return self.decoder().decode(ids, final=True)

  def decoder(self) -> "Decoder":
    return Decoder(self)

  def default_id(self) -> int:
    """What to prime with when there is no prompt: a line end, else the most frequent symbol."""
    counts = dict(zip(self.symbols, self.counts))
    start = "\n" if counts.get("\n") else max(counts, key=counts.get)
    return self.symbols.index(start)

  def to_json(self) -> dict:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: dict) -> "Alphabet":
    """Raises UserError when the value is not what `to_json` made."""
    try:
      alphabet = cls(value["kind"], tuple(value["symbols"]), tuple(value["counts"]))
      points = alphabet._point_of_id.tolist()
      good = alphabet.kind in KINDS and points and points == sorted(set(points))
      good = good and len(alphabet.counts) == len(points)
      good = good and (alphabet.kind == "char" or points == list(range(256)))
    except (KeyError, TypeError, ValueError):
      good = False
    if not good:
      raise errors.UserError("the alphabet is damaged: take it from a copy of the same run")
    return alphabet

  def save(self, path: str | os.PathLike):
    path = pathlib.Path(path)
    # JSON's ASCII escapes carry lone surrogates, which UTF-8 cannot.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(self.to_json()))
    os.replace(temporary, path)

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Alphabet":
    try:
      return cls.from_json(json.loads(pathlib.Path(path).read_bytes()))
    except OSError as error:
      raise errors.UserError(f"cannot read the alphabet {path}: {error.strerror}") from error
    except (ValueError, errors.UserError) as error:
      raise errors.UserError(f"{path} is damaged: take it from a copy of the same run") from error


class Decoder:
  """Decodes ids block by block; a character cut by a block's end waits for the next block."""

  def __init__(self, alphabet: Alphabet):
    byte = alphabet.kind == "byte"
    self._point_of_id = alphabet._point_of_id.astype(np.uint8 if byte else "<u4")
    name, on_error = ("utf-8", "replace") if byte else ("utf-32-le", "surrogatepass")
    self._codec = codecs.getincrementaldecoder(name)(on_error)

  def decode(self, ids, final: bool = False) -> str:
    return self._codec.decode(self._point_of_id[np.asarray(ids, np.int64)].tobytes(), final)


def _points(text: str, kind: str) -> np.ndarray:
  """The code points of a text, or its UTF-8 bytes with those that a shell could not decode."""
  if kind == "char":
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
  try:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
  except UnicodeEncodeError as error:
    raise errors.UserError(_foreign_message([ord(text[error.start])], error.start)) from error


def _foreign_message(points, position: int) -> str:
  kinds = list(dict.fromkeys(map(int, points)))
  named = ", ".join(f"{chr(point)!r} (U+{point:04X})" for point in kinds[:_NAMED])
  more = f" and {len(kinds) - _NAMED} more" if len(kinds) > _NAMED else ""
  return (
    f"not in the alphabet: {named}{more}, first at character {position}: "
    "leave them out, train with --config.init_from on a text that has them, "
    "or use --config.text.alphabet=byte"
  )
