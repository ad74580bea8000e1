"""Statistical inference: halves of a text, scores of a column for a label, and significance.

Scores take a column x and a label y of the same shape [n], without masks.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import fft, optimize, stats

Span = tuple[int, int]
MIN_DOCUMENTS = 8  # minimum number of documents to split a text by documents
BLOCKS = 20  # approximate number of blocks of a text that is split by blocks
MIN_BLOCK = 2000  # minimum length of a block, in characters
GAP = 250  # characters skipped between blocks, since a unit may remember the other half
CHUNK = 4096  # positions per matrix product; the float32 products are added in float64
MAX_EFFECT = 1 - 1e-6  # keeps Fisher's z finite


class Halves(NamedTuple):
  """The spans of the discovery half and of the confirmation half of a text."""

  discovery: tuple[Span, ...]
  confirmation: tuple[Span, ...]
  by: str  # "documents" or "blocks"


def halve(documents: Sequence[Span], seed: int = 0) -> Halves:
  """Split documents into two halves: at random, or into alternating blocks of text.

  Blocks are used if there are few documents, or if their lengths are very unequal. A block is a
  twentieth of the text, at least 2000 characters, with a gap of 250 characters before it. This is
  long compared with the memory of a unit and with runs of labels (tens to hundreds of characters).
  """
  documents = [(int(start), int(stop)) for start, stop in documents if start < stop]
  dealt = [], []  # each document, in random order, goes to the half with fewer characters
  for index in np.random.default_rng(seed).permutation(len(documents)):
    min(dealt, key=_length).append(documents[index])
  if len(documents) >= MIN_DOCUMENTS and min(map(_length, dealt)) >= 0.4 * _length(documents):
    return Halves(*(tuple(sorted(half)) for half in dealt), "documents")
  length = max(MIN_BLOCK, _length(documents) // BLOCKS)
  blocks = []
  for start, stop in documents:
    pieces = max(1, round((stop - start) / length))
    cuts = np.linspace(start, stop, pieces + 1).astype(int).tolist()
    # The first block of a document needs no gap, because no other block precedes it.
    blocks += [(a + GAP * (a > start), b) for a, b in itertools.pairwise(cuts)]
  return Halves(tuple(blocks[::2]), tuple(blocks[1::2]), "blocks")


def mask(spans: Sequence[Span], length: int) -> np.ndarray:
  """Return whether each position of a text is in one of the spans, bool [length]."""
  inside = np.zeros(length, bool)
  for start, stop in spans:
    inside[start:stop] = True
  return inside


def inner(spans: Sequence[Span], lags: Sequence[int]) -> np.ndarray:
  """Return the positions in spans at which every lag stays within the same span."""
  before, after = max(0, *lags), max(0, *(-lag for lag in lags))
  positions = [np.arange(start + before, stop - after) for start, stop in spans]
  return np.concatenate([np.empty(0, np.intp), *positions]).astype(np.intp)


def _length(spans) -> int:
  return sum(stop - start for start, stop in spans)


@dataclasses.dataclass(frozen=True)
class Share:
  """A number of `of` things that have a property."""

  count: int
  of: int
  share: float
  low: float  # lower end of Wilson's 95% interval, which assumes that they are independent
  high: float


def share(count: int, of: int) -> Share:
  """Return the share of `count` of `of` things, with its 95% interval."""
  interval = stats.binomtest(count, of).proportion_ci(method="wilson")
  return Share(count, of, count / of, interval.low, interval.high)


def centered_ranks(values) -> np.ndarray:
  """Return mid-ranks (ties get the mean of their ranks) minus their mean (n + 1) / 2."""
  return stats.rankdata(np.asarray(values, np.float64)) - (len(values) + 1) / 2


def correlation(a, b) -> float:
  """Return Pearson's correlation of two centered arrays; 0 if one of them is constant."""
  scale = math.sqrt((a @ a) * (b @ b))
  return float(a @ b) / scale if scale else 0.0


def spearman(x, y) -> float:
  """Return Spearman's rank correlation of x and y."""
  return correlation(centered_ranks(x), centered_ranks(y))


def auroc(x, y) -> float:
  """Return P(x of a positive > x of a negative) + P(both are equal) / 2."""
  positive = np.asarray(y, bool)
  count = int(positive.sum())
  pairs = count * (len(positive) - count)
  return 0.5 + float(centered_ranks(x)[positive].sum()) / pairs if pairs else math.nan


