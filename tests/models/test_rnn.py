"""The network agrees with an independent NumPy implementation and has the expected properties."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
import small_layers
from small_layers import CELLS

from charrnn.models import cells, layers, rnn


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
    return layers.cross_entropy(logits, y).mean(), (logits, after)

  (value, (logits, after)), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
    params, carry
  )
  return value, logits, [s._asdict() for s in after], grads[0], [s._asdict() for s in grads[1]]


@pytest.mark.parametrize("embed", [0, 5])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
  ("dtype", "record", "tolerance"),
  [("float32", False, 2e-5), ("float32", True, 2e-5), ("bfloat16", False, 3e-2)],
)
def test_agrees_with_numpy_in_values_and_gradients(cell, embed, dtype, record, tolerance):
  params, carry, x, y = case(cell, embed)
  expected = numpy_reference.loss_and_gradients(cell, params, x, y, carry)
  model = small_layers.network(cell, embed=embed, compute_dtype=dtype)
  actual = loss_and_gradients(model, params, x, y, carry, record=record)
  for a, e in zip(actual, expected, strict=True):
    small_layers.assert_close(a, list(e) if isinstance(e, tuple) else e, tolerance)


@pytest.mark.parametrize("cell", CELLS)
def test_outputs_are_causal_and_rows_are_independent(cell):
  model = small_layers.network(cell)
  params, carry = model.init(jax.random.key(0)), model.initial_carry(3)
  x = np.random.default_rng(0).integers(0, 7, (8, 3))
  logits, _, _ = model.apply(params, x, carry)
  changed = x.copy()
  changed[5, 1] = (x[5, 1] + 1) % 7
  other, _, _ = model.apply(params, changed, carry)
  differs = np.abs(logits - other).max(-1) > 0
  assert not differs[:5].any() and not differs[:, [0, 2]].any() and differs[5:, 1].all()


@pytest.mark.parametrize("cell", CELLS)
def test_the_carry_connects_two_windows(cell):
  model = small_layers.network(cell)
  params, carry = model.init(jax.random.key(0)), model.initial_carry(2)
  x = np.random.default_rng(0).integers(0, 7, (10, 2))
  whole, end, _ = model.apply(params, x, carry)
  first, middle, _ = model.apply(params, x[:4], carry)
  second, split_end, _ = model.apply(params, x[4:], middle)
  np.testing.assert_allclose(whole, jnp.concatenate([first, second]), atol=1e-6)
  small_layers.assert_close(split_end, jax.tree.map(np.asarray, end), 1e-6)


@pytest.mark.parametrize(("cell", "embed"), [("rnn", 0), ("gru", 0), ("lstm", 5)])
def test_prepared_parameters_give_bit_identical_results(cell, embed):
  model = small_layers.network(cell, embed=embed, compute_dtype="bfloat16")
  params, carry = model.init(jax.random.key(0)), model.initial_carry(2)
  x = np.random.default_rng(0).integers(0, 7, (10, 2))
  prepared = model.prepare(params)
  assert prepared["layer_1"]["W_hh"].dtype == jnp.bfloat16
  for record in (False, True):
    plain = model.apply(params, x, carry, record=record)
    jax.tree.map(
      np.testing.assert_array_equal, model.apply(prepared, x, carry, record=record), plain
    )


def test_the_dropout_mask_of_a_row_depends_only_on_its_key():
  model = small_layers.network("lstm", dropout=0.5)
  params, x = model.init(jax.random.key(0)), np.zeros((6, 4), int)
  keys = jax.random.split(jax.random.key(1), 4)
  four, _, _ = model.apply(params, x, model.initial_carry(4), rngs=keys)
  two, _, _ = model.apply(params, x[:, 2:], model.initial_carry(2), rngs=keys[2:])
  plain, _, _ = model.apply(params, x, model.initial_carry(4))
  np.testing.assert_allclose(four[:, 2:], two, atol=1e-6)
  assert np.abs(four[:, 0] - four[:, 1]).max() > 1e-3 and np.abs(four - plain).max() > 1e-3


@pytest.mark.parametrize(("T", "H"), [(50, 32), (51, 33)])
def test_dropout_preserves_the_mean_and_its_entries_are_independent(T, H):
  keys = jax.random.split(jax.random.key(0), 64)
  layers = [np.asarray(rnn.dropout(jnp.ones((T, 64, H)), keys, n, 0.25)) for n in range(2)]
  first, kept = layers[0], layers[0] != 0
  assert abs(first.mean() - 1) < 0.01 and set(np.unique(first)) == {0, np.float32(1 / 0.75)}
  assert abs(kept.mean() - 0.75) < 0.01
  # The masks of steps, rows, units and layers do not depend on each other.
  pairs = [(kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1]), (kept, layers[1] != 0)]
  pairs += [(kept[..., n:], kept[..., :-n]) for n in (1, 2, 3, 4)]
  for one, other in pairs:
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.015


@pytest.mark.parametrize("init", rnn.INITIALIZERS)
def test_initialization(init):
  params = small_layers.network("lstm", init=init, hidden=32).init(jax.random.key(0))
  forget = np.asarray(params["layer_1"]["b_h"]).reshape(4, 32)[1]
  np.testing.assert_array_equal(forget, 1.0)
  if init == "uniform":
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    flat = flat[flat != 1.0]
    assert np.abs(flat).max() <= 0.08 and abs(flat.std() - 0.08 / 3**0.5) < 0.002
  else:
    W = np.asarray(params["layer_0"]["W_hh"])[:, 32:64]
    np.testing.assert_allclose(W @ W.T, np.eye(32), atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_units_describe_the_recorded_quantities(cell):
  model = small_layers.network(cell)
  params, carry = model.init(jax.random.key(0)), model.initial_carry(3)
  _, after, recorded = model.apply(params, np.zeros((5, 3), int), carry, record=True)
  assert model.states == after[0]._fields and set(model.states) < {*model.units["layer_0"], ""}
  assert {layer: {*values} for layer, values in recorded.items()} == {
    layer: {*sizes} for layer, sizes in model.units.items()
  }
  for layer, sizes in model.units.items():
    for name, size in sizes.items():
      assert recorded[layer][name].shape == (5, 3, size)
