"""Statistical inference: halves of a text, scores of a column against a label, significance.

Scores take a column x and a label y of one shape [n], without masks.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import fft, optimize, stats

Span = tuple[int, int]
MIN_DOCUMENTS = 8
BLOCKS = 20
MIN_BLOCK = 2000
GAP = 250  # characters left out between blocks: what a unit may remember of the other half
CHUNK = 4096  # positions multiplied at a time; float32 sums of chunks are added in float64
MAX_EFFECT = 1 - 1e-6  # keeps Fisher's z finite


class Halves(NamedTuple):
  discovery: tuple[Span, ...]
  confirmation: tuple[Span, ...]
  by: str  # "documents" or "blocks"


def halve(documents: Sequence[Span], seed: int = 0) -> Halves:
  """Deal whole documents at random, or alternate blocks if documents are few or very unequal.

  Blocks are a twentieth of the text, at least 2000 characters, with a gap of 250: long compared
  with how slowly a unit changes and with the runs of the labels, which are tens to hundreds.
  """
  documents = [(int(start), int(stop)) for start, stop in documents if start < stop]
  dealt = [], []  # in random order, each document to the half with fewer characters
  for index in np.random.default_rng(seed).permutation(len(documents)):
    min(dealt, key=_length).append(documents[index])
  if len(documents) >= MIN_DOCUMENTS and min(map(_length, dealt)) >= 0.4 * _length(documents):
    return Halves(*(tuple(sorted(half)) for half in dealt), "documents")
  length = max(MIN_BLOCK, _length(documents) // BLOCKS)
  blocks = []
  for start, stop in documents:
    pieces = max(1, round((stop - start) / length))
    cuts = np.linspace(start, stop, pieces + 1).astype(int).tolist()
    # The first block of a document follows nothing, so it needs no gap.
    blocks += [(a + GAP * (a > start), b) for a, b in itertools.pairwise(cuts)]
  return Halves(tuple(blocks[::2]), tuple(blocks[1::2]), "blocks")


def inner(spans: Sequence[Span], lags: Sequence[int]) -> np.ndarray:
  """Return the positions of spans from which every lag stays inside the same span."""
  before, after = max(0, *lags), max(0, *(-lag for lag in lags))
  positions = [np.arange(start + before, stop - after) for start, stop in spans]
  return np.concatenate([np.empty(0, np.intp), *positions]).astype(np.intp)


def _length(spans) -> int:
  return sum(stop - start for start, stop in spans)


def centred_ranks(values) -> np.ndarray:
  """Return mid-ranks (ties share the mean of their ranks) minus their mean (n + 1) / 2."""
  return stats.rankdata(np.asarray(values, np.float64)) - (len(values) + 1) / 2


def correlation(a, b) -> float:
  """Return Pearson's correlation of two centred arrays; 0 where one of them is constant."""
  scale = math.sqrt((a @ a) * (b @ b))
  return float(a @ b) / scale if scale else 0.0


def spearman(x, y) -> float:
  return correlation(centred_ranks(x), centred_ranks(y))


def auroc(x, y) -> float:
  """Return P(x of a positive > x of a negative) + P(they are equal) / 2."""
  positive = np.asarray(y, bool)
  count = int(positive.sum())
  pairs = count * (len(positive) - count)
  return 0.5 + float(centred_ranks(x)[positive].sum()) / pairs if pairs else math.nan


