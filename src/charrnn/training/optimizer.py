"""The optimiser and its learning rate by step, from the experiment's fields."""

import jax
import jax.numpy as jnp
import optax

from charrnn import config as config_lib
from charrnn import errors

# What each rule reads of its section, besides what all do.
FIELDS = {
  "rmsprop": {"decay", "eps"},
  "adam": {"b1", "b2", "eps"},
  "adamw": {"b1", "b2", "eps", "weight_decay"},
  "sgd": {"momentum"},
}
SCHEDULE_FIELDS = {
  "constant": set(),
  "epoch_decay": {"decay", "decay_after"},
  "halving": {"halve_every"},
  "cosine": {"final_fraction"},
}


def schedule(config, learning_rate, steps_per_epoch, steps):
  """config.schedule -> a function from step to learning rate."""
  warmup = config.warmup_steps

  def periods(step, epochs):
    # From the middle of the step: XLA's quotient of 9 epochs' steps may be 8.999999.
    return jnp.floor((step + 0.5) / (epochs * steps_per_epoch))

  def epoch_decay(step):
    return learning_rate * config.decay ** jnp.maximum(periods(step, 1) - config.decay_after + 1, 0)

  def halving(step):
    return learning_rate * 0.5 ** periods(step, config.halve_every)

  bodies = {
    "constant": optax.constant_schedule(learning_rate),
    "epoch_decay": epoch_decay,
    "halving": halving,
    "cosine": optax.cosine_decay_schedule(
      learning_rate, max(1, steps - warmup), config.final_fraction
    ),
  }
  body = _choose("schedule.name", config.name, bodies)
  _check_used("schedule", config, SCHEDULE_FIELDS)
  if not warmup:
    return body
  # The cosine begins where the warm-up ends; what counts epochs counts all of them.
  shift = warmup if config.name == "cosine" else 0

  def warmed(step):
    return jnp.minimum(1.0, (step + 1) / warmup) * body(jnp.maximum(step - shift, 0))

  return warmed


def make(config, schedule_fn):
  """config.optimizer -> clipping, then the named rule."""
  rules = {
    # 2015's: epsilon outside of the root, as in torch7's optim.rmsprop.
    "rmsprop": lambda: optax.rmsprop(schedule_fn, config.decay, config.eps, eps_in_sqrt=False),
    "adam": lambda: optax.adam(schedule_fn, config.b1, config.b2, config.eps),
    "adamw": lambda: optax.adamw(
      schedule_fn, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=matrices
    ),
    "sgd": lambda: optax.sgd(schedule_fn, config.momentum or None),
  }
  rule = _choose("optimizer.name", config.name, rules)
  _check_used("optimizer", config, FIELDS)
  if config.name == "adamw" and not config.weight_decay:
    raise errors.UserError(
      "--config.optimizer.name=adamw without weight decay is adam: give "
      "--config.optimizer.weight_decay=0.1, say"
    )
  clips = []
  if config.clip_element:
    clips.append(optax.clip(config.clip_element))
  if config.clip_norm:
    clips.append(optax.clip_by_global_norm(config.clip_norm))
  return optax.chain(*clips, rule())


def matrices(params):
  """What weight decay applies to: weights, not biases."""
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _check_used(section, config, fields):
  """Raises UserError for a field that was set and that the chosen rule does not read."""
  defaults = config_lib.default()[section]
  for field in sorted(set.union(*fields.values()) - fields[config.name]):
    if config[field] != defaults[field]:
      readers = " or ".join(name for name, used in fields.items() if field in used)
      raise errors.UserError(
        f"--config.{section}.{field}={config[field]} needs --config.{section}.name={readers}"
      )


def _choose(field, name, known):
  if name not in known:
    raise errors.UserError(f"--config.{field}={name}: use one of {', '.join(known)}")
  return known[name]
