"""Cells and layers against an independent float64 NumPy implementation, and their properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest

from charrnn.models import cells, layers, rnn

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
  return rnn.make(7, cell=cell, **settings | kwargs)


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
  last, h, out = layers.scan_layer(cells.CELLS[cell], params, state, x)
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


@pytest.mark.parametrize("embed", [0, 5])
@pytest.mark.parametrize("cell", CELLS)
def test_prepared_parameters_give_the_same_to_the_bit(cell, embed):
  model = make(cell, embed=embed, compute_dtype="bfloat16")
  params, carry = model.init(jax.random.key(0)), model.initial_carry(2)
  x = np.random.default_rng(0).integers(0, 7, (10, 2))
  prepared = model.prepare(params)
  assert prepared["layer_1"]["W_hh"].dtype == jnp.bfloat16
  for record in (False, True):
    plain = model.apply(params, x, carry, record=record)
    jax.tree.map(
      np.testing.assert_array_equal, model.apply(prepared, x, carry, record=record), plain
    )


def test_dropout_masks_a_row_by_its_key_alone():
  model = make("lstm", dropout=0.5)
  params, x = model.init(jax.random.key(0)), np.zeros((6, 4), int)
  keys = jax.random.split(jax.random.key(1), 4)
  four, _, _ = model.apply(params, x, model.initial_carry(4), rngs=keys)
  two, _, _ = model.apply(params, x[:, 2:], model.initial_carry(2), rngs=keys[2:])
  plain, _, _ = model.apply(params, x, model.initial_carry(4))
  np.testing.assert_allclose(four[:, 2:], two, atol=1e-6)
  assert np.abs(four[:, 0] - four[:, 1]).max() > 1e-3 and np.abs(four - plain).max() > 1e-3


def test_dropout_keeps_the_mean():
  x = jnp.ones((50, 64, 32))
  dropped = rnn.dropout(x, jax.random.split(jax.random.key(0), 64), 0, 0.25)
  assert abs(float(dropped.mean()) - 1) < 0.01
  assert abs(float((dropped == 0).mean()) - 0.25) < 0.01


@pytest.mark.parametrize("init", rnn.INITIALIZERS)
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


def layer_case(cell, T=5, B=3, ids=False):
  params, _, _, _ = case(cell, 0)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(leaf, jnp.float32), params[f"layer_{int(not ids)}"]
  )
  key = jax.random.key(0)
  x = jax.random.randint(key, (T, B), 0, 7) if ids else jax.random.normal(key, (T, B, 12))
  fields = cells.CELLS[cell].state._fields
  state = [jax.random.normal(k, (B, 12)) * 0.5 for k in jax.random.split(key, len(fields))]
  return params, cells.CELLS[cell].state(*state), x


def layer_gradients(layer, params, state, x):
  """Of a sum that every output is in, by parameters, first state and (if not ids) input."""

  def total(params, state, x):
    last, h_TxBxH, *_ = layer(params, state, x)
    weights = jnp.cos(jnp.arange(h_TxBxH.size)).reshape(h_TxBxH.shape)
    return (h_TxBxH * weights).sum() + sum((leaf**2).sum() for leaf in last)

  wanted = (0, 1) if jnp.issubdtype(x.dtype, jnp.integer) else (0, 1, 2)
  value, grads = jax.value_and_grad(total, wanted)(params, state, x)
  return [value, *jax.tree.map(np.asarray, grads)]


@pytest.mark.parametrize("hoisted", [True, False])
@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_the_fast_layer_is_the_plain_scan(monkeypatch, cell, ids, hoisted):
  monkeypatch.setattr(layers, "_hoisted", lambda: hoisted)
  params, state, x = layer_case(cell, ids=ids)
  cell = cells.CELLS[cell]
  plain = layer_gradients(functools.partial(layers.scan_layer, cell), params, state, x)
  fast = functools.partial(layers.fast_layer, cell, jnp.dtype("float32"))
  for a, e in zip(layer_gradients(fast, params, state, x), plain, strict=True):
    assert_close(a, e, 1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_join_is_a_sum_as_the_fast_layer_takes_it_to_be(cell):
  params, _, _ = layer_case(cell)
  params = {name: params[name] for name in cells.CELLS[cell].biases}
  width = 12 * len(cells.CELLS[cell].gates)
  a, b, c, d = jax.random.normal(jax.random.key(0), (4, 2, width))
  join, nothing = cells.CELLS[cell].join, jax.tree.map(jnp.zeros_like, params)
  parts = jax.tree.map(jnp.add, join(params, a, b), join(nothing, c, d))
  assert_close(join(params, a + c, b + d), jax.tree.map(np.asarray, parts), 1e-6)


def test_a_cell_of_ones_own_has_the_fast_layer_too():
  """A minimal gated unit (Zhou et al. 2016) that reads its state in `join` and in `update`."""

  def join(params, x_h, h_h):
    return {"f": x_h + h_h + params["b_hf"]}

  def update(state, pre):
    (f,) = cells.squash(pre["f"], "s")
    return cells.RNNState(f * state.h + (1 - f) * jnp.tanh(pre["f"])), {"f": f}

  cell = cells.Cell(None, cells.RNNState, ("f",), ("b_hf",), update, join)
  params, state, x = layer_case("rnn")
  params["b_hf"] = jnp.linspace(-1, 1, 12)
  plain = layer_gradients(functools.partial(layers.scan_layer, cell), params, state, x)
  fast = functools.partial(layers.fast_layer, cell, jnp.dtype("float32"))
  for a, e in zip(layer_gradients(fast, params, state, x), plain, strict=True):
    assert_close(a, e, 1e-5)


def test_gradients_of_parameters_are_float32_sums_in_bfloat16_too():
  params, state, x = layer_case("lstm", T=40)
  fast = functools.partial(layers.fast_layer, cells.CELLS["lstm"], jnp.dtype("bfloat16"))
  _, grads, _, _ = layer_gradients(fast, params, state, x)
  for leaf in jax.tree.leaves(grads):
    assert leaf.dtype == np.float32
    rounded = np.asarray(jnp.asarray(leaf).astype(jnp.bfloat16), np.float32)
    assert (rounded != leaf).mean() > 0.9


def test_what_a_backward_pass_keeps():
  """Nothing of the input's product, and in bfloat16 half of it: G + S blocks of H a character."""
  T, B, H = 16, 4, 32
  params = {"W_xh": jnp.ones((8, 4 * H)), "W_hh": jnp.ones((H, 4 * H)), "b_h": jnp.ones(4 * H)}
  cell, x = cells.CELLS["lstm"], jnp.ones((T, B, 8))
  state = cell.zero_state(B, H)
  for dtype, width in (("float32", 4), ("bfloat16", 2)):
    _, kept = jax.eval_shape(
      functools.partial(layers._forward, cell, jnp.dtype(dtype)), params, state, x
    )
    of_steps = [leaf for leaf in jax.tree.leaves(kept) if leaf.shape[0] == T and leaf is not x]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in of_steps)
    assert size - x.size * 4 == T * B * H * (4 + 2) * width
