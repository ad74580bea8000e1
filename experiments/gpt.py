"""A GPT-style transformer on all of Shakespeare's plays, and nanoGPT's model on tinyshakespeare.

  python launch.py --config=experiments/gpt.py
  python launch.py --config=experiments/gpt.py:nanogpt

The standard network has about as many parameters as the LSTM of experiments/shakespeare.py, and the
same text and split. It is slower than that LSTM, so it trains for 1.3 epochs instead of 3.6. Its
loss and its training time were not measured.

Variants:
  smoke    a small model for 100 steps, to test the installation
  nanogpt  the model and training of nanoGPT's config/train_shakespeare_char.py, with its split: the
           last tenth is for validation. nanoGPT reports 1.4697 nats per character, on a GPU. This
           variant was not measured. Three things differ: positions are rotary, attention weights
           have no dropout, and an epoch reads each token once instead of windows at random places.
"""

import common


def get_config(variant=""):
  return common.variant(__file__, variant, {"": standard, "smoke": smoke, "nanogpt": nanogpt})


def standard(c):
  c.text.source = "shakespeare"
  c.model.cell = "transformer"
  c.model.layers, c.model.hidden, c.model.heads, c.model.context = 4, 128, 4, 128
  c.model.dropout = 0.0
  c.batch_size = 32
  c.window = 64
  c.epochs = 1.3
  c.optimizer.learning_rate = 2e-3


def smoke(c):
  standard(c)
  common.smoke(c)


def nanogpt(c):
  c.text.source = "tinyshakespeare"
  c.text.split = "tail"
  c.text.valid_fraction, c.text.test_fraction = 0.1, 0.0
  c.model.cell = "transformer"
  c.model.layers, c.model.hidden, c.model.heads, c.model.context = 6, 384, 6, 256
  c.model.dropout, c.model.tie = 0.2, True
  c.batch_size, c.window, c.carry_reset = 64, 256, 1.0
  c.epochs, c.max_steps = 100.0, 5000
  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 0.1
  c.optimizer.learning_rate = 1e-3
  c.schedule.warmup_steps, c.schedule.final_fraction = 100, 0.1
  c.eval_every = 250
