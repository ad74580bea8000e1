"""Recurrent cells as pure one-step functions.

Notation: B batch, D width of the input, H hidden size, G gates. Parameters of a layer are a
dict named as in the equations: `W_xh [D, G*H]`, `W_hh [H, G*H]`, `b_h [G*H]`; rows are
vectors, so a product reads `x @ W_xh`. Every cell is split where the time dimension can be:
the input's part `x @ W_xh + b_h` needs no state and is taken for all steps at once, the
part that recurs does not (`recur`, below). `step` joins the two.
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
  blocks = jnp.split(jnp.tanh(x * scale), len(kinds), axis=-1)
  return [0.5 + 0.5 * b if kind == "s" else b for kind, b in zip(kinds, blocks, strict=True)]


def dot(x, W):
  """x @ W in the precision of its operands, summed in float32."""
  return jnp.matmul(x.astype(W.dtype), W, preferred_element_type=jnp.float32)


def rnn_recur(params, state, x_h):
  """h = tanh(W_xh x + W_hh h + b_h): the vanilla cell of the blog. `x_h`: x @ W_xh + b_h."""
  h = jnp.tanh(x_h + dot(state.h, params["W_hh"]))
  return RNNState(h), {"h": h}


def gru_recur(params, state, x_h):
  """The gated recurrent unit (Cho et al. 2014), in the form that cuDNN and PyTorch compute.

  r = sigmoid(W_xr x + W_hr h + b_r)                (reset gate)
  z = sigmoid(W_xz x + W_hz h + b_z)                (update gate)
  a = W_hn h + b_hn                                 (what the reset gate lets through)
  n = tanh(W_xn x + b_n + r * a)                    (candidate)
  h' = (1 - z) * n + z * h

  The reset gate scales the product, not h before it, so that one product serves all gates.
  """
  H = state.h.shape[-1]
  h_h = dot(state.h, params["W_hh"])
  r, z = squash(x_h[..., : 2 * H] + h_h[..., : 2 * H], "ss")
  a = h_h[..., 2 * H :] + params["b_hn"]
  n = jnp.tanh(x_h[..., 2 * H :] + r * a)
  return GRUState((1 - z) * n + z * state.h), {"r": r, "z": z, "a": a, "n": n}


def lstm_recur(params, state, x_h):
  """Long short-term memory with a forget gate (Hochreiter 1997, Gers 2000; no peepholes).

  i = sigmoid(W_xi x + W_hi h + b_i)                (input gate)
  f = sigmoid(W_xf x + W_hf h + b_f)                (forget gate)
  g = tanh(W_xg x + W_hg h + b_g)                   (candidate)
  o = sigmoid(W_xo x + W_ho h + b_o)                (output gate)
  c' = f * c + i * g
  h' = o * tanh(c')
  """
  i, f, g, o = squash(x_h + dot(state.h, params["W_hh"]), "ssts")
  c = f * state.c + i * g
  return LSTMState(o * jnp.tanh(c), c), {"i": i, "f": f, "g": g, "o": o}


# One step backwards through a cell. `kept` holds the state before the step and the gates, `d` the
# gradient of the state after it. Returns the gradients of the pre-activations, gate by gate, of
# the input's part and (None where it is the same) of the recurrent part, and the gradient of the
# state before the step but for what comes through W_hh.


def rnn_backward(kept, d):
  dx = d.h * (1 - kept["h"] ** 2)
  return (dx,), None, RNNState(jnp.zeros_like(dx))


def gru_backward(kept, d):
  h, r, z, a, n = (kept[k] for k in ("h_before", "r", "z", "a", "n"))
  dn = d.h * (1 - z) * (1 - n * n)
  dz = d.h * (h - n) * z * (1 - z)
  dr = dn * a * r * (1 - r)
  return (dr, dz, dn), (dr, dz, dn * r), GRUState(d.h * z)


def lstm_backward(kept, d):
  c, i, f, g, o = (kept[k] for k in ("c_before", "i", "f", "g", "o"))
  tanh_c = jnp.tanh(f * c + i * g)
  dc = d.c + d.h * o * (1 - tanh_c * tanh_c)
  di = dc * g * i * (1 - i)
  df = dc * c * f * (1 - f)
  dg = dc * i * (1 - g * g)
  do = d.h * tanh_c * o * (1 - o)
  return (di, df, dg, do), None, LSTMState(jnp.zeros_like(d.h), dc * f)


@dataclasses.dataclass(frozen=True)
class Cell:
  """What a layer needs to know of a cell."""

  recur: Callable  # (params, state, x_h) -> (state, gates by name)
  state: type
  gates: tuple[str, ...]  # the blocks of W_xh's and W_hh's last axis
  backward: Callable | None = None  # None: JAX differentiates the scan
  biases: tuple[tuple[str, str], ...] = ()  # [H] vectors of the recurrent part, each with its gate

  def zero_state(self, batch, hidden):
    # One buffer each: arrays that alias cannot be donated.
    return self.state(*(jnp.zeros((batch, hidden)) for _ in self.state._fields))


CELLS = {
  "rnn": Cell(rnn_recur, RNNState, ("h",), rnn_backward),
  "gru": Cell(gru_recur, GRUState, ("r", "z", "n"), gru_backward, (("b_hn", "n"),)),
  "lstm": Cell(lstm_recur, LSTMState, ("i", "f", "g", "o"), lstm_backward),
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
