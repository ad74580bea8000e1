"""The learning rate, gradient clipping and warm-up: the best values, and how sensitive they are.

  python launch.py --config=experiments/learning_rate.py --sweep --parallel=2
  python launch.py --config=experiments/learning_rate.py --sweep=random,clip --parallel=2

A small LSTM on the first million characters of Shakespeare, as in seeds.py: a minute a run on a
CPU core, 4 minutes for the 8 of --sweep on two. Another cell, or another optimizer:
--config.model.cell=gru, --config.optimizer.name=rmsprop

--sweep=lr       8 learning rates, each twice the previous one; --sweep alone is the same
--sweep=random   8 random ones between 1e-4 and 1e-1, uniform in their logarithm
--sweep=clip     gradients clipped to a norm of 0.25, 1 or 4, or not at all
--sweep=warmup   0, 50 or 200 steps in which the learning rate rises
--sweep=lr,clip  the product of two sweeps; any of them combine

All of these at once, searched by Optuna, which ends bad trials early (needs charrnn[search]):

  python launch.py --config=experiments/learning_rate.py --search=optuna --trials=20 --parallel=2
"""

import common
from charrnn import config as config_lib
from charrnn import errors
from charrnn.sweeps import spaces, trials


def get_config(variant=""):
  if variant:
    raise errors.UserError(f"learning_rate.py:{variant}: it has no variants")
  c = config_lib.default()
  common.small_lstm(c)
  return c


def sweep():
  rates = [5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2]
  return trials.sweep("optimizer.learning_rate", rates)


sweep_lr = sweep


def sweep_random():
  return trials.log_uniform("optimizer.learning_rate", 1e-4, 1e-1, 8)


def sweep_clip():
  return trials.sweep("optimizer.clip_norm", [0.0, 0.25, 1.0, 4.0])


def sweep_warmup():
  return trials.sweep("schedule.warmup_steps", [0, 50, 200])


def space():
  return {
    "optimizer.learning_rate": spaces.log_uniform(1e-3, 1e-1),
    "optimizer.clip_norm": spaces.log_uniform(0.1, 10.0),
    "schedule.warmup_steps": spaces.integers(0, 200, step=25),
    "model.dropout": spaces.uniform(0.0, 0.3),
  }
