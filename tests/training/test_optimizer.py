"""Schedules and optimizers compared with their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from charrnn import errors
from charrnn.training import optimizer


def rates(steps, steps_per_epoch=20.0, total=1000, **fields):
  """Return the learning rate at some steps, computed in compiled code like a training step."""
  c = tiny.config(**{f"schedule__{name}": value for name, value in fields.items()})
  schedule = optimizer.schedule(c.schedule, 1.0, steps_per_epoch, total)
  return np.asarray(jax.jit(jax.vmap(schedule))(jnp.asarray(steps)))


def updates(grads, params=None, **fields):
  """Return the sum of the updates for a sequence of gradients, with learning rate 0.1."""
  c = tiny.config(optimizer__clip_norm=fields.pop("clip_norm", 0.0))
  for name, value in fields.items():
    c.optimizer[name] = value
  rule = optimizer.make(c.optimizer, lambda step: 0.1)
  params = jax.tree.map(jnp.zeros_like, grads[0]) if params is None else params
  before, state = params, rule.init(params)
  for grad in grads:
    update, state = rule.update(grad, state, params)
    params = optax.apply_updates(params, update)
  return jax.tree.map(lambda a, b: np.asarray(a - b), params, before)


def test_rmsprop_matches_torch7():
  """m = decay m + (1 - decay) g^2 from m = 0; p -= rate g / (sqrt(m) + eps)."""
  grads = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32) * 1e-2
  p, m = np.zeros(4), np.zeros(4)
  for g in grads:
    m = 0.95 * m + 0.05 * g.astype(np.float64) ** 2
    p -= 0.1 * g / (np.sqrt(m) + 1e-2)
  actual = updates([jnp.asarray(g) for g in grads], name="rmsprop", decay=0.95, eps=1e-2)
  np.testing.assert_allclose(actual, p, rtol=1e-5)


@pytest.mark.parametrize("steps_per_epoch", [20, 41, 107])
def test_epoch_decay_matches_char_rnn(steps_per_epoch):
  """char-rnn's train.lua updates the rate at the end of the 1-based iteration i."""
  rate, expected = 1.0, []
  for i in range(1, 14 * steps_per_epoch + 1):
    expected.append(rate)
    if i % steps_per_epoch == 0 and i / steps_per_epoch >= 10:
      rate *= 0.97
  actual = rates(range(len(expected)), float(steps_per_epoch), name="epoch_decay")
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_epochs_end_at_the_right_step_in_compiled_code():
  """XLA multiplies by the reciprocal; the product may be just below a whole number of epochs."""
  for n in range(7, 2000, 97):
    ends = np.arange(1, 40) * n
    halved = rates(ends, float(n), name="halving", halve_every=1.0)
    np.testing.assert_array_equal(halved, 0.5 ** np.arange(1, 40))
    np.testing.assert_array_equal(
      2 * halved, rates(ends - 1, float(n), name="halving", halve_every=1.0)
    )


def test_halving_halves_the_rate_every_few_epochs():
  actual = rates([0, 99, 100, 199, 200], name="halving", halve_every=5.0)
  np.testing.assert_array_equal(actual, [1, 1, 0.5, 0.5, 0.25])


def test_cosine_ends_at_its_final_fraction():
  actual = rates([0, 500, 1000], name="cosine", final_fraction=0.1)
  np.testing.assert_allclose(actual, [1, 0.55, 0.1], rtol=1e-5)


def test_wsd_is_constant_and_then_decays_linearly():
  actual = rates([0, 750, 875, 1000], name="wsd", decay_fraction=0.25, final_fraction=0.2)
  np.testing.assert_allclose(actual, [1, 1, 0.6, 0.2], rtol=1e-5)


@pytest.mark.parametrize("name", optimizer.SCHEDULES)
@pytest.mark.parametrize("steps", [(1, 2), (100, 300)])
def test_stable_steps_do_not_depend_on_the_length_of_training(name, steps):
  c = tiny.config(schedule__name=name).schedule
  stable = min(optimizer.stable_steps(c, each) for each in steps)
  common = range(int(min(stable, 400)))
  first, second = (rates(common, total=each, name=name) for each in steps)
  np.testing.assert_array_equal(first, second)
  assert stable == {"cosine": 0, "wsd": optimizer.wsd_start(c, steps[0])}.get(name, np.inf)


@pytest.mark.parametrize("name", ["constant", "cosine", "epoch_decay", "halving", "wsd"])
def test_the_warm_up_is_linear_and_the_schedule_follows(name):
  actual = rates(range(1001), name=name, warmup_steps=10)
  np.testing.assert_allclose(actual[:10], np.arange(1, 11) / 10, rtol=1e-6)
  assert actual[10] == 1.0
  if name == "cosine":
    np.testing.assert_allclose(actual[1000], 0.01, rtol=1e-4)


