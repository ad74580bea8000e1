"""Sums of products on CPUs, which some jaxlibs compute wrongly; see runtime.correct_sums.

N is the number of rows from which the reported sum is wrong.
"""

import importlib.metadata
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import optax
import pytest
from small_layers import assert_close

from charrnn import runtime
from charrnn.evaluation import score
from charrnn.models import layers, native, rnn
from charrnn.training import steps

N = 32_769
RATE = 1000.0  # makes an update so large that its rounding error is small
SETTING = f"{runtime.SUMS_FLAG}=-reduce"
REPORTED = """
import sys, jax, jax.numpy as jnp
if len(sys.argv) > 1:
  from charrnn import runtime
  runtime.start()
rows = jnp.zeros((32_769, 3)).at[:, 0].set(jnp.arange(32_769.0))
print(float(jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)[-1]))
"""


def normal(*shape):
  return np.random.default_rng(0).standard_normal(shape)


def float32(*arrays):
  return [jnp.asarray(array, jnp.float32) for array in arrays]


def log_softmax(x):
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def reported(*arguments):
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  command = [sys.executable, "-c", REPORTED, *arguments]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
  return float(done.stdout)


def test_the_reported_sum_is_correct_after_start():
  assert reported("start") == 32_768.0**2


def test_the_flag_is_needed():
  """If this test fails, this jaxlib is correct without the flag: raise the limit of the version."""
  version = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:3]))
  if version[:2] != runtime.SUMS_VERSION[:2]:
    pytest.skip("later versions compute other sums wrongly")
  assert (reported() != 32_768.0**2) == (version >= runtime.SUMS_VERSION)


@pytest.mark.parametrize(
  ("version", "flags", "expected"),
  [
    ("0.10.1", "--xla_one", "--xla_one"),
    ("0.10.2", "", SETTING),
    ("0.12.0.1", "--xla_one", f"--xla_one {SETTING}"),
    ("0.12.0", f"{runtime.SUMS_FLAG}=dot --xla_one", f"{runtime.SUMS_FLAG}=dot --xla_one"),
    ("0.13.0.dev20270101", "", ""),
  ],
)
def test_the_flag_is_added_where_it_is_needed(monkeypatch, version, flags, expected):
  """Flags of the user are kept."""
  monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
  monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
  monkeypatch.setenv("XLA_FLAGS", flags)
  runtime.correct_sums.__wrapped__()
  assert os.environ["XLA_FLAGS"] == expected


@pytest.mark.skipif(
  SETTING not in os.environ.get("XLA_FLAGS", ""), reason="this jaxlib needs no flag"
)
def test_a_warning_if_jax_was_used_before(monkeypatch, capsys):
  jax.devices()  # with the flag, for the other tests
  monkeypatch.delenv("XLA_FLAGS")
  runtime.correct_sums.__wrapped__()
  error = capsys.readouterr().err
  assert error.startswith("warning: JAX was used before charrnn") and error.count("\n") == 1


def test_a_sum_after_a_product_with_a_constant_matrix():
  """Versions from 0.11 compute this sum wrongly without the flag."""
  E = normal(5, 60, 60)
  E = E @ E.swapaxes(1, 2)
  product = jax.jit(lambda E, c: jnp.sum((E @ jnp.full_like(E, c)) * E, axis=-1))
  result = product(*float32(E), jnp.float32(0.37))
  np.testing.assert_allclose(
    result, ((E @ np.full_like(E, 0.37)) * E).sum(-1), rtol=1e-4, atol=1e-2
  )


@pytest.mark.parametrize("V", [3, 65])
def test_cross_entropy_and_its_gradient(V):
  logits, y = normal(N, 2, V), np.random.default_rng(1).integers(0, V, (N, 2))
  log_p = log_softmax(logits)
  expected = -np.take_along_axis(log_p, y[..., None], -1)[..., 0]
  each = jax.jit(layers.cross_entropy)
  mean = jax.jit(jax.value_and_grad(lambda logits: layers.cross_entropy(logits, y).mean()))
  (logits32,) = float32(logits)
  np.testing.assert_allclose(each(logits32, y), expected, rtol=1e-4, atol=1e-5)
  value, gradient = mean(logits32)
  np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
  expected = (np.exp(log_p) - np.eye(V)[y]) / y.size
  np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-9)


def test_predictions_of_many_tokens():
  logits, y = normal(N, 1, 65), np.zeros((N, 1), np.int64)
  prediction = jax.jit(score.predict)(*float32(logits), y)
  log_p = log_softmax(logits)
  np.testing.assert_allclose(prediction.nats, -log_p[..., 0], rtol=1e-4, atol=1e-5)
  ranks = (log_p >= log_p[..., :1]).sum(-1)
  assert np.mean(prediction.rank == ranks) > 0.999  # float32 rounds some to a tie


