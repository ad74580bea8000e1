"""The reference runs of `charrnn compare --reference`: five texts, three amounts, four models.

  python launch.py --config=experiments/reference.py --sweep
  charrnn compare runs/reference-sweep

docs/loss.md shows the results. The sweep takes about an hour and a half on 2 CPU cores.

The models are LSTMs with 1 x 64, 2 x 128 and 2 x 256 units, and the best n-gram of at most 10
characters. Each is trained on the first 100 thousand, 1 million and 4 million characters of a text,
if the text is long enough. Everything else is what charrnn chooses for a text of this length.
charrnn downloads tinyshakespeare and sqlite, and if necessary linux (docs/texts.md). A trial whose
text is not available fails, and the others go on.

Variants:
  smoke   a small LSTM and an n-gram on 10,000 and 20,000 characters, to test the installation
"""

import common
from charrnn.sweeps import trials

AMOUNTS = (100_000, 1_000_000, 4_000_000)  # characters, training and held-out text together
TEXTS = {
  "": {
    "shakespeare": AMOUNTS,
    "tinyshakespeare": AMOUNTS[:2],  # It has 1.1 million characters.
    "python": AMOUNTS,
    "linux": AMOUNTS,
    "sqlite": AMOUNTS,
  },
  "smoke": {"shakespeare": (10_000, 20_000)},
}
LAYERS = {"": [(1, 64), (2, 128), (2, 256)], "smoke": [(1, 16)]}  # (layers, units)


def get_config(variant=""):
  return common.variant(__file__, variant, {"": lambda c: None, "smoke": smoke})


def smoke(c):
  c.text.limit = 20_000


def sweep(variant=""):
  texts = [
    {"text.source": source, "text.limit": limit}
    for source, limits in TEXTS[variant].items()
    for limit in limits
  ]
  models = [{"model.cell": "ngram", "model.order": 10}]
  models += [{"model.layers": layers, "model.hidden": hidden} for layers, hidden in LAYERS[variant]]
  return trials.product(texts, models)
