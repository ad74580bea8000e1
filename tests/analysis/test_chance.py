"""Shifts round the circle, and what they make of an observed score."""

import numpy as np
import pytest

from charrnn.analysis import chance


@pytest.mark.parametrize("turns", [1, 2, 7, 20])
@pytest.mark.parametrize("chunk", [3, 4096])
def test_turned_sums_are_those_of_rolled_labels(monkeypatch, turns, chunk):
  monkeypatch.setattr(chance, "CHUNK", chunk)
  rng = np.random.default_rng(turns)
  x, y = rng.standard_normal((3, 140)), rng.standard_normal((2, 140))
  spectra = (chance.spectrum(rows, turns) for rows in (x, y))
  found = chance.turned(*spectra, turns)
  assert found.shape == (3, turns, 2)
  for turn in range(turns):
    expected = x @ np.roll(y, -turn * 140 // turns, axis=1).T
    np.testing.assert_allclose(found[:, turn], expected, atol=1e-12)


def test_the_end_falls_off():
  assert chance.whole(1005, 100) == 1000 and chance.whole(99, 100) == 0


def test_p_values_by_hand():
  null = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]]).T
  for observed, p in [(0.95, 0.1), (0.9, 0.2), (0.85, 0.2), (0.05, 1.0)]:
    judged = chance.judge(np.array([observed]), null, alpha=0.2)
    # One hypothesis is all of its family.
    assert judged.p == pytest.approx([p]) and judged.family_p == pytest.approx([p])
    # 0.85 is reached by one shift, which makes 2 / 10; 0.8 by two.
    assert judged.to_beat == pytest.approx([0.8])
    assert judged.family_to_beat == pytest.approx([0.8])


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.33])
def test_what_beats_the_number_is_significant_and_nothing_else(alpha):
  rng = np.random.default_rng(0)
  for _ in range(50):
    null = rng.uniform(0, 0.5, (39, 3)) * [1, 0.1, 0.6]
    observed = null.max(axis=0) * rng.uniform(0.7, 1.2, 3)
    judged = chance.judge(observed, null, alpha)
    assert ((judged.p <= alpha) == (observed > judged.to_beat)).all()
    assert ((judged.family_p <= alpha) == (observed > judged.family_to_beat)).all()
    assert (judged.family_p >= judged.p - 1e-12).all()
    assert (judged.family_to_beat >= judged.to_beat - 1e-12).all()


def test_too_few_shifts_make_nothing_significant():
  judged = chance.judge(np.array([0.9]), np.full((18, 1), 0.1), alpha=0.05)
  assert np.isnan(judged.to_beat).all() and np.isnan(judged.family_to_beat).all()
  assert judged.p > 0.05
  judged = chance.judge(np.array([0.9]), np.full((19, 1), 0.1), alpha=0.05)
  assert judged.to_beat == pytest.approx([0.1]) and judged.p == pytest.approx([0.05])


def test_hypotheses_of_unlike_spread_are_put_on_one_scale():
  rng = np.random.default_rng(0)
  null = np.abs(rng.standard_normal((999, 2))) * [0.01, 0.2]
  judged = chance.judge(np.array([0.08, 0.08]), null, alpha=0.05)
  assert judged.family_p[0] < 0.01 and judged.family_p[1] > 0.2