@pytest.mark.parametrize("unroll", ["scan", "native"])
def test_the_output_layer_and_its_gradients(unroll):
  x, W, b, dy = normal(N, 1, 24), normal(24, 65), normal(65), normal(N, 1, 65)

  def linear(x, W, b):
    if unroll == "native":
      return native.linear(x, W, b, jnp.dtype("float32"))
    return layers.linear(x, W, jnp.dtype("float32")) + b

  def both(x, W, b, dy):
    y, vjp = jax.vjp(linear, x, W, b)
    return y, *vjp(dy)

  results = jax.jit(both)(*float32(x, W, b, dy))
  flat_x, flat_dy = x[:, 0], dy[:, 0]
  expected = x @ W + b, dy @ W.T, flat_x.T @ flat_dy, flat_dy.sum(0)
  for result, each in zip(results, expected):
    np.testing.assert_allclose(result, each, rtol=1e-3, atol=1e-4 * np.abs(each).max())


def test_the_norm_of_a_gradient():
  leaves = [normal(1024, 1024), normal(N), normal(65, 2048)]
  norm = jax.jit(lambda leaves: jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in leaves)))
  expected = np.sqrt(sum((leaf**2).sum() for leaf in leaves))
  np.testing.assert_allclose(norm(float32(*leaves)), expected, rtol=1e-6)


def train_once(model, params, x_TxB, y_TxB):
  """Return the metrics of a step of SGD on one device, and its gradients."""
  optimizer, batch = optax.sgd(RATE), x_TxB.shape[1]
  state = steps.create_state(model, optimizer, batch, 0)._replace(params=params)
  devices = steps.Devices(1, 1, 0)
  step = steps.TrainStep(model, optimizer, batch=batch, seed=0, devices=devices)
  after, metrics = step(step.put(state), x_TxB, y_TxB)
  after = step.get(after).params
  return metrics, jax.tree.map(lambda a, b: (np.float64(a) - b) / RATE, params, after)


def norm(leaves):
  return np.sqrt(sum((leaf**2).sum() for leaf in leaves))


@pytest.mark.parametrize(
  ("cell", "unroll"),
  [
    pytest.param(
      cell, unroll, marks=pytest.mark.long if unroll == "scan" and cell != "lstm" else []
    )
    for cell in numpy_reference.N_GATES
    for unroll in ("scan", "auto")
  ],
)
def test_the_loss_and_the_gradients_of_a_training_step(cell, unroll):
  V, H, rng = 3, 4, np.random.default_rng(0)
  params = jax.tree.map(np.float32, numpy_reference.random_params(cell, V, 0, H, 2, rng))
  model = rnn.make(V, cell=cell, layers=2, hidden=H, unroll=unroll)
  windows = rng.integers(V, size=(2, 3, N // 3 + 1), dtype=np.int32)
  metrics, gradients = train_once(model, params, *windows)
  carry = [state._asdict() for state in model.initial_carry(windows.shape[-1])]
  loss, *_, expected, _ = numpy_reference.loss_and_gradients(cell, params, *windows, carry)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
  np.testing.assert_allclose(metrics["grad_norm"], norm(jax.tree.leaves(expected)), rtol=1e-5)
  for part in expected:
    assert_close(gradients[part], expected[part], 1e-4)


def test_the_gradient_norm_of_a_step_with_a_large_vocabulary():
  model = rnn.make(N, cell="lstm", layers=1, hidden=3, embed=3, unroll="scan")
  params = jax.device_get(model.init(jax.random.key(0)))
  windows = np.random.default_rng(0).integers(N, size=(2, 1, 64), dtype=np.int32)
  metrics, gradients = train_once(model, params, *windows)
  np.testing.assert_allclose(metrics["grad_norm"], norm(jax.tree.leaves(gradients)), rtol=1e-5)


class Linear:
  """A model whose logits are the rows of its parameters that the ids select, as a product."""

  def initial_carry(self, batch):
    return np.zeros((batch, 1), np.float32)

  def apply(self, params, ids_TxB, carry):
    one_hot_TxBxV = jax.nn.one_hot(ids_TxB, len(params))
    return layers.linear(one_hot_TxBxV, params, jnp.dtype("float32")), carry, None


@pytest.mark.parametrize("V", [3, 65])
def test_the_loss_of_a_text_and_the_entropy_of_samples(V):
  """Every device has N rows."""
  rng, W = np.random.default_rng(0), normal(V, V)
  x, y = rng.integers(V, size=(2, 3, jax.local_device_count() * (N // 3 + 1)))
  log_p, weight = log_softmax(W), rng.integers(2, size=x.shape).astype(np.float32)
  nats, _ = steps.LossStep(Linear())(*float32(W), None, x, y, weight)
  np.testing.assert_allclose(nats, -(log_p[x, y] * weight).sum(), rtol=1e-6)

  ids = x[:, : N // 3 + 1]
  settings = (1.0, None, None), None  # no filters; every token has a text
  measure = jax.jit(lambda W: score._measure_sample(*settings, W[ids] @ W, ids, None)[0])
  expected = log_softmax(W[ids] @ W)
  expected = -(np.exp(expected) * expected).sum(-1)
  np.testing.assert_allclose(measure(*float32(W)), expected, rtol=1e-4, atol=1e-5)
