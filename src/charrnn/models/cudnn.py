"""cuDNN's LSTM, as JAX exposes it: one layer, with the parameters and results of the scans.

Float32 in and out. Its products are in TF32, which has 10 bits of mantissa where bfloat16 has 7,
unless `jax_default_matmul_precision` says more.
"""

import jax
import jax.numpy as jnp
from jax.experimental import rnn
from jax.extend import backend

from charrnn.models import cells


def available():
  """Whether it runs on the devices here: NVIDIA's."""
  return "cuda" in backend.get_backend().platform_version


def pack(params):
  """A layer's parameters in cuDNN's order: W_xh and W_hh by output, b_h, another bias of zeros."""
  W_xh, W_hh, b_h = params["W_xh"], params["W_hh"], params["b_h"]
  parts = [W_xh.T.ravel(), W_hh.T.ravel(), b_h, jnp.zeros_like(b_h)]
  return jnp.concatenate([part.astype(jnp.float32) for part in parts])


def lstm_layer(params, state, x):
  """(params, LSTMState, x [T, B, D] or ids [T, B]) -> (LSTMState, h_TxBxH)."""
  D, H = params["W_xh"].shape[0], params["W_hh"].shape[0]
  x_TxBxD = jax.nn.one_hot(x, D) if jnp.issubdtype(x.dtype, jnp.integer) else x
  T, B, _ = x_TxBxD.shape
  lengths_B = jnp.full(B, T, jnp.int32)
  layers, dropout, bidirectional = 1, 0.0, False
  h_BxTxH, h, c = rnn.lstm(
    x_TxBxD.swapaxes(0, 1).astype(jnp.float32),
    state.h[None],
    state.c[None],
    pack(params),
    lengths_B,
    D,
    H,
    layers,
    dropout,
    bidirectional,
  )
  return cells.LSTMState(h[0], c[0]), h_BxTxH.swapaxes(0, 1)
