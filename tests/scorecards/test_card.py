"""Figures over samples: values, intervals, distances, and the floor of real text to real text."""

import json
import random

import numpy as np
import pytest

from charrnn.scorecards import card

FIGURES = (
  card.Figure("vowels", card.SHARE, "letters that are vowels", lambda s: [c in "aeiou" for c in s]),
  card.Figure("length", card.MEAN, "letters of a word", lambda s: [len(w) for w in s.split()]),
  card.Figure("words", card.DISTRIBUTION, "words", str.split),
)


def _scored(**columns):
  measured = {name: card.measure(FIGURES, samples) for name, samples in columns.items()}
  scored = card.card(FIGURES, measured)
  assert json.loads(json.dumps(scored, allow_nan=False)) == scored
  return {row["name"]: row["columns"] for row in scored["figures"]}


def test_values_are_over_all_items_and_not_over_samples():
  cells = _scored(real=["a", "bcd ef"])
  assert cells["vowels"]["real"]["value"] == pytest.approx(2 / 7)
  assert cells["vowels"]["real"]["samples"] == pytest.approx([1, 1 / 6])
  assert cells["length"]["real"]["value"] == 2
  assert cells["length"]["real"]["quantiles"]["1.0"] == 3
  assert cells["length"]["real"]["deviation"] == pytest.approx(np.std([1, 3, 2]))
  assert cells["words"]["real"] == {"items": 3}


def test_where_there_is_nothing_there_is_none():
  cells = _scored(real=["ab"], empty=["", ""], none=[])
  for name in ("empty", "none"):
    assert cells["length"][name]["value"] is cells["length"][name]["interval"] is None
    assert [cells[figure][name]["distance"] for figure in cells] == [None] * 3
  assert _scored(model=["ab"])["words"]["model"]["distance"] is None


def test_an_interval_is_repeatable_holds_the_value_and_shrinks_with_samples():
  rng = np.random.default_rng(0)
  sums = rng.normal(5, 1, 400) * 10
  few, many = (card.interval(sums[:n], np.full(n, 10)) for n in (10, 400))
  assert few == card.interval(sums[:10], np.full(10, 10)) != card.interval(sums[:10], [10] * 10, 1)
  assert few[0] < sums[:10].mean() / 10 < few[1]
  assert many[1] - many[0] < (few[1] - few[0]) / 3
  assert card.interval([3], [4]) is None


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
  rng = np.random.default_rng(0)
  inside = 0
  for _ in range(150):
    shares = rng.beta(2, 5, 30)  # samples differ, and their items with them
    low, high = card.interval(rng.binomial(50, shares), np.full(30, 50))
    inside += low < 2 / 7 < high
  assert 0.87 < inside / 150 < 0.99


def test_distances_have_their_units_and_are_symmetric():
  numbers = np.array([1.0, 2, 7, 7])
  assert card.distance(card.MEAN, numbers, np.repeat(numbers, 3)) == pytest.approx(0)
  assert card.distance(card.MEAN, numbers, numbers + 2.5) == pytest.approx(2.5)
  # One mean, two spreads.
  assert card.distance(card.MEAN, np.array([4.0, 6]), np.array([0.0, 10])) == pytest.approx(4)
  assert card.distance(card.SHARE, np.array([1, 0, 0, 0]), np.array([1, 1])) == 0.75
  assert card.distance(card.DISTRIBUTION, ["a", "b"], ["b", "a", "a", "b"]) == 0
  assert card.distance(card.DISTRIBUTION, ["a", "b"], ["c"]) == 1
  one, other = ["a", "b", "b"], ["a", "c"]
  assert card.distance(card.DISTRIBUTION, one, other) == pytest.approx((1 / 6 + 2 / 3 + 1 / 2) / 2)
  assert card.distance(card.DISTRIBUTION, other, one) == pytest.approx((1 / 6 + 2 / 3 + 1 / 2) / 2)


def test_real_text_is_at_the_floor_and_other_text_above_it():
  rng = random.Random(0)

  def text(words):
    return " ".join(rng.choices(words, k=100))

  english = ["a", "be", "see", "tree", "house"]
  real = [text(english) for _ in range(30)]
  more, other = [text(english) for _ in range(10)], [text(english[2:]) for _ in range(10)]
  for cells in _scored(real=real, more=more, other=other).values():
    assert cells["more"]["floor"] == cells["other"]["floor"] > 0
    assert cells["more"]["distance"] < 3 * cells["more"]["floor"] < cells["other"]["distance"]
    assert "distance" not in cells["real"]


def test_the_floor_falls_with_the_size_of_the_text():
  rng = np.random.default_rng(0)
  real = list(rng.normal(size=(40, 25)))
  small, large = (card.floor(card.MEAN, real, count) for count in (1, 20))
  assert small > 2 * large > 0
  assert card.floor(card.MEAN, real, 1000) == large  # half of what there is
  assert card.floor(card.MEAN, [real[0]] * 8, 3) == 0
  assert card.floor(card.MEAN, real[:1], 1) is None


def test_a_share_that_is_all_or_nothing_has_an_interval_of_what_could_be():
  """By hand: 0.975 = 1 - q^n, of what n samples all agreed on."""
  for value in (0.0, 1.0):
    cell = card.summary(card.SHARE, [np.full(10, value)] * 12)
    low, high = cell["interval"]
    assert (high if value == 0 else 1 - low) == pytest.approx(1 - 0.025 ** (1 / 12))
    assert value in (low, high)
