"""Split a corpus into training, validation and test spans, as three published programs do.

Losses on different splits are not comparable.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from charrnn import errors


class Span(NamedTuple):
  """A half-open range of positions in a corpus."""

  start: int
  stop: int


class Splits(NamedTuple):
  """The spans of the training, validation and test splits; a split may be empty."""

  train: tuple[Span, ...]
  valid: tuple[Span, ...]
  test: tuple[Span, ...]

  def map(self, positions: Mapping[int, int]) -> "Splits":
    """Return the splits with every position replaced; spans without a token are dropped."""
    moved = ([(positions[start], positions[stop]) for start, stop in spans] for spans in self)
    return Splits(*(tuple(Span(a, b) for a, b in spans if a < b) for spans in moved))


def split(
  length: int,
  kind: str,
  valid_fraction: float,
  test_fraction: float,
  *,
  streams: int = 1,
  window: int = 1,
) -> Splits:
  """Split `length` tokens by one of the kinds in SPLITS.

  `streams` (the number of rows in a batch) and `window` affect only the kind `streams`. Raise
  UserError for invalid arguments, and if the text is so short that a split with a positive fraction
  would be empty.
  """
  check(kind, valid_fraction, test_fraction)
  splits = SPLITS[kind](length, valid_fraction, test_fraction, streams, window)
  names, fractions = ("training", "validation", "test"), (1, valid_fraction, test_fraction)
  for name, fraction, spans in zip(names, fractions, splits):
    if fraction and not spans:
      raise errors.UserError(
        f"a text of {errors.plural(length, 'token')} is too short for a {name} split "
        f"(text.split={kind}, validation {valid_fraction}, test {test_fraction}): use a longer "
        "text or other fractions"
      )
  return splits


def check(kind: str, valid_fraction: float, test_fraction: float):
  """Raise UserError for an unknown kind, or for fractions that are out of range."""
  if kind not in SPLITS:
    raise errors.UserError(f"--config.text.split={kind}: use one of {', '.join(SPLITS)}")
  if not (valid_fraction >= 0 and test_fraction >= 0 and valid_fraction + test_fraction < 1):
    raise errors.UserError(
      f"--config.text.valid_fraction={valid_fraction} and --config.text.test_fraction="
      f"{test_fraction}: both must be at least 0, and their sum must be below 1"
    )


def tail(length: int, valid: float, test: float, streams: int, window: int) -> Splits:
  """Split like nanoGPT's prepare.py: training is the first int(train_fraction * length) tokens.

  The last split gets the tokens that remain after rounding. With equal fractions the result differs
  from `middle` by one or two tokens. The published fractions differ: 90/10/0 in nanoGPT, 80/10/10
  in torch-rnn.
  """
  train = int(length * _remainder(valid, test))
  return consecutive(0, train, int(length * _remainder(test)), length)


def middle(length: int, valid: float, test: float, streams: int, window: int) -> Splits:
  """Split like torch-rnn's preprocess.py: round the sizes of validation and test down.

  Training gets the tokens that remain after rounding.
  """
  n_valid, n_test = int(valid * length), int(test * length)
  return consecutive(0, length - n_valid - n_test, length - n_test, length)


def stream_tails(length: int, valid: float, test: float, streams: int, window: int) -> Splits:
  """Split like char-rnn's CharSplitLMMinibatchLoader: split every stream separately.

  Divide the text into `streams` rows with the same whole number of windows; drop the remainder.
  The first windows of each row are for training, and the last for validation and test.
  """
  windows = length // (streams * window)
  n_train = math.floor(windows * _remainder(valid, test))
  n_valid = math.floor(windows * valid) if test else windows - n_train
  cuts = [window * cut for cut in (0, n_train, n_train + n_valid, windows)]
  rows = range(0, streams * windows * window, max(1, windows * window))
  return consecutive(*cuts, rows=rows)


SPLITS: dict[str, Callable[[int, float, float, int, int], Splits]] = {
  "tail": tail,
  "middle": middle,
  "streams": stream_tails,
}


def _remainder(*fractions: float) -> float:
  # 1 - .05 - .05 is 0.8999999999999999: without rounding, 100 windows would give 89 for training.
  return round(1 - sum(fractions), 12)


def consecutive(*cuts: int, rows: Sequence[int] = (0,)) -> Splits:
  """Return splits with a span between adjacent cuts in each row; omit empty spans.

  `rows` are the positions at which the rows start; `cuts` are relative to them.
  """
  pairs = itertools.pairwise(cuts)
  return Splits(*(tuple(Span(r + a, r + b) for r in rows if a < b) for a, b in pairs))


def merge(spans: Iterable[tuple[int, int]]) -> list[Span]:
  """Return the spans sorted by position, with adjacent spans merged."""
  merged: list[Span] = []
  for start, stop in sorted(spans):
    if merged and merged[-1].stop == start:
      merged[-1] = Span(merged[-1].start, stop)
    else:
      merged.append(Span(start, stop))
  return merged


def intersect(
  documents: Sequence[Any], spans: Iterable[tuple[int, int]]
) -> Iterator[tuple[Any, int, int]]:
  """Yield (document, start, stop) for each intersection of a document with the merged spans.

  The documents are in the order of their positions. They are looked up one by one, because a corpus
  may have millions of them.
  """
  for span in merge(spans):
    first = bisect.bisect_right(documents, span.start, key=lambda document: document.stop)
    for number in range(first, len(documents)):
      if (document := documents[number]).start >= span.stop:
        break
      yield document, max(document.start, span.start), min(document.stop, span.stop)
