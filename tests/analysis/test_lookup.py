"""A table of the last k characters: right where the last k say it, and no better."""

import typing

import numpy as np
import pytest

from charrnn.analysis import halves, lookup


class Label(typing.NamedTuple):
  values: np.ndarray
  mask: np.ndarray


def _text(n=8000, seed=0):
  ids = np.random.default_rng(seed).integers(0, 4, n)
  parts = halves.Halves(((0, n // 2),), ((n // 2, n),), "blocks", n // 2)
  return ids, {"documents": [(0, n // 2), (n // 2, n)], "parts": parts}


def _label(values):
  return Label(np.asarray(values, np.float32), np.ones(len(values), bool))


def _two_back(ids):
  return np.append([0, 0], ids[:-2])


def test_as_many_characters_as_the_label_needs():
  ids, where = _text()
  label = _label(_two_back(ids) == 3)
  found = [lookup.last_k_predictor(ids, label, k, **where) for k in range(5)]
  assert [f.score > 0.99 for f in found] == [False, False, False, True, True]
  assert all(abs(f.score - 0.5) < 0.05 for f in found[:3])
  assert [f.statistic for f in found] == ["auroc"] * 5
  # Those of the first half, and those at its beginning.
  assert [f.contexts for f in found[:3]] == [1, 4, 17]


def test_graded_labels_and_lags():
  ids, where = _text()
  label = _label(_two_back(ids))
  found = lookup.last_k_predictor(ids, label, 3, kind="graded", **where)
  # Ties of the label alone leave sqrt(1 - 1 / 16) = 0.968 at best.
  assert found.statistic == "spearman" and found.score > 0.96
  ahead = lookup.last_k_predictor(ids, label, 2, kind="graded", lag=-1, **where)
  assert ahead.score > 0.96  # the label of the next character is known one character sooner
  assert lookup.last_k_predictor(ids, label, 3, kind="graded", lag=1, **where).score < 0.1


def test_the_table_by_hand():
  ids = np.array([0, 1, 0, 1, 1, 0, 1])
  label = _label([0, 1, 0, 1, 0, 0, 0])
  contexts = lookup._contexts(ids, 1, [(0, 7)])
  fit = np.arange(5)
  predicted, met = lookup._predicted(contexts, fit, label.values[fit], smoothing=1.0)
  # The mean is 0.4; after 0: (0 + 0.4) / (2 + 1), after 1: (2 + 0.4) / (3 + 1).
  np.testing.assert_allclose(predicted, np.array([0.4 / 3, 0.6])[ids])
  assert met == 2


def test_long_contexts_fall_back_on_short_ones():
  ids, where = _text()
  label = _label(ids == 3)
  assert lookup.last_k_predictor(ids, label, 12, **where).score > 0.99


def test_contexts_do_not_look_into_the_document_before():
  ids = np.zeros(10, int)
  contexts = list(lookup._contexts(ids, 2, [(0, 5), (5, 10)]))
  np.testing.assert_array_equal(contexts[2][:5], contexts[2][5:])
  assert len(set(contexts[2][:5])) == 2  # the first character, and the rest


def test_masked_characters_count_for_nothing():
  ids, where = _text()
  rng = np.random.default_rng(1)
  mask = rng.random(len(ids)) < 0.5
  values = np.where(mask, ids == 3, rng.random(len(ids)) < 0.5)
  found = lookup.last_k_predictor(ids, Label(values.astype(np.float32), mask), 1, **where)
  assert found.score == pytest.approx(1)
  assert np.isnan(lookup.last_k_predictor(ids, Label(values, mask & False), 1, **where).score)
