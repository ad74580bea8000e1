"""What of a text stands in the training text too: the longest match at every position.

Both are sorted together in one suffix array. The suffix of the training text that agrees longest
with a given one of the text is its nearest neighbour from the training text, on either side.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pydivsufsort

from charrnn.runs import held_out
from charrnn.scorecards import card

SIZES = (5, 10, 15, 20, 30)  # characters, of the n-grams that may be novel
_TRAINING_END, _TEXT_END, _FIRST = 0, 1, 2  # codes: what occurs in one text only matches nothing


class Matches(NamedTuple):
  """The longest match from each of N characters on, and its place in the training text: int [N].

  A place is -1 where not even one character matches.
  """

  lengths: np.ndarray
  places: np.ndarray


class Copy(NamedTuple):
  """A passage of the training text, and where in that it stands; lines count from 1."""

  text: str
  length: int
  position: int  # in the text
  place: int  # in the training text
  document: str
  line: int
  sample: int = 1  # the number of the text, of several


def matches(training: str, texts: Sequence[str]) -> list[Matches]:
  """For each text; one call for all, since sorting the training text is most of the work.

  5 million characters take a second and about 50 bytes each, or two where more than 254 of them
  are different.
  """
  codes = _coded(training, texts)
  lengths, places = _longest(codes, len(training))
  stops = np.cumsum([len(text) + 1 for text in texts]).tolist()
  spans = [(stop - len(text) - 1, stop - 1) for text, stop in zip(texts, stops)]
  return [Matches(lengths[slice(*span)], places[slice(*span)]) for span in spans]


def _coded(training: str, texts: Iterable[str]) -> np.ndarray:
  """The training text, its end, and each text and its end, in the smallest integers that do."""
  points = [_points(text) for text in (training, *texts)]
  alphabet = np.unique(np.concatenate([np.unique(part) for part in points]))
  dtype = np.min_scalar_type(len(alphabet) + _FIRST - 1)
  ends = [_TRAINING_END] + [_TEXT_END] * (len(points) - 1)
  parts = []
  for part, end in zip(points, ends):
    parts += [(np.searchsorted(alphabet, part) + _FIRST).astype(dtype), np.array([end], dtype)]
  return np.concatenate(parts)


def _points(text: str) -> np.ndarray:
  return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _longest(codes: np.ndarray, training: int) -> tuple[np.ndarray, np.ndarray]:
  """Lengths and places for all that follows the training text and its end."""
  order = pydivsufsort.divsufsort(codes)
  inside = order < training
  ranks = np.arange(len(order), dtype=order.dtype)
  below = np.maximum.accumulate(np.where(inside, ranks, -1))
  above = np.minimum.accumulate(np.where(inside, ranks, len(order))[::-1])[::-1]
  rows = np.flatnonzero(order > training)
  places = np.full((2, len(codes) - training - 1), -1, np.int64)
  for neighbours, side in zip((below, above), places):
    near = neighbours[rows]
    there = (near >= 0) & (near < len(order))
    side[order[rows[there]] - training - 1] = order[near[there]]
  lengths = np.array([_agreement(codes, training + 1, side) for side in places])
  best = lengths.argmax(0), np.arange(lengths.shape[1])
  return lengths[best], np.where(lengths[best] > 0, places[best], -1)


def _agreement(codes: np.ndarray, start: int, places: np.ndarray) -> np.ndarray:
  """How many codes agree from start + i and places[i] on, for all i.

  At i + 1 they are at most one less (Kasai et al. 2001), so that no code is compared twice.
  """
  symbols, lengths, length = codes.data, np.zeros(len(places), np.int64), 0
  for i, place in enumerate(places.tolist()):
    length = max(length - 1, 0) if place >= 0 else 0
    if place >= 0:
      here = start + i
      while symbols[here + length] == symbols[place + length]:
        length += 1
    lengths[i] = length
  return lengths


def novel(found: Matches, size: int) -> np.ndarray:
  """Of each sequence of `size` characters, whether training has it nowhere: bool [N - size + 1]."""
  return found.lengths[: max(0, len(found.lengths) - size + 1)] < size


def longest(
  texts: Sequence[str], found: Sequence[Matches], training: held_out.Text, count: int = 5
) -> list[Copy]:
  """The longest of `copies` in all the texts, each passage once."""
  every = [
    copy._replace(sample=sample)
    for sample, (text, matches) in enumerate(zip(texts, found), 1)
    for copy in copies(text, matches, training, count)
  ]
  every.sort(key=lambda copy: (-copy.length, copy.sample, copy.position))
  kept: dict[str, Copy] = {}
  for copy in every:
    kept.setdefault(copy.text, copy)
  return list(kept.values())[:count]


def copies(text: str, found: Matches, training: held_out.Text, count: int = 5) -> list[Copy]:
  """The longest passages that the text shares with the training text, no two of them overlapping.

  A passage that occurs there several times is given at one of its places.
  """
  taken, kept = np.zeros(len(text), bool), []
  for start in np.argsort(-found.lengths, kind="stable").tolist():
    length, place = int(found.lengths[start]), int(found.places[start])
    if len(kept) == count or not length:
      break
    # Those taken are no shorter: one that overlaps holds an end of this one.
    if taken[start] or taken[start + length - 1]:
      continue
    taken[start : start + length] = True
    kept.append(Copy(text[start : start + length], length, start, place, *_source(training, place)))
  return kept


def _source(training: held_out.Text, place: int) -> tuple[str, int]:
  """The document and the line that a place of the training text is in."""
  passage = next(each for each in training.passages if each.start <= place < each.stop)
  return passage.name, passage.line + training.text.count("\n", passage.start, place)


def _novelty(size: int) -> card.Figure:
  meaning = f"sequences of {size} characters that the training text does not have"
  return card.Figure(f"novel {size}-grams", card.SHARE, meaning, lambda found: novel(found, size))


FIGURES = (
  card.Figure(
    "longest match",
    card.MEAN,
    "characters that go on as somewhere in the training text, from each one on",
    lambda found: found.lengths,
  ),
  *map(_novelty, SIZES),
)
