"""Words and byte pairs: exact round trips, vocabularies of the training split, sizes in bytes."""

import json
import math
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from charrnn import config as config_lib
from charrnn import errors, files
from charrnn.data import batches, corpora, downloads, encoded, splits, tokenizers

KINDS = [name for name in tokenizers.KINDS if tokenizers.is_trained(name)]
SENTENCE = "The cat's 12 hats, naïve café 😀 sat\t\r\n"
TEXT = "".join(f"{SENTENCE}{word} " for word in ["rare", *"ab" * 200, "last"])
# Texts with letters of TEXT, and any other characters that can occur in decoded text.
ANY_TEXT = strategies.text(
  strategies.one_of(strategies.sampled_from(TEXT), strategies.characters(exclude_categories=["Cs"]))
)
TRAINED = {kind: tokenizers.Tokenizer.from_text(TEXT, kind, 300) for kind in KINDS}


def _read(path):
  return tokenizers.Tokenizer.from_json(files.read_sealed(path), str(path))


def _load(path, text: str, kind: str, **options) -> corpora.Corpus:
  path.write_text(text, newline="")
  return corpora.load(str(path), tokenizer=kind, **options)


def _splits(corpus: corpora.Corpus) -> splits.Splits:
  options = corpus.provenance["options"]["split"]
  divided = splits.split(corpus.provenance["characters"], *options)
  return divided.map(dict(corpus.provenance["boundaries"]))


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(text=ANY_TEXT)
@hypothesis.settings(deadline=None, max_examples=100)
def test_every_text_is_restored_and_measured_exactly(kind, text):
  tokenizer = TRAINED[kind]
  content = tokenizer.read(text)
  assert content.text(0, len(content.ids)) == text
  assert content.size([(0, len(content.ids))]).bytes == len(text.encode())
  decoder = tokenizer.decoder()
  pieces = [decoder.decode(content.ids[n : n + 1]) for n in range(len(content.ids))]
  assert "".join(pieces) == tokenizer.decode(content.ids)
  assert decoder.decode([], final=True) == ""
  assert kind == "word" or "".join(pieces) == text


@pytest.mark.parametrize("kind", KINDS)
def test_words_and_pieces_are_shorter_than_characters(kind):
  content = TRAINED[kind].read(TEXT)
  assert len(content.ids) < 0.7 * len(TEXT)
  assert content.ids.dtype == TRAINED[kind].dtype
  assert TRAINED[kind].vocab_size <= 300


def test_words_are_runs_of_letters_and_digits_and_rare_ones_are_unknown():
  tokenizer = TRAINED["word"]
  content = tokenizer.read("The café's rare_zebra")
  texts = [content.text(n, n + 1) for n in range(len(content.ids))]
  assert texts == ["The", " ", "café", "'", "s", " ", "rare", "_", "zebra"]
  names = [tokenizer.tokens[n] for n in content.ids]
  unknown = tokenizers.UNKNOWN
  assert names == ["The", " ", "café", "'", "s", " ", unknown, unknown, unknown]
  assert tokenizer.writable.tolist() == [False] + [True] * (tokenizer.vocab_size - 1)
  with pytest.raises(errors.UserError, match="not in the vocabulary: 'rare', '_', 'zebra'") as e:
    tokenizer.encode("The café's rare_zebra")
  assert "\n" not in str(e.value)


