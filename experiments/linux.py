"""The Linux kernel's C source: its folder kernel/, 12 to 13 million characters in 500 files.

  python launch.py --config=experiments/linux.py
  charrnn cells runs/linux

Reaches 1.22 nats a character on the validation part (of Linux 6.12) in 43 minutes on 2 CPU cores
that had much other work; at the rate of shakespeare.py, which has the same model, it is about 10.
All checkpoints are kept, to see how cells came to be. Where the source is taken from, and how to
have another part of it, is in docs/texts.md; losses on two versions of the kernel do not compare.

Variants:
  smoke   a small model for 100 steps, 15 seconds: shows that everything works
  paper   the 2015 paper's preparation and LSTM (arXiv 1506.02078): 6.2 million bytes of all the
          kernel's files, 2 x 512; by the rate of shakespeare.py:blog 5 hours on 2 CPU cores. The
          paper's text was of the kernel of 2015, so that its 0.84 nats do not compare.
  blog    the blog's: the whole tree, 1.2 billion characters, and 3 layers; for accelerators
"""

from charrnn import config as config_lib
from charrnn import errors


def get_config(variant=""):
  variants = {"": standard, "smoke": smoke, "paper": paper, "blog": blog}
  if variant not in variants:
    raise errors.UserError(f"linux.py:{variant}: variants are smoke, paper and blog")
  c = config_lib.default()
  c.text.source = "linux"
  variants[variant](c)
  return c


def standard(c):
  c.model.layers, c.model.hidden = 2, 256  # as in shakespeare.py
  c.model.dropout = 0.0  # no text is read more than twice
  c.batch_size = 32
  c.window = 64
  c.epochs = 2.0
  c.optimizer.learning_rate = 8e-3
  c.eval_every = 500
  c.keep = 100  # all of them: 7 MB each


def smoke(c):
  standard(c)
  c.model.hidden = 64
  c.eval_every = 100
  c.max_steps = 100


def paper(c):
  c.text.source = "linux:paper"
  c.text.encoding = "latin-1"  # a byte is a character, as in char-rnn
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


def blog(c):
  """What the blog leaves open is as in the paper, but for what an epoch of so much text asks."""
  paper(c)
  c.text.source = "linux:all"
  c.model.layers = 3
  c.model.dropout = 0.0
  c.epochs = 1.0
