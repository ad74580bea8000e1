"""Dynamic evaluation: equal to a loop of gradient steps, and without access to later text."""

import jax
import numpy as np
import pytest
import tiny

from charrnn import errors
from charrnn.evaluation import dynamic, score
from charrnn.models import layers


@pytest.fixture(scope="module")
def case():
  net = tiny.model()
  return net, net.init(jax.random.key(0)), tiny.ids(3000)


def read(case, segments, rate=0.3, **settings):
  return dynamic.score(*case, segments, rate=rate, **{"burn_in": 0} | settings)


def nats(case, *arguments, **settings):
  return read(case, *arguments, **settings).nats


def by_hand(case, rate, stop):
  """Return -log p of ids[1:stop], alternating between scoring 20 tokens and a gradient step."""
  net, params, ids = case

  @jax.jit
  def loss(params, carry, x, y):
    logits, carry, _ = net.apply(params, x, carry)
    each = layers.cross_entropy(logits, y)
    return each.mean(), (each[:, 0], carry)

  pieces, carry = [], net.initial_carry(1)
  for start in range(0, stop - 1, 20):
    x, y = (
      ids[a : min(a + 20, stop - 1 + a - start), None].astype(int) for a in (start, start + 1)
    )
    (_, (each, carry)), grads = jax.value_and_grad(loss, has_aux=True)(params, carry, x, y)
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(grads)))
    scale = rate * min(1.0, dynamic.MAX_NORM / norm)
    params = jax.tree.map(lambda leaf, grad, s=scale: leaf - s * grad, params, grads)
    pieces.append(each)
  return np.concatenate(pieces)


@pytest.mark.parametrize("clip", [5.0, 0.05])
def test_dynamic_evaluation_equals_a_loop_of_scoring_and_learning(case, clip, monkeypatch):
  monkeypatch.setattr(dynamic, "MAX_NORM", clip)
  jax.clear_caches()
  nats_N = nats(case, [(0, 1230)])
  assert np.isnan(nats_N[0])
  np.testing.assert_allclose(nats_N[1:], by_hand(case, 0.3, 1230), atol=1e-4)
  jax.clear_caches()


def test_scores_do_not_depend_on_later_text(case):
  net, params, ids = case
  whole = nats(case, [(0, 1100)])
  for place in (1, 20, 21, 537, 1040):
    changed = ids.copy()
    changed[place:] = (changed[place:] + 1 + np.arange(len(ids) - place) % 5) % tiny.V
    np.testing.assert_array_equal(nats((net, params, changed), [(0, 1100)])[:place], whole[:place])
    assert nats((net, params, changed), [(0, 1100)])[place] != whole[place]


def test_rate_0_gives_the_plain_loss(case):
  plain = score.score(*case, [(200, 1500)], streams=1, window=64, burn_in=100)
  np.testing.assert_allclose(
    nats(case, [(200, 1500)], rate=0.0, burn_in=100), plain.nats, atol=1e-5
  )


def test_learning_lowers_the_loss_without_changing_the_parameters(case):
  before = jax.tree.map(np.array, case[1])
  assert read(case, [(0, 3000)]).mean < read(case, [(0, 3000)], rate=0.0).mean - 0.1
  jax.tree.map(np.testing.assert_array_equal, before, case[1])


def test_parameters_are_reset_at_each_document(case):
  net, params, ids = case
  scores = read(case, [(0, 1500)], starts=[0, 600], burn_in=30)
  alone = nats((net, params, ids[600:]), [(0, 900)])
  np.testing.assert_allclose(scores.within([(600, 1500)]).nats, alone, atol=1e-6)


def test_learned_parameters_carry_over_between_spans(case):
  whole = nats(case, [(0, 1500)])
  np.testing.assert_array_equal(nats(case, [(0, 700), (700, 1500)]), whole)
  separate = read(case, [(0, 1000), (1500, 2500)], burn_in=100).within([(1500, 2500)])
  alone = read(case, [(1500, 2500)], burn_in=100)
  assert separate.mean < alone.mean
  # Text between spans is context only; the model does not learn from it.
  np.testing.assert_allclose(
    separate.nats,
    read((*case[:2], _noisy(case[2], 1000, 1399)), [(0, 1000), (1500, 2500)], burn_in=100)
    .within([(1500, 2500)])
    .nats,
  )


def _noisy(ids, start, stop):
  changed = ids.copy()
  changed[start:stop] = np.random.default_rng(0).integers(0, tiny.V, stop - start)
  return changed


def test_diverged_parameters_raise_an_error(case):
  with pytest.raises(errors.UserError, match="smaller rate"):
    read(case, [(0, 500)], rate=1e38)
