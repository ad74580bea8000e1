"""Fine-tuning: does a network that has read Shakespeare need less text of another author?

  python launch.py --config=experiments/fine_tuning.py --workdir=runs/pretrained
  python launch.py --config=experiments/fine_tuning.py:war_and_peace.txt --sweep --parallel=2
  charrnn compare runs/fine_tuning-war_and_peace.txt-sweep

The first command trains a small LSTM on 2 million characters of Shakespeare's plays. The second one
trains it on the first 30, 100 and 300 thousand characters of another text, from random weights and
from those of the first run (--config.init_from), with the same number of steps. The last 30
thousand of the first 350 thousand characters are the test text of all trials: charrnn eval TRIAL
--split test. docs/training.md shows the results. The first command takes a minute, and the 6
trials of the second one take 2 minutes on 2 CPU cores.

Sweeps:
  --sweep=start    random or pre-trained weights, and the amounts of text; the same as --sweep alone
  --sweep=rates    pre-trained weights, the amounts of text, and 4 learning rates

Variants:
  PATH   the text that the network is tuned on: a file, a folder, a URL or the name of a corpus
"""

from charrnn import config as config_lib
from charrnn import errors
from charrnn.sweeps import trials

PRETRAINED = "runs/pretrained"
AMOUNTS = (30_000, 100_000, 300_000)  # characters of the training split
LIMIT, TEST = 350_000, 30_000


def get_config(variant=""):
  c = config_lib.default()
  c.model.layers, c.model.hidden = 1, 128
  c.keep = 1
  if variant:
    c.text.source, c.text.limit, c.text.test_fraction = variant, LIMIT, TEST / LIMIT
    c.model.dropout = 0.3
    c.batch_size = 8
    c.epochs, c.max_steps, c.eval_every = 100.0, 1500, 500
  else:
    c.text.limit, c.model.dropout = 2_000_000, 0.1
    c.epochs = 3.0
  return c


def _amounts(variant):
  if not variant:
    raise errors.UserError("fine_tuning.py: the text is missing: add it, as in fine_tuning.py:PATH")
  fractions = [round(1 - (each + TEST) / LIMIT, 6) for each in AMOUNTS]
  return trials.sweep("text.valid_fraction", fractions)


def sweep(variant=""):
  return trials.product(_amounts(variant), trials.sweep("init_from", ["", PRETRAINED]))


sweep_start = sweep


def sweep_rates(variant=""):
  start = trials.sweep("init_from", [PRETRAINED])
  rates = trials.sweep("optimizer.learning_rate", [8e-3, 4e-3, 2e-3, 1e-3])
  return trials.product(_amounts(variant), start, rates)
