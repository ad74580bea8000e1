"""Tests of the table of hypotheses, of users' patterns, and of unusual texts."""

import random

import aligned
import numpy as np
import pytest

from charrnn import errors
from charrnn.analysis import hypotheses


def test_all_hypotheses_are_well_formed():
  for name, hypothesis in hypotheses.HYPOTHESES.items():
    assert name == hypothesis.name == name.lower() and " " not in name
    assert hypothesis.kind in ("binary", "graded")
    assert hypothesis.language in ("any", *hypotheses.LANGUAGES)
    assert hypothesis.about and "\n" not in hypothesis.about
    assert ("looks ahead" in hypothesis.about) == hypothesis.predicts


def test_binary_labels_are_0_or_1():
  rng = random.Random(1)
  for hypothesis in hypotheses.HYPOTHESES.values():
    values = hypothesis.function(aligned.random_text(rng, 500)).values
    assert np.isfinite(values).all() and values.min() >= 0
    assert hypothesis.kind == "graded" or values.max() <= 1


def _texts():
  rng = random.Random(2)
  yield from [
    "",
    "\n",
    "a",
    "\r",
    "\ud800",
    "\0",
    "\ufeff",
    '"',
    "(",
    "{",
    "/*",
    "'",
    "#if",
    "[[",
    "\\",
  ]
  yield from (aligned.random_text(rng, length) for length in (2, 3, 5, 50, 500))
  yield "".join(chr(rng.randrange(0x110000)) for _ in range(500))
  yield bytes(rng.randrange(256) for _ in range(500)).decode("latin-1")
  yield bytes(rng.randrange(256) for _ in range(500)).decode("utf-8", "surrogateescape")
  yield "x" * 100_000
  yield " " * 50_000 + "\n" * 50_000


@pytest.mark.parametrize("text", list(_texts()), ids=lambda text: repr(text[:8]))
def test_unusual_texts_can_be_labeled(text):
  for label in (each.function(text) for each in hypotheses.HYPOTHESES.values()):
    assert label.values.shape == label.mask.shape == (len(text),)
    assert label.values.dtype == np.float32 and label.mask.dtype == bool


def test_the_language_selects_hypotheses():
  prose, c = (
    {each.name for each in hypotheses.choose(language)} for language in hypotheses.LANGUAGES
  )
  both = prose & c
  assert prose | c == set(hypotheses.HYPOTHESES)
  assert "in-quotes" in prose - both and "brace-depth" in c - both and "url" in both


def test_documents_are_labeled_independently():
  documents, selected = (
    ['a "b', "", "A:", "x [[y", "f(){ /*", "{é"],
    list(hypotheses.HYPOTHESES.values()),
  )
  labeled = hypotheses.label_documents(selected, documents)
  for each in selected:
    expected = "".join(aligned.show(each.function(document)) for document in documents)
    assert aligned.show(labeled[each.name]) == expected
  assert aligned.show(labeled["in-quotes"])[:11] == "00110000000"
  assert aligned.show(labeled["brace-depth"])[-9:] == "000111111"


def test_no_documents_have_empty_labels():
  for label in hypotheses.label_documents(hypotheses.choose("c"), []).values():
    assert label.values.shape == label.mask.shape == (0,)


@pytest.mark.parametrize(
  ("pattern", "shown", "expected"),
  [
    ("[0-9]{4}", "in 1984, 12345", "00011110011110"),
    ("^b.*$", "ab¶bc¶b", "0001101"),
    ("(?s)a.b", "a¶ba-b", "111111"),
    ("é+", "eéé", "011"),
    (r"\b", "a b", "000"),
  ],
)
def test_a_pattern_is_true_inside_its_matches(pattern, shown, expected):
  hypothesis = hypotheses.from_regex("own", pattern)
  assert hypothesis.kind == "binary" and hypothesis.language == "any" and hypothesis.predicts
  aligned.check(hypothesis.function, shown, expected)


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("a=(", r"a: '\(' is not a regular expression: missing \), unterminated subpattern"),
    ("a=a{99999999999}", "is not a regular expression"),
    ("a=b*", r"a: 'b\*' must not match the empty string"),
    ("a=^", "must not match the empty string"),
    ("a", "--regex a: must be NAME=PATTERN"),
    ("a=", "must be NAME=PATTERN"),
    (" =a", "must be NAME=PATTERN"),
    ("url=a", "the name url is in use"),
  ],
)
def test_a_bad_pattern_raises_with_one_line(argument, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    hypotheses.parse_regexes([argument])
  assert "\n" not in str(caught.value)


def test_the_pattern_may_contain_an_equals_sign():
  (hypothesis,) = hypotheses.parse_regexes(["sum=a=b"])
  assert hypothesis.name == "sum"
  aligned.check(hypothesis.function, "a=b", "111")
