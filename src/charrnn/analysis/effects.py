"""Effects of all feature columns on all hypotheses, at every lag and circular shift.

An effect is 2 AUROC - 1 for binary labels and a rank correlation for others. It is the product of
the column's ranks with a vector derived from the label, so all effects are matrix products.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.analysis import inference, labels

Progress = Callable[[int, int], None]  # (done, total)

CONTROLLING = " | "  # separates a hypothesis from the confounds that are controlled for
LEVELS = 1 << 16  # number of codes of a column's values
MAX_WRONG_TIES = 1e-3  # maximum share of pairs with equal codes but different values
SAMPLE = 4096  # approximate number of characters from which the share of ties is estimated
ROWS = 128  # number of rows of a recording that are read at once
SLAB_BYTES = 1 << 30  # size of a slab of columns in memory; the peak is about twice as high
# Bytes per column and character: first a float32 value and a uint16 code; later the code (2 bytes),
# and the ranks and the spectrum of one half of the text (2 bytes each, averaged over the text).
BYTES = 6


class Target(NamedTuple):
  """The label of a hypothesis on a text, possibly controlling for the confounds."""

  name: str
  kind: str  # "binary", "graded", or "controlled"
  values: np.ndarray  # float64 [N]
  mask: np.ndarray  # bool [N]
  hypothesis: labels.Hypothesis
  strata: np.ndarray | None = None  # [N], strata of the confounds
  counts: bool = True  # whether it counts for `matching.Interpretable`

  @property
  def about(self) -> str:
    about, confounds = self.hypothesis.about, ", ".join(self.hypothesis.confounds)
    return about if self.strata is None else f"{about}; controlling for {confounds}"


@dataclasses.dataclass(frozen=True)
class Design:
  """The parameters of a match."""

  halves: inference.Halves
  lags: tuple[int, ...] = (-1, 0, 1)  # a column at t is scored against the label at t - lag
  shifts: int = 199
  min_characters: int = 1000  # minimum number of characters per half where a label is defined
  alpha: float = 0.05

  @property
  def n_shifts(self) -> int:
    """The number of shifts, including shift 0."""
    return 1 + self.shifts

  @functools.cached_property
  def inside(self) -> list[np.ndarray]:
    """The positions of both halves at which every lag stays within the same span."""
    return [inference.inner(spans, self.lags) for spans in self.halves[:2]]

  def positions(self, target: Target, half: int) -> np.ndarray:
    """Return the positions of a half (0: discovery) at which the target is defined at every lag."""
    inside = self.inside[half]
    positions = inside[np.logical_and.reduce([target.mask[inside - lag] for lag in self.lags])]
    return positions[: len(positions) - len(positions) % self.n_shifts]


class Group(NamedTuple):
  """Targets that are defined at the same n positions of a half. A row is a (member, lag)."""

  members: list[int]
  positions: np.ndarray  # [n]
  spectra: np.ndarray  # complex64 [rows, n_shifts // 2 + 1, n / n_shifts]
  scales: np.ndarray  # [rows]
  by_norm: np.ndarray  # bool [rows], whether to divide by the norm of the column's ranks


def prepare(
  hypotheses: Sequence[labels.Hypothesis],
  labeled: Mapping[str, labels.Label],
  documents: Sequence[inference.Span],
  *,
  seed: int = 0,
  **options,
) -> tuple[list[Target], Design]:
  """Return targets and design for a text.

  `labeled` maps names of hypotheses to labels. `options` are fields of Design.
  """
  design = Design(inference.halve(documents, seed), **options)
  return make_targets(hypotheses, labeled), design


def make_targets(
  hypotheses: Sequence[labels.Hypothesis], labeled: Mapping[str, labels.Label]
) -> list[Target]:
  """Return a target for each hypothesis, and a controlled target for each that has confounds.

  If a hypothesis has confounds, only its controlled target counts for `matching.Interpretable`.
  """
  confounded = [h for h in hypotheses if h.confounds and labeled.keys() >= {*h.confounds}]
  targets = {}
  for each in hypotheses:
    name, (values, mask) = each.name, labeled[each.name]
    if not np.isfinite(values[mask]).all():
      raise errors.UserError(
        f"label {name!r} is not finite at some characters: mask these characters"
      )
    if each.kind == "binary" and not np.isin(values[mask], (0, 1)).all():
      raise errors.UserError(
        f"label {name!r} is binary, but has values other than 0 and 1: make it graded"
      )
    counts = not each.predicts and each not in confounded
    targets[name] = Target(name, each.kind, values.astype(np.float64), mask, each, None, counts)
  for each in confounded:
    plain, confounds = targets[each.name], [targets[name] for name in each.confounds]
    mask = np.logical_and.reduce([plain.mask, *(confound.mask for confound in confounds)])
    strata = np.zeros(len(mask), np.intp)
    if mask.any():
      strata[mask] = inference.strata([confound.values[mask] for confound in confounds])
    name = f"{each.name}{CONTROLLING}{', '.join(each.confounds)}"
    counts = not each.predicts
    targets[name] = Target(name, "controlled", plain.values, mask, each, strata, counts)
  return list(targets.values())


def base(name: str) -> str:
  """Return the name of a target's hypothesis, without the confounds."""
  return name.partition(CONTROLLING)[0]


