"""The table of hypotheses, patterns of users, and texts of every kind."""

import random

import aligned
import numpy as np
import pytest

from charrnn import errors
from charrnn.analysis import hypotheses, labels


def test_the_table_is_in_order():
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
def test_no_text_is_too_odd(text):
  for label in hypotheses.of_text(text, list(hypotheses.HYPOTHESES)).values():
    assert label.values.shape == label.mask.shape == (len(text),)
    assert label.values.dtype == np.float32 and label.mask.dtype == bool


def test_languages_choose():
  prose, c = (set(hypotheses.of_text("a", language=language)) for language in ("prose", "c"))
  both = set(hypotheses.of_text("a"))
  assert prose & c == both and prose | c == set(hypotheses.HYPOTHESES)
  assert "in-quotes" in prose - both and "brace-depth" in c - both and "url" in both


def test_names_choose_in_their_order():
  assert list(hypotheses.of_text("a", ["speaker", "string"], "c")) == ["speaker", "string"]


def test_names_that_are_none_are_told():
  with pytest.raises(errors.UserError, match="did you mean in-quotes"):
    hypotheses.of_text("a", ["in-quote"])
  with pytest.raises(errors.UserError, match="there are: line-position"):
    hypotheses.of_text("a", ["zzz"])
  with pytest.raises(errors.UserError, match="no language 'latin': use prose or c"):
    hypotheses.of_text("a", language="latin")


def test_state_does_not_leak_from_document_to_document():
  documents = ['a "b', "", "A:", "x [[y"]
  got = hypotheses.over(documents, language="prose")
  alone = [hypotheses.of_text(document, language="prose") for document in documents]
  for name, label in got.items():
    assert aligned.show(label) == "".join(aligned.show(part[name]) for part in alone)
  assert aligned.show(got["in-quotes"]) == "00110000000"
  assert aligned.show(got["speaker"]) == "00001100000"
  c = hypotheses.over(["f(){ /*", "{é"], ["brace-depth", "comment"])
  assert aligned.show(c["brace-depth"]) == "000111111"
  assert aligned.show(c["comment"]) == "000000100"


def test_no_documents_have_empty_labels():
  for label in hypotheses.over([], language="c").values():
    assert label.values.shape == label.mask.shape == (0,)


def test_documents_may_come_one_by_one():
  regex = hypotheses.from_regex("b", "b")
  got = hypotheses.over((c for c in "ab"), (n for n in ["url"]), extra=(r for r in [regex]))
  assert {name: aligned.show(label) for name, label in got.items()} == {"url": "00", "b": "01"}


def test_instances_are_counted_where_the_label_is_defined():
  label = labels.Label(np.array([0, 1, 1, 2], np.float32), np.array([True, True, True, False]))
  binary, graded = (hypotheses.HYPOTHESES[name] for name in ("url", "line-position"))
  assert binary.instances(label) == 2 and graded.instances(label) == 2
  empty = binary.function("no link")
  assert binary.instances(empty) == 0 and not empty.varies


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
    ("a=(", r"a: '\(' is no regular expression: missing \), unterminated subpattern"),
    ("a=a{99999999999}", "is no regular expression"),
    ("a=b*", r"a: 'b\*' matches the empty string"),
    ("a=^", "matches the empty string"),
    ("a", "--regex a: write NAME=PATTERN"),
    ("a=", "write NAME=PATTERN"),
    (" =a", "write NAME=PATTERN"),
    ("url=a", "there is a url already"),
  ],
)
def test_bad_patterns_are_told_in_a_line(argument, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    hypotheses.parse_regex(argument)
  assert "\n" not in str(caught.value)


def test_an_equals_sign_may_be_part_of_the_pattern():
  hypothesis = hypotheses.parse_regex("sum=a=b")
  assert hypothesis.name == "sum"
  aligned.check(hypothesis.function, "a=b", "111")
