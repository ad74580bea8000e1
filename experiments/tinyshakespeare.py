"""LSTMs on tinyshakespeare (1.1 million characters), with the splits of char-rnn and nanoGPT.

  python launch.py --config=experiments/tinyshakespeare.py:charrnn
  python launch.py --config=experiments/tinyshakespeare.py:nanogpt

The text is downloaded from the char-rnn repository and verified. To use a copy of the file, add
--config.text.source=path/to/input.txt.

Variants (their splits differ, so their losses are not comparable):
  charrnn  the defaults and the split of char-rnn: 1.373 nats per character at epoch 25 of 50; the
           50 epochs take 7 minutes on 2 CPU cores. Users of char-rnn report 1.394 after 26 epochs.
  nanogpt  (default) nanoGPT's split, with the last tenth for validation, and the blog's LSTM (2
           layers of 512): 1.450 at epoch 7.5 of 15; the 15 epochs take 16 minutes on 2 CPU cores of
           a loaded machine. nanoGPT's transformer of 10.7 million parameters reportedly has 1.470.
"""

import common


def get_config(variant="nanogpt"):
  return common.variant(__file__, variant, {"charrnn": charrnn, "nanogpt": nanogpt})


def charrnn(c):
  common.training2015(c, window=50)
  c.text.source = "tinyshakespeare"
  c.text.split = "streams"  # The end of every stream is for validation.
  c.text.valid_fraction, c.text.test_fraction = 0.05, 0.0
  c.model.layers, c.model.hidden, c.model.dropout = 2, 128, 0.0
  c.schedule.decay = 0.97
  c.seed = 123


def nanogpt(c):
  c.text.source = "tinyshakespeare"
  c.text.split = "tail"
  c.text.valid_fraction, c.text.test_fraction = 0.1, 0.0
  c.model.layers, c.model.hidden = 2, 512
  c.model.dropout = 0.5  # Without dropout it overfits within five epochs.
  c.batch_size = 64
  c.window = 128
  c.epochs = 15.0
  c.optimizer.learning_rate = 4e-3
