"""Splitting text into samples, and the shuffled control."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from charrnn.data import splits, tokenizers
from charrnn.models import ngram
from charrnn.scorecards import c, plays, systems

PLAY = "ROMEO:\nAy me! what's he?\nGone.\n\nJULIET:\nO, he is gone.\n \nROMEO:\nGone to-day\n"
SOURCE = "int f(int a)\n{\n\treturn a << 1; /* twice */\n}\n\nint g; // one\n"
BLANK = re.compile(r"\n\n")


@pytest.mark.parametrize(("text", "module"), [(PLAY, plays), (SOURCE, c)])
def test_shuffling_permutes_only_tokens(text, module):
  shuffled = systems.shuffle(text, module.DOMAIN.tokens, seed=1)
  assert shuffled != text
  assert sorted(shuffled) == sorted(text)
  assert shuffled == systems.shuffle(text, module.DOMAIN.tokens, seed=1)
  assert shuffled != systems.shuffle(text, module.DOMAIN.tokens, seed=2)


def test_shuffling_a_play_keeps_labels_and_whole_words():
  shuffled = systems.shuffle(PLAY, plays.DOMAIN.tokens, seed=3)
  lines = [line for line in shuffled.split("\n") if line.endswith(":")]
  assert lines == ["ROMEO:", "JULIET:", "ROMEO:"]
  assert "what's" in shuffled
  assert re.sub(r"[\w']+", "w", shuffled) == re.sub(r"[\w']+", "w", PLAY)


def test_tokens_of_c():
  tokens = [match["token"] for match in c.DOMAIN.tokens.finditer('a->b<<=c /* " */"\\"//"//d\n++e')]
  assert tokens == ["a", "->", "b", "<<=", "c", '/* " */', '"\\"//"', "//d", "++", "e"]


@pytest.mark.parametrize("size", [9, 12, 50, 1000])
def test_pieces_begin_where_the_previous_one_is_trimmed(size):
  text = "".join(f"{'x' * (i % 7)}\n\n" for i in range(40)) + "rest"
  pieces, position = systems.cut(text, size, BLANK), 0
  for piece in pieces:
    assert piece == text[position : position + size]
    position += len(systems.trim(piece, BLANK))
  joined = "".join(systems.complete(pieces, BLANK))
  assert text.startswith(joined) and len(text) - position < size / 2
  assert len(joined) == position or position == 0


def test_a_short_remainder_is_dropped():
  text = "a" * 25 + "\n\n" + "b" * 8 + "\n\n" + "c" * 9 + "\n\nd"
  assert systems.cut(text, 10, BLANK) == ["a" * 10, "b" * 8 + "\n\n", "c" * 9 + "\n"]


def test_text_without_a_boundary_is_split_by_size():
  assert systems.cut("", 10, BLANK) == []
  assert systems.cut("abcd", 10, BLANK) == []
  assert systems.cut("abc", 2, BLANK) == ["ab", "c"]
  assert systems.cut("x" * 65, 20, BLANK) == ["x" * 20] * 3


def test_incomplete_ends_are_dropped():
  assert systems.trim("a\n\nb\n\nc", BLANK) == "a\n\nb\n\n"
  assert systems.trim("abc", BLANK) == ""
  assert systems.complete(["a\n\nb", "cde", "f\n\n"], BLANK) == ["a\n\n", "f\n\n"]
  # Text of another domain has no boundaries and is returned unchanged.
  assert systems.complete(["ab", "cde"], BLANK) == ["ab", "cde"]
  assert (
    systems.trim(SOURCE + "int h()\n{\n  if (a) {", c.DOMAIN.boundary)
    == SOURCE[: SOURCE.index("\nint g")]
  )


def test_targets_with_the_same_name_are_told_apart_by_their_folders(tmp_path):
  paths = [tmp_path / name for name in ("one/trial", "two/trial", "two/other")]
  assert systems.target_names(paths) == ["one/trial", "two/trial", "other"]
  for path in paths:
    path.parent.mkdir(exist_ok=True)
    path.write_text("text")
  systems.write_samples(tmp_path / "out", {name: ["text"] for name in systems.target_names(paths)})
  names = {"one-trial.txt", "two-trial.txt", "other.txt"}
  assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_the_ngram_of_documents_reads_no_other_document():
  """The first character depends on the beginnings of documents only, with their frequencies."""
  documents = ["ab"] * 90 + ["cd"] * 9 + ["ce"]
  tokenizer = tokenizers.Characters(
    (90, 90, 10, 9, 1, 99), ("a", "b", "c", "d", "e", "<END>"), "\n"
  )
  ids = np.array([5, *(i for each in documents for i in (*map("abcde".index, each), 5))])
  corpus = SimpleNamespace(ids=ids, tokenizer=tokenizer)
  divided = SimpleNamespace(
    corpus=corpus, splits=splits.consecutive(1, len(ids), len(ids), len(ids))
  )
  for order in (2, 4):
    model, params = ngram.Model(6, order), systems._fit(divided, order)
    prompt = np.full((order - 1, 1), 5)
    logits_TxBxV, _, _ = model.apply(params, prompt, model.initial_carry(1))
    p = np.exp(logits_TxBxV[-1, 0])
    assert p[0] == pytest.approx(0.9, abs=0.03) and p[2] == pytest.approx(0.1, abs=0.03)
