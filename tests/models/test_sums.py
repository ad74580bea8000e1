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
import pytest

from charrnn import runtime
from charrnn.evaluation import score
from charrnn.models import layers, native

N = 32_769
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


def test_a_setting_of_the_user_is_kept(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", f"{runtime.SUMS_FLAG}=dot --xla_other")
  runtime.correct_sums()
  assert os.environ["XLA_FLAGS"] == f"{runtime.SUMS_FLAG}=dot --xla_other"


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
