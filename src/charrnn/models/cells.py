"""Recurrent cells as pure one-step functions.

Notation: B batch, D width of the input, H hidden size, G gates. Parameters of a layer are a
dict named as in the equations: `W_xh [D, G*H]`, `W_hh [H, G*H]`, `b_h [G*H]`; rows are
vectors, so a product reads `x @ W_xh`.

A step of any cell is two products, `x_h = x @ W_xh + b_h` and `h_h = h @ W_hh`, and two functions
around them: `join` puts them together to the pre-activations, as a sum of multiples of x_h, h_h and
biases, never a product of two of these; `update` makes
of those and of the state before the state after, element by element, and the gates by name. The
products and their gradients are `unroll`'s business, the rest is JAX's to differentiate.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class RNNState(NamedTuple):
  h: jax.Array  # [B, H]


class GRUState(NamedTuple):
  h: jax.Array  # [B, H]


class LSTMState(NamedTuple):
  h: jax.Array  # [B, H], what the cell shows
  c: jax.Array  # [B, H], what the cell keeps


def squash(x, kinds):
  """Blocks of x's last axis through a sigmoid ("s") or tanh ("t") each: "sst" -> three arrays.

  One tanh over the whole of x, since sigmoid(x) = (1 + tanh(x / 2)) / 2: an element-wise loop
  that starts at blocks of x instead is not vectorised inside a scan on a CPU (5 x slower).
  """
  width = x.shape[-1] // len(kinds)
  scale = np.repeat([0.5 if kind == "s" else 1.0 for kind in kinds], width).astype(x.dtype)
  return jnp.split(jnp.tanh(x * scale) * scale + (1 - scale), len(kinds), axis=-1)


def dot(x, W):
  """x @ W in the precision of its operands, summed in float32."""
  return jnp.matmul(x.astype(W.dtype), W, preferred_element_type=jnp.float32)


def join_sum(params, x_h, h_h):
  """Most cells' pre-activations."""
  del params
  return x_h + h_h


def rnn_update(state, pre):
  """h' = tanh(W_xh x + W_hh h + b_h): the vanilla cell of the blog."""
  h = jnp.tanh(pre)
  return RNNState(h), {"h": h}


def gru_join(params, x_h, h_h):
  """The sums for r and z; for n its two parts apart, since r comes between them."""
  two_gates = 2 * len(params["b_hn"])
  x_rz, x_n = jnp.split(x_h, [two_gates], axis=-1)
  h_rz, h_n = jnp.split(h_h, [two_gates], axis=-1)
  return x_rz + h_rz, x_n, h_n + params["b_hn"]


def gru_update(state, pre):
  """The gated recurrent unit (Cho et al. 2014), in the form that cuDNN and PyTorch compute.

  r = sigmoid(W_xr x + W_hr h + b_r)                (reset gate)
  z = sigmoid(W_xz x + W_hz h + b_z)                (update gate)
  a = W_hn h + b_hn                                 (what the reset gate lets through)
  n = tanh(W_xn x + b_n + r * a)                    (candidate)
  h' = (1 - z) * n + z * h

  The reset gate scales the product, not h before it, so that one product serves all gates.
  """
  rz, x_n, a = pre
  r, z = squash(rz, "ss")
  n = jnp.tanh(x_n + r * a)
  return GRUState((1 - z) * n + z * state.h), {"r": r, "z": z, "a": a, "n": n}


def lstm_update(state, pre):
  """Long short-term memory with a forget gate (Hochreiter 1997, Gers 2000; no peepholes).

  i = sigmoid(W_xi x + W_hi h + b_i)                (input gate)
  f = sigmoid(W_xf x + W_hf h + b_f)                (forget gate)
  g = tanh(W_xg x + W_hg h + b_g)                   (candidate)
  o = sigmoid(W_xo x + W_ho h + b_o)                (output gate)
  c' = f * c + i * g
  h' = o * tanh(c')
  """
  i, f, g, o = squash(pre, "ssts")
  c = f * state.c + i * g
  return LSTMState(o * jnp.tanh(c), c), {"i": i, "f": f, "g": g, "o": o}


def lstm_show(state, gates):
  """What the cell shows when c was set from outside."""
  return state._replace(h=gates["o"] * jnp.tanh(state.c))


@dataclasses.dataclass(frozen=True)
class Cell:
  """What a layer needs to know of a cell."""

  join: Callable  # (params, x_h [B, G*H], h_h [B, G*H]) -> pre, a tree of arrays [B, ...]
  update: Callable  # (state, pre) -> (state, gates by name, each [B, H])
  state: type  # a NamedTuple of arrays [B, H], h the first
  gates: tuple[str, ...]  # the blocks of W_xh's and W_hh's last axis
  biases: tuple[str, ...] = ()  # [H] vectors that `join` reads besides b_h
  show: Callable = lambda state, gates: state  # the state with h anew, after the rest was set

  def recur(self, params, state, x_h):
    """One step, with the input's part given: (params, state, x_h [B, G*H]) -> (state, gates)."""
    return self.update(state, self.join(params, x_h, dot(state.h, params["W_hh"])))

  def set_state(self, before, after, gates, clamp):
    """The state after a step with some of its entries set from outside.

    `clamp`: for some fields of the state (where, value), each [H] or [B, H]; the value NaN keeps
    what the entry was before the step. What a cell keeps is set before what it shows.
    """

    def put(state, name):
      where, value = clamp[name]
      value = jnp.where(jnp.isnan(value), getattr(before, name), value)
      return state._replace(**{name: jnp.where(where, value, getattr(state, name))})

    kept = [name for name in self.state._fields[1:] if name in clamp]
    for name in kept:
      after = put(after, name)
    if kept:
      after = self.show(after, gates)
    return put(after, "h") if "h" in clamp else after

  def zero_state(self, batch, hidden):
    # One buffer each: arrays that alias cannot be donated.
    return self.state(*(jnp.zeros((batch, hidden)) for _ in self.state._fields))


CELLS = {
  "rnn": Cell(join_sum, rnn_update, RNNState, ("h",)),
  "gru": Cell(gru_join, gru_update, GRUState, ("r", "z", "n"), ("b_hn",)),
  "lstm": Cell(join_sum, lstm_update, LSTMState, ("i", "f", "g", "o"), show=lstm_show),
}


def _step(cell, params, state, x):
  state, _ = cell.recur(params, state, dot(x, params["W_xh"]) + params["b_h"])
  return state, state.h


def rnn_step(params, state, x):
  """One step of the vanilla cell: (params, RNNState, x [B, D]) -> (RNNState, y [B, H])."""
  return _step(CELLS["rnn"], params, state, x)


def gru_step(params, state, x):
  """One step of the GRU: (params, GRUState, x [B, D]) -> (GRUState, y [B, H])."""
  return _step(CELLS["gru"], params, state, x)


def lstm_step(params, state, x):
  """One step of the LSTM: (params, LSTMState, x [B, D]) -> (LSTMState, y [B, H])."""
  return _step(CELLS["lstm"], params, state, x)
