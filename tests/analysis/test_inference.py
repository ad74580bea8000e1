"""Tests of scores (against SciPy or definitions), circular shifts, and the halves of a text."""

import itertools

import numpy as np
import pytest
from scipy import stats

from charrnn.analysis import inference


def _column_and_label(seed, n=60, levels=7):
  """Return a column with ties and a label that depends on it."""
  rng = np.random.default_rng(seed)
  x = rng.integers(0, levels, n).astype(np.float32)
  return x, (rng.random(n) < 0.3 + 0.4 * (x > 4)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [2, 7, 10**6])
def test_auroc_is_the_share_of_ordered_pairs(seed, levels):
  x, y = _column_and_label(seed, levels=levels)
  pairs = list(itertools.product(x[y == 1], x[y == 0]))
  by_hand = np.mean([(a > b) + (a == b) / 2 for a, b in pairs])
  assert inference.auroc(x, y) == pytest.approx(by_hand)
  assert inference.auroc(-x, y) == pytest.approx(1 - by_hand)
  u = stats.mannwhitneyu(x[y == 1], x[y == 0]).statistic
  assert inference.auroc(x, y) == pytest.approx(u / len(pairs))


def test_auroc_with_only_one_class_is_nan():
  assert np.isnan(inference.auroc([1, 2], [0, 0])) and np.isnan(inference.auroc([1, 2], [1, 1]))


