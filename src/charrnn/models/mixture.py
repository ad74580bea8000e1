"""Mixtures of models, which predict the mean of the models' distributions at a temperature."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from charrnn import models


class Mixture:
  """A mixture as a `models.Model`; parameters and carry are tuples with one item for each model.

  p(y) = mean over the models of softmax(logits / temperature). There are no units to record or
  clamp.
  """

  units, states, can_hold = {}, (), False

  def __init__(self, parts: Sequence[models.Model], temperature: float = 1.0):
    """Mix models with the same vocabulary."""
    self.parts, self.temperature = tuple(parts), temperature
    self.vocab_size = self.parts[0].vocab_size

  @property
  def reset_id(self):
    return self.parts[0].reset_id

  @property
  def has_gradient(self):
    return all(part.has_gradient for part in self.parts)

  @property
  def description(self):
    return " + ".join(part.description for part in self.parts)

  @property
  def implementation(self):
    return ", ".join(dict.fromkeys(part.implementation for part in self.parts))

  def init(self, key):
    keys = jax.random.split(key, len(self.parts))
    return tuple(part.init(each) for part, each in zip(self.parts, keys))

  def initial_carry(self, batch):
    return tuple(part.initial_carry(batch) for part in self.parts)

  def prepare(self, params):
    return tuple(part.prepare(each) for part, each in zip(self.parts, params, strict=True))

  def products(self, params):
    return sum(part.products(each) for part, each in zip(self.parts, params, strict=True))

  def apply(self, params, ids_TxB, carry, *, rngs=None, record=False, clamp=None):
    if clamp:
      raise ValueError("a mixture has no units to clamp")
    carry = (None,) * len(self.parts) if carry is None else carry
    log_p, after = [], []
    for part, each, before in zip(self.parts, params, carry, strict=True):
      logits_TxBxV, new, _ = part.apply(each, ids_TxB, before, rngs=rngs)
      log_p.append(jax.nn.log_softmax(logits_TxBxV / self.temperature))
      after.append(new)
    log_mean_TxBxV = jax.nn.logsumexp(jnp.stack(log_p), axis=0) - jnp.log(len(log_p))
    return log_mean_TxBxV, tuple(after), {} if record else None
