"""What training carries from step to step. It holds arrays only, and it is the checkpoint."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class TrainState(NamedTuple):
  step: Any  # int32 scalar: updates done
  params: Any
  opt_state: Any
  carry: Any  # the recurrent state of all B streams, [B, H] a leaf


def create(model, optimizer, batch, seed):
  """The state before the first step; keys come from the seed, so nothing random is kept."""
  params = model.init(jax.random.key(seed))
  return TrainState(
    jnp.zeros((), jnp.int32), params, optimizer.init(params), model.initial_carry(batch)
  )


def count(params):
  """How many numbers are trained."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
