"""Filters: logits [..., V] in, logits [..., V] out, with -inf for a symbol that must not come.

All settings may be traced, so that another temperature does not compile another program.
"""

import jax
import jax.numpy as jnp
from jax import lax

TINY = jnp.finfo(jnp.float32).tiny


def chain(logits, T, k=None, p=None):
  """Temperature, then top-k, then top-p over what those two leave. None switches a filter off."""
  logits = temperature(logits, T)
  if k is not None:
    logits = top_k(logits, k)
  return logits if p is None else top_p(logits, p)


def temperature(logits, T):
  """logits / T: sharper below 1, flatter above. At 0 the first of the largest remains alone."""
  # Below the largest, a quotient by a small T overflows to -inf only, never to inf - inf.
  below = logits - logits.max(-1, keepdims=True)
  first = jnp.arange(logits.shape[-1]) == logits.argmax(-1, keepdims=True)
  greedy = jnp.where(first, 0.0, -jnp.inf)
  return jnp.where(T < TINY, greedy, below / jnp.maximum(T, TINY))


def top_k(logits, k):
  """The k largest; among equals the lower id comes first, so that it is k and never more."""
  _, ranks = _sort(logits)
  return jnp.where(ranks < k, logits, -jnp.inf)


def top_p(logits, p):
  """The nucleus (Holtzman et al. 2019, arXiv:1904.09751): the fewest that together reach mass p.

  The largest always stays. Among equals the lower id comes first.
  """
  order, ranks = _sort(logits)
  sorted_p = jnp.take_along_axis(jax.nn.softmax(logits), order, -1)
  # Summed from the small end, where a sum from the large end would have rounded them away.
  mass_from = lax.cumsum(sorted_p, axis=sorted_p.ndim - 1, reverse=True)
  kept = (mass_from > 1 - p).at[..., 0].set(True)
  return jnp.where(jnp.take_along_axis(kept, ranks, -1), logits, -jnp.inf)


def _sort(logits):
  """The ids from the largest logit to the smallest, and the place of every id in that order."""
  order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
  return order, jnp.argsort(order, axis=-1)
