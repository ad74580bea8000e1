"""LSTMs on tinyshakespeare (1.1 million characters), with the splits of char-rnn and nanoGPT.

  python launch.py --config=experiments/tinyshakespeare.py:charrnn
  python launch.py --config=experiments/tinyshakespeare.py:record_short

The text is downloaded from the char-rnn repository and verified. To use a copy of the file, add
--config.text.source=path/to/input.txt.

Variants (their splits differ, so their losses are not comparable):
  charrnn  the defaults and the split of char-rnn: 1.373 nats per character at epoch 25 of 50; the
           50 epochs take 7 minutes on 2 CPU cores. Users of char-rnn report 1.394 after 26 epochs.
  record_short  (default) nanoGPT's split, with the last tenth for validation, and an LSTM with 2
           layers of 512 units: 1.410 nats per character after 8 epochs, which take 8 minutes on 2
           CPU cores. nanoGPT's transformer of 10.7 million parameters reportedly has 1.470.
           docs/loss.md shows all seeds, and how the settings were chosen.
  record   the same with more dropout and 20 epochs: 1.387 nats per character (mean of three seeds)
           after 31 to 42 minutes on one core of a busy machine with AMX.
"""

import common


def get_config(variant="record_short"):
  variants = {"charrnn": charrnn, "record_short": record_short, "record": record}
  return common.variant(__file__, variant, variants)


def charrnn(c):
  common.training2015(c, window=50)
  c.text.source = "tinyshakespeare"
  c.text.split = "streams"  # The end of every stream is for validation.
  c.text.valid_fraction, c.text.test_fraction = 0.05, 0.0
  c.model.layers, c.model.hidden, c.model.dropout = 2, 128, 0.0
  c.schedule.decay = 0.97
  c.seed = 123


def record_short(c):
  c.text.source = "tinyshakespeare"
  c.text.split = "tail"
  c.text.valid_fraction, c.text.test_fraction = 0.1, 0.0
  c.model.layers, c.model.hidden = 2, 512
  c.model.embed, c.model.residual = 64, True
  c.model.input_dropout, c.model.dropout = 0.05, 0.4
  c.batch_size = 64
  c.window = 32  # Short windows allow more updates. The carry keeps the context.
  c.optimizer.name, c.optimizer.weight_decay = "adamw", 0.1
  c.optimizer.learning_rate = 4e-3
  c.epochs = 8.0
  c.eval_every = 10_000  # only once, after the last step
  c.sample.length = 0


def record(c):
  record_short(c)
  c.model.input_dropout, c.model.dropout = 0.1, 0.5  # Longer training needs more dropout.
  c.epochs = 20.0
