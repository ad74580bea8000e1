"""Training windows as a function of the step alone, and windows that score each character once.

B is the batch (readers side by side), T the window, N the characters of the corpus.
"""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from charrnn import errors
from charrnn.data import splits


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """The training text as a circle, with B readers equally spaced around it that never jump.

  The segments are put end to end into n characters, and after the last comes the first. At step
  s reader b reads T characters from b * n // B + s * T on, so that its state can be carried on
  for ever. Each character is read once in an epoch of n / (B * T) steps, which is rarely a whole
  number: the windows shift from epoch to epoch.
  """

  ids: np.ndarray  # [N]
  segments: Sequence[splits.Segment]
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
    """Where each segment ends on the circle."""
    return np.cumsum([stop - start for start, stop in self.segments], dtype=np.int64)

  @functools.cached_property
  def _shifts(self) -> np.ndarray:
    """From a place on the circle to the place in `ids`, by segment."""
    return np.array([stop for _, stop in self.segments], np.int64) - self._stops

  @property
  def length(self) -> int:
    return int(self._stops[-1]) if len(self.segments) else 0

  @property
  def steps_per_epoch(self) -> float:
    return self.length / (self.batch * self.window)

  def window_at(self, step: int, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of the readers `rows` at a step: x_TxB, y_TxB, int32."""
    starts_B = np.arange(self.batch, dtype=np.int64)[rows] * self.length // self.batch
    offsets_T = int(step) * self.window % self.length + np.arange(self.window + 1)
    places_TxB = (offsets_T[:, None] + starts_B) % self.length
    if len(self.segments) == 1:
      places_TxB += self._shifts[0]
    else:
      places_TxB += self._shifts[np.searchsorted(self._stops, places_TxB, side="right")]
    ids_TxB = np.asarray(self.ids)[places_TxB].astype(np.int32)
    return ids_TxB[:-1], ids_TxB[1:]


def scored_windows(
  ids: np.ndarray,
  segments: Sequence[splits.Segment],
  streams: int,
  window: int,
  burn_in: int = 0,
  begins: Sequence[int] = (0,),
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Yields x_TxB, y_TxB (int32) and weight_TxB (float32) that score the segments once.

  Every character of their stretches is a target of weight 1 exactly once. About `streams` readers
  share the stretches by their lengths, at least one a stretch and each with at least a window to
  read; the order of the readers is that of the text. Before its part a reader gets up to `burn_in`
  characters of the text before, also from before the segment but not from before a place in
  `begins`, at weight 0. Readers that are done read id 0 at weight 0.
  """
  ids = np.asarray(ids)
  lows_B, highs_B = _parts(list(stretches(segments, begins)), streams, window)
  if not len(lows_B):
    return
  begins = np.sort(begins)
  begins_B = begins[np.searchsorted(begins, lows_B) - 1]
  starts_B = np.maximum(lows_B - burn_in, begins_B + 1)  # the first target of each, scored or not
  for offset in range(0, int(np.max(highs_B - starts_B)), window):
    places_TxB = starts_B + np.arange(offset, offset + window)[:, None]
    read_TxB = places_TxB < highs_B
    places_TxB = np.where(read_TxB, places_TxB, 1)
    x_TxB = np.where(read_TxB, ids[places_TxB - 1], 0).astype(np.int32)
    y_TxB = np.where(read_TxB, ids[places_TxB], 0).astype(np.int32)
    yield x_TxB, y_TxB, (read_TxB & (places_TxB >= lows_B)).astype(np.float32)


def stretches(
  segments: Sequence[tuple[int, int]], begins: Sequence[int] = (0,)
) -> Iterator[tuple[int, int]]:
  """What can be scored of segments (start, stop), cut at the places `begins`, of which 0 is one.

  The character at such a place is in none: it has nothing before it that it could follow from.
  """
  begins = sorted(begins)
  places = set(begins)
  for start, stop in segments:
    inside = begins[bisect.bisect_right(begins, start) : bisect.bisect_left(begins, stop)]
    for low, high in itertools.pairwise([start, *inside, stop]):
      first = low + (low in places)
      if first < high:
        yield first, high


def _parts(cuts, streams: int, window: int) -> tuple[np.ndarray, np.ndarray]:
  """Where the targets of each reader begin and end."""
  total = sum(stop - start for start, stop in cuts)
  lows, highs = [], []
  for start, stop in cuts:
    size = stop - start
    readers = max(1, min(size // window, round(streams * size / total)))
    edges = start + np.arange(readers + 1, dtype=np.int64) * size // readers
    lows.append(edges[:-1])
    highs.append(edges[1:])
  none = np.zeros(0, np.int64)
  return np.concatenate([none, *lows]), np.concatenate([none, *highs])
