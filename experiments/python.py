"""An LSTM on the source of Python's standard library: about 12 million characters, no download.

  python launch.py --config=experiments/python.py

After half of the training, which takes 3 1/2 minutes on 2 CPU cores, the loss on the validation
split is 1.19 nats per character (Python 3.11). The second half was not measured.

Variants:
  smoke   a small model for 100 steps, to test the installation
"""

import common


def get_config(variant=""):
  return common.variant(__file__, variant, {"": standard, "smoke": smoke})


def standard(c):
  common.lstm256(c)
  c.text.source = "python"
  c.model.dropout = 0.0
  c.epochs = 1.5


def smoke(c):
  standard(c)
  common.smoke(c)