def vector(target: Target, positions: np.ndarray) -> tuple[np.ndarray, float]:
  """Return a vector v, and a scale that is 0 if the target cannot be scored.

  Let r be the centered ranks of a column divided by n. For binary labels, the effect is
  scale * (v @ r), which is 2 AUROC - 1. For others it is scale * (v @ r) / |r|, which is Spearman's
  or the semipartial rank correlation. The semipartial correlation is at most the partial one. A
  unit that is nearly a function of the confounds gets a score near 0, even if its residual fits.
  """
  values = target.values[positions]
  if target.kind == "binary":
    share = values.mean() if len(values) else 0.0
    spread = len(values) * share * (1 - share)
    return values - share, 2 / spread if spread else 0.0
  ranks = inference.centered_ranks(values)
  raw = np.linalg.norm(ranks)
  if target.strata is not None:
    ranks = inference.residual(ranks, target.strata[positions])
  norm = np.linalg.norm(ranks)
  return ranks, 1 / norm if norm > 1e-9 * raw else 0.0


def why_unscored(target: Target, design: Design, halves: Sequence[int] = (0, 1)) -> str:
  """Return the reason why a target cannot be scored on `halves`; empty if it can be scored."""
  for half in halves:
    positions, name = design.positions(target, half), ("discovery", "confirmation")[half]
    count, least = len(positions), max(1, design.min_characters, design.n_shifts)
    if count < least:
      return f"defined at {count} characters of the {name} half, but at least {least} are needed"
    if not all(vector(target, positions - lag)[1] for lag in design.lags):
      reason = {"graded": "constant", "controlled": "determined by its confounds"}.get(target.kind)
      if target.kind == "binary":
        reason = "no negatives" if target.values[positions].any() else "no positives"
      return f"{reason} in the {name} half"
  return ""


