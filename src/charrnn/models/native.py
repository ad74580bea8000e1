"""Recurrent layers in C++ for CPUs: packed weights, and a layer with a custom gradient.

`native.cc` computes the layers; `native_library` compiles it. This module converts between the
parameters of a layer and the layout that native.cc describes. It pads the units to a multiple of
LANES. The weights and biases of padded units are zero, and so is their state.

K: inputs of a product, P: panels, C: columns of a panel, N: T*B. Hp is H with padding.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charrnn.models import cells

LANES = 16  # floats in a vector
SLOTS = 4  # vectors in a panel
WORD = 4  # bytes; native.cc multiplies words of one float or of two values in bfloat16
NONE = (0,)  # the shape of an operand or a result that is left out


class Layout(NamedTuple):
  """The order of a cell's gates in a panel. Gates are numbered as in `Cell.gates`."""

  cell: int  # number of the cell in native.cc
  input: Sequence[int]  # gates of W_xh
  recurrent: Sequence[int]  # gates of W_hh
  biases: Sequence[tuple[str, int]]  # for each slot, a parameter and a gate in it
  units: int = LANES  # units in a panel

  def width(self, H: int) -> int:
    """Return the number of values that a row with H units, padded, saves: its gates or dz."""
    return H * SLOTS if self.units == LANES else H


LAYOUTS = {
  cells.RNNState: Layout(0, [0], [0], [("b_h", 0)], units=LANES * SLOTS),
  cells.GRUState: Layout(
    1, [0, 1, 2], [2, 0, 1], [("b_hn", 0), ("b_h", 0), ("b_h", 1), ("b_h", 2)]
  ),
  cells.LSTMState: Layout(2, [0, 1, 2, 3], [0, 1, 2, 3], [("b_h", gate) for gate in range(4)]),
}


class Packed(NamedTuple):
  """The parameters of a layer in the layout of native.cc."""

  W_x: jax.Array  # [P, words, C, values of a word]; a table [V, P*C] if the layer reads ids
  W_h: jax.Array  # [P, words, C, values of a word]
  bias: jax.Array  # [P, SLOTS*LANES], float32


def pack(cell: cells.Cell, dtype, params, *, reads_ids: bool) -> Packed:
  """Return the parameters of a layer in the layout of native.cc, for products in `dtype`."""
  layout, H = LAYOUTS[cell.state], len(params["W_hh"])
  W_x = _panels(params["W_xh"].astype(dtype), layout.input, layout)
  W_h = _panels(params["W_hh"].astype(dtype), layout.recurrent, layout)
  bias = jnp.concatenate([params[name].reshape(-1, H)[gate] for name, gate in layout.biases])
  bias_1xPxC = _panels(bias[None], range(len(layout.biases)), layout)
  W_x = W_x.reshape(len(W_x), -1) if reads_ids else _words(W_x)
  return Packed(W_x, _words(W_h), bias_1xPxC[0])


def _panels(W_KxGH, gates, layout):
  """Return the columns of the gates in panels, [K, P, C]."""
  K, G = len(W_KxGH), len(gates)
  W_KxGxH = W_KxGH.reshape(K, G, -1)
  W_KxGxH = jnp.concatenate([W_KxGxH[:, gate : gate + 1] for gate in gates], axis=1)
  W_KxGxH = jnp.pad(W_KxGxH, ((0, 0), (0, 0), (0, -W_KxGxH.shape[-1] % layout.units)))
  W_KxGxPxU = W_KxGxH.reshape(K, G, -1, layout.units)
  return W_KxGxPxU.swapaxes(1, 2).reshape(K, -1, G * layout.units)


def _from_panels(W_KxPC, gates, layout, H):
  """Return columns in panels in the order of the parameters, [K, G*H]: inverts `_panels`."""
  K, G = len(W_KxPC), len(gates)
  W_KxGxH = W_KxPC.reshape(K, -1, G, LANES).swapaxes(1, 2) if layout.units == LANES else W_KxPC
  W_KxGxH = W_KxGxH.reshape(K, G, -1)[..., :H]
  order = np.argsort(gates)
  return jnp.concatenate([W_KxGxH[:, slot] for slot in order], axis=1)


def _words(W_KxPxC):
  """Return panels with the inputs grouped into words, [P, words, C, values of a word]."""
  K, P, C = W_KxPxC.shape
  values = WORD // W_KxPxC.dtype.itemsize
  W_KxPxC = jnp.pad(W_KxPxC, ((0, -K % values), (0, 0), (0, 0)))
  return W_KxPxC.reshape(-1, values, P, C).transpose(2, 0, 3, 1)


def _transposed(W_KxGH, gates, layout):
  """Return a weight matrix for the product of dz with its transpose: panels of K outputs."""
  K, C = len(W_KxGH), LANES * SLOTS
  W_KxPC = _panels(W_KxGH, gates, layout).reshape(K, -1)
  if layout.units > LANES:  # Rows of dz end with the padded units, not with a whole panel.
    W_KxPC = W_KxPC[:, : W_KxGH.shape[1] + -W_KxGH.shape[1] % LANES]
  W_PCxK = jnp.pad(W_KxPC.T, ((0, 0), (0, -K % C)))
  return _words(W_PCxK.reshape(len(W_PCxK), -1, C))


