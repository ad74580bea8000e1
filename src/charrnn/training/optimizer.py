"""Registries of optimizers and learning rate schedules.

To add one, write a function and register it in OPTIMIZERS or SCHEDULES together with the fields of
its config section that it reads. A schedule that depends on `steps` must say with `stable` how many
of its first steps do not, because a run can only be extended from one of these.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
import optax.contrib

from charrnn import config as config_lib
from charrnn import errors


class Entry(NamedTuple):
  """A registered function, and the fields that it reads besides those that all entries read."""

  function: Callable
  fields: frozenset[str]
  # (config section, steps) -> how many initial steps of a schedule do not depend on `steps`
  stable: Callable[[Any, int], float]


def entry(
  function: Callable, *fields: str, stable: Callable[[Any, int], float] = lambda c, steps: math.inf
) -> Entry:
  """Return the entry of an optimizer or a schedule."""
  return Entry(function, frozenset(fields), stable)


def rmsprop(c, learning_rate: optax.Schedule) -> optax.GradientTransformation:
  """Return RMSProp with epsilon outside the square root, like torch7's optim.rmsprop of 2015."""
  return optax.rmsprop(learning_rate, c.decay, c.eps, eps_in_sqrt=False)


def adam(c, learning_rate: optax.Schedule) -> optax.GradientTransformation:
  """Return Adam."""
  return optax.adam(learning_rate, c.b1, c.b2, c.eps)


def adamw(c, learning_rate: optax.Schedule) -> optax.GradientTransformation:
  """Return Adam with decoupled weight decay, which is not applied to biases."""
  if not c.weight_decay:
    raise errors.UserError(
      "--config.optimizer.name=adamw without weight decay is the same as adam: set "
      "--config.optimizer.weight_decay, for example to 0.1, or use adam"
    )
  return _adamw(c, learning_rate)


def _adamw(c, learning_rate):
  return optax.adamw(learning_rate, c.b1, c.b2, c.eps, weight_decay=c.weight_decay, mask=_is_matrix)


def muon(c, learning_rate: optax.Schedule) -> optax.GradientTransformation:
  """Return Muon for the matrices of the layers, and AdamW for all other parameters.

  Muon makes the momentum of a matrix orthogonal (Jordan et al. 2024). Its updates are scaled to the
  size of Adam's, so both use the same learning rate (Liu et al. 2025, arXiv 2502.16982).
  """
  rules = {
    "muon": optax.contrib.muon(learning_rate, weight_decay=c.weight_decay, consistent_rms=0.2),
    "adam": _adamw(c, learning_rate),
  }

  def choose(path, leaf):
    return "muon" if path[0].key.startswith("layer_") and leaf.ndim == 2 else "adam"

  return optax.partition(rules, lambda params: jax.tree_util.tree_map_with_path(choose, params))


def sgd(c, learning_rate: optax.Schedule) -> optax.GradientTransformation:
  """Return SGD, with momentum if `momentum` is set."""
  return optax.sgd(learning_rate, c.momentum or None)


OPTIMIZERS = {
  "rmsprop": entry(rmsprop, "decay", "eps"),
  "adam": entry(adam, "b1", "b2", "eps"),
  "adamw": entry(adamw, "b1", "b2", "eps", "weight_decay"),
  "muon": entry(muon, "b1", "b2", "eps", "weight_decay"),
  "sgd": entry(sgd, "momentum"),
}


def constant(c, learning_rate: float, steps_per_epoch: float, steps: int) -> optax.Schedule:
  """Return a constant learning rate."""
  return optax.constant_schedule(learning_rate)


def epoch_decay(c, learning_rate: float, steps_per_epoch: float, steps: int) -> optax.Schedule:
  """Return char-rnn's schedule: multiply the rate by `decay` after each epoch >= `decay_after`."""

  def rate(step):
    epochs = _periods(step, steps_per_epoch)
    return learning_rate * c.decay ** jnp.maximum(epochs - c.decay_after + 1, 0)

  return rate


def halving(c, learning_rate: float, steps_per_epoch: float, steps: int) -> optax.Schedule:
  """Return a schedule that halves the learning rate every `halve_every` epochs."""
  return lambda step: learning_rate * 0.5 ** _periods(step, c.halve_every * steps_per_epoch)


def cosine(c, learning_rate: float, steps_per_epoch: float, steps: int) -> optax.Schedule:
  """Return a cosine decay to `final_fraction` that starts at the end of the warm-up."""
  body = optax.cosine_decay_schedule(
    learning_rate, max(1, steps - c.warmup_steps), c.final_fraction
  )
  return lambda step: body(jnp.maximum(step - c.warmup_steps, 0))


