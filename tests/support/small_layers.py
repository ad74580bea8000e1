"""Small layers and networks of every cell, their gradients, and a comparison of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference

from charrnn.models import cells, rnn

CELLS = ("rnn", "gru", "lstm")
V, H = 7, 12


def network(cell, **fields):
  """Return a network with 2 layers of 12 units; `fields` override these values."""
  return rnn.make(V, cell=cell, **{"layers": 2, "hidden": H} | fields)


def assert_close(actual, expected, tolerance):
  """Compare trees of arrays. The tolerance is relative to the norm of each expected array.

  Comparing single entries would fail for entries near zero.
  """
  flat_actual, tree = jax.tree.flatten(actual)
  flat_expected, expected_tree = jax.tree.flatten(expected)
  assert tree == expected_tree
  for pair in zip(flat_actual, flat_expected, strict=True):
    a, e = (np.asarray(array, np.float64) for array in pair)
    assert np.linalg.norm(a - e) <= tolerance * np.linalg.norm(e)


def layer(cell, T=5, B=3, ids=False):
  """Return random parameters, a random state, and an input [T, B, H] or ids [T, B]."""
  params = numpy_reference.random_params(cell, V, 0, H, 2, np.random.default_rng(0))
  params = {k: jnp.asarray(v, jnp.float32) for k, v in params[f"layer_{int(not ids)}"].items()}
  key = jax.random.key(0)
  x = jax.random.randint(key, (T, B), 0, V) if ids else jax.random.normal(key, (T, B, H))
  fields = cells.CELLS[cell].state._fields
  state = [jax.random.normal(k, (B, H)) * 0.5 for k in jax.random.split(key, len(fields))]
  return params, cells.CELLS[cell].state(*state), x


def gradients(run_layer, params, state, x):
  """Return a weighted sum of all outputs, and its gradients.

  The gradients are with respect to the parameters, the state and, unless it is ids, the input.
  """

  def total(params, state, x):
    last, h_TxBxH, *_ = run_layer(params, state, x)
    weights = jnp.cos(jnp.arange(h_TxBxH.size)).reshape(h_TxBxH.shape)
    return (h_TxBxH * weights).sum() + sum((leaf**2).sum() for leaf in last)

  by = (0, 1) if jnp.issubdtype(x.dtype, jnp.integer) else (0, 1, 2)
  return jax.value_and_grad(total, by)(params, state, x)
