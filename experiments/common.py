"""Settings that several experiments share. The files in this folder import it as `common`."""

import pathlib
from collections.abc import Callable, Mapping

from ml_collections import config_dict

from charrnn import config as config_lib
from charrnn import errors

# Learning rates of Adam by cell. Those of the LSTM and the transformer are from shakespeare.py and
# gpt.py.
RATES = {"rnn": 2e-3, "gru": 4e-3, "lstm": 8e-3, "transformer": 2e-3}


def variant(
  file: str, name: str, variants: Mapping[str, Callable[[config_dict.ConfigDict], None]]
) -> config_dict.ConfigDict:
  """Return the default config after the function of the variant `name` has changed it.

  `variants` maps the names to functions that modify a config; "" is the standard variant. Raise
  UserError for an unknown name. `file` is the experiment file, for the message.
  """
  if name not in variants:
    file = pathlib.Path(file).name
    *first, last = list(filter(None, variants)) or [f"{file} without a variant"]
    names = f"{', '.join(first)} or {last}" if first else last
    raise errors.UserError(f"{file}:{name}: unknown variant; use {names}")
  c = config_lib.default()
  variants[name](c)
  return c


def lstm256(c):
  """Set 2 layers of 256 units, the best of the tested models for minutes of training on a CPU."""
  c.model.layers, c.model.hidden = 2, 256
  c.batch_size = 32  # A small batch allows more updates, which matter most in a short training.
  c.window = 64
  c.optimizer.learning_rate = 8e-3  # A high peak value; the cosine schedule reduces it.


def smoke(c):
  """Set a small model for 100 steps."""
  c.model.hidden = 64
  c.max_steps = 100


def small_lstm(c):
  """Set a small LSTM that trains in a minute on one CPU core, for sweeps."""
  c.text.source = "shakespeare"
  c.text.limit = 1_000_000
  c.model.layers, c.model.hidden, c.model.dropout = 1, 128, 0.1
  c.batch_size = 32
  c.epochs = 3.0
  c.optimizer.learning_rate = 8e-3
  c.keep = 1


def training2015(c, window=100):
  """Set the training of char-rnn, the blog and the paper (arXiv 1506.02078).

  `window` is also the batch size: 100 in the paper, 50 in char-rnn.
  """
  c.model.init = "uniform"
  c.batch_size = c.window = window
  c.epochs = 50.0
  c.optimizer.name = "rmsprop"
  c.optimizer.learning_rate = 2e-3
  c.optimizer.decay = 0.95
  # The original clips sums over the window at 5. Gradients here are means over the window.
  c.optimizer.clip_element = 5 / window
  c.optimizer.clip_norm = 0.0
  c.schedule.name = "epoch_decay"
  c.schedule.warmup_steps = 0
  c.schedule.decay, c.schedule.decay_after = 0.95, 10.0


def kernel_of_paper(c):
  """Set the Linux kernel text, prepared as in the paper."""
  c.text.source = "linux:paper"
  c.text.encoding = "latin-1"  # One byte is one character, as in char-rnn.


def war_and_peace(c):
  """Set War and Peace; the byte order mark and the CRLF line ends do not become characters."""
  c.text.source = "warandpeace"
  c.text.encoding, c.text.newlines = "utf-8-sig", "lf"
