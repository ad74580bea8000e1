"""Longest matches against a search that tries everything."""

import random

import numpy as np
import pytest

from charrnn.runs import held_out
from charrnn.scorecards import memorization

ALPHABETS = {
  "two": "ab",
  "four": "abc\n",
  "bytes": "".join(map(chr, range(256))),
  "more than bytes": "".join(map(chr, range(0x4E00, 0x4E00 + 700))) + "ab",
  "odd": "\0\ud800\uffff\U0010ffff",
}


def _longest(text, start, training):
  length = 0
  while start + length < len(text) and text[start : start + length + 1] in training:
    length += 1
  return length


def _texts(alphabet, rng):
  """The text shares passages with the training text, some of them at the ends of both."""
  training = "".join(rng.choices(alphabet, k=rng.randrange(1, 300)))
  text = ""
  for _ in range(rng.randrange(6)):
    start = rng.randrange(len(training))
    text += training[start : start + rng.randrange(40)] + rng.choice(alphabet)
  return training, text + training[-rng.randrange(1, 9) :]


@pytest.mark.parametrize("name", ALPHABETS)
def test_matches_are_the_longest_and_where_they_are_expected(name):
  rng = random.Random(name)
  for _ in range(25):
    training, text = _texts(ALPHABETS[name], rng)
    other = "".join(rng.choices(ALPHABETS[name], k=20))
    found = memorization.match(training, [text, "", other])
    assert [len(part.lengths) for part in found] == [len(text), 0, 20]
    for part, whole in zip(found, (text, "", other)):
      for i, (length, place) in enumerate(zip(*part)):
        assert length == _longest(whole, i, training)
        assert place >= 0 if length else place == -1
        assert whole[i : i + length] == training[place : place + length] or not length


def test_nothing_matches_nothing():
  (found,) = memorization.match("", ["abc"])
  assert found.lengths.tolist() == [0, 0, 0] and found.places.tolist() == [-1] * 3
  assert memorization.match("abc", []) == []


def test_texts_do_not_run_into_each_other():
  found = memorization.match("abcd", ["ab", "cd"])
  assert [part.lengths.tolist() for part in found] == [[2, 1], [2, 1]]


def test_novelty_is_the_share_of_new_sequences():
  rng = random.Random(0)
  training, text = _texts("abc", rng)
  (found,) = memorization.match(training, [text])
  for size in (1, 2, 4, 8, len(text), len(text) + 1):
    sequences = [text[i : i + size] for i in range(len(text) - size + 1)]
    assert memorization.novel(found, size).tolist() == [s not in training for s in sequences]


def _sources(text):
  training = held_out.Text("training", text, (held_out.Passage("whole", 0, len(text)),))
  return memorization.Sources(training)


def test_copies_are_named_with_document_and_line():
  text = "one\ntwo\nthree\n" + "four\nfive and six\nseven\n"
  # Of the second document the first two lines are in another part.
  passages = held_out.Passage("a", 0, 14), held_out.Passage("b", 14, len(text), line=3)
  training = held_out.Text("training", text, passages)
  text = "zzz five and six\nsevQ three\n!!"
  (found,) = memorization.match(training.text, [text])
  first, second = memorization.copies_in(text, found, memorization.Sources(training), 2)
  assert first == memorization.Copy("five and six\nsev", 16, 4, training.text.index("five"), "b", 4)
  assert second == memorization.Copy("three\n", 6, 22, 8, "a", 3)


def test_the_longest_of_several_texts_come_once_each():
  training = "the quick brown fox jumps over the lazy dog"
  texts = ["?quick brown?", "!", "a lazy dog,quick brown;the quick brown fox"]
  found = memorization.match(training, texts)
  longest = memorization.longest_copies(texts, found, _sources(training), count=3)
  assert [(copy.text, copy.sample) for copy in longest] == [
    ("the quick brown fox", 3),
    ("quick brown", 1),
    (" lazy dog", 3),
  ]


def test_copies_do_not_overlap_and_go_from_long_to_short():
  rng = random.Random(1)
  for _ in range(20):
    training, text = _texts("abcdef", rng)
    (found,) = memorization.match(training, [text])
    copies = memorization.copies_in(text, found, _sources(training), 9)
    taken = np.zeros(len(text), int)
    for copy in copies:
      assert text[copy.position :].startswith(copy.text) and training[copy.place :].startswith(
        copy.text
      )
      taken[copy.position : copy.position + copy.length] += 1
    assert taken.max() == 1
    lengths = [copy.length for copy in copies]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] == found.lengths.max()


def test_a_text_that_is_all_copied_takes_no_longer():
  training = "ab" * 100_000
  (found,) = memorization.match(training, [training])
  assert found.lengths.tolist() == list(range(len(training), 0, -1))
  assert [copy.length for copy in memorization.copies_in(training, found, _sources(training))] == [
    len(training)
  ]


def test_metrics_follow_from_the_matches():
  (found,) = memorization.match("abcdefghij" * 4, ["abcdefgxyz" + "q" * 20])
  items = {name: np.mean(m.items(found)) for name, m in memorization.METRICS.items()}
  assert items["longest match"] == sum(range(8)) / 30
  assert items["novel 5-grams"] == 23 / 26
  assert items["novel 10-grams"] == 1
