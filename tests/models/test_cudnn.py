"""cuDNN's LSTM: what is handed to it and got back, by JAX's plain reference; on a GPU, itself."""

import functools

import jax
import numpy as np
import pytest
from jax.experimental import rnn
from test_cells import assert_close, layer_case, layer_gradients, make

from charrnn import errors
from charrnn.models import cells, layers


def reference(x, h, c, weights, lengths, *sizes):
  D, H, layers, dropout, bidirectional = sizes
  unpacked = rnn.unpack_lstm_weights(weights, D, H, layers, bidirectional)
  return rnn.lstm_ref(x, h, c, *unpacked, lengths, D, H, layers, dropout, bidirectional)


@pytest.mark.parametrize("ids", [True, False])
def test_it_is_the_plain_scan(monkeypatch, ids):
  if not layers.has_cudnn():
    monkeypatch.setattr(rnn, "lstm", reference)
  params, state, x = layer_case("lstm", ids=ids)
  plain = functools.partial(layers.scan_layer, cells.CELLS["lstm"])
  with jax.default_matmul_precision("highest"):
    expected = layer_gradients(plain, params, state, x)
    actual = layer_gradients(layers.cudnn_layer, params, state, x)
  for a, e in zip(actual, expected, strict=True):
    assert_close(a, e, 1e-5)


def test_a_network_uses_it_for_windows_and_not_for_single_steps(monkeypatch):
  monkeypatch.setattr(rnn, "lstm", reference)
  plain = make("lstm")
  params, carry = plain.init(jax.random.key(0)), plain.initial_carry(3)
  x = np.random.default_rng(0).integers(0, 7, (8, 3))
  expected = plain.apply(params, x, carry)
  monkeypatch.setattr(layers, "has_cudnn", lambda: True)
  assert "lstm_ref" in str(jax.make_jaxpr(make("lstm").apply)(params, x, carry))
  for model, ids in ((make("lstm"), x[:1]), (make("lstm", unroll="scan"), x), (make("gru"), x)):
    weights, state = model.init(jax.random.key(0)), model.initial_carry(3)
    assert "lstm_ref" not in str(jax.make_jaxpr(model.apply)(weights, ids, state))
  logits, after, _ = make("lstm", unroll="cudnn").apply(params, x, carry)
  assert_close(logits, np.asarray(expected[0]), 1e-5)
  low = make("lstm", unroll="cudnn", compute_dtype="bfloat16")
  assert_close(low.apply(low.prepare(params), x, carry)[0], np.asarray(expected[0]), 3e-2)
  assert_close(after, jax.tree.map(np.asarray, expected[1]), 1e-5)


def test_it_can_be_differentiated_inside_of_pmap(monkeypatch):
  """Traced only: the call is cuDNN's own, which no CPU can run."""
  sizes = "compute_rnn_workspace_reserve_space_sizes"
  monkeypatch.setattr(rnn.gpu_rnn, sizes, lambda *_: (0, 64), raising=False)
  params, state, x = layer_case("lstm")

  def loss(params, state, x):
    return jax.grad(lambda p: layers.cudnn_layer(p, state, x)[1].sum())(params)

  out = jax.eval_shape(
    jax.pmap(loss, in_axes=(None, 0, 0)), params, *jax.tree.map(lambda leaf: leaf[None], (state, x))
  )
  assert out["W_hh"].shape == (1, *params["W_hh"].shape)


@pytest.mark.skipif(layers.has_cudnn(), reason="there is an NVIDIA GPU")
def test_asked_for_where_there_is_none():
  with pytest.raises(errors.UserError, match=r"unroll=cudnn.*NVIDIA"):
    make("lstm", unroll="cudnn")
  with pytest.raises(errors.UserError, match="use one of auto, scan, cudnn"):
    make("lstm", unroll="fast")