@pytest.mark.parametrize("seed", range(5))
def test_spearman_equals_scipys(seed):
  x, _ = _column_and_label(seed)
  y = x + np.random.default_rng(seed).integers(-5, 5, len(x))
  assert inference.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
  assert inference.spearman(x, np.ones_like(x)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_equals_a_sum_over_thresholds(seed):
  x, y = _column_and_label(seed)
  total = recall = 0.0
  for threshold in sorted(set(x), reverse=True):
    prediction = x >= threshold
    before, recall = recall, (prediction & (y == 1)).sum() / y.sum()
    total += (recall - before) * y[prediction].mean()
  assert inference.average_precision(x, y) == pytest.approx(total)


def test_average_precision_equals_a_calculation_by_hand():
  # Positives at ranks 1, 2 and 4 give (1 + 1 + 3/4) / 3. Equal scores give the share of positives.
  assert inference.average_precision([9, 8, 7, 6, 5], [1, 1, 0, 1, 0]) == pytest.approx(2.75 / 3)
  assert inference.average_precision([1, 1, 1, 1], [1, 0, 0, 0]) == 0.25
  assert np.isnan(inference.average_precision([1, 2], [0, 0]))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_has_the_best_mcc(seed):
  x, y = _column_and_label(seed)
  threshold = inference.best_threshold(x, y)
  every = [np.corrcoef(x >= cut, y)[0, 1] for cut in sorted(set(x))[1:]]
  assert inference.mcc_at(threshold, x, y) == pytest.approx(max(every))
  assert threshold not in x


def test_mcc_of_a_constant_prediction_is_zero():
  assert inference.mcc_at(5, [1, 2, 3], [0, 1, 1]) == 0
  assert inference.mcc_at(inference.best_threshold([3, 3], [0, 1]), [3, 3], [0, 1]) == 0


@pytest.mark.parametrize("seed", range(5))
def test_isotonic_r2_equals_r2_of_the_max_min_formula(seed):
  rng = np.random.default_rng(seed)
  y = rng.integers(0, 8, 80)
  x = np.maximum(0, y - 3) + rng.standard_normal(80)
  levels = np.unique(y)

  def mean(first, last):
    return x[(y >= levels[first]) & (y <= levels[last])].mean()

  # This is the max-min formula of Barlow et al. (1972).
  fitted = [
    max(min(mean(first, last) for last in range(i, len(levels))) for first in range(i + 1))
    for i in range(len(levels))
  ]
  error = ((x - np.array(fitted)[np.searchsorted(levels, y)]) ** 2).sum()
  expected = 1 - error / ((x - x.mean()) ** 2).sum()
  assert inference.isotonic_r2((x, y), (x, y)) == pytest.approx(expected)
  assert inference.isotonic_r2((-x, y), (-x, y)) < 0.1


def test_isotonic_r2_on_labels_that_were_not_fitted():
  fit = np.array([0.0, 0, 2, 2]), np.array([0, 1, 2, 3])
  # f(1.5) = 1 is interpolated, and f(9) = 2 is constant. The errors are 0 and 1, the mean is 2.
  test = np.array([1.0, 3.0]), np.array([1.5, 9])
  assert inference.isotonic_r2(fit, test) == pytest.approx(0.5)
  assert np.isnan(inference.isotonic_r2(fit, (np.ones(3), np.arange(3))))


def test_strata_are_all_combinations():
  a, b = np.array([0, 0, 1, 1, 0]), np.array([5, 6, 5, 5, 5])
  numbers = inference.strata([a, b])
  assert [numbers[i] == numbers[j] for i, j in [(0, 4), (2, 3), (0, 1), (0, 2)]] == [1, 1, 0, 0]


def test_many_values_are_binned_at_quantiles():
  rng = np.random.default_rng(0)
  sizes = np.bincount(inference.strata([rng.standard_normal(10_000)], bins=20))
  assert len(sizes) == 20 and sizes.min() > 480


@pytest.mark.parametrize("seed", range(3))
def test_partial_correlation_equals_the_correlation_of_regression_residuals(seed):
  rng = np.random.default_rng(seed)
  stratum = rng.integers(0, 5, 200)
  x = rng.standard_normal(200) + (stratum - 2) ** 2
  y = rng.integers(0, 3, 200) + stratum + (x > 2)
  dummies = np.eye(5)[stratum]

  def rest(values):
    ranks = stats.rankdata(values)
    return ranks - dummies @ np.linalg.lstsq(dummies, ranks, rcond=None)[0]

  expected = stats.pearsonr(rest(x), rest(y)).statistic
  assert inference.partial(x, y, stratum) == pytest.approx(expected)


def test_a_unit_that_only_follows_the_confound_has_a_partial_score_of_zero():
  rng = np.random.default_rng(0)
  column = rng.integers(0, 40, 20_000)
  in_body = rng.random(20_000) < column / 40
  stratum = inference.strata([column])
  unit = column + 0.5 * rng.standard_normal(20_000)
  assert inference.auroc(unit, in_body) > 0.8
  assert abs(inference.partial(unit, in_body, stratum)) < 0.03
  assert abs(inference.stratified_auroc(unit, in_body, stratum) - 0.5) < 0.03


def test_stratified_auroc_equals_a_calculation_by_hand():
  x = np.array([1, 2, 3, 4, 9, 8, 7, 5])
  y = np.array([0, 1, 0, 1, 0, 0, 1, 1])
  stratum = np.array([0, 0, 0, 0, 1, 1, 1, 2])
  # The strata have AUROC 3/4 (weight 4/5), 0 (weight 2/4) and none, for lack of negatives.
  assert inference.stratified_auroc(x, y, stratum) == pytest.approx(0.8 * 0.75 / 1.3)
  assert np.isnan(inference.stratified_auroc(x, y, np.arange(8)))


@pytest.mark.parametrize("n_shifts", [1, 2, 7, 20])
@pytest.mark.parametrize("chunk", [3, 4096])
def test_shifted_sums_equal_the_sums_of_rolled_labels(monkeypatch, n_shifts, chunk):
  monkeypatch.setattr(inference, "CHUNK", chunk)
  rng = np.random.default_rng(n_shifts)
  x, y = rng.standard_normal((3, 140)), rng.standard_normal((2, 140))
  spectra = (inference.spectrum(rows, n_shifts) for rows in (x, y))
  sums = inference.shifted_sums(*spectra, n_shifts)
  assert sums.shape == (3, n_shifts, 2)
  for shift in range(n_shifts):
    expected = x @ np.roll(y, -shift * 140 // n_shifts, axis=1).T
    np.testing.assert_allclose(sums[:, shift], expected, atol=1e-12)


def test_p_values_equal_a_calculation_by_hand():
  null = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]]).T
  for observed, p in [(0.95, 0.1), (0.9, 0.2), (0.85, 0.2), (0.05, 1.0)]:
    judged = inference.significance(np.array([observed]), null, alpha=0.2)
    # The family consists of one hypothesis.
    assert judged.p == pytest.approx([p]) and judged.family_p == pytest.approx([p])
    # One shift exceeds 0.85, so p is 2 / 10. Two shifts reach 0.8.
    assert judged.to_beat == pytest.approx([0.8])
    assert judged.family_to_beat == pytest.approx([0.8])


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.33])
def test_an_effect_is_significant_if_and_only_if_it_exceeds_the_threshold(alpha):
  rng = np.random.default_rng(0)
  for _ in range(50):
    null = rng.uniform(0, 0.5, (39, 3)) * [1, 0.1, 0.6]
    observed = null.max(axis=0) * rng.uniform(0.7, 1.2, 3)
    judged = inference.significance(observed, null, alpha)
    assert ((judged.p <= alpha) == (observed > judged.to_beat)).all()
    assert ((judged.family_p <= alpha) == (observed > judged.family_to_beat)).all()
    assert (judged.family_p >= judged.p - 1e-12).all()
    assert (judged.family_to_beat >= judged.to_beat - 1e-12).all()