def layer(cell: cells.Cell, dtype, params, state, x, packed: Packed | None = None):
  """Compute (state, h_TxBxH) as `layers.fast_layer` does.

  `packed` are the parameters as returned by `pack`, if the caller has them. No gradient is
  defined with them.
  """
  if packed is None:
    return _layer(cell, dtype, params, state, x)
  return _forward(cell, dtype, packed, state, x, keep=False)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _layer(cell, dtype, params, state, x):
  packed = pack(cell, dtype, params, reads_ids=_is_ids(x))
  return _forward(cell, dtype, packed, state, x, keep=False)[0]


def _is_ids(x):
  return jnp.issubdtype(x.dtype, jnp.integer)


def _pad(x):
  """Pad the last axis with zeros to a multiple of LANES."""
  return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % LANES)])


def _forward(cell, dtype, packed, state, x, keep):
  """Return (state, h_TxBxH), and padded arrays; if `keep`, including those for `_backward`."""
  layout, H = LAYOUTS[cell.state], state.h.shape[-1]
  x = x if _is_ids(x) else _pad(x.astype(dtype))
  state = jax.tree.map(_pad, state)
  T, B, Hp = len(x), *state.h.shape
  c, has_c = _optional(state, "c")
  results = [
    _array((T, B, Hp), dtype),
    _array((B, Hp)),
    _array(c.shape),
    _array((T, B, layout.width(Hp)) if keep else NONE, dtype),
    _array((T, B, Hp) if keep and has_c else NONE, dtype),
  ]
  first = state.h.astype(dtype)
  arguments = x, *packed, first, state.h, c
  y, last_h, last_c, *saved = _call("charrnn_forward", layout, results, *arguments)
  last = cell.state(last_h, last_c) if has_c else cell.state(last_h)
  output = jax.tree.map(lambda leaf: leaf[:, :H], last), y[..., :H]
  return output, (x, first, state, y, *saved)


def _layer_forward(cell, dtype, params, state, x):
  packed = pack(cell, dtype, params, reads_ids=_is_ids(x))
  output, saved = _forward(cell, dtype, packed, state, x, keep=True)
  return output, (params, x[:0], *saved)


def _layer_backward(cell, dtype, residuals, cotangents):
  params, x_0xBxD, x, first, state, y, gates, c_TxBxHp = residuals
  layout, (B, Hp), H = LAYOUTS[cell.state], y.shape[1:], len(params["W_hh"])
  dlast, dy = jax.tree.map(_pad, cotangents)
  dc, has_c = _optional(dlast, "c")
  W_hh_T = _transposed(params["W_hh"].astype(dtype), layout.recurrent, layout)
  W_xh_T, dx_shape = jnp.zeros(NONE, dtype), NONE
  if not _is_ids(x):
    W_xh_T, dx_shape = _transposed(params["W_xh"].astype(dtype), layout.input, layout), x.shape
  arguments = gates, y, c_TxBxHp, state[-1], dy, dlast.h, dc, W_hh_T, W_xh_T
  results = [_array(gates.shape, dtype), _array((B, Hp)), _array(dc.shape), _array(dx_shape, dtype)]
  dz, dh, dc, dx = _call("charrnn_backward", layout, results, *arguments, aliases={0: 0})

  inputs = len(params["W_xh"]) if _is_ids(x) else x.shape[-1]
  results = [
    _array((inputs, len(layout.input) * Hp)),
    _array((Hp, len(layout.recurrent) * Hp)),
    _array((layout.width(Hp),)),
  ]
  dW_x, dW_h, db = _call("charrnn_weight_gradient", layout, results, x, first, y, dz)
  slots = _from_panels(db[None], range(len(layout.biases)), layout, H).reshape(-1, H)
  dparams = {
    "W_xh": _from_panels(dW_x, layout.input, layout, H)[: len(params["W_xh"])],
    "W_hh": _from_panels(dW_h, layout.recurrent, layout, H)[:H],
  }
  for name in ("b_h", *cell.biases):
    parts = [slots[n] for n, (each, _) in enumerate(layout.biases) if each == name]
    dparams[name] = jnp.concatenate(parts)
  dstate = cell.state(dh[:, :H], dc[:, :H]) if has_c else cell.state(dh[:, :H])
  if _is_ids(x):
    return dparams, dstate, None
  return dparams, dstate, dx[..., : x_0xBxD.shape[-1]].astype(x_0xBxD.dtype)


_layer.defvjp(_layer_forward, _layer_backward)


def _optional(state, name):
  """Return a field of a state, or an empty array, and whether the state has the field."""
  has_field = name in state._fields
  return (getattr(state, name) if has_field else jnp.zeros(NONE)), has_field


def _array(shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def _call(target, layout, results, *arguments, aliases=None):
  call = jax.ffi.ffi_call(target, results, vmap_method="sequential", input_output_aliases=aliases)
  return call(*arguments, cell=np.int64(layout.cell))
