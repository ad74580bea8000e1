"""All of Shakespeare's plays: 4.7 million characters.

  python launch.py --config=experiments/shakespeare.py

Reaches 1.42 nats per character on the validation split in about 6 minutes on 2 CPU cores.

Variants:
  smoke   a small model for 100 steps, 15 seconds: shows that everything works
  blog    the blog's model and training: 2 x 512, dropout 0.5, batch 100, window 100, RMSProp;
          at the measured 16 thousand characters/s on 2 cores, 50 epochs take 3 1/2 hours
  cells   the standard network with twenty checkpoints, to see when units begin to follow structure:
          charrnn cells runs/shakespeare-cells
"""

import common


def get_config(variant=""):
  variants = {"": standard, "smoke": smoke, "blog": blog, "cells": cells}
  return common.variant(__file__, variant, variants)


def standard(c):
  common.lstm256(c)  # better than one layer of 384, than 3 x 192 and than GRUs
  c.text.source = "shakespeare"
  c.model.dropout = 0.1
  c.epochs = 3.6


def smoke(c):
  standard(c)
  common.smoke(c)


def cells(c):
  standard(c)
  c.eval_every = 370
  c.keep = 100  # all of them: 7 MB each


def blog(c):
  """The blog's settings; the 2015 paper's (arXiv 1506.02078) where the blog gives none."""
  common.training2015(c)
  c.text.source = "shakespeare"
  c.model.layers, c.model.hidden, c.model.dropout = 2, 512, 0.5
