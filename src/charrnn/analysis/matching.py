"""The best feature column of each hypothesis: selected on one half, scored once on the other.

Significance is relative to the best score of all columns under circular shifts of the labels.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from charrnn.analysis import effects, inference, recording

CANDIDATES = 8  # number of columns that are ranked for each label and lag, if not all are
STATISTICS = {"binary": "auroc", "graded": "spearman", "controlled": "semipartial"}


@dataclasses.dataclass(frozen=True)
class Scored:
  """The score on a half, its p-values, and the scores that it must exceed to be significant.

  The direction is selected on the discovery half. `to_beat` is the threshold for p <= alpha. The
  null on the discovery half is the maximum over all columns and lags; on the confirmation half it
  is the selected column only. `family_*` are corrected for the number of hypotheses. Fields are
  None without shifts, or with too few shifts for alpha.
  """

  score: float | None
  p: float | None = None
  family_p: float | None = None
  to_beat: float | None = None
  family_to_beat: float | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
  """The best column of a hypothesis, or the reason why the hypothesis was not scored."""

  hypothesis: str
  kind: str
  statistic: str
  scored: bool
  reason: str = ""
  column: int | None = None
  name: str | None = None
  lag: int | None = None  # +1: the column follows the label one character late
  direction: int | None = None  # 1; -1 if the column is low where the label is high
  discovery: Scored | None = None
  confirmation: Scored | None = None
  significant: bool | None = None  # family_p <= alpha on both halves, and above `untrained`
  untrained: float | None = None  # threshold from untrained networks
  # The remaining fields are measured on the confirmation half.
  characters: int | None = None  # number of characters where the label is defined
  share: float | None = None  # share of positives, which is the average precision of chance
  average_precision: float | None = None
  threshold: float | None = None  # of direction * column, with the best MCC on the discovery half
  mcc: float | None = None
  isotonic_r2: float | None = None
  partial: float | None = None  # rank correlation, controlling for the confounds
  stratified_auroc: float | None = None  # mean AUROC within strata of the confounds


@dataclasses.dataclass(frozen=True)
class Interpretable(inference.Share):
  """The units with a column that exceeds the family's threshold on both halves."""

  by_hypothesis: dict[str, int]  # number of units by hypothesis, for all scored hypotheses


class Result(NamedTuple):
  """Findings and effects. An effect, from -1 to 1, is 2 AUROC - 1 or a rank correlation."""

  findings: tuple[Finding, ...]
  effects: np.ndarray  # float32 [C, H], discovery half, best lag; NaN if not scored
  confirmed: np.ndarray  # float32 [C, H], confirmation half, at the same lag
  lags: np.ndarray  # int8 [C, H], the best lags
  interpretable: Interpretable | None  # None with too few shifts or untrained networks for alpha
  spacing: int  # number of characters between shifts


class Half(NamedTuple):
  """A column x and its target y on one half. The sign of x makes it high where y is high."""

  x: np.ndarray
  y: np.ndarray
  positions: np.ndarray  # positions of the label, which are those of the column minus the lag


def match(
  values: np.ndarray,
  columns: Sequence,
  targets: Sequence[effects.Target],
  design: effects.Design,
  *,
  bars: Mapping[str, float] | None = None,
  units: Sequence | None = None,
  progress: effects.Progress | None = None,
) -> Result:
  """Match the columns of a recording [N, C] with hypotheses.

  `bars` maps hypotheses to further effects that must be exceeded on both halves, for example the
  effects of untrained networks. If `bars` is set but has no value, or NaN, for a hypothesis, its
  `significant` is None. `units` [C] identifies the unit of each column.

  All columns are ranked once for each distinct set of positions where labels are defined.
  """
  reasons = [effects.why_unscored(target, design) for target in targets]
  where = [n for n, reason in enumerate(reasons) if not reason]
  scored = [targets[n] for n in where]
  halves, null = effects.scan(values, columns, scored, design, progress=progress)
  lags = _allowed(halves[0], scored, design).argmax(axis=2)  # best lag on the discovery half
  best = [np.take_along_axis(half, lags[..., None], axis=2)[..., 0] for half in halves]
  best.append(np.asarray(design.lags, np.int8)[lags])
  judged = inference.significance(np.abs(best[0]).max(axis=0), null, design.alpha)
  scores, findings = _scores(values, columns, targets, scored, best, judged, design, bars), []
  for target, reason in zip(targets, reasons):
    fields = {} if reason else next(scores)
    statistic = STATISTICS[target.kind]
    findings.append(Finding(target.name, target.kind, statistic, not reason, reason, **fields))
  shape = len(columns), len(targets)
  arrays = [np.full(shape, np.nan, np.float32) for _ in range(2)] + [np.zeros(shape, np.int8)]
  for array, of_scored in zip(arrays, best):
    array[:, where] = of_scored
  units = range(len(columns)) if units is None else units
  interpretable = _interpretable(best, judged, scored, units, bars)
  return Result(
    tuple(findings), *arrays, interpretable, min(map(len, design.inside)) // design.n_shifts
  )


