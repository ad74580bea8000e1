"""A recurrent layer over time, the products around it, and the loss.

`scan_layer` is a plain `jax.lax.scan` over the cell, differentiated by JAX. `fast_layer` computes
the same with its own backward pass: the forward scan stores the pre-activations (fewer than the
gates, and as cheap to continue from), the backward scan turns them into their gradients, and each
weight gradient is one product after it (autodiff would add up a [H, G*H] outer product at every
step). `cudnn_layer` is NVIDIA's LSTM.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn as jax_rnn
from jax.extend import backend

from charrnn.models import cells


def cast(params, dtype):
  """Return a layer's parameters with the weights of products in `dtype`, and biases unchanged."""
  return {k: v.astype(dtype) if v.ndim > 1 else v for k, v in params.items()}


def project(params, x):
  """Return x @ W_xh + b_h. An array of ids, [T, B] or [B], selects rows of W_xh."""
  is_ids = jnp.issubdtype(x.dtype, jnp.integer)
  return (select if is_ids else cells.dot)(x, params["W_xh"]) + params["b_h"]


@jax.custom_vjp
def select(ids, W):
  """Return one_hot(ids) @ W by look-up. Its gradient is a product: a scatter is slow on a CPU."""
  return jnp.take(W, ids, axis=0, mode="clip").astype(jnp.float32)  # ids are in range: no check


def _select_backward(saved, dy):
  ids, W = saved
  return None, select_gradient(ids, dy.astype(W.dtype), len(W)).astype(W.dtype)


select.defvjp(lambda ids, W: (select(ids, W), (ids, W)), _select_backward)


