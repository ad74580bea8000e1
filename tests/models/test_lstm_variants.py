"""The variants of the LSTM agree with NumPy implementations, and are trained and sampled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charrnn import errors, models
from charrnn.models import cells

B, D, H = 3, 4, 5


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def layernorm(x):
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def lstm(p, i, f, g, o, c, norm=lambda c: c, cap=False):
  i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
  c = f * c + (np.minimum(i, 1 - f) if cap else i) * g
  return o * np.tanh(norm(c)), c


def gates(x, n=4):
  return np.split(x, n, axis=-1)


def capped(p, h, c, x):
  return lstm(p, *gates(x @ p["W_xh"] + h @ p["W_hh"] + p["b_h"]), c, cap=True)


def normalized(p, h, c, x):
  s_x, s_h = (np.concatenate([p[name + gate] for gate in "ifgo"]) for name in ("s_x", "s_h"))
  x_h, h_h = layernorm(x @ p["W_xh"]) * (1 + s_x), layernorm(h @ p["W_hh"]) * (1 + s_h)

  def norm(c):
    return layernorm(c) * (1 + p["s_c"]) + p["b_c"]

  return lstm(p, *gates(x_h + h_h + p["b_h"]), c, norm)


def mogrified(p, h, c, x):
  *W_x, W_xq, W_xr = gates(p["W_xh"], 6)
  *W_h, W_hq, W_hr = gates(p["W_hh"], 6)
  x = 2 * sigmoid(h @ W_hq[:, :D]) * x
  h = 2 * sigmoid(x @ W_xq) * h
  x = 2 * sigmoid(h @ W_hr[:, :D]) * x
  h = 2 * sigmoid(x @ W_xr) * h
  return lstm(p, *(x @ a + h @ b + bias for a, b, bias in zip(W_x, W_h, gates(p["b_h"], 6))), c)


REFERENCES = {"lstm_capped": capped, "lstm_layernorm": normalized, "lstm_mogrifier": mogrified}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_variant_agrees_with_numpy(name):
  cell, rng = cells.CELLS[name], np.random.default_rng(1)
  width = len(cell.gates) * H
  shapes = {"W_xh": (D, width), "W_hh": (H, width), "b_h": width}
  shapes |= dict.fromkeys(cell.biases, H)
  params = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
  h, c, x = (rng.normal(size=(B, size)).astype(np.float32) for size in (H, H, D))
  state, y = cell.step(jax.tree.map(jnp.asarray, params), cells.LSTMState(h, c), x)
  expected = REFERENCES[name](params, h, c, x)
  np.testing.assert_allclose(state.h, expected[0], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(state.c, expected[1], rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(y, state.h)


@pytest.mark.parametrize("name", REFERENCES)
def test_layers_of_a_variant_repeat_its_step(name):
  model = models.make(7, {"cell": name, "layers": 2, "hidden": 8, "embed": 6})
  params = model.init(jax.random.key(0))
  ids = np.random.default_rng(2).integers(7, size=(4, B))
  logits = model.apply(params, ids, None)[0]
  states = [cells.LSTMState(*np.zeros((2, B, 8), np.float32)) for _ in range(2)]
  for t, row in enumerate(ids):
    x = params["embed"]["W_e"][row]
    for n in range(2):
      states[n], x = cells.CELLS[name].step(params[f"layer_{n}"], states[n], x)
    expected = x @ params["head"]["W_hy"] + params["head"]["b_y"]
    np.testing.assert_allclose(logits[t], expected, rtol=1e-3, atol=1e-4)


def test_the_state_of_the_capped_lstm_is_bounded():
  pre = 50 * jax.random.normal(jax.random.key(0), (100, B, 4 * H))
  state = cells.LSTMState(*jnp.zeros((2, B, H)))
  for each in pre:
    state, _ = cells.capped_update(state, each)
    assert np.abs(state.c).max() <= 1 + 1e-5


@pytest.mark.parametrize("embed", [0, 9])
def test_inputs_of_a_mogrifier_that_are_too_wide_are_an_error(embed):
  with pytest.raises(errors.UserError, match=r"model\.hidden=8: set --config\.model\.embed"):
    models.make(20, {"cell": "lstm_mogrifier", "layers": 1, "hidden": 8, "embed": embed})
