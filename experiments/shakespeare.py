"""An LSTM on all of Shakespeare's plays: 4.7 million characters.

  python launch.py --config=experiments/shakespeare.py

Reaches 1.41 to 1.43 nats per character on the validation split, depending on the seed and the CPU,
in about 6 minutes on 2 CPU cores.

Variants:
  smoke   a small model for 100 steps, to test the installation; 15 seconds
  blog    the blog's model and training: 2 x 512, dropout 0.5, batch 100, window 100, RMSProp.
          The 50 epochs take 3 1/2 hours at 16 thousand characters per second, the speed measured
          on 2 CPU cores.
  cells   the standard network with 20 checkpoints, to show when units begin to follow the structure
          of the text: run `charrnn cells runs/shakespeare-cells` afterwards
"""

import common


def get_config(variant=""):
  variants = {"": standard, "smoke": smoke, "blog": blog, "cells": cells}
  return common.variant(__file__, variant, variants)


def standard(c):
  common.lstm256(c)  # reaches a lower loss than 1 x 384, 3 x 192 and GRUs
  c.text.source = "shakespeare"
  c.model.dropout = 0.1
  c.epochs = 3.6


def smoke(c):
  standard(c)
  common.smoke(c)


def cells(c):
  standard(c)
  c.eval_every = 370
  c.keep = 100  # Keep all checkpoints; each takes 7 MB.


def blog(c):
  """Set the blog's model, with the training of the 2015 paper where the blog gives no values."""
  common.training2015(c)
  c.text.source = "shakespeare"
  c.model.layers, c.model.hidden, c.model.dropout = 2, 512, 0.5
