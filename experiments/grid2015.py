"""The grid of the 2015 paper (arXiv 1506.02078): 3 cells x 3 numbers of layers x 4 sizes.

  python launch.py --config=experiments/grid2015.py --sweep --parallel=N
  python launch.py --config=experiments/grid2015.py:small --sweep --parallel=2

The best network in the paper reaches 0.84 nats per character on the test split of its kernel
source. The kernel here is newer, so compare the order of the networks, not their losses. The small
variant takes 10 to 13 minutes on 2 CPU cores; the time of the full grid was not measured.

The 36 networks are RNNs, GRUs and LSTMs with 1, 2 and 3 layers. As in the paper, a size is a number
of parameters: that of an LSTM with one layer of 64, 128, 256 or 512 units (49, 131, 393 and 1,309
thousand). Every other network has the number of units that comes closest to this size. Training
also follows the paper: RMSProp, batch 100, window 100, initial weights from U(-0.08, 0.08), 50
epochs. The paper selected the dropout rate of each network by validation loss and does not list
the rates. Here dropout is 0; use --sweep=grid,dropout to try three rates for each network.

Sweeps:
  --sweep=grid     the grid; the same as --sweep alone
  --sweep=units    the grid with 64, 128, 256 or 512 units in every layer
  --sweep=dropout  dropout rates 0, 0.25 and 0.5

Variants:
  shakespeare  the grid on all of Shakespeare's plays; for another text add
               --config.text.source=PATH
  small        12 networks on the first million characters of Shakespeare: 1 and 2 layers, the two
               smaller sizes, 12 epochs, batch 50 and window 50
"""

import common
from charrnn import models
from charrnn.sweeps import trials

# Vocabulary size by variant. For the kernel it is the paper's; newer kernels differ slightly.
VOCAB_SIZE = {"": 101, "shakespeare": 69, "small": 63}


def get_config(variant=""):
  return common.variant(__file__, variant, {"": kernel, "shakespeare": shakespeare, "small": small})


def kernel(c):
  common.kernel_of_paper(c)
  network(c)


def shakespeare(c):
  c.text.source = "shakespeare"
  network(c)


def small(c):
  shakespeare(c)
  c.text.limit = 1_000_000
  common.training2015(c, window=50)  # four times as many updates per epoch as with 100
  c.epochs = 12.0
  c.schedule.decay, c.schedule.decay_after = 0.8, 6.0


def network(c):
  """Set the network that is trained without --sweep."""
  common.training2015(c)
  c.model.cell, c.model.layers, c.model.hidden, c.model.dropout = "lstm", 1, 128, 0.0
  c.keep = 1  # Keep only the newest checkpoint and the best.


def sweep(variant=""):
  """Return the trials of the grid with sizes in parameters."""
  vocab_size = VOCAB_SIZE[variant]

  def units(cell, layers, size):
    lstm = models.size(vocab_size, {"cell": "lstm", "layers": 1, "hidden": size})
    return models.units_for(lstm.parameters, vocab_size, {"cell": cell, "layers": layers})

  return [
    {"model.cell": cell, "model.layers": layers, "model.hidden": units(cell, layers, size)}
    for size, layers, cell in grid(variant)
  ]


sweep_grid = sweep


def sweep_units(variant=""):
  """Return the trials of the grid with sizes in units per layer."""
  return [
    {"model.cell": cell, "model.layers": layers, "model.hidden": size}
    for size, layers, cell in grid(variant)
  ]


def sweep_dropout():
  return trials.sweep("model.dropout", [0.0, 0.25, 0.5])


def grid(variant):
  """Return (size, layers, cell) of each trial; the networks that train fastest come first."""
  is_small = variant == "small"
  return [
    (size, layers, cell)
    for size in ((64, 128) if is_small else (64, 128, 256, 512))
    for layers in ((1, 2) if is_small else (1, 2, 3))
    for cell in ("rnn", "gru", "lstm")
  ]