def scan(
  values: np.ndarray,
  columns: Sequence,
  targets: Sequence[Target],
  design: Design,
  halves: Sequence[int] = (0, 1),
  progress: Progress | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
  """Return the effects of all columns of a recording [N, C] on H scorable targets, and the null.

  The effects of each half are float32 [C, H, lags]. The null [S, H] is the largest |effect| over
  all columns and lags on the discovery half. The confirmation half is not shifted.
  """
  (length, width), shape = values.shape, (len(targets), len(design.lags))
  shifts = [design.n_shifts if half == 0 else 1 for half in halves]
  groups = [
    (half, count, group)
    for half, count in zip(halves, shifts)
    for group in _groups(targets, half, design, count)
  ]
  results = [np.empty((width, *shape), np.float32) for _ in halves]
  null = np.zeros((design.shifts, len(targets)))
  step = max(1, min(width, SLAB_BYTES // (BYTES * max(1, length))))
  for start in range(0, width, step):
    slab = slice(start, min(start + step, width))
    coded = encode(values, slab, columns)
    for half, count, group in groups:
      effects = group_effects(coded, group, count)
      results[half][slab, group.members] = effects[:, 0]
      if half == 0:
        best = np.abs(effects[:, 1:]).max(axis=(0, 3))
        null[:, group.members] = np.maximum(null[:, group.members], best)
    if progress:
      progress(slab.stop, width)
  return results, null


def _groups(targets, half, design, n_shifts) -> list[Group]:
  """Group targets by their positions, since every column must be ranked again for each group."""
  together = {}
  for index, target in enumerate(targets):
    positions = design.positions(target, half)
    together.setdefault(positions.tobytes(), (positions, []))[1].append(index)
  groups = []
  for positions, members in together.values():
    rows = (vector(targets[m], positions - lag) for m in members for lag in design.lags)
    vectors, scales = map(np.array, zip(*rows))
    spectra = inference.spectrum(vectors.astype(np.float32), n_shifts)
    by_norm = np.repeat([targets[m].kind != "binary" for m in members], len(design.lags))
    groups.append(Group(members, positions, spectra, scales, by_norm))
  return groups


def group_effects(coded: np.ndarray, group: Group, n_shifts: int) -> np.ndarray:
  """Return effects [columns, n_shifts, members, lags]; 0 for constant columns."""
  ranks, norms = np.empty((len(coded), len(group.positions)), np.float32), np.empty(len(coded))
  for place, column in enumerate(coded):
    ranks[place], norms[place] = ranks_of_codes(column[group.positions])
  sums = inference.shifted_sums(inference.spectrum(ranks, n_shifts), group.spectra, n_shifts)
  sums *= group.scales
  sums[:, :, group.by_norm] /= np.where(norms > 0, norms, 1.0)[:, None, None]
  return sums.reshape(len(coded), n_shifts, len(group.members), -1)


def encode(values: np.ndarray, slab: slice, columns: Sequence) -> np.ndarray:
  """Read a slab of columns in the order on disk; return its codes, uint16 [columns, N]."""
  length, width = values.shape[0], slab.stop - slab.start
  copy = np.empty((width, length), np.float32)
  for row in range(0, length, ROWS):
    copy[:, row : row + ROWS] = values[row : row + ROWS, slab].T
  coded = np.empty((width, length), np.uint16)
  for place, column in enumerate(copy):
    # The minimum is NaN if any value is NaN. An infinity is the minimum or the maximum.
    if not (np.isfinite(column.min()) and np.isfinite(column.max())):
      name = columns[slab.start + place]
      raise errors.UserError(
        f"column {name} contains values that are not finite: use an earlier step"
      )
    coded[place] = codes(column)
  return coded


def codes(column: np.ndarray) -> np.ndarray:
  """Return codes, uint16 [n], in the order of float32 values, so that ranking needs no sorting.

  The values from minimum to maximum are quantized to 65536 equal steps. If these are too coarse
  (for example for a gate that is nearly always closed), the steps have equal numbers of characters.
  If a share t of the pairs is wrongly equal and a share p of labels is positive, the error of the
  AUROC is at most t / (4 p (1 - p)). t is below 1e-3, and about 1e-5 for a bell-shaped column.
  """
  low, high = float(column.min()), float(column.max())
  if low == high:
    return np.zeros(len(column), np.uint16)
  if 1e-30 < high - low < 1e30:  # outside of this range, the step size would overflow or underflow
    linear = ((column - low) * ((LEVELS - 1) / (high - low))).astype(np.uint16)
    sample = slice(None, None, max(1, len(column) // SAMPLE))
    counts = np.bincount(linear[sample])
    ties = float(counts @ counts) / len(linear[sample]) ** 2
    # Counting the ties of the values takes longer than counting those of the codes.
    if ties <= MAX_WRONG_TIES or ties - _ties(column[sample]) <= MAX_WRONG_TIES:
      return linear
  values = np.unique(column)
  if len(values) > LEVELS:
    ordered = np.sort(column)
    values = np.unique(ordered[np.linspace(0, len(ordered) - 1, LEVELS).astype(np.intp)])
  return (np.searchsorted(values, column, side="right") - 1).astype(np.uint16)


def _ties(values) -> float:
  """Return the share of pairs that are equal."""
  runs = np.unique(values, return_counts=True)[1]
  return float((runs.astype(np.float64) ** 2).sum()) / len(values) ** 2


def ranks_of_codes(coded: np.ndarray) -> tuple[np.ndarray, float]:
  """Return centered mid-ranks divided by n, float32 [n], and their Euclidean norm."""
  indices, n = coded.astype(np.intp), len(coded)
  counts = np.bincount(indices)
  # These float32 sums are exact for up to 2^23 characters. Small arrays stay in the cache.
  table = np.cumsum(counts, dtype=np.float32)
  table -= counts.astype(np.float32) / 2
  table = (table - np.float32(n / 2)) / np.float32(n)
  ranks = table.take(indices)
  return ranks, float(np.sqrt(ranks @ ranks))
