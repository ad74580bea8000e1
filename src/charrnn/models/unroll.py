"""One layer over time: the input's part for all steps at once, then a scan over the rest.

`scan_layer` is the readable reference: a plain `jax.lax.scan` over the cell, differentiated by
JAX. `fast_layer` computes the same with a backward pass of its own: the forward scan keeps the
gate activations, the backward scan only turns them into the gradient of the pre-activations,
and all weight gradients are one product each after it (autodiff would add up a [H, G*H] outer
product at every step).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from charrnn.models import cells


def project(params, x_TxBxD):
  """x @ W_xh + b_h for all steps: [T, B, G*H]. A [T, B] array of ids selects rows of W_xh."""
  is_ids = jnp.issubdtype(x_TxBxD.dtype, jnp.integer)
  product = select if is_ids else linear
  return product(x_TxBxD, params["W_xh"]) + params["b_h"]


@jax.custom_vjp
def linear(x_TxBxD, W):
  """x @ W, summed in float32. Both products of the gradient are taken in the dtype of W too."""
  return cells.dot(x_TxBxD, W)


def _linear_forward(x_TxBxD, W):
  return linear(x_TxBxD, W), (x_TxBxD.astype(W.dtype), W)


def _linear_backward(saved, dy):
  x_TxBxD, W = saved
  return cells.dot(dy, W.T), weight_gradient(x_TxBxD, dy)


linear.defvjp(_linear_forward, _linear_backward)


@jax.custom_vjp
def select(ids_TxB, W):
  """one_hot(ids) @ W as a look-up. Its gradient is a product: a scatter is slow on a CPU."""
  return jnp.take(W, ids_TxB, axis=0).astype(jnp.float32)


def _select_forward(ids_TxB, W):
  return select(ids_TxB, W), (ids_TxB, W)


def _select_backward(saved, dy):
  ids, W = saved
  one_hot_VxN = (jnp.arange(len(W))[:, None] == ids.reshape(-1)).astype(W.dtype)
  dW = cells.dot(one_hot_VxN, dy.reshape(-1, W.shape[1]).astype(W.dtype))
  return None, dW.astype(W.dtype)


select.defvjp(_select_forward, _select_backward)


def weight_gradient(x_TxBxD, dy_TxBxG):
  """The sum of outer products over all steps and rows, [D, G], as one product.

  On a CPU a bfloat16 product is fast only if its left operand contracts its last dimension, so
  x is turned there first (in a scan: XLA folds a plain transpose back into the product).
  """
  D, G = x_TxBxD.shape[-1], dy_TxBxG.shape[-1]
  dtype = x_TxBxD.dtype
  dy_NxG = dy_TxBxG.reshape(-1, G).astype(dtype)
  if dtype == jnp.float32 or jax.default_backend() != "cpu":
    x_DxN = x_TxBxD.reshape(-1, D).T
  else:
    bits_TxDxB = lax.map(jnp.transpose, _pack(x_TxBxD, dtype))
    x_DxN = lax.bitcast_convert_type(bits_TxDxB.transpose(1, 0, 2).reshape(D, -1), dtype)
  return cells.dot(x_DxN, dy_NxG).astype(dtype)


def scan_layer(cell, params, state, x_TxBxD):
  """The reference: (cell, params, state, x [T, B, D] or ids [T, B]) -> (state, h [T, B, H], out).

  `out` holds every state and gate at every step, each [T, B, H], by name.
  """

  def step(state, x_h):
    state, gates = cell.recur(params, state, x_h)
    return state, state._asdict() | gates

  state, out = lax.scan(step, state, project(params, x_TxBxD))
  return state, out["h"], out


def fast_layer(cell, params, state, x_TxBxD):
  """As `scan_layer` without `out`, with the cell's own backward pass if it has one."""
  if cell.backward is None:
    return scan_layer(cell, params, state, x_TxBxD)[:2]
  recurrent = {k: v for k, v in params.items() if k not in ("W_xh", "b_h")}
  return _recur(cell, recurrent, state, project(params, x_TxBxD))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recur(cell, params, state, x_h):
  def step(state, x_h):
    state, _ = cell.recur(params, state, x_h)
    return state, state.h

  return lax.scan(step, state, x_h)


def _recur_forward(cell, params, state, x_h):
  dtype = params["W_hh"].dtype

  def step(before, x_h):
    after, gates = cell.recur(params, before, x_h)
    kept = {k + "_before": v for k, v in before._asdict().items()} | gates
    return after, (after.h, {k: _pack(v, dtype) for k, v in kept.items()})

  last, (h_TxBxH, kept) = lax.scan(step, state, x_h)
  return (last, h_TxBxH), (params, kept)


def _recur_backward(cell, saved, cotangents):
  params, kept = saved
  dlast, dh_TxBxH = cotangents
  W_hh = params["W_hh"]
  dtype = W_hh.dtype
  W_hh_T = W_hh.T  # once, outside the loop

  def step(dstate, inputs):
    dh, packed = inputs
    gates = {k: _unpack(v, dtype) for k, v in packed.items()}
    dx_h, dh_h, dstate = cell.backward(gates, dstate._replace(h=dstate.h + dh))
    grads = [jnp.concatenate(blocks, -1) for blocks in (dx_h, dh_h) if blocks]
    dstate = dstate._replace(h=dstate.h + cells.dot(grads[-1], W_hh_T))
    return dstate, [_pack(grad, dtype) for grad in grads]

  dfirst, grads = lax.scan(step, dlast, (dh_TxBxH, kept), reverse=True)
  dx_h, *dh_h = (_unpack(grad, dtype) for grad in grads)
  dh_h = dh_h[0] if dh_h else dx_h
  h_before = _unpack(kept["h_before"], dtype).astype(dtype)
  dparams = {"W_hh": weight_gradient(h_before, dh_h)}
  for name, gate in cell.biases:
    block = jnp.split(dh_h, len(cell.gates), -1)[cell.gates.index(gate)]
    dparams[name] = block.sum((0, 1))
  return dparams, dfirst, dx_h


_recur.defvjp(_recur_forward, _recur_backward)


def _pack(x, dtype):
  """Halves what a scan stacks in bfloat16; as bits, since XLA rewrites stacked bfloat16 whole."""
  return x if dtype == jnp.float32 else lax.bitcast_convert_type(x.astype(dtype), jnp.uint16)


def _unpack(x, dtype):
  return x if x.dtype == jnp.float32 else lax.bitcast_convert_type(x, dtype).astype(jnp.float32)
