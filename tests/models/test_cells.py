"""Cells and layers against an independent float64 NumPy implementation, and their properties."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest

from charrnn.models import cells, network, unroll

CELLS = ("rnn", "gru", "lstm")


def make(cell, **kwargs):
  settings = dict(
    layers=2,
    hidden=12,
    embed=0,
    dropout=0.0,
    init="modern",
    forget_bias=1.0,
    compute_dtype="float32",
  )
  return network.make(7, cell=cell, **settings | kwargs)


def case(cell, embed, T=9, B=4):
  rng = np.random.default_rng(0)
  params = numpy_reference.random_params(cell, 7, embed, 12, 2, rng)
  carry = numpy_reference.random_carry(cell, B, 12, 2, rng)
  return params, carry, rng.integers(0, 7, (T, B)), rng.integers(0, 7, (T, B))


def loss_and_gradients(model, params, x, y, carry, **kwargs):
  state = cells.CELLS[model.network.cell].state
  carry = tuple(state(**{k: jnp.asarray(v, jnp.float32) for k, v in c.items()}) for c in carry)
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)

  def loss(params, carry):
    logits, after, _ = model.apply(params, x, carry, **kwargs)
    return network.cross_entropy(logits, y).mean(), (logits, after)

  (value, (logits, after)), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
    params, carry
  )
  return value, logits, [s._asdict() for s in after], grads[0], [s._asdict() for s in grads[1]]


def assert_close(actual, expected, tolerance):
  """Relative to each array's norm, since single entries may vanish."""
  flat_actual, tree = jax.tree.flatten(actual)
  flat_expected, expected_tree = jax.tree.flatten(expected)
  assert tree == expected_tree
  for a, e in zip(flat_actual, flat_expected, strict=True):
    assert np.linalg.norm(np.asarray(a, np.float64) - e) <= tolerance * np.linalg.norm(e)


@pytest.mark.parametrize("embed", [0, 5])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
  ("dtype", "record", "tolerance"),
  [("float32", False, 2e-5), ("float32", True, 2e-5), ("bfloat16", False, 3e-2)],
)
def test_agrees_with_numpy_in_values_and_gradients(cell, embed, dtype, record, tolerance):
  params, carry, x, y = case(cell, embed)
  expected = numpy_reference.loss_and_gradients(cell, params, x, y, carry)
  model = make(cell, embed=embed, compute_dtype=dtype)
  actual = loss_and_gradients(model, params, x, y, carry, record=record)
  for a, e in zip(actual, expected, strict=True):
    assert_close(a, list(e) if isinstance(e, tuple) else e, tolerance)


@pytest.mark.parametrize("cell", CELLS)
def test_one_step_is_the_unrolled_layer(cell):
  params, _, _, _ = case(cell, 0)
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params["layer_1"])
  x = jax.random.normal(jax.random.key(0), (5, 3, 12))
  state = cells.CELLS[cell].zero_state(3, 12)
  last, h, out = unroll.scan_layer(cells.CELLS[cell], params, state, x)
  for t in range(5):
    state, y = getattr(cells, f"{cell}_step")(params, state, x[t])
    np.testing.assert_allclose(y, h[t], atol=1e-6)
  assert_close(state, jax.tree.map(np.asarray, last), 1e-6)
  np.testing.assert_array_equal(out["h"], h)


@pytest.mark.parametrize("cell", CELLS)
def test_causal_and_rows_apart(cell):
  model = make(cell)
  params, carry = model.init(jax.random.key(0)), model.initial_carry(3)
  x = np.random.default_rng(0).integers(0, 7, (8, 3))
  logits, _, _ = model.apply(params, x, carry)
  changed = x.copy()
  changed[5, 1] = (x[5, 1] + 1) % 7
  other, _, _ = model.apply(params, changed, carry)
  differs = np.abs(logits - other).max(-1) > 0
  assert not differs[:5].any() and not differs[:, [0, 2]].any() and differs[5:, 1].all()


@pytest.mark.parametrize("cell", CELLS)
def test_two_windows_with_the_carry_are_one(cell):
  model = make(cell)
  params, carry = model.init(jax.random.key(0)), model.initial_carry(2)
  x = np.random.default_rng(0).integers(0, 7, (10, 2))
  whole, end, _ = model.apply(params, x, carry)
  first, middle, _ = model.apply(params, x[:4], carry)
  second, split_end, _ = model.apply(params, x[4:], middle)
  np.testing.assert_allclose(whole, jnp.concatenate([first, second]), atol=1e-6)
  assert_close(split_end, jax.tree.map(np.asarray, end), 1e-6)


def test_dropout_masks_a_row_by_its_key_alone():
  model = make("lstm", dropout=0.5)
  params, x = model.init(jax.random.key(0)), np.zeros((6, 4), int)
  keys = jax.random.split(jax.random.key(1), 4)
  four, _, _ = model.apply(params, x, model.initial_carry(4), row_keys_B=keys)
  two, _, _ = model.apply(params, x[:, 2:], model.initial_carry(2), row_keys_B=keys[2:])
  plain, _, _ = model.apply(params, x, model.initial_carry(4))
  np.testing.assert_allclose(four[:, 2:], two, atol=1e-6)
  assert np.abs(four[:, 0] - four[:, 1]).max() > 1e-3 and np.abs(four - plain).max() > 1e-3


def test_dropout_keeps_the_mean():
  x = jnp.ones((50, 64, 32))
  dropped = network.dropout(x, jax.random.split(jax.random.key(0), 64), 0, 0.25)
  assert abs(float(dropped.mean()) - 1) < 0.01
  assert abs(float((dropped == 0).mean()) - 0.25) < 0.01


@pytest.mark.parametrize("init", network.INITIALIZERS)
def test_initialisation(init):
  params = make("lstm", init=init, hidden=32).init(jax.random.key(0))
  forget = np.asarray(params["layer_1"]["b_h"]).reshape(4, 32)[1]
  np.testing.assert_array_equal(forget, 1.0)
  if init == "uniform":
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    flat = flat[flat != 1.0]
    assert np.abs(flat).max() <= 0.08 and abs(flat.std() - 0.08 / 3**0.5) < 0.002
  else:
    W = np.asarray(params["layer_0"]["W_hh"])[:, 32:64]
    np.testing.assert_allclose(W @ W.T, np.eye(32), atol=1e-5)


def test_a_cell_without_a_backward_pass_is_differentiated_by_jax():
  cell = cells.CELLS["lstm"]
  params, _, _, _ = case("lstm", 0)
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params["layer_1"])
  x, state = jax.random.normal(jax.random.key(0), (5, 3, 12)), cell.zero_state(3, 12)

  def grads(cell):
    return jax.grad(lambda p: (unroll.fast_layer(cell, p, state, x)[1] ** 2).sum())(params)

  plain = grads(dataclasses.replace(cell, backward=None))
  assert_close(grads(cell), jax.tree.map(np.asarray, plain), 1e-5)
