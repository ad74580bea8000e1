"""Loops compared with enumeration, and the other metrics of a text."""

import collections
import itertools
import random

import numpy as np
import pytest

from charrnn.scorecards import diversity, metrics


def brute_force(text, shortest):
  """Return the first loop by trying all starts and periods."""
  for start in range(len(text) - shortest + 1):
    rest = text[start:]
    for period in range(1, len(rest) // 2 + 1):
      if all(rest[i] == rest[i + period] for i in range(len(rest) - period)):
        return start, period
  return None


@pytest.fixture
def short(monkeypatch):
  monkeypatch.setattr(diversity, "MIN_LOOP", 4)


@pytest.mark.parametrize("length", range(12))
def test_loops_of_all_short_texts_match_enumeration(short, length):
  for text in itertools.product("ab", repeat=length):
    assert diversity.find_loop("".join(text)) == brute_force(text, 4), text


def test_loops_of_longer_texts_match_enumeration(short):
  rng = random.Random(0)
  counts = collections.Counter()
  for _ in range(300):
    beginning = rng.choices("abc", k=rng.randrange(30))
    cycle = rng.choices("abc", k=rng.randrange(1, 20))
    text = (beginning + cycle * 4)[: rng.randrange(4, 100)]
    expected = brute_force(text, 4)
    counts[expected is not None] += 1
    assert diversity.find_loop(text) == expected
  assert min(counts.values()) > 30


def test_start_and_period_of_a_loop_in_a_long_text():
  rng = random.Random(1)
  cycle = "the state of the state, "
  text = "".join(rng.choices("abcdefgh", k=5000)) + "." + cycle * 200
  assert diversity.find_loop(text) == (5001, 24)
  assert diversity.find_loop(text + "the st") == (5001, 24)  # the last period may be incomplete
  assert diversity.find_loop(text + "then") is None  # the text does not end in the loop


def test_minimum_length_and_two_periods_of_a_loop():
  assert diversity.find_loop("-" * 99) is None
  assert diversity.find_loop("x" + "-" * 100) == (1, 1)
  passage = "".join(map(chr, range(1000, 1200)))
  assert diversity.find_loop("x" + 2 * passage) == (1, 200)
  assert diversity.find_loop("x" + (2 * passage)[:-1]) is None


def parse(text, training="all of this is known"):
  return diversity.parser(training)(text, np.full(len(text), 0.5), np.full(len(text), 2.0))


def measure(*texts, **training):
  items = metrics.measure(diversity.METRICS, [parse(text, **training) for text in texts])
  return {name: metrics.summary(m.kind, items[name]) for name, m in diversity.METRICS.items()}


def test_distinct_is_the_share_of_distinct_sequences():
  values = measure("This is all, all is this; this is ALL.")
  # "this is all all is this this is all" has 9 words and 8 pairs; this-is and is-all occur twice.
  assert values["distinct-1"]["value"] == pytest.approx(3 / 9)
  assert values["distinct-2"]["value"] == pytest.approx(6 / 8)
  assert values["distinct-3"]["value"] == pytest.approx(6 / 7)
  assert values["distinct-4"]["value"] == 1


def test_distinct_counts_each_text_separately():
  values = measure("known words", "known words")
  assert values["distinct-1"]["value"] == 1
  assert values["distinct-3"]["value"] is None  # no text has three words


def test_known_words_occur_in_the_training_text():
  values = measure("Is this known? Of course not", "all")
  assert values["known words"]["value"] == pytest.approx(5 / 7)
  assert values["known words"]["items"] == 7


def test_characters_replace_words_if_the_training_text_has_no_words():
  values = measure("1010", training="0123 4567 ...")
  assert values["distinct-1"]["value"] == 2 / 4
  assert values["distinct-2"]["value"] == 2 / 3
  assert values["known words"]["value"] is None


def test_words_in_scripts_without_case():
  values = measure("\u65e5\u672c \u4eca\u65e5", training="\u65e5\u672c")
  assert values["known words"]["value"] == 0.5


def test_loop_starts_and_periods_exclude_texts_without_a_loop():
  values = measure("12" + "abc" * 50, "a" * 200, "no loop at all")
  assert values["loops"]["value"] == pytest.approx(2 / 3)
  assert values["loop period"]["quantiles"]["0.5"] == 2
  assert values["loop start"]["value"] == 1
  assert values["entropy"]["value"] == 0.5
  assert values["loss"]["value"] == 2


def test_empty_texts():
  values = measure("", "")
  assert {name for name, cell in values.items() if cell.get("value") is not None} == {"loops"}
  assert values["loops"]["value"] == 0


def test_distances_of_character_and_word_frequencies():
  one, other = (
    metrics.measure(diversity.METRICS, [parse(text)]) for text in ("abcd all", "abcd this")
  )
  # The texts contain abc, bcd, cd-, d-a, -al, all and abc, bcd, cd-, d-t, -th, thi, his.
  p, q = 1 / 6, 1 / 7
  expected = (3 * abs(p - q) + 3 * p + 4 * q) / 2
  assert metrics.distance(
    "distribution", *(each["3-grams"][0] for each in (one, other))
  ) == pytest.approx(expected)
  assert metrics.distance("distribution", *(each["words"][0] for each in (one, other))) == 0.5
