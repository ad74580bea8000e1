"""Training windows as a function of the step alone, and windows that score each token once.

B: streams, the rows of a batch; T: window; N: tokens of the corpus.
"""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.data import splits


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingWindows:
  """The training text as a circle that B equally spaced streams read without a jump.

  The spans are concatenated to n tokens; after the last comes the first. At step s stream b reads
  T tokens from b * n // B + s * T on, so its carry stays valid forever. Each token is read once in
  an epoch of n / (B * T) steps. That is rarely a whole number: windows shift from epoch to epoch.
  """

  ids: np.ndarray  # [N]
  spans: Sequence[splits.Span]
  batch: int
  window: int

  def __post_init__(self):
    if self.length < self.batch * self.window:
      raise errors.UserError(
        f"{self.length} characters to train on are fewer than one step reads, {self.batch} "
        f"streams x {self.window} characters: use a longer text, a smaller batch or window"
      )

  @functools.cached_property
  def _stops(self) -> np.ndarray:
    """The end of each span on the circle."""
    return np.cumsum([stop - start for start, stop in self.spans], dtype=np.int64)

  @functools.cached_property
  def _shifts(self) -> np.ndarray:
    """For each span, the difference between positions in `ids` and on the circle."""
    return np.array([stop for _, stop in self.spans], np.int64) - self._stops

  @property
  def length(self) -> int:
    return int(self._stops[-1]) if len(self.spans) else 0

  @property
  def steps_per_epoch(self) -> float:
    return self.length / (self.batch * self.window)

  def window_at(self, step: int, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of the streams `rows` at a step: x_TxB, y_TxB, int32."""
    starts_B = np.arange(self.batch, dtype=np.int64)[rows] * self.length // self.batch
    offsets_T = int(step) * self.window % self.length + np.arange(self.window + 1)
    positions_TxB = (offsets_T[:, None] + starts_B) % self.length
    if len(self.spans) == 1:
      positions_TxB += self._shifts[0]
    else:
      positions_TxB += self._shifts[np.searchsorted(self._stops, positions_TxB, side="right")]
    ids_TxB = np.asarray(self.ids)[positions_TxB].astype(np.int32)
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

  Every token of `scorable_spans` is a target of weight 1 exactly once. About `streams` streams
  share these spans by length: at least one for each span, each with at least a window to read. The
  order of the streams is that of the text. A stream first reads up to `burn_in` earlier tokens at
  weight 0; they may lie before the span, but not before a document's start (`starts`, 0 is one).
  Streams that are done read id 0 at weight 0.
  """
  ids = np.asarray(ids)
  lows_B, highs_B = _shares(list(scorable_spans(spans, starts)), streams, window)
  if not len(lows_B):
    return
  starts = np.sort(starts)
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


def _shares(spans: list[splits.Span], streams: int, window: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the first target of each stream and the position after its last."""
  total = sum(stop - start for start, stop in spans)
  lows, highs = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
  for start, stop in spans:
    size = stop - start
    count = max(1, min(size // window, round(streams * size / total)))
    edges = start + np.arange(count + 1, dtype=np.int64) * size // count
    lows.append(edges[:-1])
    highs.append(edges[1:])
  return np.concatenate(lows), np.concatenate(highs)
