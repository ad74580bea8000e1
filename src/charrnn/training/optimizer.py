"""Optimizers and learning rate schedules by name.

A new one is a function and its entry in OPTIMIZERS or SCHEDULES, with the fields of the config
section that it reads. A schedule that reads `steps` has uses_steps=True: its runs cannot be made
longer.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from charrnn import config as config_lib
from charrnn import errors


class Entry(NamedTuple):
  """A function, and the fields of its config section that it reads besides the common ones."""

  function: Callable
  fields: frozenset[str]
  uses_steps: bool  # of schedules: the rate depends on the length of training


def entry(function: Callable, *fields: str, uses_steps: bool = False) -> Entry:
  return Entry(function, frozenset(fields), uses_steps)


def rmsprop(c, learning_rate: optax.Schedule) -> optax.GradientTransformation:
  """Return RMSProp with epsilon outside of the root, as in torch7's optim.rmsprop of 2015."""
  return optax.rmsprop(learning_rate, c.decay, c.eps, eps_in_sqrt=False)


def adam(c, learning_rate: optax.Schedule) -> optax.GradientTransformation:
  return optax.adam(learning_rate, c.b1, c.b2, c.eps)


def adamw(c, learning_rate: optax.Schedule) -> optax.GradientTransformation:
  """Return Adam with decoupled weight decay of the weights, not of the biases."""
  if not c.weight_decay:
    raise errors.UserError(
      "--config.optimizer.name=adamw without weight decay is adam: use "
      "--config.optimizer.weight_decay=0.1, for example"
    )
  return optax.adamw(learning_rate, c.b1, c.b2, c.eps, weight_decay=c.weight_decay, mask=_is_matrix)


def sgd(c, learning_rate: optax.Schedule) -> optax.GradientTransformation:
  return optax.sgd(learning_rate, c.momentum or None)


OPTIMIZERS = {
  "rmsprop": entry(rmsprop, "decay", "eps"),
  "adam": entry(adam, "b1", "b2", "eps"),
  "adamw": entry(adamw, "b1", "b2", "eps", "weight_decay"),
  "sgd": entry(sgd, "momentum"),
}


def constant(c, learning_rate: float, steps_per_epoch: float, steps: int) -> optax.Schedule:
  return optax.constant_schedule(learning_rate)


def epoch_decay(c, learning_rate: float, steps_per_epoch: float, steps: int) -> optax.Schedule:
  """Return char-rnn's schedule: a factor for every epoch from `decay_after` on."""

  def rate(step):
    epochs = _periods(step, steps_per_epoch)
    return learning_rate * c.decay ** jnp.maximum(epochs - c.decay_after + 1, 0)

  return rate


def halving(c, learning_rate: float, steps_per_epoch: float, steps: int) -> optax.Schedule:
  return lambda step: learning_rate * 0.5 ** _periods(step, c.halve_every * steps_per_epoch)


def cosine(c, learning_rate: float, steps_per_epoch: float, steps: int) -> optax.Schedule:
  """Return a cosine that begins where the warm-up ends."""
  body = optax.cosine_decay_schedule(
    learning_rate, max(1, steps - c.warmup_steps), c.final_fraction
  )
  return lambda step: body(jnp.maximum(step - c.warmup_steps, 0))


SCHEDULES = {
  "constant": entry(constant),
  "epoch_decay": entry(epoch_decay, "decay", "decay_after"),
  "halving": entry(halving, "halve_every"),
  "cosine": entry(cosine, "final_fraction", uses_steps=True),
}


def schedule(
  c: ml_collections.ConfigDict, learning_rate: float, steps_per_epoch: float, steps: int
) -> optax.Schedule:
  """Return the function from step to learning rate that a `schedule` section describes.

  `steps`: the length of the training run. Epochs are counted from the first step.
  """
  body = _chosen("schedule", c, SCHEDULES)(c, learning_rate, steps_per_epoch, steps)
  if not c.warmup_steps:
    return body
  return lambda step: jnp.minimum(1.0, (step + 1) / c.warmup_steps) * body(step)


def make(
  c: ml_collections.ConfigDict, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
  """Return the gradient clipping and the optimizer that an `optimizer` section describes."""
  optimizer = _chosen("optimizer", c, OPTIMIZERS)(c, learning_rate)
  clips = []
  if c.clip_element:
    clips.append(optax.clip(c.clip_element))
  if c.clip_norm:
    clips.append(optax.clip_by_global_norm(c.clip_norm))
  return optax.chain(*clips, optimizer)


def _chosen(section, c, registry):
  """Return the function that a section names.

  Raises UserError for an unknown name, and for a field that is set but not read.
  """
  if c.name not in registry:
    raise errors.UserError(f"--config.{section}.name={c.name}: use one of {', '.join(registry)}")
  defaults = config_lib.default()[section]
  known = frozenset().union(*(each.fields for each in registry.values()))
  for field in sorted(known - registry[c.name].fields):
    if c[field] != defaults[field]:
      readers = " or ".join(name for name, each in registry.items() if field in each.fields)
      raise errors.UserError(
        f"--config.{section}.{field}={c[field]} needs --config.{section}.name={readers}"
      )
  return registry[c.name].function


def _periods(step, steps):
  """Return the number of whole periods of so many steps that have passed."""
  # From the middle of the step: XLA's quotient of 9 epochs' steps may be 8.999999.
  return jnp.floor((step + 0.5) / steps)


def _is_matrix(params):
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
