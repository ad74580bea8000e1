"""The picture of temperatures: of texts that loop, of texts without words, of a single one."""

import random

import numpy as np
import pytest
from matplotlib import image

from charrnn.scorecards import card, diversity, temperature_picture


def found(temperatures, symbols, num):
  rng = random.Random(0)
  known = diversity.known_words(symbols)

  def column(T):
    texts = ["".join(rng.choices(symbols, k=300)) for _ in range(num)]
    texts[0] = texts[0] if T else symbols[:2] * 150
    values = np.full(300, min(float(T), 5.0)) if T != "held-out" else np.ones(300)
    readings = [diversity.read(text, known, values, values + 0.1) for text in texts]
    return card.measure(diversity.FIGURES, readings)

  columns = {name: column(name) for name in ("held-out", *temperatures)}
  return {
    "run": "runs/$a$",
    "step": 10,
    "text": "digits & $",
    "settings": {"num": num, "length": 300},
    "temperatures": temperatures,
    "excerpts": {},
    **card.card(diversity.FIGURES, columns, real="held-out"),
  }


@pytest.mark.parametrize(
  ("temperatures", "symbols", "num"),
  [
    (["0", "0.5", "1", "inf"], "ab cde fgh", 4),
    (["1"], "ab c", 1),
  ],
)
def test_a_picture_shows_something(temperatures, symbols, num, tmp_path):
  temperature_picture.draw(found(temperatures, symbols, num), tmp_path / "a.png")
  pixels = image.imread(tmp_path / "a.png")[..., :3]
  assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_the_axis_has_zero_and_infinity():
  places = [temperature_picture._place(T) for T in temperature_picture.TICKS]
  assert (places[0], places[-1]) == (0, 1)
  assert places == sorted(places)
