"""Error analysis: oracles that remove a model's errors type by type (arXiv 1506.02078).

A character is an error if the model gives it p < 0.5. Each error is counted once, under the first
type that applies:

  n-gram         an n-gram model of the training text, n = 1 to 9, gives the character p > 0.5
  memory n       the character is inside a word, not its first character, and the word occurs in the
                 n characters before it: n = 100, then 500, 1,000, 5,000
  rare word      the character is in a word that occurs at most 5 times in the training text
  word start     the character begins a word, or follows white space or a double quote
  punctuation    the character is neither white space nor a letter, digit or underscore
  boost b        p + b is at least 0.5: b = 0.1, then 0.2, 0.3, 0.4, 0.5

The types and their order are the paper's. The paper does not specify the following choices. A word
is a run of letters, digits and underscores, and may contain single apostrophes. Words are
case-sensitive. An occurrence inside a longer word counts. N-grams use modified Kneser-Ney
smoothing. A byte vocabulary is decoded as Latin-1.
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
  """Statistics of the training text that the oracles use."""

  tokens: tuple[str, ...]
  ngrams: ngram.NGram
  words: collections.Counter


def count_training(ids, spans: Sequence[tuple[int, int]], tokens: tuple[str, ...]) -> Training:
  """Count the n-grams and words of the training text, the tokens in `spans`."""
  words = collections.Counter()
  for start, stop in spans:
    words.update(_WORD.findall(_text(ids[start:stop], tokens)))
  order = min(ORDER, max(stop - start for start, stop in spans))
  return Training(tokens, ngram.fit(ids, order, len(tokens), spans), words)


def classify(training: Training, ids, positions, p, starts: Sequence[int]) -> np.ndarray:
  """Return the index in TYPES of each character's error, or NONE: [N].

  `positions` [N] are increasing positions in `ids`. `p` [N] has the model's probabilities, NaN for
  characters without a prediction. Oracles do not look back beyond the start of a document
  (`starts`).
  """
  types = np.full(len(positions), NONE)
  cuts = np.flatnonzero((np.diff(positions, prepend=-2) != 1) | np.isin(positions, starts))
  starts, spans, contexts = np.sort(starts), [], []
  for low, high in itertools.pairwise([*cuts, len(positions)]):
    first, stop = int(positions[low]), int(positions[high - 1]) + 1
    start = int(starts[np.searchsorted(starts, first, side="right") - 1])
    # Twice the longest memory, because the first word of the span may begin before the span.
    contexts.append(min(first - start, 2 * MEMORY[-1]))
    spans.append((first - contexts[-1], stop))
  if not spans:
    return types
  # The greatest p of any n-gram for each character. One call scores all spans, because a pass over
  # the counts costs more than a pass over a short text.
  greatest = functools.reduce(np.maximum, training.ngrams.by_order(ids, spans))
  ends = np.cumsum([stop - start for start, stop in spans])
  for low, context, (start, stop), end in zip(cuts, contexts, spans, ends):
    places = slice(low, low + stop - start - context)
    ngrams = greatest[end - (stop - start) + context : end]
    types[places] = _classify(training, ids[start:stop], context, ngrams, p[places])
  return types


def _classify(training, ids, context, ngrams, p):
  """Return the types of a text's characters after the first `context` ones."""
  text = _text(ids, training.tokens)
  distance, occurrences, is_start = _words(text, context, training.words)
  follows = [False, *(c.isspace() or c in _QUOTES for c in text[:-1])]
  is_start |= np.array(follows)[context:]
  removed = [ngrams > 0.5, *(distance <= n for n in MEMORY), occurrences <= RARE, is_start]
  removed.append(np.array([not (c.isspace() or c == "_" or c.isalnum()) for c in text[context:]]))
  removed += [p >= 0.5 - b for b in BOOST]
  return np.where(p < 0.5, np.select(removed, range(len(TYPES)), NONE), NONE)


def _words(text, context, counts):
  """Return three arrays about the word that each character after the context belongs to.

  They are the distance to the word's last occurrence (infinite for its first character, or if there
  is none), its count in the training text, and whether the character begins the word.
  """
  distance, occurrences = np.full((2, len(text)), np.inf)
  is_start = np.zeros(len(text), bool)
  for match in _WORD.finditer(text):
    low, high = match.span()
    if high > context:
      last = text.rfind(match[0], max(0, low - MEMORY[-1]), low)
      distance[low + 1 : high] = low - last if last >= 0 else np.inf
      occurrences[low:high] = counts[match[0]]
      is_start[low] = True
  return distance[context:], occurrences[context:], is_start[context:]


def _text(ids, tokens) -> str:
  """Return the text of `ids`, one code point for each id, also for a byte vocabulary."""
  points = np.array([ord(token) for token in tokens], "<u4")
  return points[np.asarray(ids)].tobytes().decode("utf-32-le", "surrogatepass")


def table(types: np.ndarray, scored: int) -> dict[str, Any]:
  """Return the number of errors of each type, and its share of all errors, as JSON."""
  counts = np.bincount(types[types != NONE], minlength=len(TYPES)).tolist()
  total = sum(counts)
  rows = [
    {"type": name, "count": count, "share": count / total if total else 0.0}
    for name, count in zip(TYPES, counts)
  ]
  return {"characters": scored, "errors": total, "types": rows}


def lines(counts: dict[str, Any]) -> Iterator[str]:
  """Yield a table in plain text; "remaining" is the share of errors in the rows below."""
  total, remaining = counts["errors"], counts["errors"]
  share = total / max(counts["characters"], 1)
  yield f"{total:,} errors (p < 0.5) in {counts['characters']:,} characters, {share:.1%}"
  yield f"  {'type':<14}{'errors':>10}{'share':>8}{'remaining':>11}"
  for row in counts["types"]:
    remaining -= row["count"]
    part = remaining / max(total, 1)
    yield f"  {row['type']:<14}{row['count']:>10,}{row['share']:>8.1%}{part:>11.1%}"
