"""What a match found, as plain values."""

import dataclasses
import math
from typing import Any

import numpy as np

from charrnn.analysis import halves


@dataclasses.dataclass(frozen=True)
class Scored:
  """One half: a score in the direction found on discovery, and what had to be beaten.

  On discovery the null is the best of all columns and lags, on confirmation the one chosen;
  `family_` counts all hypotheses too. None without shifts, or with too few for alpha.
  """

  score: float
  p: float | None = None
  family_p: float | None = None
  to_beat: float | None = None
  family_to_beat: float | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
  """The best column of one hypothesis; where it was not scored, the reason and nothing else."""

  hypothesis: str
  kind: str
  statistic: str
  scored: bool
  reason: str = ""
  column: int | None = None
  name: str | None = None
  lag: int | None = None  # +1: the column is one character behind the label
  direction: int | None = None  # -1: the column is low where the label is high
  discovery: Scored | None = None
  confirmation: Scored | None = None
  survives: bool | None = None  # family_p <= alpha on both halves, and above `untrained`
  untrained: float | None = None  # what untrained networks reach, as a score
  characters: int | None = None  # of the confirmation half, as all below
  share: float | None = None  # of positives: the average precision of a guess
  average_precision: float | None = None
  threshold: float | None = None  # on direction * column: the best MCC on discovery
  mcc: float | None = None
  isotonic_r2: float | None = None
  partial: float | None = None  # rank correlation given the confounds
  stratified_auroc: float | None = None  # inside of strata of the confounds


@dataclasses.dataclass(frozen=True)
class Interpretable:
  """Cells with a column that beats the family on discovery, and the same number on confirmation."""

  found: int
  of: int
  share: float
  low: float  # Wilson, 95%, as if each cell were drawn by itself
  high: float
  by_hypothesis: dict[str, int]  # of all that were scored, also those that do not count


@dataclasses.dataclass(frozen=True)
class Result:
  """Effects are in -1 to 1: 2 AUROC - 1, or a rank correlation; each at its best lag."""

  columns: tuple[str, ...]
  hypotheses: tuple[str, ...]
  findings: tuple[Finding, ...]
  effects: np.ndarray  # float32 [C, H], discovery; NaN where the hypothesis is not scored
  confirmed: np.ndarray  # float32 [C, H], confirmation, at the same lag
  lags: np.ndarray  # int8 [C, H]
  interpretable: Interpretable | None  # None without shifts, or with too few for alpha
  halves: halves.Halves
  shifts: int
  spacing: int  # characters from one shift to the next, and the least of them
  alpha: float

  def as_json(self) -> dict[str, Any]:
    """For json.dumps: what is not a finite number becomes None, effects have four decimals."""
    return plain(self)


def plain(value):
  """Dataclasses and named tuples as dicts, arrays as lists, NaN as None."""
  if dataclasses.is_dataclass(value):
    return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if hasattr(value, "_asdict"):
    return plain(value._asdict())
  if isinstance(value, dict):
    return {key: plain(each) for key, each in value.items()}
  if isinstance(value, np.ndarray):
    floats = value.dtype.kind == "f"
    return plain((np.round(value.astype(np.float64), 4) if floats else value).tolist())
  if isinstance(value, list | tuple):
    return [plain(each) for each in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