def test_an_unknown_word_costs_its_spelling():
  """The spelling is a code: over all words of bytes, its probabilities add up to 1."""
  tokenizer = TRAINED["word"]
  p = [math.exp(-tokenizer.spelling(bytes([byte]))) for byte in range(256)]
  end = math.exp(-tokenizer.spelling(b""))
  # Words of length n have total probability (1 - end)^n end.
  assert sum(p) == pytest.approx((1 - end) * end)
  assert tokenizer.spelling(b"ab") == pytest.approx(
    tokenizer.spelling(b"a") + tokenizer.spelling(b"b") - tokenizer.spelling(b"")
  )
  content = tokenizer.read("zebra sat")
  size = content.size([(0, 3)])
  assert size == (3, 9, 1, 5, pytest.approx(tokenizer.spelling(b"zebra")))
  assert size.bits_per_byte(2.0) == pytest.approx((6 + size.spelling) / math.log(2) / 9)


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_a_uniform_model_of_bytes_has_the_same_bits_per_byte_with_all_tokenizers(kind):
  """A model that gives every byte p = 1/256 has 8 bits per byte, however its bytes are grouped."""
  tokenizer = tokenizers.Tokenizer.from_text(TEXT, kind, 300)
  content = tokenizer.read(TEXT[: len(SENTENCE) * 3])
  length = len(content.ids)
  bytes_N, _ = content.sizes(0, length)
  known_N = bytes_N[content.ids > 0] if kind == "word" else bytes_N
  size = content.size([(0, length)])
  nats = known_N.sum() * math.log(256) / length  # <UNK> costs nothing, but is spelled
  extra = size.spelling - size.unknown_bytes * math.log(256)
  expected = 8 + extra / math.log(2) / size.bytes
  assert size.bits_per_byte(nats) == pytest.approx(expected)
  assert size.bytes == len(TEXT[: len(SENTENCE) * 3].encode())


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_is_learned_from_the_training_split_alone(tmp_path, kind):
  split = ("tail", 0.1, 0.1)
  train = int(0.8 * len(TEXT))
  held_out = len(TEXT) - train
  texts = [TEXT, TEXT[:train] + "Ω" * held_out, TEXT[:train] + ("xyz zyx " * held_out)[:held_out]]
  corpora_ = [_load(tmp_path / f"{n}", t, kind, split=split) for n, t in enumerate(texts)]
  assert len({json.dumps(c.tokenizer.to_json()) for c in corpora_}) == 1
  assert len({len(c.ids) for c in corpora_}) > 1
  first = corpora_[0]
  (span,) = _splits(first).train
  counts = np.bincount(first.ids[span.start : span.stop], minlength=first.tokenizer.vocab_size)
  assert first.tokenizer.counts == tuple(counts.tolist())
  changed = _load(tmp_path / "changed", "zebra " * train + TEXT[train:], kind, split=split)
  assert changed.tokenizer != first.tokenizer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["tail", "middle"])
@pytest.mark.parametrize("valid, test", [(0.05, 0.05), (0.137, 0.0), (0.0, 0.31)])
def test_no_token_crosses_a_split_or_a_document(tmp_path, kind, split, valid, test):
  folder = tmp_path / "texts"
  folder.mkdir()
  for n in range(3):
    (folder / f"{n}.txt").write_text(TEXT[: 1000 + 7 * n], newline="")
  options = {"split": (split, valid, test), "vocab_size": 300}
  corpus = corpora.load(str(folder), tokenizer=kind, **options)
  whole = corpora.load(str(folder)).text(0, 10**6)
  characters = splits.split(len(whole), split, valid, test)
  for ours, theirs in zip(_splits(corpus), characters):
    assert [corpus.text(*span) for span in ours] == [whole[a:b] for a, b in theirs]
  texts = [corpus.text(each.start, each.stop) for each in corpus.documents]
  assert texts == [TEXT[: 1000 + 7 * n] + "\n" for n in range(2)] + [TEXT[:1014]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 3, 1 << 20])
