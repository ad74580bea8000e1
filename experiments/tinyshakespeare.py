"""char-rnn's tinyshakespeare (1.1 million characters), trained as by char-rnn and by nanoGPT.

  python launch.py --config=experiments/tinyshakespeare.py:charrnn
  python launch.py --config=experiments/tinyshakespeare.py:nanogpt

The text is downloaded from char-rnn's repository and checked. Without a network, give your copy:
  --config.text.source=path/to/input.txt

charrnn  char-rnn's defaults and split: 1.373 nats per character at epoch 25 of 50, in 3 1/2 of
         7 minutes on 2 CPU cores; 1.394 after 26 epochs as reported by users of char-rnn.
nanogpt  (without a variant) nanoGPT's split, the last tenth for validation, and an LSTM of 2 x 512
         as the blog's: 1.450 at epoch 7.5 of 15, in 8 of 16 minutes on 2 CPU cores of a loaded
         machine; 1.470 as reported for nanoGPT's transformer of 10.7 million parameters.
The two losses are of different splits and are not comparable.
"""

import common


def get_config(variant="nanogpt"):
  return common.variant(__file__, variant, {"charrnn": charrnn, "nanogpt": nanogpt})


def charrnn(c):
  common.training2015(c, window=50)
  c.text.source = "tinyshakespeare"
  c.text.split = "streams"  # the tail of every stream
  c.text.valid_fraction, c.text.test_fraction = 0.05, 0.0
  c.model.layers, c.model.hidden, c.model.dropout = 2, 128, 0.0
  c.schedule.decay = 0.97
  c.seed = 123


def nanogpt(c):
  c.text.source = "tinyshakespeare"
  c.text.split = "tail"
  c.text.valid_fraction, c.text.test_fraction = 0.1, 0.0
  c.model.layers, c.model.hidden = 2, 512
  c.model.dropout = 0.5  # it would overfit within five epochs
  c.batch_size = 64
  c.window = 128
  c.epochs = 15.0
  c.optimizer.learning_rate = 4e-3
