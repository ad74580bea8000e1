"""A character n-gram model with modified Kneser-Ney smoothing: the baseline for the networks.

  python launch.py --config=experiments/ngram.py
  python launch.py --config=experiments/ngram.py:path/to/book.txt

The best order on Shakespeare is 7: it reaches 1.4706 nats per character on the validation split, in
20 seconds on 2 CPU cores. metrics.jsonl contains the loss of every order up to 12. To compare it
with a network, run `charrnn ngrams runs/shakespeare`.

Variants:
  PATH_OR_URL  a text of your own, as in own_text.py
"""

from charrnn import config as config_lib


def get_config(variant=""):
  c = config_lib.default()
  c.text.source = variant or "shakespeare"
  c.model.cell = "ngram"
  c.model.order = 12
  return c
