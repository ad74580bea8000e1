"""Windows for training, computed from the step number alone, and windows for evaluation.

Shapes: B streams (the rows of a batch), T tokens in a window, N tokens in the corpus.
"""

import bisect
import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.data import documents as documents_lib
from charrnn.data import splits

CHUNK = 1 << 18  # tokens whose positions `DocumentWindows` computes at once


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


class DocumentWindows:
  """Training windows of a text of documents: B streams that read one document after another.

  In each epoch, the documents are in another order, which depends only on the seed. A stream that
  has read a document to its end takes the next one of the epoch, and after the last one the first
  one of the next epoch. No document is divided. Each stream begins with END.
  """

  def __init__(
    self,
    ids: np.ndarray,
    spans: Sequence[splits.Span],
    batch: int,
    window: int,
    *,
    end_id: int,
    seed: int,
  ):
    self._ids_N, self.batch, self._window, self._seed = np.asarray(ids), batch, window, seed
    self._bounds = documents_lib.Bounds.of(ids, end_id).within(spans)
    self._lengths_D = self._bounds.lengths
    length = int(self._lengths_D.sum())
    check_length(length, batch, window)
    self.steps_per_epoch = length / (batch * window)
    self._steps = max(1, CHUNK // (batch * window))  # number of steps of a chunk
    self._restart()

  def _restart(self):
    """Return to the first step."""
    self._chunk, self._positions_TxB = -1, np.zeros((0, self.batch), np.int64)
    self._epoch, self._waiting = 0, iter(())
    # Each item is stop * B + stream: the position in a stream at which its last document stops.
    self._stops = list(range(self.batch))
    # The documents of the streams that the next chunk reads: (stream, position in it, document).
    self._reading: list[tuple[int, int, int]] = []

  def window_at(self, step: int, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs and targets of the streams `rows` at a step: x_TxB and y_TxB, int32."""
    chunk, step = divmod(int(step), self._steps)
    if chunk < self._chunk:
      self._restart()
    while self._chunk < chunk:
      self._read_chunk(is_used=self._chunk + 1 == chunk)
    offset = step * self._window
    positions_TxB = self._positions_TxB[offset : offset + self._window + 1, rows]
    ids_TxB = self._ids_N[positions_TxB].astype(np.int32)
    return ids_TxB[:-1], ids_TxB[1:]

  def _read_chunk(self, is_used: bool):
    """Advance by a chunk; compute the positions of its tokens, and of the ones before it."""
    self._chunk += 1
    size = self._steps * self._window
    first, last = self._chunk * size, (self._chunk + 1) * size
    while (stop := self._stops[0] // self.batch) < last:
      stream = self._stops[0] % self.batch
      if (document := next(self._waiting, None)) is None:
        order = documents_lib.permutation(len(self._lengths_D), self._seed, self._epoch)
        self._epoch, self._waiting = self._epoch + 1, iter(order.tolist())
        continue
      self._reading.append((stream, stop, document))
      heapq.heapreplace(self._stops, self._stops[0] + int(self._lengths_D[document]) * self.batch)
    streams, begins, documents = np.array(self._reading, np.int64).T
    if is_used:
      self._positions_TxB = self._positions(first, last, streams, begins, documents)
    # The next chunk begins with the last token of this one.
    remains = begins + self._lengths_D[documents] >= last
    self._reading = [each for each, is_kept in zip(self._reading, remains) if is_kept]

  def _positions(self, first: int, last: int, streams, begins, documents) -> np.ndarray:
    """Return the positions of the tokens from `first` - 1 to `last` of each stream, [T + 1, B]."""
    starts, lengths = self._bounds.starts[documents], self._lengths_D[documents]
    lows, highs = np.maximum(begins, first - 1), np.minimum(begins + lengths, last)
    counts = highs - lows
    places_TxB = np.empty((last - first + 1, self.batch), np.int64)
    rows = documents_lib.positions(lows - (first - 1), counts)
    columns = np.repeat(streams, counts)
    places_TxB[rows, columns] = documents_lib.positions(starts + lows - begins, counts)
    if not first:
      places_TxB[0] = self._bounds.starts[0] - 1  # an END
    return places_TxB


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
  end_id: int | None = None,
) -> Iterator[ScoringWindow]:
  """Yield windows that together score every token of the spans once.

  Every token of `scorable_spans` is a target with weight 1 exactly once. There are about `streams`
  streams in total, in text order. Each span gets a number of streams in proportion to its length:
  at least one, and at most one per whole window. A stream first reads up to `burn_in` preceding
  tokens with weight 0. These may precede the span, but not the start of the document. `starts` are
  the starts of documents; 0 is always one. After its end a stream reads id 0 with weight 0.

  With `end_id`, the id of END, a stream begins where a document begins. It then needs no context.
  """
  edges, scorable = [], list(scorable_spans(spans, starts))
  total = sum(stop - start for start, stop in scorable)
  ids, starts = np.asarray(ids), np.sort(starts)
  for start, stop in scorable:
    size = stop - start
    count = max(1, min(size // window, round(streams * size / total)))
    edge = start + np.arange(count + 1, dtype=np.int64) * size // count
    if end_id is not None and count > 1:
      begins = np.append(start + np.flatnonzero(ids[start - 1 : stop - 1] == end_id), stop)
      nearest = begins[np.minimum(np.searchsorted(begins, edge[1:-1]), len(begins) - 1)]
      edge = np.unique([start, *nearest, stop])
    edges.append(edge)
  if not edges:
    return
  # The first scored target of each stream, and the position after the last one.
  lows_B = np.concatenate([edge[:-1] for edge in edges])
  highs_B = np.concatenate([edge[1:] for edge in edges])
  starts_B = starts[np.searchsorted(starts, lows_B) - 1]
  firsts_B = np.maximum(lows_B - burn_in, starts_B + 1)  # first targets, including the burn-in
  if end_id is not None:
    firsts_B = np.where(ids[lows_B - 1] == end_id, lows_B, firsts_B)
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
