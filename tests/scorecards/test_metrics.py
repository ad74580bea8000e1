"""Metric values, intervals, distances and noise floors."""

import json
import random

import numpy as np
import pytest

from charrnn.scorecards import metrics

METRICS = {}
METRICS_OF_WORDS = (
  ("vowels", "share", "letters that are vowels", lambda s: [c in "aeiou" for c in s]),
  ("length", "mean", "letters of a word", lambda s: [len(w) for w in s.split()]),
  ("words", "distribution", "words", str.split),
)
for *fields, items in METRICS_OF_WORDS:
  metrics.register(METRICS, *fields)(items)


def compare(**systems):
  """Return the metric values by metric and system."""
  items = {name: metrics.measure(METRICS, samples) for name, samples in systems.items()}
  report = metrics.compare(METRICS, items, reference="held_out")
  assert json.loads(json.dumps(report, allow_nan=False)) == report
  assert [row["name"] for row in report["metrics"]] == list(METRICS)
  return {row["name"]: row["systems"] for row in report["metrics"]}


def test_values_are_means_over_items_and_not_over_samples():
  values = compare(held_out=["a", "bcd ef"])
  assert values["vowels"]["held_out"]["value"] == pytest.approx(2 / 7)
  assert values["vowels"]["held_out"]["samples"] == pytest.approx([1, 1 / 6])
  assert values["length"]["held_out"]["value"] == 2
  assert values["length"]["held_out"]["quantiles"]["1.0"] == 3
  assert values["length"]["held_out"]["deviation"] == pytest.approx(np.std([1, 3, 2]))
  assert values["words"]["held_out"] == {"items": 3}


def test_values_without_items_are_none():
  values = compare(held_out=["ab"], empty=["", ""], nothing=[])
  for name in ("empty", "nothing"):
    assert values["length"][name]["value"] is values["length"][name]["interval"] is None
    assert [values[metric][name]["distance"] for metric in values] == [None] * 3
  assert compare(model=["ab"])["words"]["model"]["distance"] is None


def test_an_interval_is_repeatable_contains_the_value_and_shrinks_with_samples():
  rng = np.random.default_rng(0)
  sums = rng.normal(5, 1, 400) * 10
  few, many = (metrics.interval(sums[:n], np.full(n, 10)) for n in (10, 400))
  assert few == metrics.interval(sums[:10], np.full(10, 10))
  assert few != metrics.interval(sums[:10], [10] * 10, seed=1)
  assert few[0] < sums[:10].mean() / 10 < few[1]
  assert many[1] - many[0] < (few[1] - few[0]) / 3
  assert metrics.interval([3], [4]) is None


def test_interval_coverage():
  rng = np.random.default_rng(0)
  inside = 0
  for _ in range(150):
    shares = rng.beta(2, 5, 30)  # the share differs between samples
    low, high = metrics.interval(rng.binomial(50, shares), np.full(30, 50))
    inside += low < 2 / 7 < high
  assert 0.87 < inside / 150 < 0.99


def test_intervals_of_zero_and_one_have_nonzero_width():
  """Compare with the solution of 0.975 = 1 - q^n for n samples that all agree."""
  for value in (0.0, 1.0):
    low, high = metrics.summary("share", [np.full(10, value)] * 12)["interval"]
    assert (high if value == 0 else 1 - low) == pytest.approx(1 - 0.025 ** (1 / 12))
    assert value in (low, high)


def test_distances_have_units_and_are_symmetric():
  numbers = np.array([1.0, 2, 7, 7])
  assert metrics.distance("mean", numbers, np.repeat(numbers, 3)) == pytest.approx(0)
  assert metrics.distance("mean", numbers, numbers + 2.5) == pytest.approx(2.5)
  # The means are equal, but the spreads differ.
  wide, narrow = np.array([0.0, 10]), np.array([4.0, 6])
  assert metrics.distance("mean", narrow, wide) == pytest.approx(4)
  assert metrics.distance("share", np.array([1, 0, 0, 0]), np.array([1, 1])) == 0.75
  assert metrics.distance("distribution", ["a", "b"], ["b", "a", "a", "b"]) == 0
  assert metrics.distance("distribution", ["a", "b"], ["c"]) == 1
  one, other = ["a", "b", "b"], ["a", "c"]
  expected = (1 / 6 + 2 / 3 + 1 / 2) / 2
  assert metrics.distance("distribution", one, other) == pytest.approx(expected)
  assert metrics.distance("distribution", other, one) == pytest.approx(expected)


def test_only_text_of_another_kind_exceeds_the_noise_floor():
  rng = random.Random(0)

  def text(words):
    return " ".join(rng.choices(words, k=100))

  english = ["a", "be", "see", "tree", "house"]
  held_out = [text(english) for _ in range(30)]
  more, other = [text(english) for _ in range(10)], [text(english[2:]) for _ in range(10)]
  for values in compare(held_out=held_out, more=more, other=other).values():
    assert values["more"]["noise_floor"] == values["other"]["noise_floor"] > 0
    floor = values["more"]["noise_floor"]
    assert values["more"]["distance"] < 3 * floor < values["other"]["distance"]
    assert "distance" not in values["held_out"]


def test_the_noise_floor_decreases_with_the_number_of_samples():
  rng = np.random.default_rng(0)
  samples = list(rng.normal(size=(40, 25)))
  small, large = (metrics.noise_floor("mean", samples, count) for count in (1, 20))
  assert small > 2 * large > 0
  assert metrics.noise_floor("mean", samples, 1000) == large  # at most half of the samples
  assert metrics.noise_floor("mean", [samples[0]] * 8, 3) == 0
  assert metrics.noise_floor("mean", samples[:1], 1) is None
