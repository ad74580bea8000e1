"""Rare characters and words: those that are replaced by <UNK>, and what they cost."""

import json
import math
import os

import numpy as np
import pytest

from charrnn import errors
from charrnn.data import corpora, documents, tokenizers

UNK = tokenizers.UNKNOWN
LINES = [
  f"{'abcdé'[n % 5]}{'abc' * (n % 4)} {'xyzß😀'[n % 5] if n % 7 == 0 else 'b'}" for n in range(200)
]
TEXT = "\n".join([*LINES, "Ω"]) + "\n"


def _load(path, text=TEXT, min_count=12, **options) -> corpora.Corpus:
  path.write_text(text, newline="")
  return corpora.load(str(path), min_count=min_count, **options)


def _options(tmp_path, layout: str) -> dict:
  if layout == "sources":
    (tmp_path / "valid.txt").write_text("Ωa\nb\r\n")
    return {"valid_source": str(tmp_path / "valid.txt")}
  return {} if layout == "none" else {"documents": layout}


@pytest.mark.parametrize("layout", ["none", "lines", "sources"])
@pytest.mark.parametrize("min_count", [1, 12])
def test_characters_that_are_rare_in_the_training_split_are_unknown(tmp_path, layout, min_count):
  options = _options(tmp_path, layout)
  corpus = _load(tmp_path / "a.txt", min_count=min_count, **options)
  whole = _load(tmp_path / "a.txt", min_count=0, **options)
  text = whole.text(0, len(whole.ids))
  assert corpus.text(0, len(corpus.ids)) == text  # <UNK> does not hide what it replaces
  assert [corpus.text(n, n + 1) for n in range(0, 400, 7)] == [*text[0:400:7]]

  divided = corpora.layout(corpus.provenance).splits
  if divided is None:
    length = len(text)
    train = [(0, int(0.9 * length))]
  else:
    train = divided.train
  training = "".join(text[a:b] for a, b in train)
  known = {each for each in training if training.count(each) >= min_count}
  tokens = [corpus.tokenizer.tokens[n] for n in corpus.ids]
  end = corpus.tokenizer.end_id
  expected = [c if c in known else UNK for c in text]
  expected = [tokenizers.END if end == n else c for n, c in zip(corpus.ids, expected)]
  assert tokens == expected
  assert min_count == 1 or 0 < tokens.count(UNK) < len(text) / 3
  assert corpus.tokenizer.counts == tuple(np.bincount(corpus.ids).tolist())
  assert (end is None) == (layout != "lines") and end in (None, corpus.tokenizer.vocab_size - 1)

  size = corpus.size([(0, len(text))])
  letters = [c.encode() for c, token in zip(text, tokens) if token == UNK]
  assert size.bytes == len(text.encode()) and size.unknown_tokens == len(letters)
  assert size.spelling == pytest.approx(sum(map(corpus.tokenizer.spelling, letters)))
  assert UNK in corpora.unwritable(corpus, divided or corpora.splits.Splits((), (), ()))
  assert any("held-out tokens" in line for line in corpora.describe(corpus))
  again = _load(tmp_path / "b.txt", min_count=min_count, **options)  # from the cache
  assert again.tokenizer == corpus.tokenizer and again.text(0, 10**6) == text


def test_the_spelling_of_a_character_is_a_code(tmp_path):
  """UTF-8 is a prefix code, so the probabilities of all characters add up to less than 1."""
  tokenizer = _load(tmp_path / "a.txt").tokenizer
  p = [math.exp(-tokenizer.spelling(bytes([byte]))) for byte in range(256)]
  assert sum(p) == pytest.approx(1)
  assert tokenizer.spelling("ß".encode()) == pytest.approx(
    sum(tokenizer.spelling(bytes([byte])) for byte in "ß".encode())
  )


def test_unknown_characters_are_scored_but_neither_encoded_nor_written(tmp_path):
  for options in ({}, {"documents": "lines"}):
    tokenizer = _load(tmp_path / "a.txt", **options).tokenizer
    stored = json.loads(json.dumps(tokenizer.to_json()))
    assert tokenizers.Tokenizer.from_json(stored) == tokenizer
    for change in ({"letters": [0] * 257}, {"letters": [-1] * 256}, {"letters": 5}):
      with pytest.raises(errors.UserError, match="is damaged"):
        tokenizers.Tokenizer.from_json(stored | change)
    with pytest.raises(errors.UserError, match="is damaged"):
      tokenizers.Tokenizer.from_json({k: v for k, v in stored.items() if k != "letters"})
    assert [t for t, ok in zip(tokenizer.tokens, tokenizer.writable) if not ok] == [UNK]
    with pytest.raises(errors.UserError, match=r"'Ω'.*a lower --config\.text\.min_count"):
      tokenizer.encode("aΩ")
    assert tokenizer.skip_unknown("aΩb") == ("ab", {"Ω": 1})
    kind = options.get("documents", "none")
    content = documents.read(tokenizer, "aΩ\nb", kind)
    assert content.text(0, len(content.ids)).strip() == "aΩ\nb"
    assert content.size([(0, len(content.ids))]).unknown_tokens == 1
    assert not tokenizer.has_characters and UNK in tokenizer.other_tokens


def test_a_known_vocabulary_is_kept_and_its_text_is_cached_once(tmp_path, cache_folder):
  known = tokenizers.Tokenizer.from_text("Ωw")
  for min_count in (0, 12):
    options = {"min_count": min_count, "keeps": True}
    corpus = _load(tmp_path / "a.txt", known=known, **options)
    plain = _load(tmp_path / "a.txt", min_count=min_count)
    assert {*corpus.tokenizer.tokens} == {*plain.tokenizer.tokens, "Ω", "w"}
    entries = set(os.listdir(cache_folder))
    # The run keeps its own vocabulary. A run without <UNK> does not get that of its source.
    for each in (corpus.tokenizer, known):
      again = _load(tmp_path / "a.txt", known=each, **options)
      assert again.tokenizer == corpus.tokenizer
      assert again.ids.tolist() == corpus.ids.tolist()
    assert set(os.listdir(cache_folder)) == entries
  whole = _load(tmp_path / "a.txt", known=corpus.tokenizer, min_count=0, keeps=True)
  assert UNK not in whole.tokenizer.tokens and "Ω" in whole.tokenizer.tokens


def test_min_count_of_words(tmp_path):
  text = "one two two three three three " * 4 + "four\n" + "end " * 20
  vocabularies = {
    n: _load(tmp_path / "a.txt", text, n, tokenizer="word").tokenizer.tokens for n in (0, 1, 5)
  }
  assert "four" in vocabularies[1] and "four" not in vocabularies[0]
  assert {*vocabularies[0]} - {*vocabularies[5]} == {"one"}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"tokenizer": "byte"}, "--min-count=12: only for the tokenizers char and word: remove it"),
    ({"tokenizer": "bpe"}, "--min-count=12: only for the tokenizers char and word: remove it"),
    ({"min_count": -1}, "--min-count=-1: must be at least 1"),
    ({"min_count": 10**6}, "no character occurs 1000000 times in the training split"),
    ({"min_count": 10**6, "tokenizer": "word"}, "no word occurs 1000000 times in the training"),
  ],
)
def test_impossible_counts_are_refused(tmp_path, options, message):
  with pytest.raises(errors.UserError, match=message) as error:
    _load(tmp_path / "a.txt", **{"options": "--", **options})
  assert "\n" not in str(error.value)
