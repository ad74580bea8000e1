"""Exact statistics of one column against one label, without masks: x and y are of one shape [n]."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats


def centred_ranks(values) -> np.ndarray:
  """Mid-ranks (ties share the mean of their ranks) minus their mean (n + 1) / 2."""
  return stats.rankdata(np.asarray(values, np.float64)) - (len(values) + 1) / 2


def correlation(a, b) -> float:
  """Pearson's correlation of two centred arrays; 0 where one of them is constant."""
  scale = math.sqrt((a @ a) * (b @ b))
  return float(a @ b) / scale if scale else 0.0


def auroc(x, y) -> float:
  """P(x of a positive > x of a negative) + P(they are equal) / 2."""
  positive = np.asarray(y, bool)
  count = int(positive.sum())
  pairs = count * (len(positive) - count)
  return 0.5 + float(centred_ranks(x)[positive].sum()) / pairs if pairs else math.nan


def spearman(x, y) -> float:
  return correlation(centred_ranks(x), centred_ranks(y))


class Curve(NamedTuple):
  """What "x >= threshold" finds, for every distinct x from the largest down."""

  thresholds: np.ndarray
  hits: np.ndarray
  false_alarms: np.ndarray


def curve(x, y) -> Curve:
  order = np.argsort(-np.asarray(x, np.float64), kind="stable")
  x, y = np.asarray(x)[order], np.asarray(y, bool)[order]
  last = np.flatnonzero(np.append(x[1:] != x[:-1], True))  # ties fall together
  hits = np.cumsum(y)[last]
  return Curve(x[last], hits, last + 1 - hits)


def average_precision(x, y) -> float:
  """Sum of (R_i - R_(i-1)) P_i over the distinct thresholds; guessing gets the share of positives.

  As scikit-learn's average_precision_score: without interpolation, which would flatter.
  """
  _, hits, false_alarms = curve(x, y)
  if not hits[-1]:
    return math.nan
  precision = hits / (hits + false_alarms)
  return float(np.diff(hits, prepend=0) @ precision / hits[-1])


def mcc(tp, fp, fn, tn):
  """Matthews' correlation of a prediction and a label; 0 where either is constant."""
  tp, fp, fn, tn = (np.asarray(count, np.float64) for count in (tp, fp, fn, tn))
  scale = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
  return np.where(scale > 0, (tp * tn - fp * fn) / np.where(scale > 0, scale, 1), 0.0)


def best_threshold(x, y) -> float:
  """The threshold of the best MCC; it lies halfway to the next smaller value, so that it carries.

  The prediction is x >= threshold.
  """
  thresholds, tp, fp = curve(x, y)
  best = int(np.argmax(mcc(tp, fp, tp[-1] - tp, fp[-1] - fp)))
  following = thresholds[min(best + 1, len(thresholds) - 1)]
  return (float(thresholds[best]) + float(following)) / 2


def mcc_at(threshold: float, x, y) -> float:
  said, y = np.asarray(x) >= threshold, np.asarray(y, bool)
  return float(mcc((said & y).sum(), (said & ~y).sum(), (~said & y).sum(), (~said & ~y).sum()))


def isotonic_r2(fit, test, increasing: bool = True) -> float:
  """R^2 on `test` of the monotone function x = f(y) that fits best on `fit`; both are (x, y).

  The cell as a function of the label: a line-length cell is flat for half of the line, which
  leaves f monotone and its inverse none. R^2 = 1 - SSE / SST may be negative; f is linear between
  the labels met and constant beyond them. Fit by pool-adjacent-violators (Barlow et al. 1972).
  """
  (x, y), (x_test, y_test) = fit, test
  levels, where = np.unique(y, return_inverse=True)
  counts = np.bincount(where)
  means = np.bincount(where, weights=x) / counts
  fitted = optimize.isotonic_regression(means, weights=counts, increasing=increasing).x
  x_test = np.asarray(x_test, np.float64)
  error = ((x_test - np.interp(y_test, levels, fitted)) ** 2).sum()
  spread = ((x_test - x_test.mean()) ** 2).sum()
  return float(1 - error / spread) if spread else math.nan


def strata(confounds: Sequence, bins: int = 64) -> np.ndarray:
  """Numbers [n] of the strata in which every confound is (nearly) constant.

  A confound with more than `bins` distinct values is cut at its quantiles. Strata of several
  confounds are those of their combinations, so nothing is supposed about how they act: what is
  left inside of them depends on no function of the (binned) confounds.
  """
  parts = [_binned(confound, bins) for confound in confounds]
  merged = parts[0]
  for part in parts[1:]:
    merged = np.unique(merged * (int(part.max()) + 1) + part, return_inverse=True)[1]
  return merged


def _binned(values, bins: int) -> np.ndarray:
  levels, where = np.unique(values, return_inverse=True)
  if len(levels) <= bins:
    return where
  cuts = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
  return np.unique(np.searchsorted(cuts, values, side="right"), return_inverse=True)[1]


def residual(values, stratum) -> np.ndarray:
  """Values minus the mean of their stratum."""
  means = np.bincount(stratum, weights=values) / np.maximum(np.bincount(stratum), 1)
  return values - means[stratum]


def semipartial(x, y, stratum) -> float:
  """Correlation of the ranks of x with what the strata leave of the ranks of y.

  Never more than the partial one: a cell that is nearly a function of the confounds gets next to
  nothing, however well its rest fits.
  """
  return correlation(centred_ranks(x), residual(centred_ranks(y), stratum))


def partial(x, y, stratum) -> float:
  """Partial rank correlation: what the strata leave of the ranks of x and of y, correlated.

  Quade (1967), "Rank analysis of covariance", with a mean for each stratum instead of a line.
  """
  return correlation(residual(centred_ranks(x), stratum), residual(centred_ranks(y), stratum))


def stratified_auroc(x, y, stratum) -> float:
  """The AUROC inside of the strata, each with the weight positives * negatives / (n + 1).

  The weights of van Elteren (1960), the best ones for a shift of all strata alike. Strata without
  positives or without negatives say nothing; NaN if all are such.
  """
  order = np.argsort(stratum, kind="stable")
  cuts = np.flatnonzero(np.diff(np.asarray(stratum)[order])) + 1
  total = weights = 0.0
  for places in np.split(order, cuts):
    positives = int(np.count_nonzero(np.asarray(y)[places]))
    weight = positives * (len(places) - positives) / (len(places) + 1)
    if weight:
      total += weight * auroc(np.asarray(x)[places], np.asarray(y)[places])
      weights += weight
  return total / weights if weights else math.nan


def wilson(found: int, of: int, z: float = 1.959964) -> tuple[float, float]:
  """Wilson's (1927) interval of a share, 95% unless told; (0, 1) of nothing."""
  if not of:
    return 0.0, 1.0
  share, spread = found / of, z * z / of
  centre = (share + spread / 2) / (1 + spread)
  half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
  # At none and at all of them one end is 0 or 1, but for rounding.
  return max(0.0, centre - half), min(1.0, centre + half)
