"""The network agrees with an independent NumPy implementation and has the expected properties."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
import small_layers
from small_layers import CELLS

from charrnn import errors
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


def test_residual_layers_add_their_inputs():
  """The layers are computed one by one with the reference steps."""
  network = small_layers.network("gru", layers=3, residual=True)
  params, x = network.init(jax.random.key(0)), np.arange(5)[:, None] % 7
  inputs = jax.nn.one_hot(x, 7)
  for n in range(3):
    state, outputs = cells.GRUState(jnp.zeros((1, 12))), []
    for step in inputs:
      state, h = cells.gru_step(params[f"layer_{n}"], state, step)
      outputs.append(h)
    inputs = jnp.stack(outputs) + (inputs if n else 0.0)
  expected = inputs @ params["head"]["W_hy"] + params["head"]["b_y"]
  np.testing.assert_allclose(network.apply(params, x, None)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"layers": 1, "residual": True}, r"residual=True: has no effect on a single layer"),
    ({"input_dropout": 0.1}, r"input_dropout=0.1: needs an embedding"),
  ],
)
def test_fields_without_an_effect_are_rejected(fields, message):
  with pytest.raises(errors.UserError, match=message):
    small_layers.network("lstm", **fields)


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
