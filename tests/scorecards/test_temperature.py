"""The plot of metrics by temperature, for texts with loops and for a single text."""

import random

import numpy as np
import pytest
from matplotlib import image

from charrnn.scorecards import diversity, metrics, temperature


def report(temperatures, characters, num):
  rng = random.Random(0)
  parse = diversity.parser(characters)

  def items(T):
    texts = ["".join(rng.choices(characters, k=300)) for _ in range(num)]
    texts[0] = texts[0] if T else characters[:2] * 150
    nats = np.full(300, min(float(T), 5.0)) if T != "held-out" else np.ones(300)
    return metrics.measure(diversity.METRICS, [parse(text, nats, nats + 0.1) for text in texts])

  systems = {name: items(name) for name in ("held-out", *temperatures)}
  return metrics.compare(diversity.METRICS, systems, "held-out") | {
    "run": "runs/$a$",
    "step": 10,
    "text": "digits & $",
    "settings": {"num": num, "length": 300},
    "temperatures": temperatures,
  }


@pytest.mark.parametrize(
  ("temperatures", "characters", "num"),
  [
    (["0", "0.5", "1", "inf"], "ab cde fgh", 4),
    (["1"], "ab c", 1),
  ],
)
def test_pictures_are_not_empty(temperatures, characters, num, tmp_path):
  temperature.plot(report(temperatures, characters, num), tmp_path / "a.png")
  pixels = image.imread(tmp_path / "a.png")[..., :3]
  assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_the_axis_includes_zero_and_infinity():
  xs = [temperature._x(T) for T in temperature._TICKS]
  assert (xs[0], xs[-1]) == (0, 1)
  assert xs == sorted(xs)
