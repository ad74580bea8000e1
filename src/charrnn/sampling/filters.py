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
  n = jnp.full((*logits.shape[:-1], 1), k)
  return _largest(logits, jnp.sort(logits, descending=True), n)


def top_p(logits, p):
  """The nucleus (Holtzman et al. 2019, arXiv:1904.09751): the fewest that together reach mass p.

  The largest always stays. Among equals the lower id comes first.
  """
  falling = jnp.sort(logits, descending=True)
  # Summed from the small end: at the large end of the sum they would be rounded away.
  mass_from = lax.cumsum(jax.nn.softmax(falling), axis=logits.ndim - 1, reverse=True)
  n = jnp.sum(mass_from > 1 - p, axis=-1, keepdims=True)
  return _largest(logits, falling, jnp.maximum(n, 1))


def _largest(logits, falling, n):
  """Keeps n [..., 1] of the logits, given them in falling order too."""
  # Without the ids in falling order: to sort these along takes twice the time.
  last = jnp.take_along_axis(falling, jnp.minimum(n, logits.shape[-1]) - 1, -1)
  above, equal = logits > last, logits == last
  room = n - above.sum(-1, keepdims=True)
  return jnp.where(above | equal & (jnp.cumsum(equal, -1) <= room), logits, -jnp.inf)
