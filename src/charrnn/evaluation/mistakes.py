"""Why a model errs: oracles take its errors away, one after another (arXiv 1506.02078).

A character is an error where the model gave it p < 0.5. Each error is counted once, under the first
of these that takes it away:

  n-gram         one of the n-grams of n = 1 to 9 characters, counted on the training text, gave the
                 character p > 0.5
  memory n       the word that it is in, from its second character on, stands somewhere in the n
                 characters before that word: n = 100, then 500, 1,000, 5,000
  rare word      the word that it is in occurs at most 5 times in the training text
  word start     it begins a word, or comes after white space or a double quote
  punctuation    it is neither white space nor a letter, digit or underscore
  boost b        p + b is at least 0.5: b = 0.1, then 0.2, 0.3, 0.4, 0.5

The order matters, and it is the paper's. Left open there, and decided here: a word is a run of
letters, digits and underscores, with single apostrophes inside; upper case is another word; it is
found in the n characters also as a part of a longer word; the n-grams are ours (modified
Kneser-Ney). Words of a byte alphabet are read as Latin-1.
"""

import collections
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from charrnn.models import ngram

ORDER = 9
MEMORY = (100, 500, 1000, 5000)
RARE = 5
BOOST = (0.1, 0.2, 0.3, 0.4, 0.5)
TYPES = (
  "n-gram",
  *(f"memory {n}" for n in MEMORY),
  "rare word",
  "word start",
  "punctuation",
  *(f"boost {b}" for b in BOOST),
)
NONE = -1  # no error
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_QUOTES = frozenset('"“”„«»')


class Training(NamedTuple):
  """What the oracles know of the training text."""

  symbols: tuple[str, ...]
  ngrams: ngram.NGram
  words: collections.Counter


def learn(ids, segments: Sequence[tuple[int, int]], symbols: tuple[str, ...]) -> Training:
  words = collections.Counter()
  for start, stop in segments:
    words.update(_WORD.findall(_text(ids[start:stop], symbols)))
  order = min(ORDER, max(stop - start for start, stop in segments))
  return Training(symbols, ngram.fit(ids, order, len(symbols), segments), words)


def types(training: Training, ids, places, p, begins: Sequence[int]) -> np.ndarray:
  """For the characters at `places` (rising) of a text the number of their type, or NONE: [N].

  p [N]: what the model gave them, NaN where it was not asked. No oracle looks back beyond a place
  in `begins`.
  """
  found = np.full(len(places), NONE)
  cuts = np.flatnonzero((np.diff(places, prepend=-2) != 1) | np.isin(places, begins))
  begins, spans, befores = np.sort(begins), [], []
  for low, high in itertools.pairwise([*cuts, len(places)]):
    first, stop = int(places[low]), int(places[high - 1]) + 1
    begin = int(begins[np.searchsorted(begins, first, side="right") - 1])
    # So that a word that first is in has its memory.
    befores.append(min(first - begin, 2 * MEMORY[-1]))
    spans.append((first - befores[-1], stop))
  if not spans:
    return found
  # The greatest p that any of the n-grams gives each character, of all spans at once: a pass over
  # the counts costs more than one over a short text.
  greatest = functools.reduce(np.maximum, training.ngrams.by_order(ids, spans))
  ends = np.cumsum([stop - start for start, stop in spans])
  for low, before, (start, stop), end in zip(cuts, befores, spans, ends):
    given = slice(low, low + stop - start - before)
    ngrams = greatest[end - (stop - start) + before : end]
    found[given] = _types(training, ids[start:stop], before, ngrams, p[given])
  return found


def _types(training, ids, before, ngrams, p):
  """Of a text from character `before` on, each by the first oracle that takes it away."""
  text = _text(ids, training.symbols)
  taken = [ngrams > 0.5]
  distance, occurrences, start = _words(text, before, training.words)
  taken += [distance <= n for n in MEMORY]
  taken += [occurrences <= RARE, start | _after(text, before)]
  taken += [np.array([not (c.isspace() or c == "_" or c.isalnum()) for c in text[before:]])]
  taken += [p >= 0.5 - b for b in BOOST]
  return np.where(p < 0.5, np.select(taken, range(len(TYPES)), NONE), NONE)


def _words(text, before, counts):
  """Of the word each character is in: how far back it is found, from its second character on; how
  often it was trained on; and whether the character begins it.
  """
  distance, occurrences = np.full((2, len(text)), np.inf)
  start = np.zeros(len(text), bool)
  for match in _WORD.finditer(text):
    low, high = match.span()
    if high > before:
      at = text.rfind(match[0], max(0, low - MEMORY[-1]), low)
      distance[low + 1 : high] = low - at if at >= 0 else np.inf
      occurrences[low:high] = counts[match[0]]
      start[low] = True
  return distance[before:], occurrences[before:], start[before:]


def _after(text, before):
  """Whether what stands before each character is white space or a double quote."""
  after = [False, *(c.isspace() or c in _QUOTES for c in text[:-1])]
  return np.array(after)[before:]


def _text(ids, symbols) -> str:
  """One code point for each id, also of a byte alphabet."""
  points = np.array([ord(symbol) for symbol in symbols], "<u4")
  return points[np.asarray(ids)].tobytes().decode("utf-32-le", "surrogatepass")


def table(found: np.ndarray, scored: int) -> dict[str, Any]:
  """How many errors of each type there are, and their shares of all errors."""
  counts = np.bincount(found[found != NONE], minlength=len(TYPES)).tolist()
  total = sum(counts)
  rows = [
    {"type": name, "count": count, "share": count / total if total else 0.0}
    for name, count in zip(TYPES, counts)
  ]
  return {"characters": scored, "errors": total, "types": rows}


def lines(counted: dict[str, Any]) -> Iterator[str]:
  """The table for people; `left`: of all errors, those that remain after it."""
  total, left = counted["errors"], counted["errors"]
  share = total / max(counted["characters"], 1)
  yield f"{total:,} errors (p < 0.5) in {counted['characters']:,} characters, {share:.1%}"
  yield f"  {'type':<14}{'errors':>10}{'share':>8}{'left':>8}"
  for row in counted["types"]:
    left -= row["count"]
    yield (
      f"  {row['type']:<14}{row['count']:>10,}{row['share']:>8.1%}{left / max(total, 1):>8.1%}"
    )
