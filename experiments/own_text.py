"""An LSTM on your own text: a file, a folder, a glob or a URL.

  python launch.py --config=experiments/own_text.py:path/to/book.txt
  python launch.py --config=experiments/own_text.py:https://example.org/book.txt

The loss depends on the text. A text of 1 million characters takes about 4 minutes on 2 CPU cores
(12 epochs at the speed of shakespeare.py, which has the same model).

No other setting is required. The number of units, batch size, dropout, epochs and learning rate are
chosen from the length of the text (`resolve` in src/charrnn/config.py) and reported when training
starts. Options such as --config.model.hidden=512 override them. docs/texts.md describes sources,
encodings and splits.
"""

from charrnn import config as config_lib
from charrnn import errors


def get_config(variant=""):
  if not variant:
    raise errors.UserError(
      "own_text.py: the text is missing; use --config=experiments/own_text.py:PATH_OR_URL"
    )
  c = config_lib.default()
  c.text.source = variant
  return c
