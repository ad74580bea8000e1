"""Every statistic against SciPy, its definition over all pairs, or a sum done by hand."""

import itertools

import numpy as np
import pytest
from scipy import stats

from charrnn.analysis import scores


def _column_and_label(seed, n=60, levels=7):
  """With ties."""
  rng = np.random.default_rng(seed)
  x = rng.integers(0, levels, n).astype(np.float32)
  return x, (rng.random(n) < 0.3 + 0.4 * (x > 4)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [2, 7, 10**6])
def test_auroc_is_the_share_of_pairs_in_order(seed, levels):
  x, y = _column_and_label(seed, levels=levels)
  pairs = list(itertools.product(x[y == 1], x[y == 0]))
  by_hand = np.mean([(a > b) + (a == b) / 2 for a, b in pairs])
  assert scores.auroc(x, y) == pytest.approx(by_hand)
  assert scores.auroc(-x, y) == pytest.approx(1 - by_hand)
  u = stats.mannwhitneyu(x[y == 1], x[y == 0]).statistic
  assert scores.auroc(x, y) == pytest.approx(u / len(pairs))


def test_auroc_without_one_of_the_classes_is_nothing():
  assert np.isnan(scores.auroc([1, 2], [0, 0])) and np.isnan(scores.auroc([1, 2], [1, 1]))


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipys(seed):
  x, _ = _column_and_label(seed)
  y = x + np.random.default_rng(seed).integers(-5, 5, len(x))
  assert scores.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
  assert scores.spearman(x, np.ones_like(x)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_steps_through_the_thresholds(seed):
  x, y = _column_and_label(seed)
  total = recall = 0.0
  for threshold in sorted(set(x), reverse=True):
    said = x >= threshold
    before, recall = recall, (said & (y == 1)).sum() / y.sum()
    total += (recall - before) * y[said].mean()
  assert scores.average_precision(x, y) == pytest.approx(total)


def test_average_precision_by_hand():
  # Found first, second and fourth: (1 + 1 + 3/4) / 3; all alike: the share of positives.
  assert scores.average_precision([9, 8, 7, 6, 5], [1, 1, 0, 1, 0]) == pytest.approx(2.75 / 3)
  assert scores.average_precision([1, 1, 1, 1], [1, 0, 0, 0]) == 0.25
  assert np.isnan(scores.average_precision([1, 2], [0, 0]))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_best_of_all(seed):
  x, y = _column_and_label(seed)
  threshold = scores.best_threshold(x, y)
  every = [np.corrcoef(x >= cut, y)[0, 1] for cut in sorted(set(x))[1:]]
  assert scores.mcc_at(threshold, x, y) == pytest.approx(max(every))
  assert threshold not in x


def test_mcc_of_a_constant_is_zero():
  assert scores.mcc_at(5, [1, 2, 3], [0, 1, 1]) == 0
  assert scores.mcc_at(scores.best_threshold([3, 3], [0, 1]), [3, 3], [0, 1]) == 0


@pytest.mark.parametrize("seed", range(5))
def test_isotonic_r2_is_that_of_the_best_monotone_function(seed):
  rng = np.random.default_rng(seed)
  y = rng.integers(0, 8, 80)
  x = np.maximum(0, y - 3) + rng.standard_normal(80)
  levels = np.unique(y)

  def mean(first, last):
    return x[(y >= levels[first]) & (y <= levels[last])].mean()

  # The max-min formula (Barlow et al. 1972).
  fitted = [
    max(min(mean(first, last) for last in range(i, len(levels))) for first in range(i + 1))
    for i in range(len(levels))
  ]
  error = ((x - np.array(fitted)[np.searchsorted(levels, y)]) ** 2).sum()
  expected = 1 - error / ((x - x.mean()) ** 2).sum()
  assert scores.isotonic_r2((x, y), (x, y)) == pytest.approx(expected)
  assert scores.isotonic_r2((-x, y), (-x, y), increasing=False) == pytest.approx(expected)
  assert scores.isotonic_r2((-x, y), (-x, y)) < 0.1


def test_isotonic_r2_elsewhere_than_where_it_was_fitted():
  fit = np.array([0.0, 0, 2, 2]), np.array([0, 1, 2, 3])
  # f(1.5) = 1 lies between; f(9) = 2 beyond. Errors 0 and 1, mean 2, squares 1 and 1.
  test = np.array([1.0, 3.0]), np.array([1.5, 9])
  assert scores.isotonic_r2(fit, test) == pytest.approx(0.5)
  assert np.isnan(scores.isotonic_r2(fit, (np.ones(3), np.arange(3))))


def test_strata_are_all_combinations():
  a, b = np.array([0, 0, 1, 1, 0]), np.array([5, 6, 5, 5, 5])
  numbers = scores.strata([a, b])
  assert [numbers[i] == numbers[j] for i, j in [(0, 4), (2, 3), (0, 1), (0, 2)]] == [1, 1, 0, 0]


def test_many_values_are_cut_into_bins_of_like_size():
  rng = np.random.default_rng(0)
  sizes = np.bincount(scores.strata([rng.standard_normal(10_000)], bins=20))
  assert len(sizes) == 20 and sizes.min() > 480


@pytest.mark.parametrize("seed", range(3))
def test_partial_correlations_are_those_of_a_regression_on_the_strata(seed):
  rng = np.random.default_rng(seed)
  stratum = rng.integers(0, 5, 200)
  x = rng.standard_normal(200) + (stratum - 2) ** 2
  y = rng.integers(0, 3, 200) + stratum + (x > 2)
  dummies = np.eye(5)[stratum]

  def rest(values):
    ranks = stats.rankdata(values)
    return ranks - dummies @ np.linalg.lstsq(dummies, ranks, rcond=None)[0]

  expected = stats.pearsonr(rest(x), rest(y)).statistic
  assert scores.partial(x, y, stratum) == pytest.approx(expected)
  expected = stats.pearsonr(stats.rankdata(x), rest(y)).statistic
  assert scores.semipartial(x, y, stratum) == pytest.approx(expected)


def test_a_cell_that_only_follows_the_confound_has_nothing_left():
  rng = np.random.default_rng(0)
  column = rng.integers(0, 40, 20_000)
  in_body = rng.random(20_000) < column / 40
  stratum = scores.strata([column])
  cell = column + 0.5 * rng.standard_normal(20_000)
  assert scores.auroc(cell, in_body) > 0.8
  assert abs(scores.partial(cell, in_body, stratum)) < 0.03
  assert abs(scores.semipartial(cell, in_body, stratum)) < 0.03
  assert abs(scores.stratified_auroc(cell, in_body, stratum) - 0.5) < 0.03


def test_stratified_auroc_by_hand():
  x = np.array([1, 2, 3, 4, 9, 8, 7, 5])
  y = np.array([0, 1, 0, 1, 0, 0, 1, 1])
  stratum = np.array([0, 0, 0, 0, 1, 1, 1, 2])
  # 3 of 4 pairs with the weight 4/5, none of 2 with 2/4; the third stratum has no negatives.
  assert scores.stratified_auroc(x, y, stratum) == pytest.approx(0.8 * 0.75 / 1.3)
  assert np.isnan(scores.stratified_auroc(x, y, np.arange(8)))


@pytest.mark.parametrize(("found", "of"), [(0, 10), (10, 10), (5, 100), (51, 1024)])
def test_wilson_is_scipys(found, of):
  interval = stats.binomtest(found, of).proportion_ci(method="wilson")
  assert scores.wilson(found, of) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_wilson_of_nothing():
  assert scores.wilson(0, 0) == (0, 1)
