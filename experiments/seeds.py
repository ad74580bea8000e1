"""The same run with several seeds: how much of the difference between two runs is chance.

  python launch.py --config=experiments/seeds.py --sweep --parallel=2
  python launch.py --config=experiments/seeds.py:10 --sweep --parallel=2 --config.model.cell=gru

The variant is the number of seeds, by default 5. The runs, a small LSTM on the first million
characters of Shakespeare, differ in nothing else; the seed decides the parameters they begin with,
and dropout. What two other runs differ by has to be more than these do. A run takes a minute on a
CPU core, all five 3 minutes on two.
"""

from charrnn import config as config_lib
from charrnn import errors
from charrnn.sweeps import trials


def get_config(variant=""):
  if variant and not (variant.isdecimal() and int(variant)):
    raise errors.UserError(f"seeds.py:{variant}: the variant is a number of seeds, such as 10")
  c = config_lib.default()
  c.text.source = "shakespeare"
  c.text.limit = 1_000_000
  c.model.layers, c.model.hidden, c.model.dropout = 1, 128, 0.1
  c.batch_size = 32
  c.epochs = 3.0
  c.optimizer.learning_rate = 8e-3
  c.keep = 1
  return c


def sweep(variant=""):
  return trials.sweep("seed", range(1, int(variant or 5) + 1))
