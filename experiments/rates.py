"""How often units follow structure: networks of three cells that differ only in their seed.

  python launch.py --config=experiments/rates.py --sweep --parallel=2
  python launch.py --config=experiments/rates.py:linux --sweep --parallel=2
  python launch.py --config=experiments/rates.py:prose --sweep --parallel=2

Each sweep trains 30 networks on one text: LSTMs, GRUs and vanilla RNNs of 2 layers of 128 units,
with 10 seeds each. They read the first million characters of the text twice, except for the
held-out tenth. A checkpoint is saved every 40 steps, to show when units begin to follow structure.

Variants:
  linux   C source of the Linux kernel, for units that follow braces, if conditions and comments
  prose   War and Peace, for units that follow quotation marks; for Moby-Dick, add
          --config.text.source=mobydick
  smoke   6 small networks, to test the installation
"""

import common
from charrnn.sweeps import trials


def get_config(variant=""):
  variants = {"": shakespeare, "linux": linux, "prose": prose, "smoke": smoke}
  return common.variant(__file__, variant, variants)


def shakespeare(c):
  common.small_lstm(c)
  c.model.layers = 2
  c.epochs = 2.0
  c.eval_every = 220
  c.checkpoint_every = 40  # Checkpoints are cheaper than evaluations.
  c.keep = 100  # Keep all checkpoints; each takes 1 to 3 MB.
  c.sample.length = 0


def linux(c):
  shakespeare(c)
  c.text.source = "linux"


def prose(c):
  shakespeare(c)
  common.war_and_peace(c)


def smoke(c):
  shakespeare(c)
  c.text.limit = 200_000
  c.model.hidden = 16
  c.max_steps = 60
  c.eval_every = c.checkpoint_every = 20


def sweep(variant=""):
  """Return the trials, ordered by seed, so that all cells have networks early in the sweep."""
  names = ("lstm", "gru", "rnn")
  cells = [{"model.cell": name, "optimizer.learning_rate": common.RATES[name]} for name in names]
  seeds = trials.sweep("seed", range(1, 3 if variant == "smoke" else 11))
  return trials.product(seeds, cells)
