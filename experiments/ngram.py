"""N-grams of characters with modified Kneser-Ney smoothing: the baseline of the networks.

  python launch.py --config=experiments/ngram.py
  python launch.py --config=experiments/ngram.py:path/to/book.txt

Reaches 1.4706 nats per character on the validation split of Shakespeare, with strings of 7
characters, in 20 seconds on 2 CPU cores; metrics.jsonl has the loss of every order up to 12. The
variant is a text, as in own_text.py. To compare with a network: charrnn ngrams runs/shakespeare
"""

from charrnn import config as config_lib


def get_config(variant=""):
  c = config_lib.default()
  c.text.source = variant or "shakespeare"
  c.model.cell = "ngram"
  c.model.order = 12
  return c
