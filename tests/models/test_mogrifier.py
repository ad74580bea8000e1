"""The Mogrifier agrees with a NumPy implementation, and layers repeat its step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charrnn import errors, models
from charrnn.models import cells

B, D, H = 3, 4, 5
CELL = cells.CELLS["lstm_mogrifier"]


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def reference(p, h, c, x):
  *W_x, W_xq, W_xr = np.split(p["W_xh"], 6, axis=1)
  *W_h, W_hq, W_hr = np.split(p["W_hh"], 6, axis=1)
  x = 2 * sigmoid(h @ W_hq[:, :D]) * x
  h = 2 * sigmoid(x @ W_xq) * h
  x = 2 * sigmoid(h @ W_hr[:, :D]) * x
  h = 2 * sigmoid(x @ W_xr) * h
  i, f, g, o = (x @ a + h @ b + bias for a, b, bias in zip(W_x, W_h, np.split(p["b_h"], 6)))
  c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
  return sigmoid(o) * np.tanh(c), c


def test_a_step_agrees_with_numpy():
  rng, width = np.random.default_rng(1), len(CELL.gates) * H
  shapes = {"W_xh": (D, width), "W_hh": (H, width), "b_h": width}
  params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
  h, c, x = (rng.normal(size=(B, size)).astype(np.float32) for size in (H, H, D))
  state, y = CELL.step(jax.tree.map(jnp.asarray, params), cells.LSTMState(h, c), x)
  for value, expected in zip(state, reference(params, h, c, x)):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(y, state.h)


def test_layers_repeat_the_step():
  fields = {"cell": "lstm_mogrifier", "layers": 2, "hidden": 8, "embed": 6}
  model, ids_TxB = models.make(7, fields), np.random.default_rng(2).integers(7, size=(4, B))
  params = model.init(jax.random.key(0))
  logits_TxBxV = model.apply(params, ids_TxB, None)[0]
  states = [cells.LSTMState(*np.zeros((2, B, 8), np.float32)) for _ in range(2)]
  for logits_BxV, ids_B in zip(logits_TxBxV, ids_TxB):
    x = params["embed"]["W_e"][ids_B]
    for n, state in enumerate(states):
      states[n], x = CELL.step(params[f"layer_{n}"], state, x)
    expected = x @ params["head"]["W_hy"] + params["head"]["b_y"]
    np.testing.assert_allclose(logits_BxV, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("embed", [0, 9])
def test_inputs_that_are_too_wide_are_an_error(embed):
  fields = {"cell": "lstm_mogrifier", "layers": 1, "hidden": 8, "embed": embed}
  with pytest.raises(errors.UserError, match=r"model\.hidden=8: set --config\.model\.embed"):
    models.make(20, fields)
