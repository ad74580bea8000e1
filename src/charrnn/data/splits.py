"""Splits of a corpus into training, validation and test spans, as in three published programs.

Losses on different splits are not comparable.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from charrnn import errors


class Span(NamedTuple):
  """A half-open range of positions in a corpus."""

  start: int
  stop: int


class Splits(NamedTuple):
  train: tuple[Span, ...]
  valid: tuple[Span, ...]
  test: tuple[Span, ...]


def split(
  length: int,
  kind: str,
  valid_fraction: float,
  test_fraction: float,
  *,
  streams: int = 1,
  window: int = 1,
) -> Splits:
  """Divide `length` tokens by the split `kind` of SPLITS.

  Raise UserError for bad arguments, and if the text is too short for a split that is not empty by
  its fraction. `streams` (the rows of a batch) and `window` matter only to the kind `streams`.
  """
  if kind not in SPLITS:
    raise errors.UserError(f"no split {kind!r}: --config.text.split is one of {', '.join(SPLITS)}")
  if not (valid_fraction >= 0 and test_fraction >= 0 and valid_fraction + test_fraction < 1):
    raise errors.UserError(
      f"bad split fractions: validation {valid_fraction} and test {test_fraction} must not be "
      "negative, and must leave something to train on"
    )
  splits = SPLITS[kind](length, valid_fraction, test_fraction, streams, window)
  names, fractions = ("training", "validation", "test"), (1, valid_fraction, test_fraction)
  for name, fraction, spans in zip(names, fractions, splits):
    if fraction and not spans:
      raise errors.UserError(
        f"a text of {length} characters is too short for a {name} part ({kind} split, validation "
        f"{valid_fraction}, test {test_fraction}): use a longer text or other fractions"
      )
  return splits


def tail(length: int, valid: float, test: float, streams: int, window: int) -> Splits:
  """Split as nanoGPT's prepare.py: cut after int(train_fraction * length).

  The last split gets the odd tokens. On one text this differs from `middle` by a token or two; the
  usual fractions differ more, 90/10/0 here and 80/10/10 there.
  """
  train = int(length * _remainder(valid, test))
  return _consecutive(0, train, int(length * _remainder(test)), length)


def middle(length: int, valid: float, test: float, streams: int, window: int) -> Splits:
  """Split as torch-rnn's preprocess.py: validation and test are rounded down.

  Training gets the odd tokens.
  """
  n_valid, n_test = int(valid * length), int(test * length)
  return _consecutive(0, length - n_valid - n_test, length - n_test, length)


def stream_tails(length: int, valid: float, test: float, streams: int, window: int) -> Splits:
  """Split as char-rnn's CharSplitLMMinibatchLoader: every stream has a tail of its own.

  The text is cut into `streams` equal rows of whole windows; what remains is dropped.
  """
  windows = length // (streams * window)
  n_train = math.floor(windows * _remainder(valid, test))
  n_valid = math.floor(windows * valid) if test else windows - n_train
  cuts = [window * cut for cut in (0, n_train, n_train + n_valid, windows)]
  rows = range(0, streams * windows * window, max(1, windows * window))
  return _consecutive(*cuts, rows=rows)


SPLITS: dict[str, Callable[[int, float, float, int, int], Splits]] = {
  "tail": tail,
  "middle": middle,
  "streams": stream_tails,
}


def _remainder(*fractions: float) -> float:
  # 1 - .05 - .05 is 0.8999999999999999, which would cost one window of every hundred.
  return round(1 - sum(fractions), 12)


def _consecutive(*cuts: int, rows: Sequence[int] = (0,)) -> Splits:
  """Return splits of one span for each start of a row, or of none where two cuts coincide."""
  pairs = itertools.pairwise(cuts)
  return Splits(*(tuple(Span(r + a, r + b) for r in rows if a < b) for a, b in pairs))


def merge(spans: Iterable[tuple[int, int]]) -> list[Span]:
  """Return spans in order, with adjacent ones joined."""
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
  """Yield (document, start, stop) for each intersection of a document with the merged spans."""
  for document, span in itertools.product(documents, merge(spans)):
    start, stop = max(document.start, span.start), min(document.stop, span.stop)
    if start < stop:
      yield document, start, stop
