"""Longest matches compared with an exhaustive search."""

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
  """Return a training text, and a text that shares spans with it and ends as it ends."""
  training = "".join(rng.choices(alphabet, k=rng.randrange(1, 300)))
  text = ""
  for _ in range(rng.randrange(6)):
    start = rng.randrange(len(training))
    text += training[start : start + rng.randrange(40)] + rng.choice(alphabet)
  return training, text + training[-rng.randrange(1, 9) :]


@pytest.mark.parametrize("name", ALPHABETS)
def test_matches_agree_with_exhaustive_search(name):
  rng = random.Random(name)
  for _ in range(25):
    training, text = _texts(ALPHABETS[name], rng)
    other = "".join(rng.choices(ALPHABETS[name], k=20))
    matches = memorization.match(training, [text, "", other])
    assert [len(part.lengths) for part in matches] == [len(text), 0, 20]
    for part, whole in zip(matches, (text, "", other)):
      for i, (length, place) in enumerate(zip(*part)):
        assert length == _longest(whole, i, training)
        assert place >= 0 if length else place == -1
        assert whole[i : i + length] == training[place : place + length] or not length


def test_an_empty_training_text_has_no_matches():
  (matches,) = memorization.match("", ["abc"])
  assert matches.lengths.tolist() == [0, 0, 0] and matches.places.tolist() == [-1] * 3
  assert memorization.match("abc", []) == []


def test_matches_do_not_cross_text_ends():
  matches = memorization.match("abcd", ["ab", "cd"])
  assert [part.lengths.tolist() for part in matches] == [[2, 1], [2, 1]]


def test_novelty_is_the_share_of_new_sequences():
  rng = random.Random(0)
  training, text = _texts("abc", rng)
  (matches,) = memorization.match(training, [text])
  for size in (1, 2, 4, 8, len(text), len(text) + 1):
    sequences = [text[i : i + size] for i in range(len(text) - size + 1)]
    assert memorization.novel(matches, size).tolist() == [s not in training for s in sequences]


def _sources(text):
  training = held_out.Text("training", text, (held_out.Passage("whole", 0, len(text)),))
  return memorization.Sources(training)


def test_copies_have_a_document_and_a_line():
  text = "one\ntwo\nthree\n" + "four\nfive and six\nseven\n"
  # The first two lines of the second document are in another split.
  passages = held_out.Passage("a", 0, 14), held_out.Passage("b", 14, len(text), line=3)
  training = held_out.Text("training", text, passages)
  text = "zzz five and six\nsevQ three\n!!"
  (matches,) = memorization.match(training.text, [text])
  first, second = memorization.copies_in(text, matches, memorization.Sources(training), 2)
  assert first == memorization.Copy("five and six\nsev", 16, 4, training.text.index("five"), "b", 4)
  assert second == memorization.Copy("three\n", 6, 22, 8, "a", 3)


def test_longest_copies_have_no_duplicates():
  training = "the quick brown fox jumps over the lazy dog"
  texts = ["?quick brown?", "!", "a lazy dog,quick brown;the quick brown fox"]
  matches = memorization.match(training, texts)
  longest = memorization.longest_copies(texts, matches, _sources(training), count=3)
  assert [(copy.text, copy.sample) for copy in longest] == [
    ("the quick brown fox", 3),
    ("quick brown", 1),
    (" lazy dog", 3),
  ]


def test_copies_do_not_overlap_and_are_sorted_by_length():
  rng = random.Random(1)
  for _ in range(20):
    training, text = _texts("abcdef", rng)
    (matches,) = memorization.match(training, [text])
    copies = memorization.copies_in(text, matches, _sources(training), 9)
    counts = np.zeros(len(text), int)
    for copy in copies:
      assert text[copy.position :].startswith(copy.text) and training[copy.place :].startswith(
        copy.text
      )
      counts[copy.position : copy.position + copy.length] += 1
    assert counts.max() == 1
    lengths = [copy.length for copy in copies]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] == matches.lengths.max()


def test_a_repetitive_copied_text_is_fast():
  training = "ab" * 100_000
  (matches,) = memorization.match(training, [training])
  assert matches.lengths.tolist() == list(range(len(training), 0, -1))
  assert [
    copy.length for copy in memorization.copies_in(training, matches, _sources(training))
  ] == [len(training)]


def test_metrics_of_known_matches():
  (matches,) = memorization.match("abcdefghij" * 4, ["abcdefgxyz" + "q" * 20])
  items = {name: np.mean(m.items(matches)) for name, m in memorization.METRICS.items()}
  assert items["longest match"] == sum(range(8)) / 30
  assert items["novel 5-grams"] == 23 / 26
  assert items["novel 10-grams"] == 1