def test_no_effect_is_significant_with_too_few_shifts():
  judged = inference.significance(np.array([0.9]), np.full((18, 1), 0.1), alpha=0.05)
  assert np.isnan(judged.to_beat).all() and np.isnan(judged.family_to_beat).all()
  assert judged.p > 0.05
  judged = inference.significance(np.array([0.9]), np.full((19, 1), 0.1), alpha=0.05)
  assert judged.to_beat == pytest.approx([0.1]) and judged.p == pytest.approx([0.05])


def test_hypotheses_with_different_spread_are_compared_on_one_scale():
  rng = np.random.default_rng(0)
  null = np.abs(rng.standard_normal((999, 2))) * [0.01, 0.2]
  judged = inference.significance(np.array([0.08, 0.08]), null, alpha=0.05)
  assert judged.family_p[0] < 0.01 and judged.family_p[1] > 0.2


def _places(spans):
  return [place for start, stop in spans for place in range(start, stop)]


def _documents(lengths):
  ends = np.cumsum([0, *lengths]).tolist()
  return list(itertools.pairwise(ends))


@pytest.mark.parametrize("seed", range(3))
def test_many_documents_are_not_split(seed):
  documents = _documents(np.random.default_rng(seed).integers(100, 2000, 40))
  parts = inference.halve(documents, seed)
  assert parts.by == "documents"
  assert sorted([*parts.discovery, *parts.confirmation]) == documents
  sizes = [len(_places(spans)) for spans in parts[:2]]
  assert min(sizes) > 0.4 * sum(sizes)
  assert parts == inference.halve(documents, seed) != inference.halve(documents, seed + 1)


@pytest.mark.parametrize("lengths", [[100_000], [60_000, 30_000, 10_000], [200_000, *[50] * 20]])
def test_few_or_unequal_documents_are_split_into_long_blocks_with_gaps(lengths):
  documents = _documents(lengths)
  parts = inference.halve(documents)
  assert parts.by == "blocks"
  places = [_places(spans) for spans in parts[:2]]
  assert not set(places[0]) & set(places[1])
  assert min(map(len, places)) > 0.4 * sum(map(len, places))
  starts = {start for start, _ in documents}
  pieces = sorted([*parts.discovery, *parts.confirmation])
  for (_, stop), (start, _) in itertools.pairwise(pieces):
    assert start - stop == (0 if start in starts else inference.GAP)
  assert max(stop - start for start, stop in pieces) > inference.MIN_BLOCK - inference.GAP


def test_a_half_of_a_very_short_text_is_empty():
  assert inference.halve([(0, 5)])[:2] == (((0, 5),), ())
  assert inference.halve([])[:2] == ((), ())


def test_lags_stay_within_their_span():
  spans = [(0, 5), (5, 8), (10, 11)]
  assert inference.inner(spans, (-1, 0, 1)).tolist() == [1, 2, 3, 6]
  assert inference.inner(spans, (0,)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10]
  assert inference.inner(spans, (2,)).tolist() == [2, 3, 4, 7]
  assert inference.inner(spans, (-2, -1)).tolist() == [0, 1, 2, 5]
  assert inference.inner([], (0,)).tolist() == []
