"""Markov chains with the interface of models, since samplers must not depend on networks."""

import jax
import jax.numpy as jnp
import numpy as np

from charrnn.models import rnn


class Chain:
  """A Markov chain: params[i] are the logits of the token after i. The carry counts tokens."""

  reset_id = None

  def initial_carry(self, batch):
    return {"read": jnp.zeros(batch, jnp.int32)}

  def prepare(self, params):
    return params

  def apply(self, params, ids_TxB, carry, *, clamp=None):
    return params[ids_TxB], {"read": carry["read"] + len(ids_TxB)}, None


class Clocked(Chain):
  """A Markov chain that depends on the step: params[n, i] are the logits after i as token n."""

  def apply(self, params, ids_TxB, carry, *, clamp=None):
    n_TxB = carry["read"] + jnp.arange(len(ids_TxB))[:, None]
    return params[n_TxB, ids_TxB], {"read": carry["read"] + len(ids_TxB)}, None


def cycle(V):
  """Return the logits of a deterministic chain that counts 0, 1, ..., V-1, 0, ..."""
  return np.where(np.roll(np.eye(V), 1, axis=1) > 0, 0.0, -np.inf).astype(np.float32)


def lstm(vocab=11):
  return rnn.make(vocab, cell="lstm", layers=2, hidden=8, dropout=0.5)


def lstm_params(vocab=11):
  """Return a model and parameters that are large enough for its outputs to depend on the input."""
  model = lstm(vocab)
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return model, jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)
