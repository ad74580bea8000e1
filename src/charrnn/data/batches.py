"""Training windows as a function of the step alone, and windows that score each token once.

B: streams, the rows of a batch; T: window; N: tokens of the corpus.
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.data import splits


def check_length(length: int, batch: int, window: int):
  """Raise UserError if a training text is shorter than what one step reads."""
  if length < batch * window:
    raise errors.UserError(
      f"{length} characters to train on are fewer than one step reads, {batch} "
      f"streams x {window} characters: use a longer text, a smaller batch or window"
    )


class TrainingWindows:
  """The training text as a circle that B equally spaced streams read without a jump.

  The spans are concatenated to n tokens; after the last comes the first. At step s stream b reads
  T tokens from b * n // B + s * T on, so its carry stays valid forever. Each token is read once in
  an epoch of n / (B * T) steps. That is rarely a whole number: windows shift from epoch to epoch.
  """

  def __init__(self, ids: np.ndarray, spans: Sequence[splits.Span], batch: int, window: int):
    self._ids_N, self.batch, self._window = np.asarray(ids), batch, window
    self._length = sum(stop - start for start, stop in spans)
    check_length(self._length, batch, window)
    self.steps_per_epoch = self._length / (batch * window)
    # The end of each span on the circle, and its shift: the position in the text minus this.
    self._stops = np.cumsum([stop - start for start, stop in spans], dtype=np.int64)
    self._shifts = np.array([stop for _, stop in spans], np.int64) - self._stops

  def window_at(self, step: int, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of the streams `rows` at a step: x_TxB, y_TxB, int32."""
    starts_B = np.arange(self.batch, dtype=np.int64)[rows] * self._length // self.batch
    offsets_T = int(step) * self._window % self._length + np.arange(self._window + 1)
    positions_TxB = (offsets_T[:, None] + starts_B) % self._length
    is_single = len(self._stops) == 1  # the usual case, in which the search would take most time
    span = 0 if is_single else np.searchsorted(self._stops, positions_TxB, side="right")
    ids_TxB = self._ids_N[positions_TxB + self._shifts[span]].astype(np.int32)
    return ids_TxB[:-1], ids_TxB[1:]


class ScoringWindow(NamedTuple):
  """Inputs and targets of a window, [T, B] each."""

  x: np.ndarray  # int32
  y: np.ndarray  # int32
  weight: np.ndarray  # float32: 1 for a target that is scored, 0 for all others
  positions: np.ndarray  # of the targets in the text; meaningless where a stream is done


def scoring_windows(
  ids: np.ndarray,
  spans: Sequence[tuple[int, int]],
  streams: int,
  window: int,
  burn_in: int = 0,
  starts: Sequence[int] = (0,),
) -> Iterator[ScoringWindow]:
  """Yield windows that score the spans once.

  Every token of `scorable_spans` is a target of weight 1 exactly once. Each span gets streams in
  proportion to its length: at least one, and none shorter than a window where the span allows it;
  about `streams` in all. The order of the streams is that of the text. A stream first reads up to
  `burn_in` earlier tokens at weight 0; they may lie before the span, but not before a document's
  start (`starts`, 0 is one). Streams that are done read id 0 at weight 0.
  """
  edges, scorable = [], list(scorable_spans(spans, starts))
  total = sum(stop - start for start, stop in scorable)
  for start, stop in scorable:
    size = stop - start
    count = max(1, min(size // window, round(streams * size / total)))
    edges.append(start + np.arange(count + 1, dtype=np.int64) * size // count)
  if not edges:
    return
  # The first target of each stream, and the position after its last.
  lows_B = np.concatenate([edge[:-1] for edge in edges])
  highs_B = np.concatenate([edge[1:] for edge in edges])
  ids, starts = np.asarray(ids), np.sort(starts)
  starts_B = starts[np.searchsorted(starts, lows_B) - 1]
  firsts_B = np.maximum(lows_B - burn_in, starts_B + 1)  # the first target, scored or not
  for offset in range(0, int(np.max(highs_B - firsts_B)), window):
    positions_TxB = firsts_B + np.arange(offset, offset + window)[:, None]
    is_read_TxB = positions_TxB < highs_B
    positions_TxB = np.where(is_read_TxB, positions_TxB, 1)
    x_TxB = np.where(is_read_TxB, ids[positions_TxB - 1], 0).astype(np.int32)
    y_TxB = np.where(is_read_TxB, ids[positions_TxB], 0).astype(np.int32)
    weight_TxB = (is_read_TxB & (positions_TxB >= lows_B)).astype(np.float32)
    yield ScoringWindow(x_TxB, y_TxB, weight_TxB, positions_TxB)


def scorable_spans(
  spans: Sequence[tuple[int, int]], starts: Sequence[int] = (0,)
) -> Iterator[splits.Span]:
  """Yield the spans cut at the document starts, of which 0 is one, without the first tokens.

  The first token of a document has no predecessor to predict it from.
  """
  starts = sorted(starts)
  first_positions = set(starts)
  for start, stop in spans:
    inside = starts[bisect.bisect_right(starts, start) : bisect.bisect_left(starts, stop)]
    for low, high in itertools.pairwise([start, *inside, stop]):
      first = low + (low in first_positions)
      if first < high:
        yield splits.Span(first, high)
