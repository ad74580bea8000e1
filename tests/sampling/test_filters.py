"""Filters at their limits and against their definitions in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charrnn.sampling import filters

chain = jax.jit(filters.chain)


def random_logits(rng, B=6, V=13):
  """Some flat, some peaked, some with ties and some with impossible symbols."""
  logits = rng.normal(size=(B, V)) * rng.choice([0.3, 2.0, 20.0], size=(B, 1))
  logits[0] = np.round(logits[0])
  logits[1, 2:5] = -np.inf
  return logits.astype(np.float32)


def kept(logits):
  return [set(np.flatnonzero(row > -np.inf).tolist()) for row in np.asarray(logits)]


def softmax(logits):
  p = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def falling(row):
  return sorted(range(len(row)), key=lambda i: (-row[i], i))


@pytest.mark.parametrize("T", [0.0, 1e-300, 1e-38])
def test_temperature_towards_0_is_argmax_in_every_row(T):
  logits = np.random.default_rng(0).normal(size=(50, 9)).astype(np.float32)
  p = softmax(np.asarray(chain(logits, T)))
  np.testing.assert_array_equal(p, np.eye(9)[logits.argmax(-1)])


def test_temperature_0_takes_the_first_of_equals():
  assert kept(chain(np.float32([[1, 3, 3, 2], [0, 0, 0, 0]]), 0.0)) == [{1}, {0}]


def test_temperature_1_keeps_the_distribution_and_a_large_one_makes_it_uniform():
  logits = random_logits(np.random.default_rng(1))
  np.testing.assert_allclose(softmax(np.asarray(chain(logits, 1.0))), softmax(logits), rtol=1e-5)
  uniform = softmax(np.asarray(chain(logits, 1e30)))
  possible = logits > -np.inf
  np.testing.assert_allclose(uniform, possible / possible.sum(-1, keepdims=True), rtol=1e-6)


def test_top_k_keeps_the_first_k_in_order():
  rng = np.random.default_rng(2)
  for k in (1, 2, 5, 13, 14, 2**31 - 1):
    logits = random_logits(rng)
    possible = kept(logits)
    expected = [set(falling(row)[:k]) & s for row, s in zip(logits, possible)]
    assert kept(chain(logits, 1.0, k)) == expected
  assert kept(filters.top_k(jnp.zeros((2, 5)), 3)) == [{0, 1, 2}] * 2


def test_top_p_keeps_the_smallest_set_that_reaches_p():
  rng = np.random.default_rng(3)
  for _ in range(100):
    logits, p = random_logits(rng), rng.uniform(0.05, 0.999)
    for row, probabilities, found in zip(
      logits, softmax(logits), kept(chain(logits, 1.0, None, p))
    ):
      order = falling(row)
      assert found == set(order[: len(found)])
      mass = probabilities[order].cumsum()
      assert mass[len(found) - 1] >= p - 1e-6
      assert len(found) == 1 or mass[len(found) - 2] < p + 1e-6


def test_top_p_at_its_ends():
  logits = random_logits(np.random.default_rng(4)) / 4
  assert kept(filters.top_p(logits, 1.0)) == kept(logits)
  assert kept(filters.top_p(logits, 1e-30)) == [{falling(row)[0]} for row in logits]
  # Powers of two are exact: the mass of the first two is 0.75 and reaches it.
  assert kept(filters.top_p(np.log2([[0.25, 0.5, 0.25]]) * np.log(2), 0.75)) == [{0, 1}]


def test_top_p_sees_what_temperature_and_top_k_left():
  logits = np.log(np.float32([[0.4, 0.3, 0.2, 0.1]]))
  assert kept(chain(logits, 1.0, None, 0.55)) == [{0, 1}]
  assert kept(chain(logits, 1.0, 2, 0.55)) == [{0}]  # 0.4 of 0.7
  assert kept(chain(logits, 0.25, None, 0.55)) == [{0}]
  assert kept(chain(logits, 100.0, None, 0.55)) == [{0, 1, 2}]


def test_nothing_is_ever_nan_or_empty():
  logits = random_logits(np.random.default_rng(5)) * 1e3
  grid = itertools.product((0.0, 1e-38, 0.5, 1e30), (None, 1, 4), (None, 1e-30, 0.5, 1.0))
  for T, k, p in grid:
    out = np.asarray(chain(logits, T, k, p))
    assert not np.isnan(out).any()
    assert out.max(-1).min() > -np.inf
