"""Three ways to divide a text, as three published codes did; their losses do not compare."""

import itertools
import math
from typing import NamedTuple

from charrnn import errors

KINDS = ("tail", "middle", "streams")


class Segment(NamedTuple):
  start: int
  stop: int


class Splits(NamedTuple):
  train: tuple[Segment, ...]
  valid: tuple[Segment, ...]
  test: tuple[Segment, ...]


def split(
  length: int,
  kind: str = "tail",
  valid_fraction: float = 0.1,
  test_fraction: float = 0.0,
  *,
  streams: int = 1,
  window: int = 1,
) -> Splits:
  """Divides `length` characters; `streams` and `window` matter to the kind `streams` alone.

  `tail` is nanoGPT's prepare.py: cut after int(train_fraction * length), so that the last part
  gets the odd character. `middle` is torch-rnn's preprocess.py: validation before test too, but
  both are rounded down and training gets the odd characters. On one text the two differ by a
  character or two; what differs in earnest is the custom, 90/10/0 against 80/10/10. `streams` is
  char-rnn's loader, where every stream has a tail of its own.
  """
  _check(kind, valid_fraction, test_fraction)
  if kind == "tail":
    splits = _tail(length, valid_fraction, test_fraction)
  elif kind == "middle":
    splits = _middle(length, valid_fraction, test_fraction)
  else:
    splits = _streams(length, valid_fraction, test_fraction, streams, window)
  fractions = (1, valid_fraction, test_fraction)
  for name, fraction, segments in zip(Splits._fields, fractions, splits):
    if fraction and not segments:
      raise errors.UserError(
        f"a text of {length} characters is too short for a {name} part ({kind} split, valid "
        f"{valid_fraction}, test {test_fraction}): use a longer text or other fractions"
      )
  return splits


def _check(kind: str, valid_fraction: float, test_fraction: float):
  if kind not in KINDS:
    raise errors.UserError(f"no split {kind!r}: --config.text.split is one of {', '.join(KINDS)}")
  if not (valid_fraction >= 0 and test_fraction >= 0 and valid_fraction + test_fraction < 1):
    raise errors.UserError(
      f"bad split fractions: valid {valid_fraction} and test {test_fraction} must not be "
      "negative, and must leave something to train on"
    )


def _remainder(*fractions: float) -> float:
  # 1 - .05 - .05 is 0.8999999999999999, which would cost a window of every hundred.
  return round(1 - sum(fractions), 12)


def _between(*cuts: int) -> Splits:
  """Splits of one segment each, or of none where two cuts coincide."""
  pairs = itertools.pairwise(cuts)
  return Splits(*(((Segment(*pair),) if pair[0] < pair[1] else ()) for pair in pairs))


def _tail(length: int, valid_fraction: float, test_fraction: float) -> Splits:
  train = int(length * _remainder(valid_fraction, test_fraction))
  return _between(0, train, int(length * _remainder(test_fraction)), length)


def _middle(length: int, valid_fraction: float, test_fraction: float) -> Splits:
  valid, test = int(valid_fraction * length), int(test_fraction * length)
  return _between(0, length - valid - test, length - test, length)


def _streams(
  length: int, valid_fraction: float, test_fraction: float, streams: int, window: int
) -> Splits:
  """char-rnn's CharSplitLMMinibatchLoader: whole windows of B equal rows, the rest cut off."""
  windows = length // (streams * window)
  train = math.floor(windows * _remainder(valid_fraction, test_fraction))
  valid = math.floor(windows * valid_fraction) if test_fraction else windows - train
  cuts = [window * cut for cut in (0, train, train + valid, windows)]
  rows = range(0, streams * windows * window, max(1, windows * window))
  parts = (
    tuple(Segment(row + start, row + stop) for row in rows if start < stop)
    for start, stop in itertools.pairwise(cuts)
  )
  return Splits(*parts)
