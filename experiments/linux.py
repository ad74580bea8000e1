"""An LSTM on the C source of the Linux kernel: 12 to 14 million characters in the folder kernel/.

  python launch.py --config=experiments/linux.py
  charrnn cells runs/linux --characters 600000

Reaches 1.25 nats per character on the validation split (Linux 6.1) in 11 minutes on one CPU core
with AMX. Losses on different versions of the kernel are not comparable. All checkpoints are kept
for `charrnn cells`, which shows when units begin to follow the structure of the code. docs/texts.md
describes where the source comes from and how to use other folders.

Variants:
  smoke   a small model for 100 steps, to test the installation; 15 seconds
  paper   the text and LSTM of the 2015 paper (arXiv 1506.02078): 6.2 million bytes from all files
          of the kernel, 2 layers of 512; 5 hours on 2 CPU cores at the speed of
          shakespeare.py:blog. The paper's kernel is older, so its 0.84 nats are not comparable.
  blog    the model of the blog: the whole tree (1.2 billion characters), 3 layers of 512; for
          accelerators
"""

import common


def get_config(variant=""):
  variants = {"": standard, "smoke": smoke, "paper": paper, "blog": blog}
  return common.variant(__file__, variant, variants)


def standard(c):
  common.lstm256(c)
  c.text.source = "linux"
  c.model.dropout = 0.0  # Each character is read only twice, so overfitting is unlikely.
  c.epochs = 2.0
  c.eval_every = 500
  c.keep = 100  # Keep all checkpoints; each takes 7 MB.


def smoke(c):
  standard(c)
  common.smoke(c)
  c.eval_every = 100


def paper(c):
  common.kernel_of_paper(c)
  common.training2015(c)
  c.model.layers, c.model.hidden, c.model.dropout = 2, 512, 0.5


def blog(c):
  """Set the blog's model with the paper's training, but one epoch, because the text is long."""
  paper(c)
  c.text.source = "linux:all"
  c.model.layers = 3
  c.model.dropout = 0.0
  c.epochs = 1.0
