"""The reference step functions of the cells, and the split steps that the layers use."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
import small_layers
from jax import lax
from small_layers import CELLS, H

from charrnn.models import cells, layers, rnn


def scan_step(step, params, state, x):
  return lax.scan(functools.partial(step, params), state, x)


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_agrees_with_numpy(cell):
  params, state, x = small_layers.layer(cell)
  after, y = cells.CELLS[cell].step(params, state, x[0])
  p, carry = (numpy_reference.as_float64(tree) for tree in (params, state._asdict()))
  expected, _ = numpy_reference.FORWARD[cell](p, np.asarray(x[0], np.float64), carry)
  small_layers.assert_close(after._asdict(), expected, 1e-6)
  np.testing.assert_array_equal(y, after.h)


@pytest.mark.parametrize("cell", CELLS)
def test_the_split_step_agrees_with_the_step_in_values_and_gradients(cell):
  params, state, x = small_layers.layer(cell)
  cell = cells.CELLS[cell]
  reference = functools.partial(scan_step, cell.step)
  expected = small_layers.gradients(reference, params, state, x)
  plain = functools.partial(layers.scan_layer, cell, jnp.dtype("float32"))
  small_layers.assert_close(small_layers.gradients(plain, params, state, x), expected, 1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_join_is_linear_as_the_backward_pass_assumes(cell):
  params, _, _ = small_layers.layer(cell)
  cell = cells.CELLS[cell]
  params = {name: params[name] for name in cell.biases}
  a, b, c, d = jax.random.normal(jax.random.key(0), (4, 2, H * len(cell.gates)))
  zeros = jax.tree.map(jnp.zeros_like, params)
  terms = jax.tree.map(jnp.add, cell.join(params, a, b), cell.join(zeros, c, d))
  small_layers.assert_close(cell.join(params, a + c, b + d), terms, 1e-6)


def mgu_step(params, state, x):
  """Take one step of a minimal gated unit (Zhou et al. 2016) with one pre-activation."""
  a = x @ params["W_xh"] + state.h @ params["W_hh"] + params["b_h"] + params["b_hf"]
  f = jax.nn.sigmoid(a)
  h = f * state.h + (1 - f) * jnp.tanh(a)
  return cells.RNNState(h), h


def mgu_update(state, pre):
  (f,) = cells.squash(pre["f"], "s")
  return cells.RNNState(f * state.h + (1 - f) * jnp.tanh(pre["f"])), {"f": f}


def mgu_join(params, x_h, h_h):
  return {"f": x_h + h_h + params["b_hf"]}


MGU = cells.Cell(mgu_step, cells.RNNState, ("f",), ("b_hf",))
FAST_MGU = dataclasses.replace(MGU, recorded=("f",), update=mgu_update, join=mgu_join)


def test_a_custom_cell_can_use_the_fast_layer():
  params, state, x = small_layers.layer("rnn")
  params["b_hf"] = jnp.linspace(-1, 1, H)
  expected = small_layers.gradients(functools.partial(scan_step, mgu_step), params, state, x)
  fast = functools.partial(layers.fast_layer, FAST_MGU, jnp.dtype("float32"))
  small_layers.assert_close(small_layers.gradients(fast, params, state, x), expected, 1e-5)


def test_a_cell_needs_only_a_step_function(monkeypatch):
  outputs = []
  for cell in (MGU, FAST_MGU):
    monkeypatch.setitem(cells.CELLS, "mgu", cell)
    model = rnn.make(7, cell="mgu", layers=2, hidden=H)
    params, carry = model.init(jax.random.key(0)), model.initial_carry(2)
    assert tuple(model.units["layer_1"]) == (("h",) if cell is MGU else ("h", "f"))
    ids_TxB = np.random.default_rng(0).integers(0, 7, (6, 2))
    clamp = {"layer_0": {"h": (np.arange(H) == 3, np.full(H, 0.25))}}
    for kwargs in ({}, {"record": True}, {"clamp": clamp}):
      logits, after, recorded = model.apply(params, ids_TxB, carry, **kwargs)
      outputs.append((logits, after, recorded and recorded["layer_1"]["h"]))
  for step_only, fast in zip(outputs[:3], outputs[3:]):
    small_layers.assert_close(step_only, fast, 1e-5)
