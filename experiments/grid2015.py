"""The grid of the 2015 paper (arXiv 1506.02078): which cell, how deep, how large.

  python launch.py --config=experiments/grid2015.py --sweep --parallel=N
  python launch.py --config=experiments/grid2015.py:small --sweep --parallel=2

36 networks: RNN, GRU and LSTM, with 1, 2 and 3 layers, of four sizes. As in the paper a size is a
number of parameters, that of one layer of 64, 128, 256 or 512 LSTM units (49, 131, 393 and 1,309
thousand), and every other network has as many units as come closest to it. The training is the
paper's too: RMSProp, batches of 100, windows of 100, U(-0.08, 0.08), 50 epochs.

The best network of the paper has 0.84 nats a character on the test part of its text of the kernel.
The kernel here is a later one, so that figures do not compare; what can be compared is their order.
Dropout was chosen for each network by its validation loss and is not listed. Here it is 0, and
--sweep=grid,dropout tries three values for each network.

--sweep=grid     the grid, as --sweep alone
--sweep=units    the grid with 64 to 512 units in every layer instead
--sweep=dropout  0, 0.25 and 0.5

Variants:
  shakespeare  on all of Shakespeare's plays. On any other text: --config.text.source=PATH
  small        12 networks on a million characters of Shakespeare: 1 and 2 layers of the two smaller
               sizes, 12 epochs in smaller batches; 10 minutes on 2 CPU cores
"""

from charrnn import config as config_lib
from charrnn import errors, models
from charrnn.sweeps import trials

ALPHABET = {"": 101, "shakespeare": 69, "small": 63}  # the kernel's was 101 in 2015


def get_config(variant=""):
  if variant not in ALPHABET:
    raise errors.UserError(f"grid2015.py:{variant}: variants are shakespeare and small")
  c = config_lib.default()
  if variant:
    c.text.source = "shakespeare"
  else:
    c.text.source = "linux:paper"
    c.text.encoding = "latin-1"  # a byte is a character, as in char-rnn
  c.model.cell, c.model.layers, c.model.hidden = "lstm", 1, 128  # without a sweep
  c.model.dropout = 0.0
  c.model.init = "uniform"
  c.batch_size = c.window = 100
  c.epochs = 50.0
  c.optimizer.name = "rmsprop"
  c.optimizer.learning_rate = 2e-3
  c.optimizer.decay = 0.95
  c.optimizer.clip_norm = 0.0
  c.schedule.name = "epoch_decay"
  c.schedule.warmup_steps = 0
  c.schedule.decay, c.schedule.decay_after = 0.95, 10.0
  c.keep = 1  # besides the best
  if variant == "small":
    c.text.limit = 1_000_000
    c.batch_size = c.window = 50  # four times as many updates in an epoch, of which there are few
    c.epochs = 12.0
    c.schedule.decay, c.schedule.decay_after = 0.8, 6.0
  c.optimizer.clip_element = 5 / c.window  # on gradients that are means over it, not sums
  return c


def sweep(variant=""):
  """By the number of parameters."""
  return [
    {"model.cell": cell, "model.layers": layers, "model.hidden": units(cell, layers, size, variant)}
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
  """Sizes, layers and cells; the quickest come first."""
  small = variant == "small"
  return [
    (size, layers, cell)
    for size in ((64, 128) if small else (64, 128, 256, 512))
    for layers in ((1, 2) if small else (1, 2, 3))
    for cell in ("rnn", "gru", "lstm")
  ]


def units(cell, layers, size, variant):
  """Those of a layer that make as many parameters as one layer of `size` LSTM units has."""
  count = models.parameter_count(ALPHABET[variant], "lstm", 1, size)
  return models.units_for(count, ALPHABET[variant], cell, layers)
