"""The loss of a split against one plain pass over it."""

import math

import jax
import numpy as np
import pytest
import tiny

from charrnn.data import splits
from charrnn.evaluation import evaluate
from charrnn.models import layers
from charrnn.training import steps


@pytest.fixture(scope="module")
def case():
  net = tiny.model()
  return net, net.init(jax.random.key(0)), tiny.ids(3000), steps.LossStep(net)


def scored(case, segments, **settings):
  _, params, ids, loss_step = case
  settings = {"readers": 1, "window": 16, "burn_in": 0} | settings
  return evaluate.evaluate(loss_step, params, ids, segments, **settings)


def nats(case, start, stop):
  """-log p of ids[start:stop], read as one from the character before."""
  net, params, ids, _ = case
  x, y = ids[start - 1 : stop - 1, None].astype(np.int32), ids[start:stop, None].astype(np.int32)
  logits, _, _ = jax.jit(net.apply)(params, x, net.initial_carry(1))
  return np.asarray(layers.cross_entropy(logits, y), np.float64)


def test_one_reader_is_one_plain_pass(case):
  expected = nats(case, 1, 1000).mean()
  assert scored(case, [splits.Span(0, 1000)]) == pytest.approx(expected, abs=1e-5)


def test_segments_are_weighted_by_their_characters(case):
  parts = nats(case, 100, 700), nats(case, 1000, 1100)
  found = scored(case, [splits.Span(100, 700), splits.Span(1000, 1100)])
  assert found == pytest.approx(np.concatenate(parts).mean(), abs=1e-5)


def test_many_readers_with_a_burn_in_find_the_same(case):
  expected = nats(case, 1, 3000)[1499:].mean()
  segments = [splits.Span(1500, 3000)]
  assert scored(case, segments, readers=30, burn_in=64) == pytest.approx(expected, abs=1e-3)
  assert scored(case, segments, readers=30) != pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("segments", [[], [splits.Span(0, 1)]])
def test_nothing_to_score_is_nan(case, segments):
  assert math.isnan(scored(case, segments))
