"""Text read again after it was written: B rows, N symbols, a prompt of P."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special

from charrnn import errors
from charrnn.models import layers
from charrnn.sampling import sampler

CHUNK = 64


class Reread(NamedTuple):
  """In nats, for every symbol."""

  entropies_BxN: np.ndarray  # of the distribution it was drawn from, by the settings
  nats_BxN: np.ndarray  # -log p of it by the model itself


def reread(model, params, prompt_ids_P, ids_BxN: np.ndarray, settings: sampler.Settings) -> Reread:
  """Reads rows as `sampler.draw` wrote them, each after the same prompt."""
  B, N = ids_BxN.shape
  params = jax.device_put(model.prepare(params))
  state, knobs = sampler.prime(model, params, prompt_ids_P, B), dataclasses.astuple(settings)
  # What is read beyond the end changes nothing before it, and spares a program of another length.
  ids_TxB = np.pad(ids_BxN.T.astype(np.int32), ((0, -N % CHUNK), (0, 0)))
  chunks = []
  for start in range(0, N, CHUNK):
    state, *chunk = _read(model, params, state, ids_TxB[start : start + CHUNK], knobs)
    chunks.append(chunk)
  read = Reread(*(np.concatenate(each)[:N].T for each in zip(*chunks)))
  if not np.isfinite(read).all():
    raise errors.UserError(sampler.DIVERGED)
  return read


@functools.partial(jax.jit, static_argnames="model")
def _read(model, params, state, ids_TxB, knobs):
  """A chunk on from (logits_BxV, carry) -> the same, and both figures as [T, B]."""
  first_BxV, carry = state
  logits_TxBxV, carry, _ = model.apply(params, ids_TxB, carry)
  before_TxBxV = jnp.concatenate([first_BxV[None], logits_TxBxV[:-1]])
  p_TxBxV = jax.nn.softmax(sampler.filter_logits(before_TxBxV, *knobs))
  entropies_TxB = special.entr(p_TxBxV).sum(-1)
  return (logits_TxBxV[-1], carry), entropies_TxB, layers.cross_entropy(before_TxBxV, ids_TxB)
