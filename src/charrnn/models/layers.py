"""A recurrent layer over time, its input and output products, dropout, and the loss.

`scan_layer` is a plain `jax.lax.scan` over the cell, differentiated by JAX. `fast_layer` computes
the same values with a custom backward pass. Its forward scan stores the pre-activations, from which
the gates are cheap to recompute. Its backward scan computes the gradients of the pre-activations,
and a single product after the scan gives each weight gradient. Automatic differentiation would
instead add a [H, G*H] outer product at every step. `cudnn_layer` runs NVIDIA's LSTM. Below, an
axis named G has length G*H (V in the output layer), and N is T*B.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn as jax_rnn
from jax.extend import backend, random

from charrnn import models
from charrnn.models import cells

MIN_SHARED = 512  # minimum number of units for which XLA divides a matrix product well


def cast(params, dtype):
  """Return the parameters of a layer with matrices cast to `dtype` and biases unchanged."""
  return {k: v.astype(dtype) if v.ndim > 1 else v for k, v in params.items()}


def project(params, x):
  """Return x @ W_xh + b_h. For ids, [T, B] or [B], select rows of W_xh instead of multiplying."""
  return (select if cells.is_ids(x) else cells.dot)(x, params["W_xh"]) + params["b_h"]


@jax.custom_vjp
def select(ids, W):
  """Return one_hot(ids) @ W by look-up. The gradient is a product; a scatter is slow on a CPU."""
  # All ids are in range; "clip" avoids the cost of a check.
  return jnp.take(W, ids, axis=0, mode="clip").astype(jnp.float32)


def _select_backward(saved, dy):
  ids, W = saved
  return None, select_gradient(ids, dy.astype(W.dtype), len(W)).astype(W.dtype)


select.defvjp(lambda ids, W: (select(ids, W), (ids, W)), _select_backward)


def select_gradient(ids, dy, vocab):
  """Return the gradient of `select` with respect to W, [vocab, G] in float32."""
  one_hot_VxN = (jnp.arange(vocab)[:, None] == ids.reshape(-1)).astype(dy.dtype)
  return cells.dot(one_hot_VxN, dy.reshape(-1, dy.shape[-1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(x_TxBxD, W, dtype):
  """Return x @ W with products in `dtype` and sums in float32, also in the backward pass."""
  return cells.dot(x_TxBxD, W.astype(dtype))


def _linear_backward(dtype, saved, dy):
  x_TxBxD, W = saved
  dx = cells.dot(dy, W.T.astype(dtype)).astype(x_TxBxD.dtype)
  return dx, weight_gradient(x_TxBxD.astype(dtype), dy.astype(dtype))


linear.defvjp(lambda x, W, dtype: (linear(x, W, dtype), (x, W)), _linear_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def unembed(h_TxBxD, W_VxD, dtype):
  """Return linear(h, W.T), with the gradient of W computed as [V, D].

  A transpose of the gradient of W.T would become a product that XLA lacks on a CPU in bfloat16.
  """
  return cells.dot(h_TxBxD, W_VxD.T.astype(dtype))


def _unembed_backward(dtype, saved, dlogits):
  h_TxBxD, W_VxD = saved
  dh = cells.dot(dlogits, W_VxD.astype(dtype)).astype(h_TxBxD.dtype)
  return dh, weight_gradient(dlogits.astype(dtype), h_TxBxD.astype(dtype))


unembed.defvjp(lambda h, W, dtype: (unembed(h, W, dtype), (h, W)), _unembed_backward)


def weight_gradient(x_TxBxD, dy_TxBxG):
  """Return the sum of outer products over all steps and rows, [D, G] in float32.

  On a CPU a bfloat16 product is fast only if it contracts the last dimension of its left operand,
  so x is transposed first. The transpose runs in a scan, because XLA would fold a plain transpose
  back into the product.
  """
  D, G, dtype = x_TxBxD.shape[-1], dy_TxBxG.shape[-1], x_TxBxD.dtype
  if dtype == jnp.float32 or jax.default_backend() != "cpu":
    x_DxN = x_TxBxD.reshape(-1, D).T
  else:
    bits_TxDxB = lax.map(jnp.transpose, _pack(x_TxBxD, dtype))
    x_DxN = _bits_to(bits_TxDxB.transpose(1, 0, 2).reshape(D, -1), dtype)
  return cells.dot(x_DxN, dy_TxBxG.reshape(-1, G))


def scan_layer(cell: cells.Cell, dtype, params, state, x, clamp=None, is_reset_TxB=None):
  """Scan a cell over x [T, B, D] or ids [T, B]; return (state, h_TxBxH, recorded).

  Matrices are rounded to `dtype`. `recorded` maps the names of the states, and of the recorded
  gates if the cell has `update`, to their values, [T, B, H]. `clamp` sets entries of the state
  after every step; see `Cell.clamp`. Where `is_reset_TxB` is true, the state is set to zero before
  the step.
  """
  if not cell.update and cells.is_ids(x):
    x = jax.nn.one_hot(x, len(params["W_xh"]))
  rounded = cast(params, dtype)

  def step(before, inputs):
    x, is_reset_B = inputs
    before = cells.reset(before, is_reset_B)
    if cell.update:
      pre = cell.join(rounded, x, cells.dot(before.h, rounded["W_hh"]))
      state, gates = cell.update(before, pre)
    else:
      # Rounding inside the scan makes JAX sum the gradients of the steps in float32.
      state, gates = cell.step(cast(params, dtype), before, x)[0], {}
    if clamp:
      state = cell.clamp(before, state, gates, clamp)
    return state, gates | state._asdict()

  x = project(rounded, x) if cell.update else x
  state, recorded = lax.scan(step, state, (x, is_reset_TxB))
  return state, recorded["h"], recorded


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def fast_layer(cell: cells.Cell, dtype, params, state, x, is_reset_TxB=None):
  """Compute (state, h_TxBxH) as `scan_layer` does, with a custom backward pass.

  Products, stored values and h_TxBxH are in `dtype`. States, sums and the gradients of parameters
  are in float32.
  """
  last, h_TxBxH, _ = _scan(cell, cast(params, dtype), state, x, is_reset_TxB, keep=False)
  return last, h_TxBxH


def _hoisted():
  """Return True if the input product is computed for all steps at once, before the scan.

  On a CPU, computing it inside the scan is equally fast and avoids storing a [T, B, G*H] array.
  """
  return jax.default_backend() != "cpu"


def _scan(cell, params, state, x, is_reset_TxB, keep):
  """Return (state, h_TxBxH, saved); if `keep`, `saved` contains the inputs of the backward scan."""
  dtype, hoisted = params["W_hh"].dtype, _hoisted()

  def step(before, inputs):
    x, is_reset_B = inputs
    before = cells.reset(before, is_reset_B)
    x_h = x if hoisted else project(params, x)
    pre = cell.join(params, x_h, cells.dot(before.h, params["W_hh"]))
    after, _ = cell.update(before, pre)
    saved = (before._replace(h=None), pre) if keep else None  # h is already an output
    return after, _pack((after.h, saved), dtype)

  x = project(params, x) if hoisted else x
  last, (h_TxBxH, saved) = lax.scan(step, state, (x, is_reset_TxB))
  return last, _bits_to(h_TxBxH, dtype), saved


def _forward(cell, dtype, params, state, x, is_reset_TxB):
  last, h_TxBxH, saved = _scan(cell, cast(params, dtype), state, x, is_reset_TxB, keep=True)
  return (last, h_TxBxH), (params, state.h, x, is_reset_TxB, h_TxBxH, saved)


def _backward(cell, dtype, residuals, cotangents):
  params, first_h, x, is_reset_TxB, h_TxBxH, saved = residuals
  dlast, dh_TxBxH = cotangents
  hoisted = _hoisted()
  is_ids = cells.is_ids(x)
  biases = {name: params[name] for name in cell.biases}
  W_hh_T, W_xh_T = (params[name].astype(dtype).T for name in ("W_hh", "W_xh"))
  before_TxBxH = jnp.concatenate([first_h[None].astype(dtype), h_TxBxH[:-1]])
  if is_reset_TxB is not None:
    before_TxBxH = jnp.where(is_reset_TxB[..., None], 0, before_TxBxH).astype(dtype)
  # `join` is linear, so its gradient is the same at any point.
  zeros = jnp.zeros((x.shape[1], params["W_hh"].shape[1]))

  def step(carry, inputs):
    dafter, dbiases = carry
    dh, h, (before, pre), is_reset_B = inputs
    before, pre = _unpack((before._replace(h=h), pre), dtype)
    _, vjp = jax.vjp(lambda *args: cell.update(*args)[0], before, pre)
    dbefore, dpre = vjp(dafter._replace(h=dafter.h + dh))
    _, vjp = jax.vjp(cell.join, biases, zeros, zeros)
    new, dx_h, dh_h = vjp(dpre)
    dbefore = dbefore._replace(h=dbefore.h + cells.dot(dh_h, W_hh_T))
    dbefore = cells.reset(dbefore, is_reset_B)
    dx = None if hoisted or is_ids else cells.dot(dx_h, W_xh_T)
    # If `join` only adds its inputs, both gradients are the same array: store it once.
    parts = (dx_h,) if dx_h is dh_h else (dx_h, dh_h)
    return (dbefore, jax.tree.map(jnp.add, dbiases, new)), _pack((parts, dx), dtype)

  carry = dlast, jax.tree.map(jnp.zeros_like, biases)
  inputs = dh_TxBxH, before_TxBxH, saved, is_reset_TxB
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
  return dparams | dbiases, dfirst, dx, None


fast_layer.defvjp(_forward, _backward)


def _pack(tree, dtype):
  """Cast the outputs of a scan step to `dtype`; return bfloat16 values as uint16 bits.

  On a CPU, XLA rewrites the whole stacked array at every step if it is bfloat16.
  """
  if dtype == jnp.float32:
    return tree
  return jax.tree.map(lambda x: lax.bitcast_convert_type(x.astype(dtype), jnp.uint16), tree)


def _bits_to(x, dtype):
  return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


def _unpack(tree, dtype):
  return jax.tree.map(lambda x: _bits_to(x, dtype).astype(jnp.float32), tree)


def has_cudnn() -> bool:
  """Return True if the devices of this process are NVIDIA GPUs, which can run cuDNN."""
  return "cuda" in backend.get_backend().platform_version


def cudnn_layer(params, state: cells.LSTMState, x):
  """Run cuDNN's LSTM on x [T, B, D] or ids [T, B]; return (LSTMState, h_TxBxH) in float32.

  The products are in TF32, which has a 10-bit mantissa (bfloat16: 7 bits), unless
  `jax_default_matmul_precision` requests a higher precision.
  """
  W_xh, W_hh, b_h = params["W_xh"], params["W_hh"], params["b_h"]
  D, H = len(W_xh), len(W_hh)
  # cuDNN expects both weight matrices transposed, followed by two biases.
  weights = [W_xh.T.ravel(), W_hh.T.ravel(), b_h, jnp.zeros_like(b_h)]
  weights = jnp.concatenate([part.astype(jnp.float32) for part in weights])
  x_TxBxD = jax.nn.one_hot(x, D) if cells.is_ids(x) else x
  T, B, _ = x_TxBxD.shape
  x_BxTxD = x_TxBxD.swapaxes(0, 1).astype(jnp.float32)
  lengths_B = jnp.full(B, T, jnp.int32)
  # The custom gradient requires positional arguments. The last three are the number of layers, the
  # dropout rate and whether the LSTM is bidirectional.
  h_BxTxH, h, c = jax_rnn.lstm(
    x_BxTxD, state.h[None], state.c[None], weights, lengths_B, D, H, 1, 0.0, False
  )
  return cells.LSTMState(h[0], c[0]), h_BxTxH.swapaxes(0, 1)


def dropout(x_TxBxH, rngs: models.Rngs | None, number: int, rate: float):
  """Set a share `rate` of entries to zero and rescale the others; do nothing if `rngs` is None.

  The mask of a row depends only on its key and on `number`, which distinguishes the dropouts of a
  network. It is therefore the same on any number of devices.
  """
  if rngs is None or not rate:
    return x_TxBxH
  T, _, H = x_TxBxH.shape
  draw = jax.vmap(lambda key: _is_kept(key, number, (T, H), rate), out_axes=1)
  return jnp.where(draw(rngs.rows), x_TxBxH / (1 - rate), 0.0)


def drop_weights(W, rngs: models.Rngs | None, number: int, rate: float):
  """Set a share `rate` of weights to zero and rescale the others; do nothing if `rngs` is None.

  All rows and steps of a batch use the same weights: DropConnect as in AWD-LSTM (Merity et al.
  2017, arXiv 1708.02182). `number` distinguishes the matrices of a network.
  """
  if rngs is None or not rate:
    return W
  return jnp.where(_is_kept(rngs.batch, number, W.shape, rate), W / (1 - rate), 0.0)


def _is_kept(key, number: int, shape: tuple[int, ...], rate: float):
  """Return a mask that is false for a random share `rate` of the entries."""
  size = math.prod(shape)
  # One hash gives 64 bits, enough for four entries. jax.random.bits would use one per entry.
  counters = lax.iota(jnp.uint32, -(-size // 2))
  words = random.threefry_2x32(jax.random.key_data(jax.random.fold_in(key, number)), counters)
  bits = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size].reshape(shape)
  # Rates just below 1 round to 2^16, which is not a uint16.
  return bits >= min(round(rate * 2**16), 2**16 - 1)


def cross_entropy(logits_TxBxV, y_TxB):
  """Return -log p(y) in nats for every token, [T, B]."""
  log_p = jax.nn.log_softmax(logits_TxBxV)
  # Compare instead of gathering: the gradient of a gather is a scatter, which is slow on a CPU.
  is_y = jnp.arange(logits_TxBxV.shape[-1]) == y_TxB[..., None]
  return -jnp.where(is_y, log_p, 0.0).sum(-1)
