"""Recurrent cells: one step of each as a pure function, and the registry CELLS.

The parameters of a layer are a dict with the names of the equations: `W_xh [D, G*H]`,
`W_hh [H, G*H]`, `b_h [G*H]`. Vectors are rows, so the code writes the product W_xh x as `x @ W_xh`.

The vanilla RNN, the GRU and the LSTM are written twice. To change one, change both. `rnn_step`,
`gru_step` and `lstm_step` are the reference, which only tests run. Training and sampling run the
same step split into two matrix products, `join` and `update`. Layers compute the products and
their gradients, outside the scan where possible. `join` combines the products into the
pre-activations. `update` maps (state, pre-activations) to (new state, gates) element by element;
"gates" include candidates and the GRU's `a`. A cell without `update` runs its step.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid


class RNNState(NamedTuple):
  """State of a vanilla RNN."""

  h: jax.Array  # [B, H]


class GRUState(NamedTuple):
  """State of a GRU."""

  h: jax.Array  # [B, H]


class LSTMState(NamedTuple):
  """State of an LSTM."""

  h: jax.Array  # [B, H], the output
  c: jax.Array  # [B, H], the cell state


def rnn_step(params, state: RNNState, x) -> tuple[RNNState, jax.Array]:
  """Take one step of the vanilla cell of Karpathy's blog: x [B, D] -> (state, y [B, H]).

  h' = tanh(W_xh x + W_hh h + b_h)
  """
  h = jnp.tanh(x @ params["W_xh"] + state.h @ params["W_hh"] + params["b_h"])
  return RNNState(h), h


def gru_step(params, state: GRUState, x) -> tuple[GRUState, jax.Array]:
  """Take one step of the gated recurrent unit (Cho et al. 2014): x [B, D] -> (state, y [B, H]).

  As in cuDNN and PyTorch, the reset gate multiplies the product W_hn h + b_hn.

  r = sigmoid(W_xr x + W_hr h + b_r)                (reset gate)
  z = sigmoid(W_xz x + W_hz h + b_z)                (update gate)
  a = W_hn h + b_hn                                 (recurrent term of the candidate)
  n = tanh(W_xn x + b_n + r * a)                    (candidate)
  h' = (1 - z) * n + z * h
  """
  x_r, x_z, x_n = jnp.split(x @ params["W_xh"] + params["b_h"], 3, axis=-1)
  h_r, h_z, h_n = jnp.split(state.h @ params["W_hh"], 3, axis=-1)
  r = sigmoid(x_r + h_r)
  z = sigmoid(x_z + h_z)
  a = h_n + params["b_hn"]
  n = jnp.tanh(x_n + r * a)
  h = (1 - z) * n + z * state.h
  return GRUState(h), h


def lstm_step(params, state: LSTMState, x) -> tuple[LSTMState, jax.Array]:
  """Take one step of the LSTM, without peepholes: x [B, D] -> (state, y [B, H]).

  Long short-term memory: Hochreiter & Schmidhuber 1997; Gers et al. 2000 (forget gate).

  i = sigmoid(W_xi x + W_hi h + b_i)                (input gate)
  f = sigmoid(W_xf x + W_hf h + b_f)                (forget gate)
  g = tanh(W_xg x + W_hg h + b_g)                   (candidate)
  o = sigmoid(W_xo x + W_ho h + b_o)                (output gate)
  c' = f * c + i * g
  h' = o * tanh(c')
  """
  i, f, g, o = jnp.split(x @ params["W_xh"] + state.h @ params["W_hh"] + params["b_h"], 4, axis=-1)
  i, f, g, o = sigmoid(i), sigmoid(f), jnp.tanh(g), sigmoid(o)
  c = f * state.c + i * g
  h = o * jnp.tanh(c)
  return LSTMState(h, c), h


def is_ids(x) -> bool:
  """Return whether the inputs of a layer are ids, which stand for one-hot vectors."""
  return jnp.issubdtype(x.dtype, jnp.integer)


def dot(x, W):
  """Return x @ W, with products in the dtype of W and sums in float32."""
  return jnp.matmul(x.astype(W.dtype), W, preferred_element_type=jnp.float32)


def reset(state, is_reset_B):
  """Return a state in which the rows of a mask are zero; None is no mask."""
  if is_reset_B is None:
    return state
  return jax.tree.map(lambda leaf_BxH: jnp.where(is_reset_B[:, None], 0.0, leaf_BxH), state)


def squash(x, kinds: str):
  """Apply a sigmoid ("s") or tanh ("t") to each block of the last axis of x; return the blocks.

  For example, "sst" returns three arrays. A single tanh is computed over all of x, using
  sigmoid(x) = (1 + tanh(x / 2)) / 2. Separate loops over the blocks are not vectorized inside a
  scan on a CPU and take 5 times as long.
  """
  width = x.shape[-1] // len(kinds)
  scale = np.repeat([0.5 if kind == "s" else 1.0 for kind in kinds], width).astype(x.dtype)
  return jnp.split(jnp.tanh(x * scale) * scale + (1 - scale), len(kinds), axis=-1)


def join_sum(params, x_h, h_h):
  """Return the sum of both products, which is the pre-activations of most cells."""
  del params
  return x_h + h_h


def rnn_update(state, pre):
  """Map (state, pre-activations) to (new state, gates) of a vanilla RNN."""
  return RNNState(jnp.tanh(pre)), {}


def gru_join(params, x_h, h_h):
  """Return the pre-activations of r and z, the input term of n, and the recurrent term a of n."""
  two_gates = 2 * len(params["b_hn"])
  x_rz, x_n = jnp.split(x_h, [two_gates], axis=-1)
  h_rz, h_n = jnp.split(h_h, [two_gates], axis=-1)
  return x_rz + h_rz, x_n, h_n + params["b_hn"]


def gru_update(state, pre):
  """Map (state, pre-activations) to (new state, gates) of a GRU."""
  rz, x_n, a = pre
  r, z = squash(rz, "ss")
  n = jnp.tanh(x_n + r * a)
  return GRUState((1 - z) * n + z * state.h), {"r": r, "z": z, "n": n, "a": a}


def lstm_update(state, pre):
  """Map (state, pre-activations) to (new state, gates) of an LSTM."""
  i, f, g, o = squash(pre, "ssts")
  c = f * state.c + i * g
  return LSTMState(o * jnp.tanh(c), c), {"i": i, "f": f, "g": g, "o": o}


def lstm_output(state, gates):
  """Return the state with h recomputed from c."""
  return state._replace(h=gates["o"] * jnp.tanh(state.c))


def mogrifier_step(params, state: LSTMState, x) -> tuple[LSTMState, jax.Array]:
  """Take one step of the Mogrifier LSTM: x [B, D] -> (state, y [B, H]).

  x and h scale each other in four rounds before an LSTM step (Melis et al. 2020, arXiv
  1909.01792). The matrices of the rounds are the blocks q and r of W_xh and W_hh. Only the first
  D columns of W_hq and W_hr are used, so D must be at most H.

  x' = 2 sigmoid(W_hq h) * x,    h' = 2 sigmoid(W_xq x') * h,    then the same with r, x' and h'
  """
  h, (D, H) = state.h, (x.shape[-1], state.h.shape[-1])
  for block in (4, 5):  # q and r follow the blocks of i, f, g and o
    W_xh, W_hh = (params[name][:, block * H : (block + 1) * H] for name in ("W_xh", "W_hh"))
    x = 2 * sigmoid(dot(h, W_hh[:, :D])) * x
    h = 2 * sigmoid(dot(x, W_xh)) * h
  W_xh, W_hh, b_h = (params[name][..., : 4 * H] for name in ("W_xh", "W_hh", "b_h"))
  state, _ = lstm_update(state, dot(x, W_xh) + dot(h, W_hh) + b_h)
  return state, state.h


@dataclasses.dataclass(frozen=True)
class Cell:
  """A cell. If `update` is None, layers scan `step` and record only the state."""

  step: Callable  # (params, state, x [B, D]) -> (state, y [B, H])
  state: type  # a NamedTuple of arrays [B, H]; the first is h
  gates: tuple[str, ...]  # names of the blocks in the last axis of W_xh and W_hh
  biases: tuple[str, ...] = ()  # names of the biases [H] in addition to b_h
  recorded: tuple[str, ...] = ()  # names of the quantities that `update` returns with the state
  # The split step. `join` must be linear in (x_h, h_h, biases) taken together.
  update: Callable | None = None  # (state, pre) -> (state, {recorded: [B, H]})
  join: Callable = join_sum  # (params, x_h [B, G*H], h_h [B, G*H]) -> pre, a tree of arrays
  output: Callable = lambda state, gates: state  # recomputes h after c has been clamped
  wide_inputs: bool = True  # False if the inputs must have at most H elements
  native: bool = False  # True if native.cc computes the same equations and may replace them
  cudnn: bool = False  # likewise for cuDNN

  def clamp(self, before, after, gates, clamp: Mapping[str, tuple]):
    """Return the state `after` a step with the clamped entries replaced.

    `clamp`: {field of the state: (mask, values)}, each [H] or [B, H]. Where a value is NaN, the
    entry keeps its value from `before` the step. The cell state c is set first, because the output
    h is recomputed from it.
    """

    def put(state, name):
      mask, values = clamp[name]
      values = jnp.where(jnp.isnan(values), getattr(before, name), values)
      return state._replace(**{name: jnp.where(mask, values, getattr(state, name))})

    if inner := [name for name in self.state._fields[1:] if name in clamp]:
      after = self.output(functools.reduce(put, inner, after), gates)
    return put(after, "h") if "h" in clamp else after


LSTM_GATES = ("i", "f", "g", "o")
CELLS = {
  # If you change the equations of a cell, remove its `native` and `cudnn`.
  "rnn": Cell(rnn_step, RNNState, ("h",), update=rnn_update, native=True),
  "gru": Cell(
    gru_step,
    GRUState,
    gates=("r", "z", "n"),
    biases=("b_hn",),
    recorded=("r", "z", "n", "a"),
    update=gru_update,
    join=gru_join,
    native=True,
  ),
  "lstm": Cell(
    lstm_step,
    LSTMState,
    gates=LSTM_GATES,
    recorded=LSTM_GATES,
    update=lstm_update,
    output=lstm_output,
    native=True,
    cudnn=True,
  ),
  "lstm_mogrifier": Cell(
    mogrifier_step, LSTMState, gates=(*LSTM_GATES, "q", "r"), wide_inputs=False
  ),
}