def wsd(c, learning_rate: float, steps_per_epoch: float, steps: int) -> optax.Schedule:
  """Return a warmup-stable-decay schedule: constant, then a linear decay to `final_fraction`."""
  start = wsd_start(c, steps)
  final = learning_rate * c.final_fraction
  return optax.linear_schedule(learning_rate, final, steps - start, transition_begin=start)


def wsd_start(c, steps: int) -> int:
  """Return the step at which the decay of `wsd` starts."""
  return steps - max(1, round(c.decay_fraction * steps))


SCHEDULES = {
  "constant": entry(constant),
  "epoch_decay": entry(epoch_decay, "decay", "decay_after"),
  "halving": entry(halving, "halve_every"),
  "cosine": entry(cosine, "final_fraction", stable=lambda c, steps: 0),
  "wsd": entry(wsd, "final_fraction", "decay_fraction", stable=wsd_start),
}


def schedule(
  c: ml_collections.ConfigDict, learning_rate: float, steps_per_epoch: float, steps: int
) -> optax.Schedule:
  """Return the learning rate as a function of the step, for a config section `schedule`.

  `steps` is the length of the training run. Epochs are counted from the first step.
  """
  body = _function("schedule", c, SCHEDULES)(c, learning_rate, steps_per_epoch, steps)
  if not c.warmup_steps:
    return body
  return lambda step: jnp.minimum(1.0, (step + 1) / c.warmup_steps) * body(step)


def stable_steps(c: ml_collections.ConfigDict, steps: int) -> float:
  """Return how many initial steps of a schedule do not depend on `steps`, the length of training.

  A run can be extended or shortened from the checkpoint of such a step.
  """
  return SCHEDULES[c.name].stable(c, steps)


def make(
  c: ml_collections.ConfigDict, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
  """Return the optimizer of a config section `optimizer`, with gradient clipping and averaging."""
  optimizer = _function("optimizer", c, OPTIMIZERS)(c, learning_rate)
  clips = []
  if c.clip_element:
    clips.append(optax.clip(c.clip_element))
  if c.clip_norm:
    clips.append(optax.clip_by_global_norm(c.clip_norm))
  optimizer = optax.chain(*clips, optimizer)
  return average(optimizer, c.average) if c.average else optimizer


class AverageState(NamedTuple):
  """The state of `average`."""

  count: jax.Array  # int32 scalar: number of updates
  params: Any  # the parameters that are trained
  inner: Any  # the state of the optimizer that trains them


def average(inner: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
  """Return an optimizer whose parameters are a moving average of those that `inner` trains.

  Gradients must be computed at the parameters that `trained` returns. After n updates, the decay
  rate is min(decay, (1 + n) / (10 + n)), so that the initial parameters are soon forgotten.
  """

  def init(params):
    copy = jax.tree.map(jnp.copy, params)  # Aliased arrays cannot be donated.
    return AverageState(jnp.zeros((), jnp.int32), copy, inner.init(params))

  def update(grads, state, params):
    updates, inner_state = inner.update(grads, state.inner, state.params)
    trained_params = optax.apply_updates(state.params, updates)
    rate = 1 - jnp.minimum(decay, (1 + state.count) / (10 + state.count))
    updates = jax.tree.map(lambda new, old: rate * (new - old), trained_params, params)
    return updates, AverageState(state.count + 1, trained_params, inner_state)

  return optax.GradientTransformation(init, update)


def trained(params, opt_state):
  """Return the parameters at which gradients are computed: `params`, unless these are averages."""
  return opt_state.params if isinstance(opt_state, AverageState) else params


def slots(c: ml_collections.ConfigDict) -> int:
  """Return how many numbers an optimizer stores for each parameter."""
  param = jax.ShapeDtypeStruct((3, 5), jnp.float32)
  state = jax.eval_shape(make(c, constant(c, 0.0, 1.0, 1)).init, {"layer_0": {"W": param}})
  return sum(leaf.shape == param.shape for leaf in jax.tree.leaves(state))


def _function(section, c, registry):
  """Return the function that a config section names.

  Raises UserError if a field is set that the function does not read.
  """
  defaults = config_lib.default()[section]
  every_field = frozenset().union(*(each.fields for each in registry.values()))
  for field in sorted(every_field - registry[c.name].fields):
    if c[field] != defaults[field]:
      readers = " or ".join(name for name, each in registry.items() if field in each.fields)
      raise errors.UserError(
        f"--config.{section}.{field}={c[field]} needs --config.{section}.name={readers}"
      )
  return registry[c.name].function


def _periods(step, steps):
  """Return how many periods of `steps` steps are complete at a step."""
  # Half a step is added because XLA's quotient of a multiple of `steps` may be 8.999999 for 9.
  return jnp.floor((step + 0.5) / steps)


def _is_matrix(params):
  """Return a tree of booleans that is true for weights and false for biases."""
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
