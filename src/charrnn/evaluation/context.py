"""Use of the context: the loss by position in it, and closers by distance from their openers.

All positions and distances are in UTF-8 bytes, so that models with different tokenizers compare.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from charrnn.data import encoded
from charrnn.evaluation import score

CONTEXT = 2048  # bytes of a context
POSITIONS = tuple(2**n for n in range(11))  # lower ends of buckets of positions; the last is open
DISTANCES = (1, 10, 30, 100, 300, 1000)  # lower ends of buckets of distances; the last is open
CLOSERS = {"(": ")", "[": "]", "{": "}", "“": "”", '"': '"', '"""': '"""'}
_LINES = ('"', "”")  # closers of quotations that do not continue after a blank line
_QUOTES = (*_LINES, '"""')
MAX_DEPTH = 100  # openers that are remembered; the oldest is forgotten
_SIGNS = re.compile(r'"""|[()\[\]{}"“”]|\n[ \t\r]*\n')


def context_starts(
  text: encoded.EncodedText, spans: Sequence[tuple[int, int]], starts: Sequence[int] = (0,)
) -> list[int]:
  """Return the first tokens of contexts of about CONTEXT bytes in the spans of a text.

  A context begins at the start of a span, at each of `starts` (of documents), and at the first
  token after every CONTEXT bytes of the span. Pass the result to `score.score` as `starts`.
  """
  firsts = set(starts)
  for start, stop in spans:
    bytes_N, _ = text.sizes(start, stop)
    before_N = np.cumsum(bytes_N) - bytes_N
    marks = np.arange(0, bytes_N.sum(), CONTEXT)
    places = np.searchsorted(before_N, marks)
    firsts |= set((start + places[places < stop - start]).tolist())
  return sorted(firsts)


def loss_by_position(scores: score.Scores) -> list[dict[str, Any]]:
  """Return the bits per byte of tokens by their distance from the start of the context."""
  totals_2xK = np.zeros((2, len(POSITIONS)))
  for low, high in _contexts(scores):
    first, last = scores.positions[[low, high - 1]].tolist()
    bytes_N, spelling_N = scores.text.sizes(first, last + 1)
    offsets_N = np.cumsum(bytes_N) - bytes_N
    bucket_N = np.searchsorted(POSITIONS, offsets_N[1:], side="right") - 1
    values = scores.nats[low + 1 : high] + spelling_N[1:], bytes_N[1:]
    totals_2xK += [np.bincount(bucket_N, each, len(POSITIONS)) for each in values]
  return [
    {"from": first, "bytes": int(size), "bits_per_byte": nats / np.log(2) / size if size else None}
    for first, nats, size in zip(POSITIONS, *totals_2xK.tolist())
  ]


class Pair(NamedTuple):
  """Positions in a text of an opener and of its closer."""

  closer: str  # a value of CLOSERS
  opened: int
  closed: int


def pairs(text: str) -> Iterator[Pair]:
  """Yield the brackets, quotations and docstrings of a text that need not be balanced.

  A sign that closes an open pair does so, and ends all pairs that were opened later. Any other sign
  opens a pair, or is ignored if it is no opener. A bracket does not close a pair that was opened
  before a quotation, so that brackets in strings do no harm. A blank line ends quotations, except
  those in three quotes.
  """
  is_open: list[tuple[str, int]] = []  # the closer and the position of each opener
  for match in _SIGNS.finditer(text):
    sign = match[0]
    depth = _depth(is_open, sign)
    if depth is not None:
      yield Pair(sign, is_open[depth][1], match.start())
      del is_open[depth:]
    elif sign in CLOSERS:
      is_open = [*is_open[1 - MAX_DEPTH :], (CLOSERS[sign], match.start())]
    elif sign[0] == "\n":
      is_open = [each for each in is_open if each[0] not in _LINES]


def _depth(is_open: Sequence[tuple[str, int]], sign: str) -> int | None:
  """Return the index of the innermost pair that the sign closes, or None."""
  for depth in reversed(range(len(is_open))):
    closer = is_open[depth][0]
    if closer == sign:
      return depth
    if closer in _QUOTES and sign not in _QUOTES:
      return None
  return None


def closers(scores: score.Scores, starts: Sequence[int] = ()) -> dict[str, list[dict[str, Any]]]:
  """Return how well the tokens with closers are predicted, by closer and distance to the opener.

  A pair is in one document: no pair spans one of `starts` or a token that is not scored.
  For each closer, and for "all", there is a row for each bucket of distances: the number of
  closers, their mean probability `p`, and the share `top` that is the most probable token. The
  probability is that of the token in which the closer begins. Pairs within one token are left out.
  """
  found: dict[str, list[tuple[int, float, bool]]] = {closer: [] for closer in CLOSERS.values()}
  for low, high in _contexts(scores, starts):
    first, last = scores.positions[[low, high - 1]].tolist()
    text = scores.text.text(first, last + 1)
    bytes_N, _ = scores.text.sizes(first, last + 1)
    before = _bytes_before(text)
    ends_N = np.cumsum(bytes_N)
    for closer, *ends in pairs(text):
      opened, closed = np.searchsorted(ends_N, before[ends], side="right")
      if opened < closed:
        index = low + closed
        probability, is_top = np.exp(-scores.nats[index]), scores.rank[index] == 1
        distance = before[ends[1]] - before[ends[0]]
        found[closer].append((int(distance), float(probability), bool(is_top)))
  rows = {closer: _by_distance(each) for closer, each in found.items() if each}
  return {"all": _by_distance([*itertools.chain(*found.values())]), **rows}


def _by_distance(found: list[tuple[int, float, bool]]) -> list[dict[str, Any]]:
  distances, p, top = np.array(found, float).reshape(-1, 3).T
  bucket, rows = np.searchsorted(DISTANCES, distances, side="right") - 1, []
  for number, first in enumerate(DISTANCES):
    inside = bucket == number
    means = {"p": float(p[inside].mean()), "top": float(top[inside].mean())} if inside.any() else {}
    rows.append({"from": first, "count": int(inside.sum()), "p": None, "top": None} | means)
  return rows


def _bytes_before(text: str) -> np.ndarray:
  """Return the number of UTF-8 bytes before each character, [N]. A surrogate is one byte."""
  points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
  sizes = 1 + sum((points >= bound).astype(np.int64) for bound in (0x80, 0x800, 0x10000))
  sizes[(points >= 0xDC80) & (points <= 0xDCFF)] = 1
  return np.cumsum(sizes) - sizes


def _contexts(scores: score.Scores, starts: Sequence[int] = ()) -> Iterator[tuple[int, int]]:
  """Yield the ranges of indices of adjacent tokens that begin where a context begins.

  A context also begins at each of `starts`.
  """
  is_first = ~scores.is_scored | (np.diff(scores.positions, prepend=-2) != 1)
  is_first |= np.isin(scores.positions, starts)
  yield from itertools.pairwise([*np.flatnonzero(is_first).tolist(), len(is_first)])
