"""The Python standard library's own source: about 10 million characters, always there.

python launch.py --config=experiments/python.py
python launch.py --config=experiments/python.py:smoke
"""

from charrnn import config as config_lib
from charrnn import errors


def get_config(variant=""):
  if variant not in ("", "smoke"):
    raise errors.UserError(f"python.py:{variant}: the only variant is smoke")
  c = config_lib.default()
  c.text.source = "python"
  c.model.layers, c.model.hidden, c.model.dropout = 2, 256, 0.0
  c.batch_size = 32
  c.epochs = 1.5
  c.optimizer.learning_rate = 8e-3
  if variant == "smoke":
    c.model.hidden = 64
    c.max_steps = 100
  return c
