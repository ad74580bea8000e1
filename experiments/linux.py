"""The Linux kernel's C source: its folder kernel/, 12 to 13 million characters in 500 files.

  python launch.py --config=experiments/linux.py
  charrnn cells runs/linux

Reaches 1.22 nats a character on the validation part (of Linux 6.12) in 43 minutes on 2 CPU cores
that had much other work; at the rate of shakespeare.py, which has the same model, it is about 10.
All checkpoints are kept, to see when cells emerge. docs/texts.md says where the source comes from
and how to take another part of it; losses on two versions of the kernel do not compare.

Variants:
  smoke   a small model for 100 steps, 15 seconds: shows that everything works
  paper   the 2015 paper's preparation and LSTM (arXiv 1506.02078): 6.2 million bytes of all the
          kernel's files, 2 x 512; by the rate of shakespeare.py:blog 5 hours on 2 CPU cores. The
          paper's text was of the kernel of 2015, so that its 0.84 nats do not compare.
  blog    the blog's: the whole tree, 1.2 billion characters, and 3 layers; for accelerators
"""

import common


def get_config(variant=""):
  variants = {"": standard, "smoke": smoke, "paper": paper, "blog": blog}
  return common.variant(__file__, variant, variants)


def standard(c):
  common.lstm256(c)
  c.text.source = "linux"
  c.model.dropout = 0.0  # no text is read more than twice
  c.epochs = 2.0
  c.eval_every = 500
  c.keep = 100  # all of them: 7 MB each


def smoke(c):
  standard(c)
  common.smoke(c)
  c.eval_every = 100


def paper(c):
  common.kernel_of_paper(c)
  common.training2015(c)
  c.model.layers, c.model.hidden, c.model.dropout = 2, 512, 0.5


def blog(c):
  """As the paper where the blog says nothing, except for the epochs of so much text."""
  paper(c)
  c.text.source = "linux:all"
  c.model.layers = 3
  c.model.dropout = 0.0
  c.epochs = 1.0
