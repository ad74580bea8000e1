"""The Linux kernel's C source, kernel/: 12 million characters in 500 files.

  python launch.py --config=experiments/linux.py
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
  c.model.dropout = 0.0  # little more than an epoch: nothing is read often enough to be learned
  c.batch_size = 32
  c.window = 64
  c.epochs = 2.0
  c.optimizer.learning_rate = 8e-3
  c.eval_every = 500
  c.keep = 100  # all twenty, of 7 MB each: charrnn cells runs/linux shows how cells came to be


def smoke(c):
  standard(c)
  c.model.hidden = 64
  c.eval_every = 100
  c.max_steps = 100


def paper(c):
  pass


def blog(c):
  pass
