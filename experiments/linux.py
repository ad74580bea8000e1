"""The Linux kernel's C source: its folder kernel/, 12 to 13 million characters in 500 files.

  python launch.py --config=experiments/linux.py
  charrnn cells runs/linux

Reaches 1.22 nats per character on the validation split (of Linux 6.12) in 43 minutes on 2 CPU
cores of a heavily loaded machine; at the speed of shakespeare.py, which has the same model, it
takes about 10. All checkpoints are kept, to see when units begin to follow structure. docs/texts.md
says where the source comes from and how to use another part of it. Losses on different versions of
the kernel are not comparable.

Variants:
  smoke   a small model for 100 steps, 15 seconds: shows that everything works
  paper   the 2015 paper's preparation and LSTM (arXiv 1506.02078): 6.2 million bytes of all the
          kernel's files, 2 x 512; at the speed of shakespeare.py:blog 5 hours on 2 CPU cores. The
          paper used the kernel of 2015, so its 0.84 nats are not comparable.
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
  """The paper's settings where the blog gives none, but one epoch, since the text is long."""
  paper(c)
  c.text.source = "linux:all"
  c.model.layers = 3
  c.model.dropout = 0.0
  c.epochs = 1.0
