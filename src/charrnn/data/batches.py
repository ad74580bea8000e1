"""Windows for training, computed from the step number alone, and windows for evaluation.

Shapes: B streams (the rows of a batch), T tokens in a window, N tokens in the corpus.
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.data import splits


def check_length(length: int, batch: int, window: int):
  """Raise UserError if the training text is shorter than one batch of windows."""
  if length < batch * window:
    raise errors.UserError(
      f"the training split has {errors.plural(length, 'token')}, fewer than one step reads "
      f"({batch} streams x {window} tokens): use a longer text, or a smaller batch_size or window"
    )


class TrainingWindows:
  """Training windows: B equally spaced streams that read the text contiguously and cyclically.

  The spans are concatenated to n tokens, and the first token follows the last. At step s, stream b
  reads T tokens from position b * n // B + s * T. A stream jumps only from one span to the next
  and from the end to the beginning, and keeps its carry when it jumps. An epoch is n / (B * T)
  steps and reads each token once. This number is rarely whole, so the windows start at different
  positions in each epoch.
  """

  def __init__(self, ids: np.ndarray, spans: Sequence[splits.Span], batch: int, window: int):
    self._ids_N, self.batch, self._window = np.asarray(ids), batch, window
    self._length = sum(stop - start for start, stop in spans)
    check_length(self._length, batch, window)
    self.steps_per_epoch = self._length / (batch * window)
    # For each span: its end in the concatenation, and the offset to add to get corpus positions.
    self._stops = np.cumsum([stop - start for start, stop in spans], dtype=np.int64)
    self._shifts = np.array([stop for _, stop in spans], np.int64) - self._stops

  def window_at(self, step: int, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs and targets of the streams `rows` at a step: x_TxB and y_TxB, int32."""
    starts_B = np.arange(self.batch, dtype=np.int64)[rows] * self._length // self.batch
    offsets_T = int(step) * self._window % self._length + np.arange(self._window + 1)
    positions_TxB = (offsets_T[:, None] + starts_B) % self._length
    is_single = len(self._stops) == 1  # The most common case; here the search would dominate.
    span = 0 if is_single else np.searchsorted(self._stops, positions_TxB, side="right")
    ids_TxB = self._ids_N[positions_TxB + self._shifts[span]].astype(np.int32)
    return ids_TxB[:-1], ids_TxB[1:]


class ScoringWindow(NamedTuple):
  """Inputs and targets of one window; all arrays are [T, B]."""

  x: np.ndarray  # int32
  y: np.ndarray  # int32
  weight: np.ndarray  # float32: 1 for each scored target, 0 for all others
  positions: np.ndarray  # positions of the targets in the text; undefined after a stream's end


def scoring_windows(
  ids: np.ndarray,
  spans: Sequence[tuple[int, int]],
  streams: int,
  window: int,
  burn_in: int = 0,
  starts: Sequence[int] = (0,),
) -> Iterator[ScoringWindow]:
  """Yield windows that together score every token of the spans once.

  Every token of `scorable_spans` is a target with weight 1 exactly once. There are about `streams`
  streams in total, in text order. Each span gets a number of streams in proportion to its length:
  at least one, and at most one per whole window. A stream first reads up to `burn_in` preceding
  tokens with weight 0. These may precede the span, but not the start of the document. `starts` are
  the starts of documents; 0 is always one. After its end a stream reads id 0 with weight 0.
  """
  edges, scorable = [], list(scorable_spans(spans, starts))
  total = sum(stop - start for start, stop in scorable)
  for start, stop in scorable:
    size = stop - start
    count = max(1, min(size // window, round(streams * size / total)))
    edges.append(start + np.arange(count + 1, dtype=np.int64) * size // count)
  if not edges:
    return
  # The first scored target of each stream, and the position after the last one.
  lows_B = np.concatenate([edge[:-1] for edge in edges])
  highs_B = np.concatenate([edge[1:] for edge in edges])
  ids, starts = np.asarray(ids), np.sort(starts)
  starts_B = starts[np.searchsorted(starts, lows_B) - 1]
  firsts_B = np.maximum(lows_B - burn_in, starts_B + 1)  # first targets, including the burn-in
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
  """Yield the spans, split at document starts, without the first token of each document.

  That token has no predecessor to predict it from. Position 0 is always a document start.
  """
  starts = sorted(starts)
  first_positions = set(starts)
  for start, stop in spans:
    inside = starts[bisect.bisect_right(starts, start) : bisect.bisect_left(starts, stop)]
    for low, high in itertools.pairwise([start, *inside, stop]):
      first = low + (low in first_positions)
      if first < high:
        yield splits.Span(first, high)
