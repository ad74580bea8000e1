"""Your own text: a file, a folder, a glob or a URL. Nothing else must be set.

  python launch.py --config=experiments/own_text.py:path/to/book.txt
  python launch.py --config=experiments/own_text.py:https://example.org/book.txt

Width, batch, dropout, epochs and learning rate are chosen by the amount of text (`resolve` in
src/charrnn/config.py) and reported when training starts. A value of the command line, such as
--config.model.hidden=512, is kept.

On 2 CPU cores 12 epochs of 1 million characters take about 4 minutes at the speed of
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
