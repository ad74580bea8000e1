"""Tokenizers: convert characters or bytes to ids from 0 to V-1, and ids back to text."""

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
MAX_NAMED = 8  # maximum number of unknown characters to list in an error message


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """The V tokens of a corpus in code point order, and how often each occurs.

  A byte tokenizer always has all 256 tokens, so that it can encode any text. Its token for byte i
  is chr(i).
  """

  kind: str
  tokens: tuple[str, ...]
  counts: tuple[int, ...]

  @classmethod
  def from_counts(cls, kind: str, counts: np.ndarray) -> "Tokenizer":
    """Return the tokenizer of a corpus in which code point (or byte) i occurs counts[i] times."""
    points = np.arange(256) if kind == "byte" else np.flatnonzero(counts)
    counts = np.pad(counts, (0, 256))[points]
    return cls(kind, tuple(map(chr, points.tolist())), tuple(counts.tolist()))

  @classmethod
  def from_text(cls, text: str, kind: str = "char") -> "Tokenizer":
    """Return the tokenizer of a text."""
    return cls.from_counts(kind, np.bincount(_points(text, kind)))

  @property
  def vocab_size(self) -> int:
    return len(self.tokens)

  @property
  def dtype(self) -> np.dtype:
    """The smallest unsigned integer type that can represent every id."""
    return np.min_scalar_type(self.vocab_size - 1)

  @functools.cached_property
  def _point_of_id(self) -> np.ndarray:
    return np.array([ord(token) for token in self.tokens], "<u4")

  @functools.cached_property
  def _id_of_point(self) -> np.ndarray:
    """Table from code point to id; V marks unknown points. The last entry is for higher points."""
    table = np.full(self._point_of_id[-1] + 2, self.vocab_size, np.uint32)
    table[self._point_of_id] = np.arange(self.vocab_size)
    return table

  def encode(self, text: str) -> np.ndarray:
    """Return the ids of a text; raise UserError if a character is not in the vocabulary."""
    return self.encode_points(_points(text, self.kind))

  def encode_points(self, points: np.ndarray) -> np.ndarray:
    """Return the ids, with type `dtype`, of code points or (for a byte tokenizer) of bytes."""
    table = self._id_of_point
    ids = table[np.minimum(points, np.uint32(len(table) - 1))]
    if np.any(unknown := ids == self.vocab_size):
      raise errors.UserError(_unknown_message(points[unknown], int(np.argmax(unknown))))
    return ids.astype(self.dtype)

  def decode(self, ids) -> str:
    """Return the text of ids, from which `encode` restores them.

    Bytes that are not valid UTF-8 become surrogates (Python's error handler "surrogateescape").
    """
    return self.decoder().decode(ids, final=True)

  def decoder(self) -> "Decoder":
    """Return a new decoder."""
    return Decoder(self)

  def default_id(self) -> int:
    """Return the id to use as an empty prompt: the line end, or the most frequent token."""
    counts = dict(zip(self.tokens, self.counts))
    start = "\n" if counts.get("\n") else max(counts, key=counts.get)
    return self.tokens.index(start)

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: dict[str, Any], name: str = "the vocabulary") -> "Tokenizer":
    """Return the tokenizer from the output of `to_json`; raise UserError if it is damaged.

    The former key "symbols" is accepted as an alias of "tokens". `name` identifies the source in
    the error message.
    """
    try:
      kind, counts = value["kind"], tuple(value["counts"])
      tokenizer = cls(kind, tuple(value["tokens" if "tokens" in value else "symbols"]), counts)
      points = tokenizer._point_of_id.tolist()
      valid = points and points == sorted(set(points)) and len(counts) == len(points)
      valid = valid and all(type(count) is int and count >= 0 for count in counts)
      valid = valid and (kind == "char" or (kind == "byte" and points == list(range(256))))
    except (KeyError, TypeError, ValueError):
      valid = False
    if not valid:
      raise errors.UserError(f"{name} is damaged: restore it from a copy of the run")
    return tokenizer

  def save(self, path: str | os.PathLike):
    # The ASCII escapes of JSON can represent lone surrogates; UTF-8 cannot.
    files.write_text(pathlib.Path(path), json.dumps(files.seal(self.to_json())))


def unit(kind: str) -> str:
  """Return what a token of a tokenizer of this kind is called in losses and lengths."""
  return {"byte": "byte", "char": "character"}.get(kind, "token")


class Decoder:
  """Decodes ids block by block; buffers the bytes of a character until it is complete."""

  def __init__(self, tokenizer: Tokenizer):
    is_byte = tokenizer.kind == "byte"
    self._point_of_id = tokenizer._point_of_id.astype(np.uint8 if is_byte else "<u4")
    name, on_error = ("utf-8", "surrogateescape") if is_byte else ("utf-32-le", "surrogatepass")
    self._codec = codecs.getincrementaldecoder(name)(on_error)

  def decode(self, ids, final: bool = False) -> str:
    """Return the text of the next ids; with `final`, also of the bytes that are still buffered."""
    return self._codec.decode(self._point_of_id[np.asarray(ids, np.int64)].tobytes(), final)


def _points(text: str, kind: str) -> np.ndarray:
  """Return the code points of a text, or its UTF-8 bytes if the kind is "byte".

  Python represents undecodable bytes of the command line by surrogates; convert these to bytes.
  """
  if kind == "char":
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
  try:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
  except UnicodeEncodeError as error:
    raise errors.UserError(_unknown_message([ord(text[error.start])], error.start)) from error


def _unknown_message(points, position: int) -> str:
  distinct = [f"{chr(point)!r} (U+{point:04X})" for point in dict.fromkeys(map(int, points))]
  return (
    f"not in the vocabulary: {errors.some(distinct, MAX_NAMED)}, first at character {position}: "
    "remove them, train on a text that contains them (--config.init_from=RUN reuses the weights), "
    "or train with --config.text.tokenizer=byte"
  )