def test_gradients_are_clipped_by_element_and_then_by_norm():
  grad = jnp.array([30.0, -4.0, 0.3])
  np.testing.assert_allclose(
    updates([grad], name="sgd", clip_element=5.0), [-0.5, 0.4, -0.03], rtol=1e-6
  )
  np.testing.assert_allclose(
    updates([grad], name="sgd", clip_norm=1.0), -0.1 * grad / np.linalg.norm(grad), rtol=1e-6
  )
  both = np.array([5, -4, 0.3])
  np.testing.assert_allclose(
    updates([grad], name="sgd", clip_element=5.0, clip_norm=1.0),
    -0.1 * both / np.linalg.norm(both),
    rtol=1e-6,
  )


def test_weight_decay_is_not_applied_to_biases():
  params = tiny.model().init(jax.random.key(0))
  params = jax.tree.map(jnp.ones_like, params)
  grads = jax.tree.map(jnp.zeros_like, params)
  actual = updates([grads], params, name="adamw", weight_decay=0.5)
  for leaf in jax.tree.leaves(actual):
    np.testing.assert_allclose(leaf, -0.05 if leaf.ndim > 1 else 0.0, rtol=1e-6)


def test_muon_makes_updates_of_layers_orthogonal_and_uses_adam_for_the_rest():
  params = tiny.model(hidden=16).init(jax.random.key(0))
  rng = np.random.default_rng(0)
  grads = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
  muon, adam = (updates([grads], params, name=name) for name in ("muon", "adam"))
  np.testing.assert_allclose(muon["head"]["W_hy"], adam["head"]["W_hy"], rtol=1e-5)
  np.testing.assert_allclose(muon["layer_0"]["b_h"], adam["layer_0"]["b_h"], rtol=1e-5)
  for name in ("W_xh", "W_hh"):
    sizes = np.linalg.svd(muon["layer_1"][name], compute_uv=False)
    assert sizes.max() < 2 * np.median(sizes)
    assert 0.8 < np.std(muon["layer_1"][name]) / (0.1 * 0.2) < 1.2  # like the updates of Adam
  decayed = updates([grads], params, name="muon", weight_decay=0.5)
  np.testing.assert_allclose(decayed["layer_0"]["b_h"], muon["layer_0"]["b_h"], rtol=1e-5)
  for layer, name in (("layer_0", "W_hh"), ("head", "W_hy")):
    expected = muon[layer][name] - 0.1 * 0.5 * np.asarray(params[layer][name])
    np.testing.assert_allclose(decayed[layer][name], expected, atol=1e-5)


def test_the_average_follows_the_trained_parameters():
  """The trained parameters are those of the same optimizer without an average."""
  c, inner = tiny.config(optimizer__average=0.8), tiny.config()
  averaged, plain = (optimizer.make(each.optimizer, lambda step: 0.1) for each in (c, inner))
  params, expected = {"W": jnp.ones((3, 4))}, {"W": jnp.ones((3, 4))}
  states, mean = [averaged.init(params), plain.init(expected)], np.ones((3, 4))
  for n in range(40):
    grads = {"W": jnp.cos(n + jnp.arange(12.0)).reshape(3, 4)}
    update, states[0] = averaged.update(grads, states[0], params)
    params = optax.apply_updates(params, update)
    update, states[1] = plain.update(grads, states[1], expected)
    expected = optax.apply_updates(expected, update)
    decay = min(0.8, (1 + n) / (10 + n))
    mean = decay * mean + (1 - decay) * np.asarray(expected["W"])
    np.testing.assert_allclose(optimizer.trained(params, states[0])["W"], expected["W"], rtol=1e-6)
    np.testing.assert_allclose(params["W"], mean, rtol=1e-5)
  assert optimizer.trained(expected, states[1]) is expected
  assert optimizer.slots(c.optimizer) == optimizer.slots(inner.optimizer) + 1


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"optimizer__weight_decay": 0.1}, "weight_decay=0.1 needs --config.optimizer.name=adamw"),
    ({"optimizer__momentum": 0.9}, "momentum=0.9 needs --config.optimizer.name=sgd"),
  ],
)
def test_unused_fields_are_rejected(fields, message):
  c = tiny.config(**fields)
  with pytest.raises(errors.UserError, match=message):
    optimizer.make(c.optimizer, optimizer.schedule(c.schedule, 1.0, 20.0, 100))
