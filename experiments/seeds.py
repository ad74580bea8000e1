"""The same run with several seeds, to measure how much results vary by chance.

  python launch.py --config=experiments/seeds.py --sweep --parallel=2
  python launch.py --config=experiments/seeds.py:10 --sweep --parallel=2 --config.model.cell=gru

The runs train a small LSTM on the first million characters of Shakespeare. They differ only in the
seed, which determines the initial parameters and dropout. A difference between other runs is
meaningful only if it is larger than the differences between these. A run takes a minute on one CPU
core; 5 runs take 3 minutes on 2 cores.

Variants:
  N   the number of seeds (default: 5)
"""

import common
from charrnn import config as config_lib
from charrnn import errors
from charrnn.sweeps import trials


def get_config(variant=""):
  if variant and not (variant.isdecimal() and int(variant)):
    raise errors.UserError(
      f"seeds.py:{variant}: the variant must be a number of seeds, for example seeds.py:10"
    )
  c = config_lib.default()
  common.small_lstm(c)
  return c


def sweep(variant=""):
  return trials.sweep("seed", range(1, int(variant or 5) + 1))
