"""The path to GPT on one text: n-grams, RNN, GRU, LSTM and transformer, with characters and BPE.

  python launch.py --config=experiments/ladder.py --sweep=parameters --parallel=1
  python launch.py --config=experiments/ladder.py --sweep=flops --parallel=1
  python launch.py --config=experiments/ladder.py --sweep=seconds --parallel=1
  charrnn ladder runs/ladder-sweep-parameters

Each sweep has 14 trials: unigram, bigram and n-gram, and four networks, for both tokenizers. All
networks of a text have about the same number of parameters. Losses are in bits per byte of the same
held-out text.

Sweeps:
  --sweep=parameters  every network reads the training split one and a half times
  --sweep=flops       every network is trained with the same number of FLOPs
  --sweep=seconds     every network is trained for about the same time, by the table SPEEDS
  --sweep=speed       100 steps of every network, to measure these speeds: run it on a quiet machine
                      with --parallel=1, and copy the column tokens/s of `charrnn compare`

Variants:
  python  the source code of Python's standard library, for brackets and quotes
  smoke   small networks on 300,000 characters, to test the installation
"""

from typing import NamedTuple

import common
from charrnn import models

ORDERS = (1, 2, 8)  # unigram, bigram, and the best n-gram of at most 8 tokens
BATCH, WINDOW = 32, 64  # The window is the default.
# Tokens per second in training on 2 quiet cores of an AMD EPYC (AVX2 only), by --sweep=speed.
SPEEDS = {
  "char": {"rnn": 43_000, "gru": 39_600, "lstm": 44_100, "transformer": 13_800},
  "bpe": {"rnn": 41_600, "gru": 39_200, "lstm": 43_000, "transformer": 16_900},
}


class Budget(NamedTuple):
  """The costs of the networks that a sweep compares."""

  vocab_sizes: dict[str, int]  # by tokenizer; that of char is a property of the text
  parameters: int = 300_000
  embed: int = 64  # width of the embedding of recurrent networks, with BPE
  heads: int = 2  # of the transformer, whose width is a multiple of twice this number
  context: int = 128
  epochs: float = 1.5
  flops: float = 4.5e12  # in training
  seconds: float = 60.0  # of training


BUDGETS = {
  "": Budget({"char": 69, "bpe": 1024}),
  "python": Budget({"char": 222, "bpe": 1024}),  # of Python 3.11; others differ slightly
  "smoke": Budget({"char": 62, "bpe": 320}, 64_000, 16, 2, 32, 0.5, 3e10, 1.0),
}


def get_config(variant=""):
  variants = {"": shakespeare, "python": python, "smoke": smoke}
  return common.variant(__file__, variant, variants)


def shakespeare(c):
  c.text.source = "shakespeare"


def python(c):
  c.text.source = "python"


def smoke(c):
  shakespeare(c)
  c.text.limit = 300_000


def sweep_parameters(variant=""):
  return sweep(variant)


def sweep_flops(variant=""):
  return sweep(variant, lambda budget, size, _: steps(budget.flops / (6 * size.products)))


def sweep_seconds(variant=""):
  return sweep(variant, lambda budget, _, speed: steps(budget.seconds * speed))


def sweep_speed(variant=""):
  trials = sweep(variant, lambda *_: steps(100 * BATCH * WINDOW))
  return [trial for trial in trials if trial["model.cell"] != "ngram"]


def sweep(variant="", length=lambda budget, *_: {"epochs": budget.epochs}):
  """Return the trials of the ladder. `length` maps (budget, size, speed) to overrides."""
  budget, trials = BUDGETS[variant], []
  for tokenizer, speeds in SPEEDS.items():
    text = {"text.tokenizer": tokenizer}
    text |= {"text.vocab_size": budget.vocab_sizes["bpe"]} if tokenizer == "bpe" else {}
    trials += [text | {"model.cell": "ngram", "model.order": order} for order in ORDERS]
    for cell, speed in speeds.items():
      fields, size = network(cell, tokenizer, budget)
      trial = text | {f"model.{name}": value for name, value in fields.items()}
      trial |= {"optimizer.learning_rate": common.RATES[cell], "batch_size": BATCH}
      trials.append(trial | length(budget, size, speed))
  return trials


def network(cell, tokenizer, budget):
  """Return the fields of `config.model` and the size of a network."""
  vocab_size = budget.vocab_sizes[tokenizer]
  fields = {"cell": cell, "layers": 2, "dropout": 0.0}
  if cell == "transformer":
    fields |= {"layers": 4, "heads": budget.heads, "context": budget.context}
  elif tokenizer == "bpe":
    fields["embed"] = budget.embed
  fields["hidden"] = models.units_for(budget.parameters, vocab_size, fields)
  return fields, models.size(vocab_size, fields)


def steps(tokens):
  """Return overrides for a training that reads this number of tokens, in any number of epochs."""
  return {"max_steps": max(1, round(tokens / (BATCH * WINDOW))), "epochs": 1000.0}