def strengths(
  values: np.ndarray, columns: Sequence, targets: Sequence[effects.Target], design: effects.Design
) -> dict[str, float]:
  """Return the largest |effect| of the candidates on the discovery half, by scorable hypothesis."""
  design = dataclasses.replace(design, shifts=0)
  scored = [target for target in targets if not effects.why_unscored(target, design, [0])]
  numbers = candidates(values, scored, design)
  read, names = values[:, numbers], [columns[n] for n in numbers]
  (discovery,), _ = effects.scan(read, names, scored, design, [0])
  best = np.minimum(_allowed(discovery, scored, design), 1).max(axis=(0, 2), initial=0)
  return dict(zip([target.name for target in scored], best.tolist()))


def best_candidates(
  values: np.ndarray, columns: Sequence, targets: Sequence[effects.Target], design: effects.Design
) -> dict[str, Finding]:
  """Return the findings of a match of the candidates, by scorable hypothesis."""
  scorable = [target for target in targets if not effects.why_unscored(target, design)]
  if not scorable:
    return {}
  numbers = candidates(values, scorable, design)
  names = [columns[n] for n in numbers]
  result = match(values[:, numbers], names, targets, design)
  return {each.hypothesis: each for each in result.findings if each.scored}


def candidates(
  values: np.ndarray, targets: Sequence[effects.Target], design: effects.Design
) -> list[int]:
  """Return the columns [N, C] that are likely to be the best ones, as sorted numbers.

  For each target and lag, these are the CANDIDATES columns with the largest correlation with the
  label on the discovery half. A correlation of all columns is a matrix product, and takes much less
  time than their ranks.
  """
  rows = [np.ones(len(values), np.float32)]
  for target, lag in itertools.product(targets, design.lags):
    positions = design.positions(target, 0)
    rows.append(np.zeros(len(values), np.float32))
    rows[-1][positions] = effects.vector(target, positions - lag)[0]
  sums_RxC = np.array(rows) @ values
  squares_C = np.einsum("nc,nc->c", values, values)
  # A column that is nearly constant is inaccurate here.
  spread_C = np.sqrt(np.maximum(squares_C - sums_RxC[0] ** 2 / len(values), 1e-6 * squares_C))
  strength_RxC = np.abs(sums_RxC[1:]) / np.where(spread_C > 0, spread_C, 1)
  count = min(CANDIDATES, strength_RxC.shape[1])
  return np.unique(np.argpartition(strength_RxC, -count, axis=1)[:, -count:]).tolist()


def rescore(
  values: np.ndarray, finding: Finding, targets: Sequence[effects.Target], design: effects.Design
) -> float | None:
  """Return the score of a finding's column, lag and direction in another recording of the text.

  The score is measured on the confirmation half. Return None if the label is undefined or constant
  there.
  """
  target = next(each for each in targets if each.name == finding.hypothesis)
  design = dataclasses.replace(design, shifts=0, min_characters=0)
  if effects.why_unscored(target, design, [1]):
    return None
  column = recording.read_columns(values, [finding.column])[finding.column]
  half = _half(finding.direction * column, target, finding.lag, design, 1)
  return to_score(finding.kind, _exact_effects(half, target, 1)[0])


def to_score(kind: str, effect: float) -> float | None:
  """Convert an effect to an AUROC if the label is binary; return others unchanged, NaN as None."""
  if math.isnan(effect):
    return None
  return float(0.5 + effect / 2 if kind == "binary" else effect)


def _allowed(effects_CxHxL, targets, design) -> np.ndarray:
  """Return |effects| [C, H, lags]; 0 at lags where the column has read what the label predicts."""
  late = np.outer([target.hypothesis.of_next for target in targets], np.array(design.lags) > 0)
  return np.where(late, 0, np.abs(effects_CxHxL))


def _half(column, target, lag, design, half) -> Half:
  positions = design.positions(target, half)
  return Half(column[positions], target.values[positions - lag], positions - lag)


