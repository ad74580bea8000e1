"""The grid of the 2015 paper (arXiv 1506.02078): cells, numbers of layers, and sizes.

  python launch.py --config=experiments/grid2015.py --sweep --parallel=N
  python launch.py --config=experiments/grid2015.py:small --sweep --parallel=2

36 networks: RNN, GRU and LSTM, with 1, 2 and 3 layers, of four sizes. As in the paper a size is a
number of parameters, that of one layer of 64, 128, 256 or 512 LSTM units (49, 131, 393 and 1,309
thousand), and every other network has the number of units that comes closest to it. The training is
the paper's too: RMSProp, batches of 100, windows of 100, U(-0.08, 0.08), 50 epochs.

The best network of the paper has 0.84 nats per character on the test split of its kernel source.
The kernel here is a later one, so losses are not comparable; their order is. The paper chose
dropout for each network by its validation loss and does not list it. Here it is 0, and
--sweep=grid,dropout tries three values for each network.

--sweep=grid     the grid, as --sweep alone
--sweep=units    the grid with 64 to 512 units in every layer instead
--sweep=dropout  0, 0.25 and 0.5

Variants:
  shakespeare  on all of Shakespeare's plays. On any other text: --config.text.source=PATH
  small        12 networks on a million characters of Shakespeare: 1 and 2 layers of the two smaller
               sizes, 12 epochs in smaller batches; 10 minutes on 2 CPU cores
"""

import common
from charrnn import models
from charrnn.sweeps import trials

VOCAB_SIZE = {"": 101, "shakespeare": 69, "small": 63}  # the kernel's was 101 in 2015


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
  common.training2015(c, window=50)  # four times as many updates per epoch, for a short training
  c.epochs = 12.0
  c.schedule.decay, c.schedule.decay_after = 0.8, 6.0


def network(c):
  """The network without a sweep."""
  common.training2015(c)
  c.model.cell, c.model.layers, c.model.hidden, c.model.dropout = "lstm", 1, 128, 0.0
  c.keep = 1  # besides the best


def sweep(variant=""):
  """By the number of parameters."""
  vocab_size = VOCAB_SIZE[variant]

  def units(cell, layers, size):
    return models.units_for(
      models.parameter_count(vocab_size, "lstm", 1, size), vocab_size, cell, layers
    )

  return [
    {"model.cell": cell, "model.layers": layers, "model.hidden": units(cell, layers, size)}
    for size, layers, cell in grid(variant)
  ]


sweep_grid = sweep


def sweep_units(variant=""):
  """By the number of units."""
  return [
    {"model.cell": cell, "model.layers": layers, "model.hidden": size}
    for size, layers, cell in grid(variant)
  ]


def sweep_dropout():
  return trials.sweep("model.dropout", [0.0, 0.25, 0.5])


def grid(variant):
  """Return sizes, layers and cells; the fastest to train come first."""
  is_small = variant == "small"
  return [
    (size, layers, cell)
    for size in ((64, 128) if is_small else (64, 128, 256, 512))
    for layers in ((1, 2) if is_small else (1, 2, 3))
    for cell in ("rnn", "gru", "lstm")
  ]
