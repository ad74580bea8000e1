"""Recurrent layers and the output layer in C++ for CPUs, with custom gradients.

`native.cc` computes the layers, and `native_library` compiles it. This module converts parameters
and gradients between the layout of the cells and that of native.cc, which native.cc describes. It
pads the units to a multiple of LANES. The weights, biases and states of padded units are zero.

K: inputs of a product, P: panels, C: columns of a panel. Hp is H with padding.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charrnn.models import cells, native_library

LANES = 16  # floats in a vector
SLOTS = 4  # vectors in a panel
WORD = 4  # bytes; native.cc multiplies words of one float or of two bfloat16 values
NONE = (0,)  # the shape of an operand or a result that a handler does not need
INPUT, RECURRENT, BIAS = 0, 1, 2  # the numbers in native.cc of W_xh, W_hh and the biases


class Layout(NamedTuple):
  """The layout of a cell in native.cc."""

  cell: np.int64  # number of the cell
  gates: int  # gates in W_xh and W_hh
  biases: Sequence[tuple[str, int]]  # (name, block) of the bias of each saved gate
  units: int = LANES  # units of a panel

  def width(self, Hp: int) -> int:
    """Return the number of saved gates of a row, which is also the length of its dz."""
    return Hp * len(self.biases)


LAYOUTS = {
  cells.RNNState: Layout(np.int64(0), 1, [("b_h", 0)], units=LANES * SLOTS),
  cells.GRUState: Layout(np.int64(1), 3, [("b_hn", 0), ("b_h", 0), ("b_h", 1), ("b_h", 2)]),
  cells.LSTMState: Layout(np.int64(2), 4, [("b_h", gate) for gate in range(4)]),
}


class Packed(NamedTuple):
  """The parameters of a layer in the layout of native.cc."""

  W_x: jax.Array  # [P, words, C, values of a word]; if the layer reads ids, [P, V, C, 1]
  W_h: jax.Array  # [P, words, C, values of a word]
  bias: jax.Array  # [P, 1, SLOTS*LANES, 1], float32


def pack(cell: cells.Cell, dtype, params, *, reads_ids: bool) -> Packed:
  """Return the parameters of a layer in the layout of native.cc, for products in `dtype`."""
  layout, H = LAYOUTS[cell.state], len(params["W_hh"])
  slots = [params[name].reshape(-1, H)[gate] for name, gate in layout.biases]
  return Packed(
    _pack(params["W_xh"], layout, INPUT, dtype, values=1 if reads_ids else None),
    _pack(params["W_hh"], layout, RECURRENT, dtype),
    _pack(jnp.concatenate(slots)[None], layout, BIAS, jnp.float32),
  )


def _pack(W, layout, matrix, dtype, *, values=None):
  """Return W [K, G*H] as panels [P, words, C, values of a word]."""
  values = values or WORD // jnp.dtype(dtype).itemsize
  C = layout.units * (len(layout.biases) if matrix == BIAS else layout.gates)
  shape = -(-W.shape[1] // C), -(-len(W) // values), C, values
  return _call_pack(W, shape, layout, matrix, dtype, transposed=False)


def _pack_transposed(W, layout, matrix, dtype):
  """Return the transpose of W [K, G*H], by which dz is multiplied, as panels of the K outputs."""
  values, C = WORD // jnp.dtype(dtype).itemsize, LANES * SLOTS
  H = W.shape[1] // layout.gates
  shape = -(-len(W) // C), layout.gates * _round_up(H) // values, C, values
  return _call_pack(W, shape, layout, matrix, dtype, transposed=True)


def _call_pack(W, shape, layout, matrix, dtype, transposed):
  attributes = {"cell": layout.cell, "matrix": np.int64(matrix), "transposed": transposed}
  return _call("charrnn_pack", _array(shape, dtype), W.astype(jnp.float32), **attributes)


def layer(cell: cells.Cell, dtype, params, state, x, packed: Packed | None = None):
  """Compute (state, h_TxBxH) as `layers.fast_layer` does.

  `packed` is the result of `pack`, if the caller has it. There is then no gradient.
  """
  if packed is None:
    return _layer(cell, dtype, params, state, x)
  return _run_layer(cell, dtype, packed, state, x, keep=False)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _layer(cell, dtype, params, state, x):
  packed = pack(cell, dtype, params, reads_ids=cells.is_ids(x))
  return _run_layer(cell, dtype, packed, state, x, keep=False)[0]


def _run_layer(cell, dtype, packed, state, x, keep):
  """Return (state, h_TxBxH), and the padded arrays that `_layer_backward` needs if `keep`."""
  layout, H = LAYOUTS[cell.state], state.h.shape[-1]
  x = x.astype(jnp.int32) if cells.is_ids(x) else _pad(x.astype(dtype))
  state = jax.tree.map(_pad, state)
  T, B, Hp = len(x), *state.h.shape
  c, has_c = _cell_state(state)
  results = [
    _array((T, B, Hp), dtype),
    _array((B, Hp)),
    _array(c.shape),
    _array((T, B, layout.width(Hp)) if keep else NONE, dtype),
    _array((T, B, Hp) if keep and has_c else NONE, dtype),
  ]
  first = state.h.astype(dtype)
  arguments = x, *packed, first, state.h, c
  y, last_h, last_c, *saved = _call("charrnn_forward", results, *arguments, cell=layout.cell)
  last = cell.state(last_h, last_c) if has_c else cell.state(last_h)
  output = jax.tree.map(lambda leaf: leaf[:, :H], last), y[..., :H]
  return output, (x, first, state, y, *saved)


def _layer_forward(cell, dtype, params, state, x):
  packed = pack(cell, dtype, params, reads_ids=cells.is_ids(x))
  output, saved = _run_layer(cell, dtype, packed, state, x, keep=True)
  return output, (params, x[:0], *saved)  # the empty array has the width and the type of x


def _layer_backward(cell, dtype, residuals, cotangents):
  params, x_0xBxD, x, first, state, y, gates, c_TxBxHp = residuals
  layout, (B, Hp) = LAYOUTS[cell.state], y.shape[1:]
  W_xh, W_hh = params["W_xh"], params["W_hh"]
  dlast, dy = jax.tree.map(_pad, cotangents)
  dc, has_c = _cell_state(dlast)
  W_hh_T = _pack_transposed(W_hh, layout, RECURRENT, dtype)
  W_xh_T, dx_shape = jnp.zeros(NONE, dtype), NONE
  if not cells.is_ids(x):
    W_xh_T, dx_shape = _pack_transposed(W_xh, layout, INPUT, dtype), x.shape
  before = state[-1]  # c of an LSTM, otherwise h
  arguments = gates, y, c_TxBxHp, before, dy, dlast.h, dc, W_hh_T, W_xh_T
  results = [_array(gates.shape, dtype), _array((B, Hp)), _array(dc.shape), _array(dx_shape, dtype)]
  dz, dh, dc, dx = _call("charrnn_backward", results, *arguments, aliases={0: 0}, cell=layout.cell)

  results = [_array(W_xh.shape), _array(W_hh.shape), _array((layout.width(Hp),))]
  dW_xh, dW_hh, db = _call("charrnn_weight_gradient", results, x, first, y, dz, cell=layout.cell)
  H, slots = len(W_hh), len(layout.biases)
  db = db.reshape(-1, slots, LANES).swapaxes(0, 1).reshape(slots, Hp)[:, :H]
  dparams = {"W_xh": dW_xh, "W_hh": dW_hh}
  for name in ("b_h", *cell.biases):
    parts = [db[slot] for slot, (each, _) in enumerate(layout.biases) if each == name]
    dparams[name] = jnp.concatenate(parts)
  dstate = cell.state(dh[:, :H], dc[:, :H]) if has_c else cell.state(dh[:, :H])
  if cells.is_ids(x):
    return dparams, dstate, None
  return dparams, dstate, dx[..., : x_0xBxD.shape[-1]].astype(x_0xBxD.dtype)


_layer.defvjp(_layer_forward, _layer_backward)


def pack_linear(dtype, W) -> jax.Array:
  """Return the weights of the output layer in the layout of native.cc, for products in `dtype`."""
  return _pack(W, LAYOUTS[cells.RNNState], INPUT, dtype)


def linear(x, W, b, dtype, packed: jax.Array | None = None):
  """Return x @ W + b with products in `dtype` and sums in float32, also in the backward pass.

  `packed` is the result of `pack_linear`, if the caller has it. There is then no gradient.
  """
  if packed is None:
    return _linear(x, W, b, dtype)
  return _run_linear(x, packed, b, dtype)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _linear(x, W, b, dtype):
  return _run_linear(x, pack_linear(dtype, W), b, dtype)[0]


def _run_linear(x, packed, b, dtype):
  """Return x @ W + b, and x with padding."""
  x = _pad(x.astype(dtype))
  result = _array((*x.shape[:-1], len(b)))
  return _call("charrnn_linear", result, x, packed, b), x


def _linear_forward(x, W, b, dtype):
  y, padded = _run_linear(x, pack_linear(dtype, W), b, dtype)
  return y, (W, padded, x[:0])


def _linear_backward(dtype, residuals, dy):
  W, x, x_0xBxD = residuals
  W_T = _pack_transposed(W, LAYOUTS[cells.RNNState], INPUT, dtype)
  results = [_array(x.shape, dtype), _array(W.shape), _array(W.shape[1:])]
  dx, dW, db = _call("charrnn_linear_gradient", results, x, W_T, dy)
  return dx[..., : len(W)].astype(x_0xBxD.dtype), dW, db


_linear.defvjp(_linear_forward, _linear_backward)


def _round_up(n):
  return n + -n % LANES


def _pad(x):
  """Pad the last axis with zeros to a multiple of LANES."""
  return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % LANES)])


def _cell_state(state):
  """Return c, and whether the state has it; otherwise c is an empty array."""
  has_c = "c" in state._fields
  return (state.c if has_c else jnp.zeros(NONE)), has_c


def _array(shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def _call(target, results, *arguments, aliases=None, **attributes):
  """Call a handler of native.cc; raise `native_library.UnavailableError` if it cannot be used."""
  native_library.load()
  call = jax.ffi.ffi_call(target, results, vmap_method="sequential", input_output_aliases=aliases)
  return call(*arguments, **attributes)
