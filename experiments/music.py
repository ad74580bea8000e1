"""An LSTM that writes tunes: 2,902 dance tunes of O'Neill (1903) and Ryan (1883) in ABC notation.

  pip install -e '.[music]'
  python launch.py --config=experiments/music.py
  charrnn sample runs/music --temperature 0.7 --num 12 --length 1500 --out tunes

Reaches 1.25 nats per character on the validation split. Each of the 1,867 steps takes 0.07 s of CPU
time; beside other programs on 2 CPU cores, training took 22 minutes.

The tunes come from the package `music21`, which is read, not imported. Each tune is a document: the
network is reset between tunes, and writes <END> after each. Programs for ABC notation play and
print what it writes. docs/domains.md shows a sample, and the scorecard of
`charrnn scorecard runs/music --domain music`: valid notation, bars that add up, copies.

Variants:
  smoke   a small model for 100 steps, to test the installation
"""

import common


def get_config(variant=""):
  return common.variant(__file__, variant, {"": standard, "smoke": smoke})


def standard(c):
  c.text.source = "music"
  c.text.documents = "blank_lines"
  c.model.layers, c.model.hidden, c.model.dropout = 1, 256, 0.1
  c.batch_size = 32
  c.window = 64
  c.optimizer.learning_rate = 8e-3
  c.epochs = 5.0


def smoke(c):
  standard(c)
  common.smoke(c)