def _curve(x, y) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return thresholds, hits and false alarms of "x >= threshold", for all x in falling order."""
  order = np.argsort(-np.asarray(x, np.float64), kind="stable")
  x, y = np.asarray(x)[order], np.asarray(y, bool)[order]
  last = np.flatnonzero(np.append(x[1:] != x[:-1], True))  # of several equal ones
  hits = np.cumsum(y)[last]
  return x[last], hits, last + 1 - hits


def average_precision(x, y) -> float:
  """Return the sum of (R_i - R_(i-1)) P_i over the thresholds; chance is the share of positives.

  Without interpolation, as scikit-learn's average_precision_score.
  """
  _, hits, false_alarms = _curve(x, y)
  if not hits[-1]:
    return math.nan
  precision = hits / (hits + false_alarms)
  return float(np.diff(hits, prepend=0) @ precision / hits[-1])


def _mcc(tp, fp, fn, tn):
  """Return Matthews' correlation of a prediction and a label; 0 where either is constant."""
  tp, fp, fn, tn = (np.asarray(count, np.float64) for count in (tp, fp, fn, tn))
  scale = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
  return np.where(scale > 0, (tp * tn - fp * fn) / np.where(scale > 0, scale, 1), 0.0)


def best_threshold(x, y) -> float:
  """Return the threshold whose prediction x >= threshold has the best MCC.

  It lies halfway to the next smaller x, so that it carries over to other data.
  """
  thresholds, tp, fp = _curve(x, y)
  best = int(np.argmax(_mcc(tp, fp, tp[-1] - tp, fp[-1] - fp)))
  following = thresholds[min(best + 1, len(thresholds) - 1)]
  return (float(thresholds[best]) + float(following)) / 2


def mcc_at(threshold: float, x, y) -> float:
  """Return the MCC of the prediction x >= threshold."""
  guess, y = np.asarray(x) >= threshold, np.asarray(y, bool)
  counts = (guess & y).sum(), (guess & ~y).sum(), (~guess & y).sum(), (~guess & ~y).sum()
  return float(_mcc(*counts))


def isotonic_r2(fit, test) -> float:
  """Return R^2 on `test` of the increasing function x = f(y) fitted to `fit`; both are (x, y).

  The column as a function of the label: a line-length cell is flat for half of the line, so f is
  monotone but has no inverse. R^2 = 1 - SSE / SST may be negative; f is linear between the labels
  of `fit` and constant beyond them.
  """
  (x, y), (x_test, y_test) = fit, test
  levels, where = np.unique(y, return_inverse=True)
  counts = np.bincount(where)
  means = np.bincount(where, weights=x) / counts
  fitted = optimize.isotonic_regression(means, weights=counts).x
  x_test = np.asarray(x_test, np.float64)
  error = ((x_test - np.interp(y_test, levels, fitted)) ** 2).sum()
  spread = ((x_test - x_test.mean()) ** 2).sum()
  return float(1 - error / spread) if spread else math.nan


def strata(confounds: Sequence, bins: int = 64) -> np.ndarray:
  """Return numbers [n] of the strata in which every confound is (nearly) constant.

  A confound with more than `bins` values is cut at its quantiles. The strata are all combinations,
  so nothing is assumed about how the confounds act.
  """
  merged = np.zeros(len(confounds[0]), np.intp)
  for values in confounds:
    levels, part = np.unique(values, return_inverse=True)
    if len(levels) > bins:
      cuts = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
      part = np.unique(np.searchsorted(cuts, values, side="right"), return_inverse=True)[1]
    merged = np.unique(merged * (int(part.max()) + 1) + part, return_inverse=True)[1]
  return merged


def residual(values, stratum) -> np.ndarray:
  """Return values minus the mean of their stratum."""
  means = np.bincount(stratum, weights=values) / np.maximum(np.bincount(stratum), 1)
  return values - means[stratum]


def partial(x, y, stratum) -> float:
  """Correlate the residual ranks of x and y: Quade (1967), with a mean for each stratum."""
  return correlation(residual(centred_ranks(x), stratum), residual(centred_ranks(y), stratum))


