"""A small LSTM that writes names: 88,799 surnames of the census of 1990 in the USA.

  pip install -e '.[names]'
  python launch.py --config=experiments/names.py
  charrnn sample runs/names --num 1000 --distinct --novel --temperature 0.8

Reaches 2.08 nats per character on the validation split, in 5 minutes on 2 busy CPU cores.

The names come from the package `names`, which is read, not imported. Each name is a document: the
network is reset between names, and writes <END> after each. docs/domains.md shows samples and the
scorecard of `charrnn scorecard runs/names --domain names`. For names of your own, one per line:

  python launch.py --config=experiments/own_text.py:names.txt --config.text.documents=lines

Variants:
  smoke   a small model for 100 steps, to test the installation
"""

import common


def get_config(variant=""):
  return common.variant(__file__, variant, {"": standard, "smoke": smoke})


def standard(c):
  c.text.source = "names"
  c.text.documents = "lines"
  c.model.layers, c.model.hidden, c.model.dropout = 1, 192, 0.0
  c.batch_size = 64
  c.window = 32  # Three to four names; a name continues in the next window.
  c.optimizer.learning_rate = 8e-3
  c.epochs = 6.0


def smoke(c):
  standard(c)
  common.smoke(c)