def select_gradient(ids, dy, vocab):
  one_hot_VxN = (jnp.arange(vocab)[:, None] == ids.reshape(-1)).astype(dy.dtype)
  return cells.dot(one_hot_VxN, dy.reshape(-1, dy.shape[-1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(x_TxBxD, W, dtype):
  """Return x @ W in `dtype`, summed in float32; both products of the gradient are too."""
  return cells.dot(x_TxBxD, W.astype(dtype))


def _linear_backward(dtype, saved, dy):
  x_TxBxD, W = saved
  dx = cells.dot(dy, W.T.astype(dtype)).astype(x_TxBxD.dtype)
  return dx, weight_gradient(x_TxBxD.astype(dtype), dy.astype(dtype))


linear.defvjp(lambda x, W, dtype: (linear(x, W, dtype), (x, W)), _linear_backward)


def weight_gradient(x_TxBxD, dy_TxBxG):
  """Return the sum of outer products over all steps and rows, [D, G] in float32.

  On a CPU a bfloat16 product is fast only if its left operand contracts its last dimension, so
  x is transposed first (in a scan: XLA folds a plain transpose back into the product).
  """
  D, G, dtype = x_TxBxD.shape[-1], dy_TxBxG.shape[-1], x_TxBxD.dtype
  if dtype == jnp.float32 or jax.default_backend() != "cpu":
    x_DxN = x_TxBxD.reshape(-1, D).T
  else:
    bits_TxDxB = lax.map(jnp.transpose, _pack(x_TxBxD, dtype))
    x_DxN = _bits_to(bits_TxDxB.transpose(1, 0, 2).reshape(D, -1), dtype)
  return cells.dot(x_DxN, dy_TxBxG.reshape(-1, G))


def scan_layer(cell: cells.Cell, params, state, x, clamp=None):
  """Scan a cell: x [T, B, D] or ids [T, B] -> (state, h_TxBxH, recorded).

  `recorded` has every state and gate at every step, each [T, B, H], by name. `clamp` sets entries
  of the state after every step, see `Cell.clamp`.
  """
  if not cell.update and jnp.issubdtype(x.dtype, jnp.integer):
    x = jax.nn.one_hot(x, len(params["W_xh"]))

  def step(before, x):
    if cell.update:
      state, gates = cell.update(before, cell.join(params, x, cells.dot(before.h, params["W_hh"])))
    else:
      state, gates = cell.step(params, before, x)[0], {}
    if clamp:
      state = cell.clamp(before, state, gates, clamp)
    return state, gates | state._asdict()

  state, recorded = lax.scan(step, state, project(params, x) if cell.update else x)
  return state, recorded["h"], recorded


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def fast_layer(cell: cells.Cell, dtype, params, state, x):
  """Compute `scan_layer` without recording: products in `dtype`, and an own backward pass.

  What it stores and returns of every step is in `dtype` too; states, sums and the gradients of
  parameters are float32.
  """
  last, h_TxBxH, _ = _scan(cell, cast(params, dtype), state, x, keep=False)
  return last, h_TxBxH


def _hoisted():
  """Return whether the input's product is taken for all steps at once, before the scan.

  On a CPU it is as fast step by step, and no array of [T, B, G*H] is written and read again.
  """
  return jax.default_backend() != "cpu"


def _scan(cell, params, state, x, keep):
  """Return state, h_TxBxH, and with `keep` what the backward scan needs of every step."""
  dtype, hoisted = params["W_hh"].dtype, _hoisted()

  def step(before, x):
    x_h = x if hoisted else project(params, x)
    pre = cell.join(params, x_h, cells.dot(before.h, params["W_hh"]))
    after, _ = cell.update(before, pre)
    saved = (before._replace(h=None), pre) if keep else None  # h is an output already
    return after, _pack((after.h, saved), dtype)

  last, (h_TxBxH, saved) = lax.scan(step, state, project(params, x) if hoisted else x)
  return last, _bits_to(h_TxBxH, dtype), saved


def _forward(cell, dtype, params, state, x):
  last, h_TxBxH, saved = _scan(cell, cast(params, dtype), state, x, keep=True)
  return (last, h_TxBxH), (params, state.h, x, h_TxBxH, saved)


def _backward(cell, dtype, residuals, cotangents):
  params, first_h, x, h_TxBxH, saved = residuals
  dlast, dh_TxBxH = cotangents
  hoisted = _hoisted()
  is_ids = jnp.issubdtype(x.dtype, jnp.integer)
  biases = {name: params[name] for name in cell.biases}
  W_hh_T, W_xh_T = (params[name].astype(dtype).T for name in ("W_hh", "W_xh"))
  before_TxBxH = jnp.concatenate([first_h[None].astype(dtype), h_TxBxH[:-1]])
  zeros = jnp.zeros((x.shape[1], params["W_hh"].shape[1]))  # anywhere: `join` is linear

  def step(carry, inputs):
    dafter, dbiases = carry
    dh, h, (before, pre) = inputs
    before, pre = _unpack((before._replace(h=h), pre), dtype)
    _, vjp = jax.vjp(lambda *args: cell.update(*args)[0], before, pre)
    dbefore, dpre = vjp(dafter._replace(h=dafter.h + dh))
    _, vjp = jax.vjp(cell.join, biases, zeros, zeros)
    new, dx_h, dh_h = vjp(dpre)
    dbefore = dbefore._replace(h=dbefore.h + cells.dot(dh_h, W_hh_T))
    dx = None if hoisted or is_ids else cells.dot(dx_h, W_xh_T)
    parts = (dx_h,) if dx_h is dh_h else (dx_h, dh_h)  # the same where `join` adds: store it once
    return (dbefore, jax.tree.map(jnp.add, dbiases, new)), _pack((parts, dx), dtype)

  carry = dlast, jax.tree.map(jnp.zeros_like, biases)
  inputs = dh_TxBxH, before_TxBxH, saved
  (dfirst, dbiases), (parts, dx) = lax.scan(step, carry, inputs, reverse=True)
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
  """Return arrays for a scan to stack, bfloat16 as bits: XLA rewrites a stack of bfloat16 whole."""
  if dtype == jnp.float32:
    return tree
  return jax.tree.map(lambda x: lax.bitcast_convert_type(x.astype(dtype), jnp.uint16), tree)


def _bits_to(x, dtype):
  return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


def _unpack(tree, dtype):
  return jax.tree.map(lambda x: _bits_to(x, dtype).astype(jnp.float32), tree)


def has_cudnn() -> bool:
  """Return whether cuDNN runs on the devices of this process: NVIDIA's."""
  return "cuda" in backend.get_backend().platform_version


def cudnn_layer(params, state: cells.LSTMState, x):
  """Run cuDNN's LSTM as JAX exposes it: x [T, B, D] or ids [T, B] -> (LSTMState, h_TxBxH).

  Float32 in and out. Its products are in TF32, which has 10 bits of mantissa where bfloat16 has 7,
  unless `jax_default_matmul_precision` asks for more.
  """
  W_xh, W_hh, b_h = params["W_xh"], params["W_hh"], params["b_h"]
  D, H = len(W_xh), len(W_hh)
  # cuDNN's order: both weights by output, and two biases.
  weights = [W_xh.T.ravel(), W_hh.T.ravel(), b_h, jnp.zeros_like(b_h)]
  weights = jnp.concatenate([part.astype(jnp.float32) for part in weights])
  x_TxBxD = jax.nn.one_hot(x, D) if jnp.issubdtype(x.dtype, jnp.integer) else x
  T, B, _ = x_TxBxD.shape
  x_BxTxD = x_TxBxD.swapaxes(0, 1).astype(jnp.float32)
  lengths_B = jnp.full(B, T, jnp.int32)
  # By position, as its custom gradient needs them: layers, dropout, bidirectional come last.
  h_BxTxH, h, c = jax_rnn.lstm(
    x_BxTxD, state.h[None], state.c[None], weights, lengths_B, D, H, 1, 0.0, False
  )
  return cells.LSTMState(h[0], c[0]), h_BxTxH.swapaxes(0, 1)


def cross_entropy(logits_TxBxV, y_TxB):
  """Return -log p(y) in nats for every token, [T, B]."""
  log_p = jax.nn.log_softmax(logits_TxBxV)
  # A comparison instead of a gather: the gradient of a gather is a scatter, slow on a CPU.
  is_y = jnp.arange(logits_TxBxV.shape[-1]) == y_TxB[..., None]
  return -jnp.where(is_y, log_p, 0.0).sum(-1)
