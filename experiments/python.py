"""The Python standard library's own source: about 12 million characters, always there.

  python launch.py --config=experiments/python.py
  python launch.py --config=experiments/python.py:smoke

Stopped after half of its 1.5 epochs, 3 1/2 minutes on 2 CPU cores, it was at 1.19 nats a character
on the validation part (the library of Python 3.11).
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
