"""The best feature column of each hypothesis: chosen on one half, scored once on the other.

Scores are judged against the best score of all columns under circular shifts of the labels.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from charrnn.analysis import effects, inference, recording

STATISTICS = {"binary": "auroc", "graded": "spearman", "controlled": "semipartial"}


@dataclasses.dataclass(frozen=True)
class Scored:
  """The score on a half in the direction chosen on discovery, and what it has to beat.

  The null is the best of all columns and lags on discovery, and the chosen one on confirmation;
  `family_` is of all hypotheses. None without shifts, or with too few for alpha.
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

  hypotheses: tuple[str, ...]
  findings: tuple[Finding, ...]
  effects: np.ndarray  # float32 [C, H], discovery; NaN where the hypothesis is not scored
  confirmed: np.ndarray  # float32 [C, H], confirmation, at the same lag
  lags: np.ndarray  # int8 [C, H]
  interpretable: Interpretable | None  # None without shifts, or with too few for alpha
  spacing: int  # characters between shifts


class Half(NamedTuple):
  """The chosen column and its target on one half; x has the sign that makes it high with y."""

  x: np.ndarray
  y: np.ndarray
  positions: np.ndarray  # of the label: the lag is taken off


class Choice(NamedTuple):
  """The column, lag and direction that are best on discovery."""

  target: effects.Target
  column: int
  lag: int
  direction: int
  values: np.ndarray  # float64 [N], of the column

  def half(self, design: effects.Design, half: int) -> Half:
    positions = design.positions(self.target, half)
    labelled = positions - self.lag
    return Half(self.direction * self.values[positions], self.target.values[labelled], labelled)


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
  scan = effects.scan(values, columns, scored, design, progress=progress)
  best = _best_lags(scan, scored, design)
  judged = _significance(np.abs(best[0]).max(axis=0), scan.null, design.alpha)
  findings = [
    Finding(target.name, target.kind, STATISTICS[target.kind], False, reason)
    for target, reason in zip(targets, reasons)
  ]
  for n, finding in zip(
    where, _findings(values, columns, targets, scored, best, judged, design, bars)
  ):
    findings[n] = finding
  shape = len(columns), len(targets)
  arrays = [np.full(shape, np.nan, np.float32) for _ in range(2)] + [np.zeros(shape, np.int8)]
  for array, found in zip(arrays, best):
    array[:, where] = found
  units = range(len(columns)) if units is None else units
  return Result(
    tuple(target.name for target in targets),
    tuple(findings),
    *arrays,
    _interpretable(best, judged, scored, units, bars),
    min(map(len, design.inside)) // design.turns,
  )


def strengths(
  values: np.ndarray, columns: Sequence, targets: Sequence[effects.Target], design: effects.Design
) -> dict[str, float]:
  """Return the largest |effect| of any column on the discovery half, by hypothesis scored there."""
  design = dataclasses.replace(design, shifts=0)
  scored = [target for target in targets if not effects.why_unscored(target, design, [0])]
  scan = effects.scan(values, columns, scored, design, [0])
  best = np.minimum(_allowed(scan.effects[0], scored, design), 1).max(axis=(0, 2))
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
  choice = Choice(target, finding.column, finding.lag, finding.direction, column)
  return to_score(finding.kind, _exact_effects(choice.half(design, 1), target, 1)[0])


def to_score(kind: str, effect: float) -> float | None:
  """Return an effect as an AUROC for binary labels, as it is for others; None for NaN."""
  if math.isnan(effect):
    return None
  return float(0.5 + effect / 2 if kind == "binary" else effect)


def _allowed(found, targets, design) -> np.ndarray:
  """Return |effects| [C, H, lags], 0 at lags at which the column has read what comes next."""
  late = np.outer([target.hypothesis.of_next for target in targets], np.array(design.lags) > 0)
  return np.where(late, 0, np.abs(found))


def _best_lags(scan, targets, design):
  """Return effects, confirmed effects and lags [C, H] at the lag that is best on discovery."""
  where = _allowed(scan.effects[0], targets, design).argmax(axis=2)
  best = [np.take_along_axis(half, where[..., None], axis=2)[..., 0] for half in scan.effects]
  return *best, np.asarray(design.lags, np.int8)[where]


