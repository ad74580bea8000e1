"""Characters and bytes: encoding is lossless, and unknown characters are reported."""

import json

import numpy as np
import pytest

from charrnn import console, errors, files
from charrnn.data import tokenizers

KINDS = ("char", "byte")
ODD = "\ufeffa\r\nb\0c\té€😀\U0010ffff\udc80 \n"


def _random_texts(seed=0, count=30):
  rng = np.random.default_rng(seed)
  for _ in range(count):
    points = rng.integers(0, rng.choice([128, 0xD800, 0x110000]), size=rng.integers(1, 200))
    yield "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000) or "x"


def load(path):
  return tokenizers.Tokenizer.from_json(files.read_sealed(path), str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_inverts_encoding(kind):
  for text in _random_texts():
    tokenizer = tokenizers.Tokenizer.from_text(text, kind)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.dtype == tokenizer.dtype
    assert list(tokenizer.counts) == np.bincount(ids, minlength=tokenizer.vocab_size).tolist()
    assert list(tokenizer.tokens) == sorted(set(tokenizer.tokens))


def test_unusual_characters_are_preserved_in_ids_and_json(tmp_path):
  tokenizer = tokenizers.Tokenizer.from_text(ODD)
  tokenizer.save(tmp_path / "alphabet.json")
  loaded = load(tmp_path / "alphabet.json")
  assert loaded == tokenizer
  assert loaded.decode(loaded.encode(ODD)) == ODD
  assert [file.name for file in tmp_path.glob("*.json*")] == ["alphabet.json"]


@pytest.mark.parametrize("size, dtype", [(256, np.uint8), (257, np.uint16), (70_000, np.uint32)])
def test_ids_have_the_smallest_possible_type(size, dtype):
  points = np.delete(np.arange(0x20000), np.s_[0xD800:0xE000])[:size]
  tokenizer = tokenizers.Tokenizer.from_text("".join(map(chr, points)))
  assert tokenizer.dtype == dtype
  assert tokenizer.encode(tokenizer.tokens[-1]) == [size - 1]


def test_unknown_characters_are_reported_with_position_and_remedy():
  tokenizer = tokenizers.Tokenizer.from_text("abc")
  with pytest.raises(errors.UserError) as caught:
    tokenizer.encode("ab\tcé" + "0123456789")
  message = str(caught.value)
  assert r"'\t' (U+0009), 'é' (U+00E9), '0' (U+0030)" in message
  assert "and 4 more, first at character 2" in message
  assert "--config.init_from" in message and "--config.text.tokenizer=byte" in message


def test_a_byte_tokenizer_encodes_any_text_and_undecodable_arguments():
  tokenizer = tokenizers.Tokenizer.from_text("abc", "byte")
  assert tokenizer.vocab_size == 256
  assert tokenizer.encode("é\udcff").tolist() == [0xC3, 0xA9, 0xFF]
  assert tokenizer.decode([0xC3, 0xA9, 0xFF]) == "é\udcff"
  with pytest.raises(errors.UserError, match=r"U\+D800"):
    tokenizer.encode("\ud800")


@pytest.mark.parametrize("kind", KINDS)
def test_incremental_decoding_gives_the_same_text(kind):
  text = "é€😀" * 5
  tokenizer = tokenizers.Tokenizer.from_text(text, kind)
  ids, decoder = tokenizer.encode(text), tokenizer.decoder()
  assert "".join(decoder.decode(ids[i : i + 1]) for i in range(len(ids))) == text
  assert decoder.decode([], final=True) == ""


def test_any_bytes_are_had_back_from_the_decoded_text():
  tokenizer = tokenizers.Tokenizer.from_text("x", "byte")
  everything = np.arange(256)
  for ids in (everything, everything[::-1], np.random.default_rng(0).integers(0, 256, 5000)):
    text = tokenizer.decode(ids)
    assert tokenizer.encode(text).tolist() == ids.tolist()
    assert console.encode(text) == bytes(ids.tolist())


def test_an_incomplete_character_at_the_end_is_kept_as_bytes():
  decoder = tokenizers.Tokenizer.from_text("é", "byte").decoder()
  assert decoder.decode([0xC3]) == ""
  assert decoder.decode([], final=True) == "\udcc3"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text, start", [("aab\n", "\n"), ("abb", "b")])
def test_the_default_id_is_a_line_end_or_the_most_frequent_token(kind, text, start):
  tokenizer = tokenizers.Tokenizer.from_text(text, kind)
  assert tokenizer.tokens[tokenizer.default_id()] == start


@pytest.mark.parametrize(
  "damage",
  [
    {"tokens": ["b", "a"]},
    {"tokens": ["ab", "c"]},
    {"counts": [1]},
    {"kind": "x"},
    {"kind": "byte"},
  ],
)
def test_damaged_json_is_reported(tmp_path, damage):
  value = tokenizers.Tokenizer.from_text("ab").to_json() | damage
  path = tmp_path / "alphabet.json"
  path.write_text(json.dumps(value))
  with pytest.raises(errors.UserError, match=r"alphabet\.json is damaged"):
    load(path)


def test_json_with_the_former_key_is_accepted():
  tokenizer = tokenizers.Tokenizer.from_text("abc")
  value = tokenizer.to_json()
  value["symbols"] = value.pop("tokens")
  assert tokenizers.Tokenizer.from_json(value) == tokenizer


def test_truncated_or_missing_json_is_reported(tmp_path):
  path = tmp_path / "alphabet.json"
  with pytest.raises(errors.UserError, match="is missing"):
    load(path)
  path.write_text('{"kind": "ch')
  with pytest.raises(errors.UserError, match="damaged"):
    load(path)