def test_ids_do_not_depend_on_blocks(tmp_path, monkeypatch, kind, block):
  text = TEXT[:2000]
  expected = _load(tmp_path / "a.txt", text, kind).ids.tolist()
  monkeypatch.setattr(downloads, "BLOCK", block)
  monkeypatch.setattr(corpora, "_FORMAT", block + 10)  # another cache entry
  corpus = corpora.load(str(tmp_path / "a.txt"), tokenizer=kind)
  assert corpus.ids.tolist() == expected
  assert corpus.text(0, len(corpus.ids)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_small_pieces_divide_no_token(tmp_path, monkeypatch, kind):
  expected = _load(tmp_path / "a.txt", TEXT, kind)
  monkeypatch.setattr(corpora, "CHUNK", 40)
  monkeypatch.setattr(corpora, "_FORMAT", 10)
  corpus = corpora.load(str(tmp_path / "a.txt"), tokenizer=kind)
  assert corpus.ids.tolist() == expected.ids.tolist()
  long = _load(tmp_path / "b.txt", "x" * 1000 + TEXT, kind)  # longer than a piece
  assert long.text(0, len(long.ids)) == "x" * 1000 + TEXT


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_is_learned_once_and_mapped(tmp_path, monkeypatch, kind):
  first = _load(tmp_path / "a.txt", TEXT, kind)
  monkeypatch.setattr(corpora, "_publish", None)  # Nothing is built.
  again = corpora.load(str(tmp_path / "a.txt"), tokenizer=kind)
  assert isinstance(again.ids, np.memmap) and not again.ids.flags.writeable
  assert again.ids.tolist() == first.ids.tolist() and again.provenance == first.provenance
  assert again.tokenizer == first.tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_tokenizer_is_kept(tmp_path, kind):
  """A run keeps its vocabulary, whatever another version of a package would learn."""
  own = tokenizers.Tokenizer.from_text(TEXT[:500], kind, 280)
  corpus = _load(tmp_path / "a.txt", TEXT, kind, known=own)
  assert corpus.tokenizer.tokens == own.tokens
  assert corpus.text(0, len(corpus.ids)) == TEXT
  again = corpora.load(str(tmp_path / "a.txt"), tokenizer=kind, known=corpus.tokenizer)
  assert again.ids.tolist() == corpus.ids.tolist()


def test_sizes_are_chosen_and_limited(tmp_path):
  assert [tokenizers.Pieces.default_size(n) for n in (10, 10**6, 10**12)] == [512, 1024, 32768]
  assert [tokenizers.Words.default_size(n) for n in (10, 10**6, 10**12)] == [1024, 8192, 65536]
  for kind, size, message in [
    ("char", 5, "--vocab-size=5: only for the tokenizers word and bpe: remove it"),
    ("bpe", 255, "--vocab-size=255: must be from 256 to 262144 with the tokenizer bpe"),
    ("word", 1, "--vocab-size=1: must be from 2"),
  ]:
    with pytest.raises(errors.UserError, match=message):
      _load(tmp_path / "a.txt", TEXT, kind, vocab_size=size, options="--")
  for kind in KINDS:
    assert _load(tmp_path / "a.txt", TEXT, kind, vocab_size=260).tokenizer.vocab_size <= 260
  with pytest.raises(errors.UserError, match="no word occurs 2 times in the training split"):
    _load(tmp_path / "b.txt", "x" * 100, "word")


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"vocab_size": 300}, "text.vocab_size=300: only for the tokenizers word and bpe"),
    ({"tokenizer": "bpe", "vocab_size": 100}, "text.vocab_size=100: must be from 256"),
    ({"tokenizer": "word", "split": "streams"}, "text.split=streams: needs the tokenizer char or"),
  ],
)
def test_impossible_fields_are_refused_before_anything_is_loaded(fields, message):
  c = config_lib.default()
  c.text.update(fields)
  with pytest.raises(errors.UserError, match=message) as error:
    config_lib.check(c)
  assert "\n" not in str(error.value)


def test_the_boundaries_of_a_run_are_checked():
  c = config_lib.default()
  boundaries = [[0, 0], [90, 30], [95, 32], [100, 35]]
  assert config_lib.split(c, 35, boundaries) == (((0, 30),), ((30, 32),), ((32, 35),))
  with pytest.raises(errors.UserError, match="no boundary at character 90: restore run"):
    config_lib.split(c, 35, [[0, 0], [100, 35]])
  provenance = {"characters": 100, "boundaries": boundaries}
  assert corpora.layout(provenance) == (35, boundaries, None) and corpora.is_valid_layout(
    provenance
  )
  assert corpora.layout({"characters": 100}) == (100, [], None)
  for wrong in (
    "x",
    [[0]],
    [[0, 0], [5, "a"]],
    [[0, 1], [5, 5]],
    [[0, 0], [5, 9], [9, 8]],
    {},
    [3],
  ):
    assert not corpora.is_valid_layout({"boundaries": wrong})


