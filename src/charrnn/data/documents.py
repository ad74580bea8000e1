"""Documents: a text that is divided into short texts, each of which ends with the token END.

The ids of such a text begin with END, and every document follows an END and ends with one. A model
that is reset whenever it reads END predicts each token from its own document alone.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.data import encoded, splits, tokenizers

KINDS = tuple(tokenizers.ENDS)
FORMAT = 2  # version of `separate`, for the cache
END = np.array([tokenizers.END_POINT], "<u4")
_SEPARATORS = {
  "lines": re.compile(r"(?:\r?\n)+"),
  "blank_lines": re.compile(r"\r?\n(?:[ \t\r]*\n)+"),
}
_SPACES = {"lines": "\r\n", "blank_lines": " \t\r\n"}  # the characters of separators


def separate(texts: Iterable[str], kind: str) -> Iterator[np.ndarray]:
  """Yield the code points of a file's documents, with END_POINT after each of them.

  `texts` are chunks of the file, and `kind` is one of KINDS other than `none`. Separators are not
  part of the documents, and there are no empty documents.
  """
  pattern, held, is_between = _SEPARATORS.get(kind), "", True
  for chunk in texts:
    # A separator may continue in the next chunk.
    text = held + chunk
    stop = len(text.rstrip(_SPACES[kind])) if pattern else len(text)
    held = text[stop:]
    points = _drop_empty(_mark(text[:stop], pattern), is_between)
    if len(points):
      is_between = points[-1] == tokenizers.END_POINT
      yield points
  if pattern:
    yield _drop_empty(_mark(held + tokenizers.ENDS[kind], pattern), is_between)
  elif not is_between:
    yield END


def _mark(text: str, pattern: re.Pattern | None) -> np.ndarray:
  """Return the code points of a text in which END_POINT replaces each separator."""
  points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
  spans = [match.span() for match in pattern.finditer(text)] if pattern else []
  if not spans:
    return points
  starts, stops = np.array(spans).T
  change = np.zeros(len(points) + 1, np.int8)
  change[starts + 1] += 1  # Separators are never adjacent.
  change[stops] -= 1
  points = points.copy()
  points[starts] = tokenizers.END_POINT
  return points[np.cumsum(change[:-1]) == 0]


def _drop_empty(points: np.ndarray, is_between: bool) -> np.ndarray:
  """Return the points without ends of empty documents; `is_between`: the last one was an end."""
  is_end = points == tokenizers.END_POINT
  return points[~(is_end & np.concatenate([[is_between], is_end[:-1]])[: len(points)])]


def read(tokenizer: tokenizers.Tokenizer, text: str, kind: str) -> encoded.EncodedText:
  """Return a text for scoring; raise UserError for unknown characters if there is no <UNK>.

  See `separate` for `kind`.
  """
  if kind == "none":
    return tokenizer.read(text)
  if tokenizer.reads_bytes:
    text = text.encode("utf-8", "surrogateescape").decode("latin-1")
  points = np.concatenate([END, *separate([text], kind)])
  return tokenizer.read_points(points)


def texts(text: str, kind: str) -> list[str]:
  """Return the documents of a text; see `separate` for `kind`."""
  points = np.concatenate([END, *separate([text], kind)])
  bounds = Bounds.of(points, tokenizers.END_POINT)
  pieces = (points[start : stop - 1] for start, stop in zip(*bounds))
  return [piece.tobytes().decode("utf-32-le", "surrogatepass") for piece in pieces]


class Bounds(NamedTuple):
  """The positions of D documents among the ids of a text."""

  starts: np.ndarray  # [D]
  stops: np.ndarray  # [D]; the last token of a document is END

  @classmethod
  def of(cls, ids: np.ndarray, end_id: int) -> "Bounds":
    """Return the bounds of all documents of a text that begins with END."""
    ends = np.flatnonzero(np.asarray(ids) == end_id) + 1
    return cls(ends[:-1], ends[1:])

  @property
  def lengths(self) -> np.ndarray:
    return self.stops - self.starts

  def select(self, which: np.ndarray) -> "Bounds":
    """Return the documents with these numbers, or where a mask is true."""
    return Bounds(self.starts[which], self.stops[which])

  def within(self, spans: Sequence[splits.Span]) -> "Bounds":
    """Return the documents that are inside of spans."""
    inside = np.zeros(len(self.starts), bool)
    for start, stop in spans:
      inside |= (start <= self.starts) & (self.stops <= stop)
    return self.select(inside)

  def positions(self) -> np.ndarray:
    """Return the positions of all tokens of the documents."""
    return positions(self.starts, self.lengths)


def positions(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
  """Return the concatenated positions of several ranges."""
  offsets = np.cumsum(lengths) - lengths
  return np.repeat(starts - offsets, lengths) + np.arange(lengths.sum())


def permutation(count: int, *key: int) -> np.ndarray:
  """Return the numbers below `count` in a random order that depends only on two keys."""
  # NumPy guarantees the raw output of a bit generator in all versions, but not its permutations.
  bits = np.random.Philox(key=np.array(key, np.uint64)).random_raw(count)
  return np.argsort(bits, kind="stable")


def order(counts: Sequence[int]) -> np.ndarray:
  """Return the order of all documents that shuffles those of each source among themselves.

  `counts` are the numbers of documents of the sources, which follow one another.
  """
  firsts = np.cumsum([0, *counts])
  return np.concatenate([first + permutation(n, 0, 0) for first, n in zip(firsts, counts)])


def split(bounds: Bounds, kind: str, valid: float, test: float) -> splits.Splits:
  """Return the splits of a text of D documents, in the order training, validation and test.

  No document is divided. The splits are as close to the fractions as that allows, and a split with
  a positive fraction has at least one document. Raise UserError if there are too few documents.
  """
  splits.check(kind, valid, test)
  stops, D, parts = bounds.stops, len(bounds.stops), 1 + bool(valid) + bool(test)
  if parts > D:
    raise errors.UserError(
      f"the text is only {errors.plural(D, 'document')}, which cannot be divided into "
      f"{errors.plural(parts, 'split')}: use another --config.text.documents, or fractions of 0"
    )

  def documents_before(share: float) -> int:
    return 1 + int(np.abs(stops - share * stops[-1]).argmin())

  last = min(max(documents_before(1 - test), parts - 1), D - 1) if test else D
  first = min(max(documents_before(1 - test - valid), 1), last - 1) if valid else last
  cuts = bounds.starts[0], stops[first - 1], stops[last - 1], stops[-1]
  return splits.consecutive(*map(int, cuts))
