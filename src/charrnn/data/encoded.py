"""Encoded text: ids, the words that ids do not represent, and sizes in bytes.

Shapes: N tokens of a text, U of them unknown words.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np


class UnknownWords(NamedTuple):
  """The words of a text that its ids do not represent, as UTF-8."""

  positions: np.ndarray  # int64 [U], positions of the words among the N tokens, ascending
  stops: np.ndarray  # int64 [U], the end of each word in `content`
  content: np.ndarray  # uint8, the bytes of all words

  @classmethod
  def of(cls, positions: Sequence[int] = (), words: Sequence[bytes] = ()) -> "UnknownWords":
    stops = np.cumsum([len(word) for word in words], dtype=np.int64)
    content = np.frombuffer(b"".join(words), np.uint8)
    return cls(np.asarray(positions, np.int64), stops, content)

  def rows(self, start: int, stop: int) -> slice:
    """Return the indices of the words at positions from `start` to `stop`."""
    return slice(*np.searchsorted(self.positions, (start, stop)).tolist())

  def sizes(self, rows: slice) -> np.ndarray:
    """Return the number of bytes of each word in `rows`."""
    return np.diff(self.stops[rows], prepend=self.stops[rows.start - 1] if rows.start else 0)

  def word(self, index: int) -> bytes:
    start = int(self.stops[index - 1]) if index else 0
    return self.content[start : int(self.stops[index])].tobytes()


class Size(NamedTuple):
  """The size of a text, and what the loss of a model does not include."""

  tokens: int
  bytes: int  # UTF-8
  unknown_tokens: int
  unknown_bytes: int
  spelling: float  # nats that spell the unknown words; see Words.spelling

  def bits_per_byte(self, nats: float) -> float:
    """Return the exact bits per byte of a text that a model encodes with `nats` per token."""
    total = nats * self.tokens + self.spelling
    return total / math.log(2) / self.bytes if self.bytes else math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedText:
  """A text as ids [N], together with the words that its ids do not represent."""

  tokenizer: Any  # a tokenizers.Tokenizer; its module imports this one
  ids: np.ndarray
  unknown: UnknownWords

  def text(self, start: int, stop: int) -> str:
    """Return the text of the tokens from `start` to `stop`; see Tokenizer.decode."""
    pieces, at = [], start
    rows = self.unknown.rows(start, stop)
    for row in range(rows.start, rows.stop):
      position = int(self.unknown.positions[row])
      pieces += [self.tokenizer.decode(self.ids[at:position])]
      pieces += [self.unknown.word(row).decode("utf-8", "surrogatepass")]
      at = position + 1
    return "".join([*pieces, self.tokenizer.decode(self.ids[at:stop])])

  def first(self, count: int | None) -> "EncodedText":
    """Return the first `count` tokens, or all if `count` is None."""
    ids = self.ids[:count]
    rows = self.unknown.rows(0, len(ids))
    stops = self.unknown.stops[rows]
    content = self.unknown.content[: stops[-1] if len(stops) else 0]
    unknown = UnknownWords(self.unknown.positions[rows], stops, content)
    return EncodedText(self.tokenizer, ids, unknown)

  def sizes(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of each token from `start` to `stop`, and the nats that spell it.

    The nats are 0 for a token that is not an unknown word.
    """
    bytes_N = self.tokenizer.sizes[self.ids[start:stop]]
    nats_N = np.zeros(len(bytes_N))
    rows = self.unknown.rows(start, stop)
    places = self.unknown.positions[rows] - start
    bytes_N[places] = self.unknown.sizes(rows)
    nats_N[places] = [
      self.tokenizer.spelling(self.unknown.word(row)) for row in range(rows.start, rows.stop)
    ]
    return bytes_N, nats_N

  def size(self, spans: Iterable[tuple[int, int]], block: int = 1 << 20) -> Size:
    """Return the size of the tokens in spans. Use batches.scorable_spans for the scored tokens."""
    total = np.zeros(5)
    for start, stop in spans:
      for low in range(start, stop, block):
        high = min(low + block, stop)
        bytes_N, nats_N = self.sizes(low, high)
        rows = self.unknown.rows(low, high)
        unknown = rows.stop - rows.start, self.unknown.sizes(rows).sum()
        total += [high - low, bytes_N.sum(), *unknown, nats_N.sum()]
    return Size(*map(int, total[:4]), float(total[4]))


def join(texts: Sequence[EncodedText]) -> EncodedText:
  """Return the concatenation of at least one text."""
  shifts = np.cumsum([0, *(len(text.ids) for text in texts)])
  parts = [text.unknown for text in texts]
  offsets = np.cumsum([0, *(len(part.content) for part in parts)])
  unknown = UnknownWords(
    np.concatenate([part.positions + shift for part, shift in zip(parts, shifts)]),
    np.concatenate([part.stops + offset for part, offset in zip(parts, offsets)]),
    np.concatenate([part.content for part in parts]),
  )
  return EncodedText(texts[0].tokenizer, np.concatenate([text.ids for text in texts]), unknown)
