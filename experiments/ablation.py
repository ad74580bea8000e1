"""The effects of changes to an LSTM and its training on the loss, one change at a time.

  python launch.py --config=experiments/ablation.py --sweep --parallel=2
  charrnn compare runs/ablation-sweep

The text is the first 120,000 of the 1.1 million characters of tinyshakespeare. The last fifth of
them is for validation. It does not overlap with the validation split of nanoGPT, which is the last
tenth of tinyshakespeare. The network has 2.5 parameters for each character of the training split.
Every change is measured with three seeds and 12 epochs. docs/training.md has the results.
"""

import common

CHANGES = (
  {},
  {"model.dropout": 0.0},
  {"model.input_dropout": 0.1},
  {"model.weight_drop": 0.2},
  {"model.residual": True},
  {"model.cell": "lstm_mogrifier"},
  {"optimizer.name": "adam", "optimizer.weight_decay": 0.0},
  {"optimizer.weight_decay": 0.5},
  {"optimizer.name": "muon"},
  {"optimizer.average": 0.998, "schedule.name": "constant", "optimizer.learning_rate": 3e-3},
  {"schedule.name": "constant", "optimizer.learning_rate": 3e-3},
  {"carry_reset": 0.02},
  {"window": 128, "batch_size": 8},  # longer windows, but as many steps
)
SEEDS = (1, 2, 3)


def get_config(variant=""):
  return common.variant(__file__, variant, {"": lstm})


def lstm(c):
  c.text.source = "tinyshakespeare"
  c.text.limit = 120_000
  c.text.valid_fraction, c.text.test_fraction = 0.2, 0.0
  common.lstm256(c)
  c.window, c.batch_size = 32, 32
  c.model.embed, c.model.hidden, c.model.dropout = 64, 128, 0.4
  c.optimizer.name, c.optimizer.weight_decay = "adamw", 0.1
  c.optimizer.learning_rate = 5e-3
  c.epochs = 12.0
  c.eval_every = 94  # every epoch
  c.keep = 1
  c.sample.length = 0


def sweep(variant=""):
  return [{"seed": seed} | change for seed in SEEDS for change in CHANGES]
