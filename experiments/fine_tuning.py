"""Fine-tuning: does a network that has read Shakespeare need less text of another author?

  python launch.py --config=experiments/fine_tuning.py --workdir=runs/pretrained
  python launch.py --config=experiments/fine_tuning.py:war_and_peace.txt --sweep --parallel=2
  charrnn compare runs/fine_tuning-war_and_peace.txt-sweep

The first command trains a small LSTM on 2 million characters of Shakespeare's plays. The second one
trains it on the first 30, 100 and 300 thousand characters of another text, from random weights and
from those of the first run (--config.init_from). The last 50 thousand of the first 400 thousand
characters are the test text of all trials: charrnn eval TRIAL --split test. docs/training.md shows
the results. All trials take about 6 minutes on one CPU core.

Sweeps:
  --sweep=start    random or pre-trained weights, and the amounts of text; the same as --sweep alone
  --sweep=rates    pre-trained weights, 4 learning rates and the first two amounts of text

Variants:
  PATH   the text that the network is tuned on: a file, a folder, a URL or the name of a corpus
"""

from charrnn import config as config_lib
from charrnn import errors
from charrnn.sweeps import trials

PRETRAINED = "runs/pretrained"
AMOUNTS = (30_000, 100_000, 300_000)  # characters of the training split
LIMIT, TEST = 400_000, 50_000


def get_config(variant=""):
  c = config_lib.default()
  c.model.layers, c.model.hidden = 1, 128
  c.keep = 1
  if variant:
    c.text.source, c.text.limit, c.model.dropout = variant, LIMIT, 0.3
    c.text.test_fraction = TEST / LIMIT
    c.epochs = 15.0
  else:
    c.text.limit, c.model.dropout = 2_000_000, 0.1
    c.epochs = 3.0
  return c


def _amounts(variant, amounts):
  if not variant:
    raise errors.UserError("fine_tuning.py: the text is missing: add it, as in fine_tuning.py:PATH")
  return trials.sweep("text.valid_fraction", [1 - (each + TEST) / LIMIT for each in amounts])


def sweep(variant=""):
  return trials.product(_amounts(variant, AMOUNTS), trials.sweep("init_from", ["", PRETRAINED]))


sweep_start = sweep


def sweep_rates(variant=""):
  rates = trials.sweep("optimizer.learning_rate", [8e-3, 4e-3, 1e-3, 5e-4])
  return trials.product(
    _amounts(variant, AMOUNTS[:2]), trials.sweep("init_from", [PRETRAINED]), rates
  )