def _significance(observed, null, alpha) -> inference.Significance | None:
  return inference.significance(observed, null, alpha) if null.size else None


def _findings(values, columns, targets, scored, best, judged, design, bars) -> list[Finding]:
  choices = _choices(values, scored, best)
  halves = [[choice.half(design, half) for half in (0, 1)] for choice in choices]
  exact = [_exact_effects(test, t, design.turns) for (_, test), t in zip(halves, scored)]
  exact = np.array(exact).reshape(len(scored), design.turns).T
  confirmed = _significance(exact[0], exact[1:], design.alpha)
  findings = []
  for row, (target, choice, (fit, test)) in enumerate(zip(scored, choices, halves)):
    first = _exact_effects(fit, target, 1)[0]
    both = _scored(target, first, judged, row), _scored(target, exact[0, row], confirmed, row)
    bar = to_score(target.kind, (bars or {}).get(target.name, math.nan))
    significant = None
    if both[0].family_p is not None and (bars is None or bar is not None):
      significant = max(half.family_p for half in both) <= design.alpha
      significant &= bar is None or min(half.score for half in both) > bar
    finding = Finding(
      target.name,
      target.kind,
      STATISTICS[target.kind],
      scored=True,
      column=choice.column,
      name=str(columns[choice.column]),
      lag=choice.lag,
      direction=choice.direction,
      discovery=both[0],
      confirmation=both[1],
      significant=significant,
      untrained=bar,
      **_details(fit, test),
      **_partial(target, test, targets),
    )
    findings.append(finding)
  return findings


def _choices(values, scored, best) -> list[Choice]:
  found, _, lags = best
  columns = np.abs(found).argmax(axis=0).tolist()
  read = recording.read_columns(values, columns)
  return [
    Choice(target, column, int(lags[column, n]), -1 if found[column, n] < 0 else 1, read[column])
    for n, (target, column) in enumerate(zip(scored, columns))
  ]


def _exact_effects(half: Half, target: effects.Target, turns: int) -> np.ndarray:
  """Return the effect of every turn [turns], the observed text first, from values in float64."""
  vector, scale = effects.vector(target, half.positions)
  ranks = inference.centred_ranks(half.x) / len(half.x)
  if target.kind != "binary":
    scale /= np.linalg.norm(ranks) or 1.0
  spectra = (inference.spectrum(row[None], turns) for row in (ranks, vector))
  return scale * inference.shifted_sums(*spectra, turns)[0, :, 0]


def _scored(target, effect, judged, row) -> Scored:
  score = to_score(target.kind, effect)
  if judged is None:
    return Scored(score)
  p, family_p, *to_beat = (float(values[row]) for values in judged)
  return Scored(score, p, family_p, *(to_score(target.kind, bar) for bar in to_beat))


def _details(fit: Half, test: Half) -> dict[str, float]:
  """Return further statistics on the confirmation half."""
  if set(np.unique(test.y)) != {0, 1}:
    return {"characters": len(test.y), "isotonic_r2": inference.isotonic_r2(fit[:2], test[:2])}
  threshold = inference.best_threshold(fit.x, fit.y)
  return {
    "characters": len(test.y),
    "share": float(test.y.mean()),
    "average_precision": inference.average_precision(test.x, test.y),
    "threshold": threshold,
    "mcc": inference.mcc_at(threshold, test.x, test.y),
  }


def _partial(target, test: Half, targets) -> dict[str, float]:
  """Return the scores controlling for the hypothesis's confounds, if it has any."""
  same = [t for t in targets if t.hypothesis == target.hypothesis and t.strata is not None]
  if not same:
    return {}
  kept = same[0].mask[test.positions]
  x, y, stratum = test.x[kept], test.y[kept], same[0].strata[test.positions[kept]]
  partial = {"partial": inference.partial(x, y, stratum)}
  if target.kind == "binary":
    partial["stratified_auroc"] = inference.stratified_auroc(x, y, stratum)
  return partial


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
