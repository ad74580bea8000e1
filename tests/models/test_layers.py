"""Layers: the custom backward pass against a plain scan, its memory, and cuDNN's LSTM.

Without a GPU, JAX's reference implementation replaces cuDNN's LSTM.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_layers
import small_models
from jax.experimental import rnn as jax_rnn
from small_layers import CELLS, assert_close, gradients, network

from charrnn import errors
from charrnn.models import cells, layers, native_library


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("T", "ids"), [(1, True), (1, False), (2, True), (3, False)])
def test_short_windows_have_a_gradient(T, cell, ids, dtype):
  """XLA replaces a scan of one step by its body, and then merges other operations."""
  params, state, x = small_layers.layer(cell, T=T, ids=ids)
  plain = functools.partial(layers.scan_layer, cells.CELLS[cell], jnp.dtype("float32"))
  fast = functools.partial(layers.fast_layer, cells.CELLS[cell], jnp.dtype(dtype))
  expected, actual = (
    jax.jit(functools.partial(gradients, layer))(params, state, x) for layer in (plain, fast)
  )
  assert_close(actual, expected, {"float32": 1e-5, "bfloat16": 3e-2}[dtype])


@pytest.mark.parametrize("hoisted", [True, False])
@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_the_fast_layer_agrees_with_the_plain_scan(monkeypatch, cell, ids, hoisted):
  monkeypatch.setattr(layers, "_hoisted", lambda: hoisted)
  params, state, x = small_layers.layer(cell, ids=ids)
  cell = cells.CELLS[cell]
  dtype = jnp.dtype("float32")
  plain = gradients(functools.partial(layers.scan_layer, cell, dtype), params, state, x)
  fast = functools.partial(layers.fast_layer, cell, dtype)
  assert_close(gradients(fast, params, state, x), plain, 1e-5)


def test_parameter_gradients_in_bfloat16_are_summed_in_float32():
  params, state, x = small_layers.layer("lstm", T=40)
  fast = functools.partial(layers.fast_layer, cells.CELLS["lstm"], jnp.dtype("bfloat16"))
  grads = gradients(fast, params, state, x)[1][0]
  for leaf in jax.tree.leaves(grads):
    assert leaf.dtype == np.float32
    rounded = np.asarray(jnp.asarray(leaf).astype(jnp.bfloat16), np.float32)
    assert (rounded != leaf).mean() > 0.9


def test_gradients_of_a_cell_without_update_are_summed_in_float32():
  """Sums in bfloat16 over this many steps have errors of several percent."""
  cell = dataclasses.replace(cells.CELLS["lstm"], update=None)
  params, state, x = small_layers.layer("lstm", T=1024)
  params = layers.cast(layers.cast(params, jnp.bfloat16), jnp.float32)
  layer = functools.partial(layers.scan_layer, cell)
  exact, actual = (
    gradients(functools.partial(layer, jnp.dtype(dtype)), params, state, x)[1][0]
    for dtype in ("float32", "bfloat16")
  )
  for name, gradient in exact.items():
    assert np.linalg.norm(actual[name] - gradient) < 0.01 * np.linalg.norm(gradient)


def test_memory_of_the_backward_pass():
  """Per token, G pre-activations and 2 states of size H are stored; bfloat16 halves the bytes."""
  T, B, H = 16, 4, 32
  params = {"W_xh": jnp.ones((8, 4 * H)), "W_hh": jnp.ones((H, 4 * H)), "b_h": jnp.ones(4 * H)}
  cell, x = cells.CELLS["lstm"], jnp.ones((T, B, 8))
  state = cells.LSTMState(*jnp.zeros((2, B, H)))
  for dtype, width in (("float32", 4), ("bfloat16", 2)):
    _, saved = jax.eval_shape(
      functools.partial(layers._forward, cell, jnp.dtype(dtype)), params, state, x, None
    )
    of_steps = [leaf for leaf in jax.tree.leaves(saved) if leaf.shape[0] == T and leaf is not x]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in of_steps)
    assert size - x.size * 4 == T * B * H * (4 + 2) * width


def reference(x, h, c, weights, lengths, *sizes):
  D, H, layers, dropout, bidirectional = sizes
  unpacked = jax_rnn.unpack_lstm_weights(weights, D, H, layers, bidirectional)
  return jax_rnn.lstm_ref(x, h, c, *unpacked, lengths, D, H, layers, dropout, bidirectional)


@pytest.mark.parametrize("ids", [True, False])
def test_cudnn_agrees_with_the_plain_scan(monkeypatch, ids):
  if not layers.has_cudnn():
    monkeypatch.setattr(jax_rnn, "lstm", reference)
  params, state, x = small_layers.layer("lstm", ids=ids)
  plain = functools.partial(layers.scan_layer, cells.CELLS["lstm"], jnp.dtype("float32"))
  with jax.default_matmul_precision("highest"):
    expected = gradients(plain, params, state, x)
    actual = gradients(layers.cudnn_layer, params, state, x)
  assert_close(actual, expected, 1e-5)


def test_a_network_uses_cudnn_for_windows_and_not_for_single_steps(monkeypatch):
  monkeypatch.setattr(jax_rnn, "lstm", reference)
  plain = network("lstm")
  params, carry = plain.init(jax.random.key(0)), plain.initial_carry(3)
  x = np.random.default_rng(0).integers(0, 7, (8, 3))
  expected = plain.apply(params, x, carry)
  monkeypatch.setattr(layers, "has_cudnn", lambda: True)
  monkeypatch.setattr(native_library, "is_used", lambda unroll: False)
  assert "lstm_ref" in str(jax.make_jaxpr(network("lstm").apply)(params, x, carry))
  for model, ids in (
    (network("lstm"), x[:1]),
    (network("lstm", unroll="scan"), x),
    (network("gru"), x),
  ):
    weights, state = model.init(jax.random.key(0)), model.initial_carry(3)
    assert "lstm_ref" not in str(jax.make_jaxpr(model.apply)(weights, ids, state))
  logits, after, _ = network("lstm", unroll="cudnn").apply(params, x, carry)
  assert_close(logits, np.asarray(expected[0]), 1e-5)
  low = network("lstm", unroll="cudnn", compute_dtype="bfloat16")
  assert_close(low.apply(low.prepare(params), x, carry)[0], np.asarray(expected[0]), 3e-2)
  assert_close(after, jax.tree.map(np.asarray, expected[1]), 1e-5)


def test_cudnn_can_be_differentiated_inside_pmap(monkeypatch):
  """The computation is only traced, because a CPU cannot run cuDNN."""
  sizes = "compute_rnn_workspace_reserve_space_sizes"
  monkeypatch.setattr(jax_rnn.gpu_rnn, sizes, lambda *_: (0, 64), raising=False)
  params, state, x = small_layers.layer("lstm")

  def loss(params, state, x):
    return jax.grad(lambda p: layers.cudnn_layer(p, state, x)[1].sum())(params)

  out = jax.eval_shape(
    jax.pmap(loss, in_axes=(None, 0, 0)), params, *jax.tree.map(lambda leaf: leaf[None], (state, x))
  )
  assert out["W_hh"].shape == (1, *params["W_hh"].shape)


@pytest.mark.skipif(layers.has_cudnn(), reason="this machine has an NVIDIA GPU")
def test_cudnn_without_a_gpu_is_rejected():
  with pytest.raises(errors.UserError, match=r"unroll=cudnn.*NVIDIA"):
    network("lstm", unroll="cudnn")


@pytest.mark.parametrize(("T", "H"), [(50, 32), (51, 33)])
def test_dropout_preserves_the_mean_and_its_entries_are_independent(T, H):
  keys, x_TxBxH = small_models.rngs(64), jnp.ones((T, 64, H))
  masked = [np.asarray(layers.dropout(x_TxBxH, keys, n, 0.25)) for n in range(2)]
  first, kept = masked[0], masked[0] != 0
  assert abs(first.mean() - 1) < 0.01 and set(np.unique(first)) == {0, np.float32(1 / 0.75)}
  assert abs(kept.mean() - 0.75) < 0.01
  # The masks of steps, rows, units and layers do not depend on each other.
  pairs = [(kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1]), (kept, masked[1] != 0)]
  pairs += [(kept[..., n:], kept[..., :-n]) for n in (1, 2, 3, 4)]
  for one, other in pairs:
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.015


def test_a_dropout_rate_just_below_one_drops_nearly_everything():
  x_TxBxH = layers.dropout(jnp.ones((50, 4, 32)), small_models.rngs(4), 0, 1 - 1e-6)
  assert np.count_nonzero(x_TxBxH) < 10


def test_weights_are_dropped_for_the_whole_batch():
  """Without its dropped weights, a network has the outputs of training."""
  network = small_models.make("lstm", weight_drop=0.4)[0]
  plain, params = small_models.make("lstm")
  keys, x = small_models.rngs(4), small_models.ids(6, 4)
  dropped = {
    f"layer_{n}": params[f"layer_{n}"]
    | {"W_hh": layers.drop_weights(params[f"layer_{n}"]["W_hh"], keys, n, 0.4)}
    for n in range(2)
  }
  for part in dropped.values():
    assert abs((np.asarray(part["W_hh"]) == 0).mean() - 0.4) < 0.06
  expected = small_models.run(plain, params | dropped, x)[0]
  np.testing.assert_allclose(
    small_models.run(network, params, x, rngs=keys)[0], expected, atol=1e-5
  )
  np.testing.assert_array_equal(  # Outside training, no weight is dropped.
    small_models.run(network, params, x)[0], small_models.run(plain, params, x)[0]
  )
