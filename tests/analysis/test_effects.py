"""Tests of ranks by counting, compared with ranks by sorting."""

import numpy as np
import pytest
from scipy import stats

from charrnn.analysis import effects, inference


def _sorted_ranks(values):
  return (stats.rankdata(values.astype(np.float64)) - (len(values) + 1) / 2) / len(values)


@pytest.mark.parametrize("levels", [1, 2, 50, 3000])
def test_ranks_of_codes_with_ties(levels):
  coded = np.random.default_rng(levels).integers(0, levels, 5000).astype(np.uint16)
  ranks, norm = effects.ranks_of_codes(coded)
  expected = _sorted_ranks(coded)
  np.testing.assert_allclose(ranks, expected, atol=1e-7)
  assert norm == pytest.approx(np.linalg.norm(expected), rel=1e-6)


def _columns():
  rng = np.random.default_rng(0)
  normal = rng.standard_normal(20_000).astype(np.float32)
  yield "bell", normal
  yield "gate", 1 / (1 + np.exp(-8 * normal))
  yield "nearly always closed", np.where(rng.random(20_000) < 0.01, 1, 1e-7 * np.abs(normal))
  yield "far outlier", np.append(normal[1:], np.float32(1e6))
  yield "huge", normal * np.float32(1e37)
  yield "tiny", normal * np.float32(1e-38)
  yield "ties", np.round(normal, 1)
  yield "long and closed", np.repeat(1e-7 * normal, 5) * np.linspace(1, 2, 100_000) + 1e-9


@pytest.mark.parametrize(("name", "column"), list(_columns()))
def test_codes_of_float32_are_accurate(name, column):
  column = column.astype(np.float32)
  coded = effects.codes(column)
  assert coded.dtype == np.uint16
  assert (np.diff(coded[np.argsort(column)].astype(int)) >= 0).all()
  label = np.random.default_rng(1).random(len(column)) < 0.03
  # This is the bound in the docstring of `codes`, with t < 1e-3.
  assert abs(inference.auroc(coded, label) - inference.auroc(column, label)) < 1e-3 / (4 * 0.03)
  np.testing.assert_allclose(_sorted_ranks(coded), _sorted_ranks(column), atol=2e-3)


def test_the_ranks_of_a_constant_column_are_zero():
  ranks, norm = effects.ranks_of_codes(effects.codes(np.full(10, -3, np.float32)))
  assert not ranks.any() and norm == 0


def test_minus_zero_equals_zero():
  assert len(set(effects.codes(np.float32([-0.0, 0.0, 1]))[:2])) == 1