def _scores(values, columns, targets, scored, best, judged, design, bars) -> Iterator[dict]:
  """Yield the fields of the Finding of each scored target."""
  (discovery, _, lags), choices = best, []
  best_columns = np.abs(discovery).argmax(axis=0).tolist()
  read = recording.read_columns(values, best_columns)
  for n, (target, column) in enumerate(zip(scored, best_columns)):
    lag, direction = int(lags[column, n]), -1 if discovery[column, n] < 0 else 1
    halves = [_half(direction * read[column], target, lag, design, half) for half in (0, 1)]
    choices.append((target, column, lag, direction, *halves))
  exact = [_exact_effects(test, target, design.n_shifts) for target, *_, test in choices]
  exact = np.array(exact).reshape(len(scored), design.n_shifts).T
  confirmed = inference.significance(exact[0], exact[1:], design.alpha)
  for row, (target, column, lag, direction, fit, test) in enumerate(choices):
    first = _exact_effects(fit, target, 1)[0]
    both = _scored(target, first, judged, row), _scored(target, exact[0, row], confirmed, row)
    bar = to_score(target.kind, (bars or {}).get(target.name, math.nan))
    significant = None
    if both[0].family_p is not None and (bars is None or bar is not None):
      significant = max(half.family_p for half in both) <= design.alpha
      significant &= bar is None or min(half.score for half in both) > bar
    yield {
      "column": column,
      "name": str(columns[column]),
      "lag": lag,
      "direction": direction,
      "discovery": both[0],
      "confirmation": both[1],
      "significant": significant,
      "untrained": bar,
    } | _details(target, fit, test, targets)


def _exact_effects(half: Half, target: effects.Target, n_shifts: int) -> np.ndarray:
  """Return the effect of every shift, float64 [n_shifts], starting with the unshifted labels."""
  vector, scale = effects.vector(target, half.positions)
  ranks = inference.centered_ranks(half.x) / len(half.x)
  if target.kind != "binary":
    scale /= np.linalg.norm(ranks) or 1.0
  spectra = (inference.spectrum(row[None], n_shifts) for row in (ranks, vector))
  return scale * inference.shifted_sums(*spectra, n_shifts)[0, :, 0]


def _scored(target, effect, judged, row) -> Scored:
  score = to_score(target.kind, effect)
  if judged is None:
    return Scored(score)
  p, family_p, *to_beat = (float(values[row]) for values in judged)
  return Scored(score, p, family_p, *(to_score(target.kind, bar) for bar in to_beat))


def _details(target, fit: Half, test: Half, targets) -> dict[str, float]:
  """Return further statistics of the confirmation half, some controlling for the confounds."""
  details = {"characters": len(test.y)}
  if set(np.unique(test.y)) != {0, 1}:
    details["isotonic_r2"] = inference.isotonic_r2(fit[:2], test[:2])
  else:
    threshold = inference.best_threshold(fit.x, fit.y)
    details |= {
      "share": float(test.y.mean()),
      "average_precision": inference.average_precision(test.x, test.y),
      "threshold": threshold,
      "mcc": inference.mcc_at(threshold, test.x, test.y),
    }
  for same in targets:
    if same.hypothesis == target.hypothesis and same.strata is not None:
      defined = same.mask[test.positions]
      x, y, stratum = test.x[defined], test.y[defined], same.strata[test.positions[defined]]
      details["partial"] = inference.partial(x, y, stratum)
      if target.kind == "binary":
        details["stratified_auroc"] = inference.stratified_auroc(x, y, stratum)
  return details


def _interpretable(best, judged, scored, units, bars) -> Interpretable | None:
  """Count the units that exceed the discovery half's threshold on both halves."""
  if judged is None or np.isnan(judged.family_to_beat).any():
    return None
  (discovery, confirmation, _), to_beat = best, judged.family_to_beat
  names = [target.name for target in scored]
  if bars is not None:  # nothing exceeds NaN, which stands for a missing bar
    to_beat = np.maximum(to_beat, [bars.get(name, math.nan) for name in names])
    if np.isnan(to_beat).all():
      return None
  exceeds = (np.abs(discovery) > to_beat) & (np.sign(discovery) * confirmation > to_beat)
  counts = [target.counts for target in scored]
  share = inference.share(_distinct(units, exceeds[:, counts].any(axis=1)), len(set(units)))
  by_hypothesis = {name: _distinct(units, column) for name, column in zip(names, exceeds.T)}
  return Interpretable(**dataclasses.asdict(share), by_hypothesis=by_hypothesis)


def _distinct(units, columns) -> int:
  return len({units[place] for place in np.flatnonzero(columns)})
