"""The same run with several seeds, to measure the differences that are due to chance.

  python launch.py --config=experiments/seeds.py --sweep --parallel=2
  python launch.py --config=experiments/seeds.py:10 --sweep --parallel=2 --config.model.cell=gru

The variant is the number of seeds, by default 5. The runs, a small LSTM on the first million
characters of Shakespeare, differ in nothing else; the seed decides the initial parameters and
dropout. A difference between two other runs means something only if it is larger than these. A run
takes a minute on a CPU core, all five 3 minutes on two.
"""

import common
from charrnn import config as config_lib
from charrnn import errors
from charrnn.sweeps import trials


def get_config(variant=""):
  if variant and not (variant.isdecimal() and int(variant)):
    raise errors.UserError(f"seeds.py:{variant}: the variant is a number of seeds, such as 10")
  c = config_lib.default()
  common.small_lstm(c)
  return c


def sweep(variant=""):
  return trials.sweep("seed", range(1, int(variant or 5) + 1))
