"""The best feature column of each hypothesis: chosen on one half, scored once on the other.

Scores are judged against the best score of all columns under circular shifts of the labels.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from charrnn.analysis import effects, inference, recording

STATISTICS = {"binary": "auroc", "graded": "spearman", "controlled": "semipartial"}


@dataclasses.dataclass(frozen=True)
class Scored:
  """The score on a half in the direction chosen on discovery, its p-values, and the scores to beat.

  to_beat: the score needed for p <= alpha. The null on discovery is the maximum over all columns
  and lags; on confirmation it is the chosen column only. family_*: corrected for all hypotheses.
  None without shifts, or with too few for alpha.
  """

  score: float | None
  p: float | None = None
  family_p: float | None = None
  to_beat: float | None = None
  family_to_beat: float | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
  """The best column of a hypothesis; if it was not scored, the reason and nothing else."""

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
  significant: bool | None = None  # family_p <= alpha on both halves, and above `untrained`
  untrained: float | None = None  # the score that untrained networks reach
  characters: int | None = None  # of the confirmation half, as all below
  share: float | None = None  # of positives: the average precision of a guess
  average_precision: float | None = None
  threshold: float | None = None  # of direction * column, by the best MCC on discovery
  mcc: float | None = None
  isotonic_r2: float | None = None
  partial: float | None = None  # rank correlation controlling for the confounds
  stratified_auroc: float | None = None  # inside strata of the confounds


@dataclasses.dataclass(frozen=True)
class Interpretable:
  """The units with a column that beats the family's bar on discovery and on confirmation."""

  count: int
  of: int
  share: float
  low: float  # Wilson's 95% interval, as if units were independent
  high: float
  by_hypothesis: dict[str, int]  # of all scored ones, also those that do not count


class Result(NamedTuple):
  """Effects are in -1 to 1: 2 AUROC - 1, or a rank correlation; each at its best lag."""

  findings: tuple[Finding, ...]
  effects: np.ndarray  # float32 [C, H], discovery; NaN where the hypothesis is not scored
  confirmed: np.ndarray  # float32 [C, H], confirmation, at the same lag
  lags: np.ndarray  # int8 [C, H]
  interpretable: Interpretable | None  # None without shifts, or with too few for alpha
  spacing: int  # characters between shifts


class Half(NamedTuple):
  """A column and its target on one half; x has the sign that makes it high with y."""

  x: np.ndarray
  y: np.ndarray
  positions: np.ndarray  # of the label: the lag is taken off


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

  `bars` are effects by hypothesis, such as untrained networks reach, that have to be beaten on both
  halves beside the nulls. With `bars`, a hypothesis without one, or with NaN, is neither
  significant nor not. `units` [C] tells which columns belong to one unit.

  Each set of positions that labels are defined at costs another ranking of all columns.
  """
  reasons = [effects.why_unscored(target, design) for target in targets]
  where = [n for n, reason in enumerate(reasons) if not reason]
  scored = [targets[n] for n in where]
  halves, null = effects.scan(values, columns, scored, design, progress=progress)
  lags = _allowed(halves[0], scored, design).argmax(axis=2)  # the best on discovery
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
  """Return the largest |effect| of any column on the discovery half, by hypothesis scored there."""
  design = dataclasses.replace(design, shifts=0)
  scored = [target for target in targets if not effects.why_unscored(target, design, [0])]
  (found,), _ = effects.scan(values, columns, scored, design, [0])
  best = np.minimum(_allowed(found, scored, design), 1).max(axis=(0, 2))
  return dict(zip([target.name for target in scored], best.tolist()))


def rescore(
  values: np.ndarray, finding: Finding, targets: Sequence[effects.Target], design: effects.Design
) -> float | None:
  """Score a finding's column, lag and direction in another recording of the same text.

  On the confirmation half; None where nothing is defined or varies.
  """
  target = next(each for each in targets if each.name == finding.hypothesis)
  design = dataclasses.replace(design, shifts=0, min_characters=0)
  if effects.why_unscored(target, design, [1]):
    return None
  column = recording.read_columns(values, [finding.column])[finding.column]
  half = _half(finding.direction * column, target, finding.lag, design, 1)
  return to_score(finding.kind, _exact_effects(half, target, 1)[0])


def to_score(kind: str, effect: float) -> float | None:
  """Return an effect as an AUROC for binary labels, as it is for others; None for NaN."""
  if math.isnan(effect):
    return None
  return float(0.5 + effect / 2 if kind == "binary" else effect)


def _allowed(found, targets, design) -> np.ndarray:
  """Return |effects| [C, H, lags], 0 at lags at which the column has read what comes next."""
  late = np.outer([target.hypothesis.of_next for target in targets], np.array(design.lags) > 0)
  return np.where(late, 0, np.abs(found))


def _half(column, target, lag, design, half) -> Half:
  positions = design.positions(target, half)
  return Half(column[positions], target.values[positions - lag], positions - lag)


def _scores(values, columns, targets, scored, best, judged, design, bars) -> Iterator[dict]:
  """Yield the fields of the finding of each scored target."""
  (found, _, lags), choices = best, []
  chosen = np.abs(found).argmax(axis=0).tolist()
  read = recording.read_columns(values, chosen)
  for n, (target, column) in enumerate(zip(scored, chosen)):
    lag, direction = int(lags[column, n]), -1 if found[column, n] < 0 else 1
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
  """Return the effect of every shift [n_shifts] in float64, the observed text first."""
  vector, scale = effects.vector(target, half.positions)
  ranks = inference.centred_ranks(half.x) / len(half.x)
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
  """Return further statistics on the confirmation half, and scores controlling for confounds."""
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
      kept = same.mask[test.positions]
      x, y, stratum = test.x[kept], test.y[kept], same.strata[test.positions[kept]]
      details["partial"] = inference.partial(x, y, stratum)
      if target.kind == "binary":
        details["stratified_auroc"] = inference.stratified_auroc(x, y, stratum)
  return details


def _interpretable(best, judged, scored, units, bars) -> Interpretable | None:
  """Count the units that beat the discovery half's bar on both halves."""
  if judged is None or np.isnan(judged.family_to_beat).any():
    return None
  (found, confirmed, _), to_beat = best, judged.family_to_beat
  names = [target.name for target in scored]
  if bars is not None:  # NaN, where there is no bar, is beaten by nothing
    to_beat = np.maximum(to_beat, [bars.get(name, math.nan) for name in names])
    if np.isnan(to_beat).all():
      return None
  beaten = (np.abs(found) > to_beat) & (np.sign(found) * confirmed > to_beat)
  counts = [target.counts for target in scored]
  count, of = _distinct(units, beaten[:, counts].any(axis=1)), len(set(units))
  interval = stats.binomtest(count, of).proportion_ci(method="wilson")
  by_hypothesis = {name: _distinct(units, column) for name, column in zip(names, beaten.T)}
  return Interpretable(count, of, count / of, interval.low, interval.high, by_hypothesis)


def _distinct(units, columns) -> int:
  return len({units[place] for place in np.flatnonzero(columns)})
