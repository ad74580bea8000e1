"""Error types: each oracle removes errors planted where no earlier oracle applies."""

import re

import numpy as np
import pytest

from charrnn.data import tokenizers
from charrnn.evaluation import error_analysis as oracles

RNG = np.random.default_rng(0)
FIRST, SECOND, ENDS = "kmnp", "abcdefgh", (" ", ", ", "; ", "\n")
# The next character is unpredictable, except that a space follows a comma or a semicolon. `mu`
# occurs five times and `mv` six.
WORDS = [f"{RNG.choice(list(FIRST))}{RNG.choice(list(SECOND))}" for _ in range(4000)]
for number in range(11):
  WORDS[300 * (number + 1)] = "mu" if number < 5 else "mv"
TRAINING = "".join(word + ENDS[RNG.integers(4)] for word in WORDS)
ALPHABET = tokenizers.Tokenizer.from_text(TRAINING + "zebra'\"_42?é\t")
FILLING = re.sub("mu|mv", "mb", TRAINING)


@pytest.fixture(scope="module")
def training():
  ids = ALPHABET.encode("zebra " + TRAINING)  # The first 6 characters are not training text.
  return oracles.count_training(ids, [(6, len(ids))], ALPHABET.tokens)


def named(training, text, p, *, start=0, begins=(0,)):
  """Return the type of every character from `start` on, or None."""
  places = np.arange(start, len(text))
  types = oracles.classify(training, ALPHABET.encode(text), places, np.asarray(p)[start:], begins)
  return [None if kind == oracles.NONE else oracles.TYPES[kind] for kind in types]


def errors_in(training, text, at, p=0.05, **where):
  """Return the types of the errors of a text, which are planted at the positions `at`."""
  p_N = np.full(len(text), 0.9)
  p_N[list(at)] = p
  names = named(training, text, p_N, **where)
  start = where.get("start", 0)
  assert [n + start for n, name in enumerate(names) if name] == sorted(at)
  return [name for name in names if name]


def test_a_character_that_an_ngram_predicts_is_an_ngram_error(training):
  text = FILLING[:600] + "ka, nb"
  assert errors_in(training, text, [603]) == ["n-gram"]


@pytest.mark.parametrize(
  ("distance", "name"),
  [
    *((100, "memory 100"), (101, "memory 500"), (500, "memory 500"), (501, "memory 1000")),
    *((1000, "memory 1000"), (1001, "memory 5000"), (5000, "memory 5000"), (5001, "rare word")),
  ],
)
def test_a_repeated_word_is_a_memory_error(training, distance, name):
  between = FILLING[: distance - 6] + " "
  text = FILLING[5000:5600] + "\nzebra" + between + "zebra"
  second = text.rindex("zebra")
  assert second - text.index("zebra") == distance
  # Memory does not cover the first character of a word; the oracle of rare words does.
  assert errors_in(training, text, range(second, second + 5)) == ["rare word"] + [name] * 4


def test_words_match_inside_longer_words_and_are_case_sensitive(training):
  assert errors_in(training, "ezebrae zebra ", [9]) == ["memory 100"]
  ids = ALPHABET.encode("Zebra zebra".replace("Z", "e"))
  types = oracles.classify(training, ids, np.arange(11), np.where(np.arange(11) == 7, 0.1, 1), [0])
  assert oracles.TYPES[types[7]] == "rare word"


def test_oracles_do_not_look_back_beyond_a_document(training):
  text = "zebra\nzebra"
  assert errors_in(training, text, [8]) == ["memory 100"]
  assert errors_in(training, text, [8], begins=[0, 6]) == ["rare word"]
  text = "ka, "
  assert errors_in(training, text, [3]) == ["n-gram"]
  assert errors_in(training, text, [3], begins=[0, 3]) == ["boost 0.5"]


def test_memory_includes_text_before_the_scored_span(training):
  assert errors_in(training, "zebra\nzebra", [8], start=7) == ["memory 100"]


