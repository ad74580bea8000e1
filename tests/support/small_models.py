"""Small models of every kind, with parameters that are large enough to make outputs differ."""

import functools

import jax
import numpy as np

from charrnn import models
from charrnn.models import ngram

V = 7
GPT = {"cell": "transformer", "layers": 2, "hidden": 12, "heads": 3, "context": 5}
FIELDS = {
  **{cell: {"cell": cell, "layers": 2, "hidden": 12} for cell in ("rnn", "gru", "lstm")},
  "embedding": {"cell": "lstm", "layers": 2, "hidden": 12, "embed": 5},
  "transformer": GPT,
  "learned": GPT | {"positions": "learned", "tie": True},
  "ngram": {"cell": "ngram", "order": 3},
}
NETWORKS = [name for name in FIELDS if name != "ngram"]


@functools.cache
def make(name, **fields):
  """Return a model and its parameters; `fields` override those of FIELDS."""
  model = models.make(V, FIELDS[name] | fields)
  if not model.has_gradient:
    return model, ngram.fit(ids(2000), model.order, V).params()
  shapes, rng = jax.eval_shape(model.init, jax.random.key(0)), np.random.default_rng(0)
  return model, jax.tree.map(lambda leaf: np.float32(0.3 * rng.normal(size=leaf.shape)), shapes)


def run(model, params, ids_TxB, carry=None, *, record=False, rngs=None, clamp=None):
  """Return the result of `model.apply` in one compiled program."""
  return _run(model, record, params, ids_TxB, carry, rngs, clamp)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(model, record, params, ids_TxB, carry, rngs, clamp):
  return model.apply(params, ids_TxB, carry, record=record, rngs=rngs, clamp=clamp)


def rngs(batch, seed=1):
  """Return the random keys of a training step."""
  return models.Rngs.of(jax.random.key(seed), np.arange(batch))


def ids(*shape):
  return np.random.default_rng(1).integers(0, V, shape)
