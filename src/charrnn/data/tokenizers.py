"""Tokenizers: characters or bytes become ids from 0 to V-1, and ids become text again."""

import codecs
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import numpy as np

from charrnn import errors, files

KINDS = ("char", "byte")
MAX_NAMED = 8  # unknown characters that an error message names


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """The V tokens of a corpus in code point order, and the number of occurrences of each.

  A byte tokenizer always has all 256 tokens, so that it can read any text; its token for byte i
  is chr(i).
  """

  kind: str
  tokens: tuple[str, ...]
  counts: tuple[int, ...]

  @classmethod
  def from_counts(cls, kind: str, counts: np.ndarray) -> "Tokenizer":
    """Build from the number of occurrences of every code point (or byte): counts[code point]."""
    points = np.arange(256) if kind == "byte" else np.flatnonzero(counts)
    counts = np.pad(counts, (0, 256))[points]
    return cls(kind, tuple(map(chr, points.tolist())), tuple(counts.tolist()))

  @classmethod
  def from_text(cls, text: str, kind: str = "char") -> "Tokenizer":
    return cls.from_counts(kind, np.bincount(_points(text, kind)))

  @property
  def vocab_size(self) -> int:
    return len(self.tokens)

  @property
  def dtype(self) -> np.dtype:
    """The smallest unsigned type that holds every id."""
    return np.min_scalar_type(self.vocab_size - 1)

  @functools.cached_property
  def _point_of_id(self) -> np.ndarray:
    return np.array([ord(token) for token in self.tokens], "<u4")

  @functools.cached_property
  def _id_of_point(self) -> np.ndarray:
    """Ids by code point; V for an unknown one. The last entry stands for all points beyond."""
    table = np.full(self._point_of_id[-1] + 2, self.vocab_size, np.uint32)
    table[self._point_of_id] = np.arange(self.vocab_size)
    return table

  def encode(self, text: str) -> np.ndarray:
    """Return the ids of a text; raise UserError for characters outside the vocabulary."""
    return self.encode_points(_points(text, self.kind))

  def encode_points(self, points: np.ndarray) -> np.ndarray:
    """Return the ids (of type `dtype`) of code points or, with a byte tokenizer, of bytes."""
    table = self._id_of_point
    ids = table[np.minimum(points, np.uint32(len(table) - 1))]
    if np.any(unknown := ids == self.vocab_size):
      raise errors.UserError(_unknown_message(points[unknown], int(np.argmax(unknown))))
    return ids.astype(self.dtype)

  def decode(self, ids) -> str:
    return self.decoder().decode(ids, final=True)

  def decoder(self, invalid: str = "replace") -> "Decoder":
    """Return a decoder; `invalid` is how it handles bytes that are not UTF-8, see `codecs`."""
    return Decoder(self, invalid)

  def default_id(self) -> int:
    """Return the id that replaces an empty prompt: a line end, else the most frequent token."""
    counts = dict(zip(self.tokens, self.counts))
    start = "\n" if counts.get("\n") else max(counts, key=counts.get)
    return self.tokens.index(start)

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: dict[str, Any], name: str = "the vocabulary") -> "Tokenizer":
    """Read what `to_json` returned, also with the former key "symbols"; else raise UserError."""
    try:
      kind, counts = value["kind"], tuple(value["counts"])
      tokenizer = cls(kind, tuple(value["tokens" if "tokens" in value else "symbols"]), counts)
      points = tokenizer._point_of_id.tolist()
      valid = points and points == sorted(set(points)) and len(counts) == len(points)
      valid = valid and (kind == "char" or (kind == "byte" and points == list(range(256))))
    except (KeyError, TypeError, ValueError):
      valid = False
    if not valid:
      raise errors.UserError(f"{name} is damaged: restore it from a copy of the same run")
    return tokenizer

  def save(self, path: str | os.PathLike):
    # JSON's ASCII escapes carry lone surrogates, which UTF-8 cannot.
    files.write_text(pathlib.Path(path), json.dumps(self.to_json()))

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Tokenizer":
    """Read the vocabulary of a run; raise UserError if it is unreadable or damaged."""
    return cls.from_json(files.read_json(pathlib.Path(path)), str(path))


class Decoder:
  """Decode ids block by block; the first bytes of an incomplete character wait for the rest."""

  def __init__(self, tokenizer: Tokenizer, invalid: str):
    is_byte = tokenizer.kind == "byte"
    self._point_of_id = tokenizer._point_of_id.astype(np.uint8 if is_byte else "<u4")
    name, on_error = ("utf-8", invalid) if is_byte else ("utf-32-le", "surrogatepass")
    self._codec = codecs.getincrementaldecoder(name)(on_error)

  def decode(self, ids, final: bool = False) -> str:
    return self._codec.decode(self._point_of_id[np.asarray(ids, np.int64)].tobytes(), final)


def _points(text: str, kind: str) -> np.ndarray:
  """Return the code points of a text, or its UTF-8 bytes.

  Surrogates that stand for undecodable bytes of the command line become these bytes again.
  """
  if kind == "char":
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
  try:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
  except UnicodeEncodeError as error:
    raise errors.UserError(_unknown_message([ord(text[error.start])], error.start)) from error


def _unknown_message(points, position: int) -> str:
  distinct = list(dict.fromkeys(map(int, points)))
  names = ", ".join(f"{chr(point)!r} (U+{point:04X})" for point in distinct[:MAX_NAMED])
  more = f" and {len(distinct) - MAX_NAMED} more" if len(distinct) > MAX_NAMED else ""
  return (
    f"not in the vocabulary: {names}{more}, first at character {position}: "
    "leave them out, train with --config.init_from on a text that has them, "
    "or use --config.text.tokenizer=byte"
  )
