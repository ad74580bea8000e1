"""Metrics of names that are few enough to count by hand, and of copies and repetitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.scorecards import metrics, names, originality

TRAINING = "Anna\nHanna\n"


def measure(*samples, training=TRAINING):
  return metrics.measure(names.METRICS, map(names.parser(training), samples))


def original(*samples, training=TRAINING):
  known = frozenset(names.split(training))
  measured = metrics.measure(
    originality.METRICS, originality.samples(map(names.split, samples), known)
  )
  return {name: [list(items) for items in each] for name, each in measured.items()}


def test_all_metrics_match_values_counted_by_hand():
  items = {name: list(each[0]) for name, each in measure("Ann\n\n  \nHab\r\n").items()}
  assert items == {
    "length": [3, 3],
    "first letters": ["A", "H"],
    "last letters": ["n", "b"],
    "pairs": ["\nA", "An", "nn", "n\n", "\nH", "Ha", "ab", "b\n"],
    "known pairs": [1, 1, 1, 0, 1, 1, 0, 0],
    "known triples": [1, 1, 0, 1, 0, 0],
  }


def test_copies_and_repetitions():
  """Also in another sample of the same system, but not of another system."""
  assert original("Bob", "Anna", "Bob", "Bo") == {
    "distinct": [[1], [1], [0], [1]],
    "novel": [[1], [0], [1], [1]],
  }
  assert original("Bob\nBob", "Bob") == {"distinct": [[1, 0], [0]], "novel": [[1, 1], [1]]}
  assert original("Bob")["distinct"] == [[1]]


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=20))
def test_the_number_of_distinct_names_is_the_size_of_their_set(samples):
  distinct = original(*samples)["distinct"]
  assert sum(map(sum, distinct)) == len({*samples})


@given(st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=9))
def test_the_training_text_is_known(listed):
  text = "\n".join(listed)
  items = measure(text, training=text)
  assert all(map(all, [*items["known pairs"], *items["known triples"]]))
  assert not any(original(text, training=text)["novel"][0])


def test_names_without_a_name():
  assert all(not len(each) for items in measure("", "\n \n").values() for each in items)


def test_a_name_of_a_foreign_alphabet_has_no_known_pair():
  (items,) = measure("Ωλ")["known pairs"]
  assert list(items) == [0, 0, 0]


@pytest.mark.parametrize("text", ["Smith", "Smith\n", "\nSmith\r\n"])
def test_line_ends_do_not_matter(text):
  assert names.split(text) == ["Smith"]
