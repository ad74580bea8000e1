"""One layer over time.

`scan_layer` is the readable reference: a plain `jax.lax.scan` over the cell, differentiated by
JAX. `fast_layer` computes the same with a backward pass of its own: the forward scan keeps the
pre-activations (less to write than the gates, and as cheap to go on from), the backward scan turns
them into their gradients, and all weight gradients are one product each after it (autodiff would
add up a [H, G*H] outer product at every step). On NVIDIA GPUs `cudnn` has the LSTM.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from charrnn.models import cells


def cast(params, dtype):
  """The weights of products in `dtype`; biases stay as they are."""
  return {k: v.astype(dtype) if v.ndim > 1 else v for k, v in params.items()}


def project(params, x):
  """x @ W_xh + b_h. An array of ids, [T, B] or [B], selects rows of W_xh."""
  is_ids = jnp.issubdtype(x.dtype, jnp.integer)
  return (select if is_ids else cells.dot)(x, params["W_xh"]) + params["b_h"]


@jax.custom_vjp
def select(ids, W):
  """one_hot(ids) @ W as a look-up. Its gradient is a product: a scatter is slow on a CPU."""
  return jnp.take(W, ids, axis=0, mode="clip").astype(jnp.float32)  # no check: ids are in range


def _select_forward(ids, W):
  return select(ids, W), (ids, W)


def _select_backward(saved, dy):
  ids, W = saved
  return None, select_gradient(ids, dy.astype(W.dtype), len(W)).astype(W.dtype)


select.defvjp(_select_forward, _select_backward)


def select_gradient(ids, dy, vocab):
  one_hot_VxN = (jnp.arange(vocab)[:, None] == ids.reshape(-1)).astype(dy.dtype)
  return cells.dot(one_hot_VxN, dy.reshape(-1, dy.shape[-1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(x_TxBxD, W, dtype):
  """x @ W in `dtype`, summed in float32, and so both products of the gradient."""
  return cells.dot(x_TxBxD, W.astype(dtype))


def _linear_forward(x_TxBxD, W, dtype):
  return linear(x_TxBxD, W, dtype), (x_TxBxD, W)


def _linear_backward(dtype, saved, dy):
  x_TxBxD, W = saved
  dx = cells.dot(dy, W.T.astype(dtype)).astype(x_TxBxD.dtype)
  return dx, weight_gradient(x_TxBxD.astype(dtype), dy.astype(dtype))


linear.defvjp(_linear_forward, _linear_backward)


def weight_gradient(x_TxBxD, dy_TxBxG):
  """The sum of outer products over all steps and rows, [D, G] in float32, as one product.

  On a CPU a bfloat16 product is fast only if its left operand contracts its last dimension, so
  x is turned there first (in a scan: XLA folds a plain transpose back into the product).
  """
  D, G, dtype = x_TxBxD.shape[-1], dy_TxBxG.shape[-1], x_TxBxD.dtype
  if dtype == jnp.float32 or jax.default_backend() != "cpu":
    x_DxN = x_TxBxD.reshape(-1, D).T
  else:
    bits_TxDxB = lax.map(jnp.transpose, _pack(x_TxBxD, dtype))
    x_DxN = _bits_to(bits_TxDxB.transpose(1, 0, 2).reshape(D, -1), dtype)
  return cells.dot(x_DxN, dy_TxBxG.reshape(-1, G))


def scan_layer(cell, params, state, x_TxBxD, clamp=None):
  """The reference: (cell, params, state, x [T, B, D] or ids [T, B]) -> (state, h [T, B, H], out).

  `out` holds every state and gate at every step, each [T, B, H], by name. `clamp` sets entries of
  the state after every step, see `Cell.set_state`.
  """

  def step(before, x_h):
    state, gates = cell.recur(params, before, x_h)
    if clamp:
      state = cell.set_state(before, state, gates, clamp)
    return state, gates | state._asdict()

  state, out = lax.scan(step, state, project(params, x_TxBxD))
  return state, out["h"], out


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def fast_layer(cell, dtype, params, state, x):
  """As `scan_layer` but for `out`, with products in `dtype` and a backward pass of its own.

  What it keeps and returns of every step is of `dtype` too; states, sums and the gradients of
  parameters are float32.
  """
  last, h_TxBxH, _ = _scan(cell, cast(params, dtype), state, x, keep=False)
  return last, h_TxBxH


def _hoisted():
  """Whether the input's products are taken for all steps at once.

  On a CPU they are as fast step by step, and nothing of [T, B, G*H] is written and read again.
  """
  return jax.default_backend() != "cpu"


def _scan(cell, params, state, x, keep):
  """-> state, h_TxBxH, and with `keep` what the backward scan needs of every step."""
  dtype, hoisted = params["W_hh"].dtype, _hoisted()

  def step(before, x):
    x_h = x if hoisted else project(params, x)
    pre = cell.join(params, x_h, cells.dot(before.h, params["W_hh"]))
    after, _ = cell.update(before, pre)
    kept = (before._replace(h=None), pre) if keep else None  # h is an output already
    return after, _pack((after.h, kept), dtype)

  last, (h_TxBxH, kept) = lax.scan(step, state, project(params, x) if hoisted else x)
  return last, _bits_to(h_TxBxH, dtype), kept


def _forward(cell, dtype, params, state, x):
  last, h_TxBxH, kept = _scan(cell, cast(params, dtype), state, x, keep=True)
  return (last, h_TxBxH), (params, state.h, x, h_TxBxH, kept)


def _backward(cell, dtype, saved, cotangents):
  params, first_h, x, h_TxBxH, kept = saved
  dlast, dh_TxBxH = cotangents
  hoisted = _hoisted()
  is_ids = jnp.issubdtype(x.dtype, jnp.integer)
  biases = {name: params[name] for name in cell.biases}
  # Once, outside of the loop.
  W_hh_T, W_xh_T = (params[name].astype(dtype).T for name in ("W_hh", "W_xh"))
  before_TxBxH = jnp.concatenate([first_h[None].astype(dtype), h_TxBxH[:-1]])
  no_part = jnp.zeros((x.shape[1], params["W_hh"].shape[1]))  # `join` is linear

  def step(carry, inputs):
    dafter, dbiases = carry
    dh, h, (before, pre) = inputs
    before, pre = _unpack((before._replace(h=h), pre), dtype)
    _, vjp = jax.vjp(lambda *given: cell.update(*given)[0], before, pre)
    dbefore, dpre = vjp(dafter._replace(h=dafter.h + dh))
    _, vjp = jax.vjp(cell.join, biases, no_part, no_part)
    new, dx_h, dh_h = vjp(dpre)
    dbefore = dbefore._replace(h=dbefore.h + cells.dot(dh_h, W_hh_T))
    dx = None if hoisted or is_ids else cells.dot(dx_h, W_xh_T)
    parts = (dx_h,) if dx_h is dh_h else (dx_h, dh_h)  # one, if `join` adds: stored once
    return (dbefore, jax.tree.map(jnp.add, dbiases, new)), _pack((parts, dx), dtype)

  (dfirst, dbiases), (parts, dx) = lax.scan(
    step,
    (dlast, jax.tree.map(jnp.zeros_like, biases)),
    (dh_TxBxH, before_TxBxH, kept),
    reverse=True,
  )
  dx_h, dh_h = _bits_to(parts[0], dtype), _bits_to(parts[-1], dtype)
  if is_ids:
    dx, dW_xh = None, select_gradient(x, dx_h, len(params["W_xh"]))
  else:
    dx = cells.dot(dx_h, W_xh_T) if hoisted else _bits_to(dx, dtype)
    dx, dW_xh = dx.astype(x.dtype), weight_gradient(x.astype(dtype), dx_h)
  dparams = {
    "W_xh": dW_xh,
    "W_hh": weight_gradient(before_TxBxH, dh_h),
    "b_h": dx_h.sum((0, 1), dtype=jnp.float32),
  }
  return dparams | dbiases, dfirst, dx


fast_layer.defvjp(_forward, _backward)


def _pack(tree, dtype):
  """Halves what a scan stacks in bfloat16; as bits, since XLA rewrites stacked bfloat16 whole."""
  if dtype == jnp.float32:
    return tree
  return jax.tree.map(lambda x: lax.bitcast_convert_type(x.astype(dtype), jnp.uint16), tree)


def _bits_to(x, dtype):
  return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


def _unpack(tree, dtype):
  return jax.tree.map(lambda x: _bits_to(x, dtype).astype(jnp.float32), tree)
