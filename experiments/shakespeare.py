"""All of Shakespeare's plays, character by character.

  python launch.py --config=experiments/shakespeare.py
"""

from charrnn import config as config_lib


def get_config(variant=""):
  c = config_lib.default()
  c.text.source = "shakespeare"
  c.model.layers = 2
  c.model.hidden = 256
  c.model.dropout = 0.0
  c.batch_size = 32
  c.window = 64
  c.epochs = 4.0
  c.optimizer.learning_rate = 1e-2
  if variant == "smoke":
    c.model.hidden = 64
    c.max_steps = 100
  return c
