"""Every column against every target, lag and shift, slab by slab of the recording."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.analysis import chance, ranks, targets

ROWS = 128
SLAB_BYTES = 1 << 30  # the peak is about twice as high
# Of a column and character: its value and its code; then its code, half a rank, half a spectrum.
BYTES = 6


class Scan(NamedTuple):
  discovery: np.ndarray  # float32 [C, H, lags]; NaN for a hypothesis that is not scored
  confirmation: np.ndarray
  null: np.ndarray  # [S, H]: the largest |effect| of all columns and lags, discovery half


def scan(
  recording,
  groups: tuple[Sequence[targets.Group], Sequence[targets.Group]],
  shape: tuple[int, int],
  turns: int,
  columns: Sequence[str],
  progress: Callable[[int, int], None] | None = None,
) -> Scan:
  """`groups` of the two halves; `shape` is (H, lags); as many shifts as turns but one."""
  length, count = recording.shape
  both = np.full((2, count, *shape), np.nan, np.float32)
  null = np.zeros((turns - 1, shape[0]))
  width = max(1, min(count, SLAB_BYTES // (BYTES * max(1, length))))
  for start in range(0, count, width):
    slab = slice(start, min(start + width, count))
    coded = codes(recording, slab, columns)
    for half, parts in enumerate(groups):
      for group in parts:
        found = effects(coded, group, turns)
        both[half, slab][:, group.members] = found[:, 0]
        if half == 0:
          best = np.abs(found[:, 1:]).max(axis=(0, 3))
          null[:, group.members] = np.maximum(null[:, group.members], best)
    if progress:
      progress(slab.stop, count)
  return Scan(*both, null)


def codes(recording, slab: slice, columns: Sequence[str]) -> np.ndarray:
  """Codes uint16 [columns, N] of a slab of columns, read by rows as they lie on the disk."""
  length, width = recording.shape[0], slab.stop - slab.start
  kept = np.float16 if recording.dtype == np.float16 else np.float32
  values = np.empty((width, length), kept)
  for row in range(0, length, ROWS):
    values[:, row : row + ROWS] = recording[row : row + ROWS, slab].T
  coded = np.empty((width, length), np.uint16)
  for place, column in enumerate(values):
    if not ranks.finite(column):
      name = columns[slab.start + place]
      raise errors.UserError(f"column {name} has values that are not finite: record it again")
    coded[place] = ranks.codes(column)
  return coded


def effects(coded, group: targets.Group, turns: int) -> np.ndarray:
  """Effects [columns, turns, members, lags] of a slab; 0 for a constant column."""
  ranked, norms = np.empty((len(coded), len(group.places)), np.float32), np.empty(len(coded))
  for place, column in enumerate(coded):
    ranked[place], norms[place] = ranks.centred(column[group.places])
  sums = chance.turned(chance.spectrum(ranked, turns), group.spectra, turns)
  sums *= group.scales
  sums[:, :, group.by_norm] /= np.where(norms > 0, norms, 1.0)[:, None, None]
  return sums.reshape(len(coded), turns, len(group.members), -1)
