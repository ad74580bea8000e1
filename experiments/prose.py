"""An LSTM on a novel with dialogue, whose units can follow quotation marks and the line length.

  python launch.py --config=experiments/prose.py
  charrnn cells runs/prose

Trains on War and Peace (3.2 million characters in lines of about 70 characters, with straight
double quotes) for about 5 minutes at the speed of shakespeare.py, which has the same model. All
checkpoints are kept for `charrnn cells`, which shows when units begin to follow the quotes. The
text is downloaded from the site of char-rnn's author and verified. To use a copy of the file, add
--config.text.source=path/to/warpeace_input.txt.

Variants:
  smoke     a small model for 100 steps, to test the installation; 15 seconds
  mobydick  Moby-Dick (1.2 million characters, with curly double quotes) from an npm package, for
            about 4 minutes
  paper     the text and LSTM of the 2015 paper (arXiv 1506.02078): the file unchanged, 2 layers of
            512, split 80/10/10; about 2 hours at the speed of shakespeare.py:blog. Losses with
            its CRLF line ends are not comparable with those of the other variants.
"""

import common


def get_config(variant=""):
  variants = {"": standard, "smoke": smoke, "mobydick": mobydick, "paper": paper}
  return common.variant(__file__, variant, variants)


def standard(c):
  common.lstm256(c)
  common.war_and_peace(c)
  c.model.dropout = 0.1
  c.epochs = 4.4
  c.eval_every = 300
  c.keep = 100  # Keep all checkpoints; each takes 7 MB.


def smoke(c):
  standard(c)
  common.smoke(c)


def mobydick(c):
  standard(c)
  c.text.source = "mobydick"
  c.text.valid_fraction = c.text.test_fraction = 0.08  # 190,000 characters for charrnn cells
  c.model.dropout = 0.3  # Each character is read often, so that overfitting is likely.
  c.epochs = 10.0


def paper(c):
  """Set the model, text and split of the 2015 paper, with a character for each byte of the file."""
  common.training2015(c)
  c.text.source, c.text.encoding = "warandpeace", "latin-1"
  c.text.valid_fraction = c.text.test_fraction = 0.1
  c.model.layers, c.model.hidden, c.model.dropout = 2, 512, 0.5
