"""Your own text: a file, a folder, a glob or a URL, and nothing else to set.

  python launch.py --config=experiments/own_text.py:path/to/book.txt
  python launch.py --config=experiments/own_text.py:https://example.org/book.txt

Width, batch, dropout, epochs and learning rate are chosen by the amount of text
(src/charrnn/training/sizing.py) and said when training starts; anything given on the command
line, --config.model.hidden=512 say, stays as given.

On 2 CPU cores 1 million characters are read 12 times in about 4 minutes, by the rate of
shakespeare.py, which has the same model.
"""

from charrnn import config as config_lib
from charrnn import errors


def get_config(variant=""):
  if not variant:
    raise errors.UserError("say which text: --config=experiments/own_text.py:PATH_OR_URL")
  c = config_lib.default()
  c.text.source = variant
  return c