def stratified_auroc(x, y, stratum) -> float:
  """Return the mean AUROC of the strata with the weights positives * negatives / (n + 1).

  These are van Elteren's (1960). NaN if no stratum has both classes.
  """
  x, y, order = np.asarray(x), np.asarray(y), np.argsort(stratum, kind="stable")
  cuts = np.flatnonzero(np.diff(np.asarray(stratum)[order])) + 1
  total = weights = 0.0
  for members in np.split(order, cuts):
    positives = int(np.count_nonzero(y[members]))
    weight = positives * (len(members) - positives) / (len(members) + 1)
    if weight:
      total += weight * auroc(x[members], y[members])
      weights += weight
  return total / weights if weights else math.nan


# The circular-shift null. Neighbouring characters depend on each other, so textbook p-values and
# those of shuffled characters are wrong. A label that is shifted round the circle of its text keeps
# its runs and loses its relation to the text. The shifts are the multiples of n / (S + 1): a group,
# in which no shift differs from the observed text (shift 0) under the null, if text and units are
# stationary. Random shifts outside a neighbourhood of 0 are no group: with n = 3000 and 200 left
# out at either side, 6 to 7% of noise was significant at 5%. `n_shifts` is S + 1:
# it counts shift 0.


def spectrum(rows, n_shifts: int) -> np.ndarray:
  """Return the Fourier transform over the shifts of rows [k, n].

  Its shape is [k, n_shifts // 2 + 1, n / n_shifts].
  """
  return fft.rfft(rows.reshape(len(rows), n_shifts, -1), axis=1)


def shifted_sums(one, other, n_shifts: int) -> np.ndarray:
  """Return the sums over t of x[c, t] * y[k, t + j * n / n_shifts]: float64 [c, n_shifts, k].

  `one` and `other` are the spectra of x and y. By the correlation theorem the cost, 4 n c k
  multiplications and additions, is independent of the number of shifts.
  """
  count, frequencies, length = one.shape
  total = np.zeros((frequencies, count, len(other)), np.complex128)
  for start in range(0, length, CHUNK):
    piece = slice(start, start + CHUNK)
    for frequency in range(frequencies):
      total[frequency] += one[:, frequency, piece].conj() @ other[:, frequency, piece].T
  return fft.irfft(total, n_shifts, axis=0).transpose(1, 0, 2)


class Significance(NamedTuple):
  """Arrays [H]; `to_beat` are effects, NaN where no effect would be significant."""

  p: np.ndarray
  family_p: np.ndarray
  to_beat: np.ndarray
  family_to_beat: np.ndarray


def significance(observed, null, alpha: float) -> Significance | None:
  """Compare observed effects [H] with null [S, H], for each hypothesis and for the family of all.

  Return None for an empty null.

  p = (1 + number of null >= observed) / (1 + S). For the family every hypothesis is put on one
  scale, T = (z - median) / MAD with Fisher's z = arctanh(effect), and compared with the largest T
  of each shift: the single-step max-T of Westfall & Young (1993). Median and MAD (median absolute
  deviation) are taken over null and observed values together, so that under the null none of the
  1 + S values differs from the others.
  """
  if not null.size:
    return None
  together = np.arctanh(np.clip(np.concatenate([observed[None], null]), -MAX_EFFECT, MAX_EFFECT))
  middle = np.median(together, axis=0)
  spread = np.median(np.abs(together - middle), axis=0)
  spread = np.where(spread > 0, spread, 1.0)
  scaled = (together - middle) / spread
  largest = scaled[1:].max(axis=1)
  return Significance(
    _p(observed, null),
    _p(scaled[0], largest[:, None]),
    np.array([_to_beat(column, alpha) for column in null.T]),
    np.tanh(middle + spread * _to_beat(largest, alpha)),
  )


def _p(observed, null):
  return (1 + (null >= observed).sum(axis=0)) / (1 + len(null))


def _to_beat(null, alpha: float) -> float:
  """Return what a value must exceed for p <= alpha; NaN if there are too few shifts for that."""
  allowed = math.floor(alpha * (1 + len(null)) + 1e-9) - 1
  return float(np.sort(null)[::-1][allowed]) if 0 <= allowed < len(null) else math.nan