@pytest.mark.parametrize("kind", KINDS)
def test_json_restores_the_tokenizer(tmp_path, kind):
  TRAINED[kind].save(tmp_path / "alphabet.json")
  loaded = _read(tmp_path / "alphabet.json")
  assert loaded == TRAINED[kind]
  assert loaded.read(TEXT).ids.tolist() == TRAINED[kind].read(TEXT).ids.tolist()


def _doubling(count: int) -> list[list[int]]:
  return [[255, 255], *([n, n] for n in range(256, 255 + count))]


BPE = {"kind": "bpe", "merges": [[97, 98]], "counts": [1] * 257}
WORD = {"kind": "word", "tokens": ["<UNK>", "a"], "counts": [1, 1], "letters": [1] * 257}


@pytest.mark.parametrize(
  "value",
  [
    BPE | {"merges": [[97, 257]]},
    BPE | {"merges": [[-1, 98]]},
    BPE | {"merges": [[97]]},
    BPE | {"merges": [[97.0, 98]]},
    BPE | {"merges": [["a", "b"]]},
    BPE | {"merges": 3},
    BPE | {"merges": None},
    BPE | {"merges": [97, 98]},
    BPE | {"counts": [1] * 256},
    BPE | {"counts": [-1] * 257},
    BPE | {"merges": _doubling(40), "counts": [1] * 296},  # tokens of 2^40 bytes
    WORD | {"tokens": ["a", "<UNK>"]},
    WORD | {"tokens": ["<UNK>", "a b"]},
    WORD | {"tokens": ["<UNK>", "<UNK>"]},
    WORD | {"tokens": ["<UNK>", 5]},
    WORD | {"tokens": ["<UNK>", "a" * 1000]},
    WORD | {"tokens": None},
    WORD | {"letters": [1] * 256},
    WORD | {"letters": [-1] * 257},
    WORD | {"letters": "x"},
    WORD | {"counts": [1]},
    WORD | {"kind": "sentence"},
    WORD | {"kind": ["word"]},
  ],
  ids=[str(n) for n in range(23)],
)
def test_a_hostile_vocabulary_gives_one_line(tmp_path, value):
  path, start = tmp_path / "alphabet.json", time.monotonic()
  path.write_text(json.dumps(files.seal(value)))
  with pytest.raises(errors.UserError, match=r"alphabet\.json is damaged") as error:
    _read(path)
  assert "\n" not in str(error.value) and time.monotonic() - start < 10


def test_valid_json_of_the_same_form_is_accepted():
  for value in (BPE, WORD):
    assert tokenizers.Tokenizer.from_json(value).vocab_size == len(value["counts"])


def test_texts_are_joined_and_cut_with_their_unknown_words():
  tokenizer = TRAINED["word"]
  texts = ["zebra sat, rare", "yak", "The cat"]
  joined = encoded.join([tokenizer.read(text) for text in texts])
  assert joined.text(0, len(joined.ids)) == "".join(texts)
  assert joined.first(3).text(0, 3) == "zebra sat"
  assert joined.first(None).ids.tolist() == joined.ids.tolist()
  size = joined.size(batches.scorable_spans([(0, len(joined.ids))], [0, 6]))
  assert (size.unknown_tokens, size.unknown_bytes) == (1, 4)  # zebra and yak are not scored


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_is_cut_while_it_is_read_gives_one_line(tmp_path, monkeypatch, kind):
  path, read = tmp_path / "a.txt", tokenizers.KINDS[kind].train
  path.write_text(TEXT, newline="")

  def train(*arguments):
    tokenizer = read(*arguments)
    path.write_text(TEXT[:-5], newline="")
    return tokenizer

  monkeypatch.setattr(tokenizers.KINDS[kind], "train", train)
  with pytest.raises(errors.UserError, match="changed while it was read: run again"):
    corpora.load(str(path), tokenizer=kind)
