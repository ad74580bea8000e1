"""Metrics of tunes: valid ones, invalid ones of every kind, and copies under another title."""

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn import errors
from charrnn.scorecards import metrics, music, originality, systems

if importlib.util.find_spec("abcnotes") is None:
  pytest.skip("needs abcnotes", allow_module_level=True)

TUNE = """\
X:1
T:The Test
M:3/4
L:1/8
K:Dm
A2 | d2 f2 a2 | g3 f ed | c4 A2 |1 d4 :|2 d6 |]
"""


def measure(*samples):
  measured = metrics.measure(music.METRICS, map(music.parser(""), samples))
  return {name: [list(items) for items in each] for name, each in measured.items()}


def test_all_metrics_match_values_counted_by_hand():
  assert measure(TUNE) == {
    "valid tunes": [[1]],
    "headers": [[1]],
    "complete bars": [[1] * 6],
    "paired repeats": [[1]],
    "bars": [[6]],
    "ends on tonic": [[1]],
    "intervals": [[5, 3, 4, -2, -2, -1, -2, -2, -3, 5, 0]],
  }


@pytest.mark.parametrize(
  ("old", "new", "changed"),
  [
    ("T:The Test\n", "", {"valid tunes", "headers"}),
    ("M:3/4\n", "", {"headers"}),  # Without a meter, no bar can be wrong.
    ("g3", "g2", {"valid tunes", "complete bars"}),
    ("M:3/4", "M:4/4", {"valid tunes", "complete bars"}),
    (":|2", "|2", {"valid tunes", "paired repeats"}),
    ("f2 a2", "f2 a2 ]", {"valid tunes"}),
    ("f2 a2", "(f2 a2", {"valid tunes"}),
    ("f2 a2", "f2 § a2", {"valid tunes"}),
    ("2 d6", "2 e6", {"ends on tonic", "intervals"}),
    ("K:Dm", "K:F", {"ends on tonic"}),
    ("c4", "^c4", {"intervals"}),
    ("T:The Test", "T:Another", set()),
    ("Dm\n", "Dm\n% a comment\n", set()),
  ],
)
def test_a_change_of_a_tune_changes_these_metrics(old, new, changed):
  assert old in TUNE
  before, after = measure(TUNE), measure(TUNE.replace(old, new, 1))
  assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize(
  "text",
  [
    "",
    "not a tune",
    "X:1\nK:H\nabc",
    "X:1\nT:a\nM:4/4\nK:C\n",
    TUNE + "|1-99999999999 a4 |]",
    TUNE + "A" + "<" * 10_000,
    TUNE + "A" + "/" * 10_000,
    TUNE + "[" * 5000,
    TUNE.replace("K:", "P:" + "(" * 1500 + "\nK:"),
  ],
)
def test_text_that_is_not_a_tune_is_invalid(text):
  assert not any(map(any, measure(text)["valid tunes"]))


@given(st.text("X:1TMLK\n |[](){}<>:/-23^_='\"!+&PVabcz,", max_size=80))
def test_any_text_can_be_measured(text):
  items = measure(TUNE + text, text)
  assert sum(items["bars"][0]) == len(items["complete bars"][0])
  assert len(items["valid tunes"][0]) == len(music.split(TUNE + text))


def test_a_sample_of_several_tunes():
  items = measure(f"{TUNE}\n{TUNE.replace('g3', 'g2')}\n\n")
  assert items["valid tunes"] == [[1, 0]]
  assert items["complete bars"] == [[1] * 6 + [0] + [1] * 5]


def test_a_copy_with_another_title_is_not_novel():
  known = frozenset(music.split(TUNE))
  texts = TUNE.replace("The Test", "New"), TUNE.replace("g3 f", "g2f2"), TUNE.replace(" ", "")
  samples = list(originality.samples(map(music.split, texts), known))
  assert [sample.novel for sample in samples] == [[False], [True], [False]]
  assert [sample.distinct for sample in samples] == [[True], [True], [False]]


def test_the_shuffled_control_has_the_notes_and_the_layout_of_the_tune():
  shuffled = systems.shuffle(TUNE, music.DOMAIN.tokens, seed=1)
  assert shuffled != TUNE and sorted(shuffled) == sorted(TUNE)
  assert shuffled.split("\n")[:5] == TUNE.split("\n")[:5]
  assert [c for c in shuffled if c in "|:]"] == [c for c in TUNE if c in "|:]"]
  quoted = 'K:C\n"Am"a!trill!^c,2/3'
  assert systems.shuffle(quoted, music.DOMAIN.tokens, seed=0) in (
    quoted,
    'K:C\n"Am"^c,2/3!trill!a',
  )


def test_a_missing_parser_is_reported(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(errors.UserError, match="pip install 'abcnotes"):
    music.parser("")
