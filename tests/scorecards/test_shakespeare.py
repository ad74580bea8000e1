"""The figures of a play that is small enough to count by hand."""

import random

import numpy as np
import pytest

from charrnn.scorecards import card, samples, shakespeare

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
  "labelled blocks": [1, 1, 0, 1, 1],
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


def _measured(text):
  readings = [shakespeare.read(text, shakespeare.reference(TRAINING))]
  measured = card.measure(shakespeare.FIGURES, readings)
  return {name: list(items) for name, (items,) in measured.items()}


def test_every_figure_is_as_counted_by_hand():
  assert _measured(PLAY) == EXPECTED


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
  assert _measured(same) == EXPECTED


def test_speakers_in_ten_speeches():
  names = "ABABABABABCD"
  assert _measured("\n\n".join(f"{name}:\na" for name in names))["cast"] == [2, 3, 4]


def test_the_control_loses_its_verse_and_keeps_its_words():
  rng = random.Random(0)
  verse = [
    "Shall I compare thee to a summer's day?",
    "So long lives this, and this gives life to thee",
  ]
  speeches = "\n".join(["ROMEO:", *rng.choices(verse, k=rng.randrange(1, 4)), "", ""])
  text = speeches * 20
  before, after = map(_measured, (text, samples.shuffled(text, shakespeare.TOKENS)))
  assert np.mean(before["iambic lines"]) == 1
  assert np.mean(after["iambic lines"]) < 0.7
  assert sorted(before["words"]) == sorted(after["words"])
  for name in ("labelled blocks", "speech length", "speaker changes"):
    assert before[name] == after[name]


@pytest.mark.parametrize(
  "text", ["", "\n\n\n", "\0" * 99, "\ud800:\n", ":\n:", "A" * 99 + ":", "a'" * 99]
)
def test_no_text_is_too_broken(text):
  measured = _measured(text)
  assert not any(measured["labelled blocks"])
  assert card.card(shakespeare.FIGURES, {"real": {k: [v] for k, v in measured.items()}})["figures"]
