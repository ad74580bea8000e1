"""Sweeps over the learning rate, gradient clipping and warm-up of a small LSTM.

  python launch.py --config=experiments/learning_rate.py --sweep --parallel=2
  python launch.py --config=experiments/learning_rate.py --sweep=random,clip --parallel=2

The LSTM trains on the first million characters of Shakespeare, as in seeds.py. A run takes a minute
on one CPU core; the 8 runs of --sweep take 4 minutes on 2 cores. To sweep with another cell or
optimizer, add --config.model.cell=gru or --config.optimizer.name=rmsprop.

Sweeps:
  --sweep=lr       8 learning rates from 5e-4 to 6.4e-2; the same as --sweep alone
  --sweep=random   8 random learning rates from 1e-4 to 1e-1, log-uniform
  --sweep=clip     gradients clipped to norm 0.25, 1 or 4, or not clipped
  --sweep=warmup   0, 50 or 200 warm-up steps
  --sweep=lr,clip  all combinations of two sweeps; any sweeps can be combined

To search over the learning rate, clipping, warm-up and dropout at once, use Optuna, which stops bad
trials early (first: pip install -e '.[search]'):

  python launch.py --config=experiments/learning_rate.py --search=optuna --trials=20 --parallel=2
"""

import common
from charrnn.sweeps import spaces, trials


def get_config(variant=""):
  return common.variant(__file__, variant, {"": common.small_lstm})


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