def test_words_that_are_rare_in_the_training_text(training):
  text = FILLING[:600] + " mu mv"
  # The first character of a rare word is a rare-word error too.
  assert errors_in(training, text, [601, 602, 604, 605]) == [
    *("rare word", "rare word", "word start", "boost 0.5")
  ]


@pytest.mark.parametrize(
  ("text", "name"),
  [
    *(("ka |kb", "word start"), ("ka\n|kb", "word start"), ("ka?|kb", "word start")),
    *(("ka | ", "word start"), ('"|?', "word start"), ("ka|?", "punctuation")),
    *(("ka|'", "punctuation"), ("?|?", "punctuation"), ("ka|_", "rare word")),
    *(("ka|4", "rare word"), ("'4|2", "rare word"), ("ka'|kb", "rare word")),
    *(("ka| ", "boost 0.5"), ("ka|\t", "boost 0.5"), ("k|a", "boost 0.5")),
  ],
)
def test_type_of_the_character_after_the_bar(training, text, name):
  assert errors_in(training, text.replace("|", ""), [text.index("|")]) == [name]


def test_remaining_errors_are_classified_by_the_missing_probability(training):
  text = "".join(f"{a}{b} " for a in "km" for b in SECOND)
  p = [0.5, 0.45, 0.4, 0.39, 0.3, 0.25, 0.1, 0.09, 0.0, np.nan]
  p_N = np.full(len(text), 0.9)
  p_N[1:30:3] = p
  assert named(training, text, p_N)[1:30:3] == [
    *(None, "boost 0.1", "boost 0.1", "boost 0.2", "boost 0.2", "boost 0.3", "boost 0.4"),
    *("boost 0.5", "boost 0.5", None),
  ]


def test_each_error_is_counted_once_and_the_shares_add_up_to_1(training):
  rng = np.random.default_rng(1)
  text = FILLING[:2000] + " zebra? " * 20 + FILLING[3000:4000]
  places = np.concatenate([np.arange(5, 1500), np.arange(1700, len(text))])
  p = rng.random(len(places))
  p[:3] = np.nan
  types = oracles.classify(training, ALPHABET.encode(text), places, p, [0, 900])
  np.testing.assert_array_equal(types != oracles.NONE, p < 0.5)
  counts = oracles.table(types, len(places) - 3)
  assert counts["errors"] == (p < 0.5).sum() == sum(row["count"] for row in counts["types"])
  assert sum(row["share"] for row in counts["types"]) == pytest.approx(1)
  assert [row["type"] for row in counts["types"]] == list(oracles.TYPES)
  lines = list(oracles.lines(counts))
  assert lines[0].startswith(f"{counts['errors']:,} errors") and lines[-1].endswith("0.0%")


def test_a_text_without_errors(training):
  counts = oracles.table(np.full(7, oracles.NONE), 7)
  assert counts["errors"] == 0 and {row["share"] for row in counts["types"]} == {0.0}
  assert len(list(oracles.lines(counts))) == 2 + len(oracles.TYPES)


def test_a_byte_vocabulary(training):
  tokenizer = tokenizers.Tokenizer.from_text(TRAINING, "byte")
  ids = tokenizer.encode(TRAINING + "é\udcff")
  statistics = oracles.count_training(ids, [(0, len(ids))], tokenizer.tokens)
  p = np.full(len(ids), 0.1)
  types = oracles.classify(statistics, ids, np.arange(len(ids)), p, [0])
  assert (types != oracles.NONE).all()


def test_a_training_text_of_a_few_characters():
  ids = ALPHABET.encode("ka")
  statistics = oracles.count_training(ids, [(0, 2)], ALPHABET.tokens)
  assert (
    oracles.classify(statistics, ids, np.arange(2), np.full(2, 0.1), [0]) != oracles.NONE
  ).all()
