"""Mid-ranks of many columns, by counting 65536 codes instead of by sorting."""

import numpy as np

LEVELS = 1 << 16
# Share of the pairs of characters that a code may call equal though their values are not.
COARSE = 1e-3
SAMPLE = 4096


def finite(column) -> bool:
  if column.dtype == np.float16:  # whose own minimum is slow
    return bool((column.view(np.uint16) & np.uint16(0x7C00)).max(initial=0) < 0x7C00)
  # A NaN comes through the minimum; an infinity is one of the two ends.
  return bool(np.isfinite(column.min()) and np.isfinite(column.max()))


def codes(column) -> np.ndarray:
  """Codes uint16 [n] in the order of the values.

  float16 keeps every difference. float32 is cut into 65536 equal steps from its least to its
  greatest value; where these are too coarse (a gate that is nearly always shut), into steps that
  hold equally many characters. A share t of wrongly equal pairs moves an AUROC with the share p of
  positives by at most t / (4 p (1 - p)): t is below 1e-3, and about 1e-5 for a bell-shaped column.
  """
  if column.dtype == np.float16:
    bits = column.view(np.uint16)
    # All bits of a negative number are turned, of others the sign alone.
    coded = bits ^ ((bits >> 15) * np.uint16(0x7FFF) + np.uint16(0x8000))
    return coded + (coded == 0x7FFF)  # -0 is 0
  low, high = float(column.min()), float(column.max())
  if low == high:
    return np.zeros(len(column), np.uint16)
  if not 1e-30 < high - low < 1e30:  # the steps themselves would over- or underflow
    return _even(column)
  linear = ((column - low) * ((LEVELS - 1) / (high - low))).astype(np.uint16)
  return _even(column) if _lost(column, linear) > COARSE else linear


def _lost(column, coded) -> float:
  """Share of pairs with one code and two values, in an even sample of the characters."""
  step = max(1, len(column) // SAMPLE)
  sample = column[::step]
  return _tied(coded[::step], len(sample)) - _tied(sample, len(sample))


def _tied(values, count) -> float:
  runs = np.unique(values, return_counts=True)[1]
  return float((runs.astype(np.float64) ** 2).sum()) / count**2


def _even(column) -> np.ndarray:
  values = np.unique(column)
  if len(values) > LEVELS:
    ordered = np.sort(column)
    values = np.unique(ordered[np.linspace(0, len(ordered) - 1, LEVELS).astype(np.intp)])
  return (np.searchsorted(values, column, side="right") - 1).astype(np.uint16)


def centred(coded) -> tuple[np.ndarray, float]:
  """Mid-ranks of codes [n], centred and divided by n: float32 [n]; and their Euclidean norm."""
  counts = np.bincount(coded, minlength=LEVELS)
  n = len(coded)
  table = (np.cumsum(counts) - counts / 2 - n / 2) / n
  return table.astype(np.float32)[coded], float(np.sqrt((counts * table**2).sum()))
