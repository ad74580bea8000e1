"""All of Shakespeare's plays: 4.7 million characters.

  python launch.py --config=experiments/shakespeare.py

Reaches 1.42 nats a character on the validation part in 5 to 6 minutes on 2 CPU cores.

Variants:
  smoke   a small model for 100 steps, 15 seconds: shows that everything works
  blog    the blog's model and training: 2 x 512, dropout 0.5, batch 100, window 100, RMSProp;
          at its rate of 16 thousand characters a second on 2 cores, 50 epochs take 3 1/2 hours
  cells   the standard one, of which twenty checkpoints are kept, to see how its cells came to be:
          charrnn cells runs/shakespeare-cells
"""

from charrnn import config as config_lib
from charrnn import errors


def get_config(variant=""):
  variants = {"": standard, "smoke": smoke, "blog": blog, "cells": cells}
  if variant not in variants:
    raise errors.UserError(f"shakespeare.py:{variant}: variants are smoke, blog and cells")
  c = config_lib.default()
  c.text.source = "shakespeare"
  variants[variant](c)
  return c


def standard(c):
  c.model.layers, c.model.hidden = 2, 256  # of one layer of 384, 3 x 192 and GRUs the best
  c.model.dropout = 0.1
  c.batch_size = 32  # small: in minutes it is the number of updates that counts
  c.window = 64
  c.epochs = 3.6
  c.optimizer.learning_rate = 8e-3  # high, with the cosine to bring it down


def smoke(c):
  standard(c)
  c.model.hidden = 64
  c.max_steps = 100


def cells(c):
  standard(c)
  c.eval_every = 370
  c.keep = 100  # all of them: 7 MB each


def blog(c):
  """The blog's; what it leaves open is as in the 2015 paper (arXiv 1506.02078)."""
  c.model.layers, c.model.hidden, c.model.dropout = 2, 512, 0.5
  c.model.init = "uniform"
  c.batch_size = 100
  c.window = 100
  c.epochs = 50.0
  c.optimizer.name = "rmsprop"
  c.optimizer.learning_rate = 2e-3
  c.optimizer.decay = 0.95
  c.optimizer.clip_element = 5 / 100  # on gradients that are means over the window, not sums
  c.optimizer.clip_norm = 0.0
  c.schedule.name = "epoch_decay"
  c.schedule.warmup_steps = 0
  c.schedule.decay, c.schedule.decay_after = 0.95, 10.0