def _curve(x, y) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return thresholds in descending order, and hits and false alarms of x >= threshold."""
  order = np.argsort(-np.asarray(x, np.float64), kind="stable")
  x, y = np.asarray(x)[order], np.asarray(y, bool)[order]
  last = np.flatnonzero(np.append(x[1:] != x[:-1], True))  # last index of each run of equal x
  hits = np.cumsum(y)[last]
  return x[last], hits, last + 1 - hits


def average_precision(x, y) -> float:
  """Return the sum of (R_i - R_(i-1)) P_i over the thresholds; chance is the share of positives.

  As in scikit-learn's average_precision_score, there is no interpolation.
  """
  _, hits, false_alarms = _curve(x, y)
  if not hits[-1]:
    return math.nan
  precision = hits / (hits + false_alarms)
  return float(np.diff(hits, prepend=0) @ precision / hits[-1])


def _mcc(tp, fp, fn, tn):
  """Return Matthews' correlation coefficient (MCC); 0 if the prediction or label is constant."""
  tp, fp, fn, tn = (np.asarray(count, np.float64) for count in (tp, fp, fn, tn))
  scale = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
  return np.where(scale > 0, (tp * tn - fp * fn) / np.where(scale > 0, scale, 1), 0.0)


def best_threshold(x, y) -> float:
  """Return the threshold at which the prediction x >= threshold has the best MCC.

  It is the midpoint to the next smaller x, so that it generalizes to other data.
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

  The column x is a function of the label y, and not the reverse: a line-length unit is constant for
  half of the line, so f has no inverse. R^2 = 1 - SSE / SST may be negative. f is linear between
  the labels of `fit` and constant beyond them.
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
  """Return the stratum of each position [n]; in a stratum every confound is (nearly) constant.

  A confound with more than `bins` values is binned at its quantiles. Every combination of values is
  a stratum, so no assumption is made about the effect of the confounds.
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
  """Return the values minus the mean of their stratum."""
  means = np.bincount(stratum, weights=values) / np.maximum(np.bincount(stratum), 1)
  return values - means[stratum]


def partial(x, y, stratum) -> float:
  """Return the correlation of the residual ranks of x and y within strata, as in Quade (1967)."""
  return correlation(residual(centered_ranks(x), stratum), residual(centered_ranks(y), stratum))


def stratified_auroc(x, y, stratum) -> float:
  """Return the mean AUROC of the strata, weighted by positives * negatives / (n + 1).

  The weights are from van Elteren (1960). NaN if no stratum has both classes.
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


# The circular-shift null. Neighboring characters depend on each other, so textbook p-values and
# p-values from shuffled characters are wrong. A circular shift of a label keeps its runs, but
# removes its relation to the text. The shifts are the multiples of n / (S + 1), which form a group.
# If text and units are stationary, shift 0 (the observed labels) is exchangeable with the others
# under the null. Random shifts that exclude a neighborhood of 0 are not a group: with n = 3000 and
# 200 characters excluded on each side, 6 to 7% of noise was significant at the 5% level. `n_shifts`
# is S + 1, which includes shift 0.


def spectrum(rows, n_shifts: int) -> np.ndarray:
  """Return the Fourier transform of rows [k, n] over the shifts.

  The shape is [k, n_shifts // 2 + 1, n / n_shifts]. Without shifts, it is the rows themselves.
  """
  if n_shifts == 1:
    return rows[:, None]
  return fft.rfft(rows.reshape(len(rows), n_shifts, -1), axis=1)


def shifted_sums(one, other, n_shifts: int) -> np.ndarray:
  """Return the sums over t of x[c, t] * y[k, t + j * n / n_shifts], float64 [c, n_shifts, k].

  `one` and `other` are the spectra of x and y. By the correlation theorem, the cost does not depend
  on the number of shifts: 4 n c k multiplications and additions.
  """
  count, frequencies, length = one.shape
  total = np.zeros((frequencies, count, len(other)), np.complex128)
  for start in range(0, length, CHUNK):
    piece = slice(start, start + CHUNK)
    for frequency in range(frequencies):
      total[frequency] += one[:, frequency, piece].conj() @ other[:, frequency, piece].T
  return fft.irfft(total, n_shifts, axis=0).transpose(1, 0, 2)


class Significance(NamedTuple):
  """Arrays [H]. `to_beat` are effects; NaN if no effect can be significant."""

  p: np.ndarray
  family_p: np.ndarray
  to_beat: np.ndarray
  family_to_beat: np.ndarray


def significance(observed, null, alpha: float) -> Significance | None:
  """Compare observed effects [H] with a null [S, H]: each hypothesis, and the family of all.

  Return None for an empty null.

  p = (1 + number of null effects >= observed) / (1 + S). For the family, effects of all hypotheses
  are converted to one scale, T = (z - median) / MAD with Fisher's z = arctanh(effect). They are
  compared with the largest T of each shift: the single-step max-T procedure of Westfall & Young
  (1993). Median and MAD (median absolute deviation) are of null and observed effects together, so
  that under the null the 1 + S values are exchangeable.
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
  """Return the value that must be exceeded for p <= alpha; NaN if there are too few shifts."""
  allowed = math.floor(alpha * (1 + len(null)) + 1e-9) - 1
  return float(np.sort(null)[::-1][allowed]) if 0 <= allowed < len(null) else math.nan
