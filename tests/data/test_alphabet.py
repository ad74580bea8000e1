"""Text -> ids -> text loses nothing, and what cannot be read is named."""

import dataclasses
import json

import numpy as np
import pytest

from charrnn import errors
from charrnn.data import alphabet as alphabet_lib

ODD = "\ufeffa\r\nb\0c\té€😀\U0010ffff\udc80 \n"


def _random_texts(seed=0, count=30):
  rng = np.random.default_rng(seed)
  for _ in range(count):
    points = rng.integers(0, rng.choice([128, 0xD800, 0x110000]), size=rng.integers(1, 200))
    yield "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000) or "x"


@pytest.mark.parametrize("kind", alphabet_lib.KINDS)
def test_round_trips(kind):
  for text in _random_texts():
    alphabet = alphabet_lib.Alphabet.of_text(text, kind)
    ids = alphabet.encode(text)
    assert alphabet.decode(ids) == text
    assert ids.dtype == alphabet.dtype
    assert list(alphabet.counts) == np.bincount(ids, minlength=alphabet.size).tolist()
    assert list(alphabet.symbols) == sorted(set(alphabet.symbols))


def test_odd_characters_survive_ids_and_json(tmp_path):
  alphabet = alphabet_lib.Alphabet.of_text(ODD)
  alphabet.save(tmp_path / "alphabet.json")
  loaded = alphabet_lib.Alphabet.load(tmp_path / "alphabet.json")
  assert loaded == alphabet
  assert loaded.decode(loaded.encode(ODD)) == ODD
  assert [file.name for file in tmp_path.glob("*.json*")] == ["alphabet.json"]


@pytest.mark.parametrize("size, dtype", [(256, np.uint8), (257, np.uint16), (70_000, np.uint32)])
def test_ids_are_as_small_as_they_can_be(size, dtype):
  points = np.delete(np.arange(0x20000), np.s_[0xD800:0xE000])[:size]
  alphabet = alphabet_lib.Alphabet.of_text("".join(map(chr, points)))
  assert alphabet.dtype == dtype
  assert alphabet.encode(alphabet.symbols[-1]) == [size - 1]


def test_foreign_characters_are_named_with_place_and_remedy():
  alphabet = alphabet_lib.Alphabet.of_text("abc")
  with pytest.raises(errors.UserError) as caught:
    alphabet.encode("ab\tcé" + "0123456789")
  message = str(caught.value)
  assert r"'\t' (U+0009), 'é' (U+00E9), '0' (U+0030)" in message
  assert "and 4 more, first at character 2" in message
  assert "--config.init_from" in message and "--config.text.alphabet=byte" in message


def test_bytes_read_any_text_also_what_a_shell_could_not_decode():
  alphabet = alphabet_lib.Alphabet.of_text("abc", "byte")
  assert alphabet.size == 256
  assert alphabet.encode("é\udcff").tolist() == [0xC3, 0xA9, 0xFF]
  assert alphabet.decode([0xC3, 0xA9, 0xFF]) == "é\ufffd"
  with pytest.raises(errors.UserError, match=r"U\+D800"):
    alphabet.encode("\ud800")


@pytest.mark.parametrize("kind", alphabet_lib.KINDS)
def test_a_stream_decodes_as_the_whole(kind):
  text = "é€😀" * 5
  alphabet = alphabet_lib.Alphabet.of_text(text, kind)
  ids, decoder = alphabet.encode(text), alphabet.decoder()
  assert "".join(decoder.decode(ids[i : i + 1]) for i in range(len(ids))) == text
  assert decoder.decode([], final=True) == ""


def test_a_stream_that_ends_inside_a_character_says_so():
  decoder = alphabet_lib.Alphabet.of_text("é", "byte").decoder()
  assert decoder.decode([0xC3]) == ""
  assert decoder.decode([], final=True) == "\ufffd"


@pytest.mark.parametrize("kind", alphabet_lib.KINDS)
@pytest.mark.parametrize("text, start", [("aab\n", "\n"), ("abb", "b")])
def test_default_prime_is_a_line_end_or_the_commonest(kind, text, start):
  alphabet = alphabet_lib.Alphabet.of_text(text, kind)
  assert alphabet.symbols[alphabet.default_id()] == start


@pytest.mark.parametrize(
  "damage",
  [
    {"symbols": ["b", "a"]},
    {"symbols": ["ab", "c"]},
    {"counts": [1]},
    {"kind": "x"},
    {"kind": "byte"},
  ],
)
def test_damaged_json_is_told(tmp_path, damage):
  value = dataclasses.asdict(alphabet_lib.Alphabet.of_text("ab")) | damage
  path = tmp_path / "alphabet.json"
  path.write_text(json.dumps(value))
  with pytest.raises(errors.UserError, match=r"alphabet\.json is damaged"):
    alphabet_lib.Alphabet.load(path)


def test_cut_or_missing_json_is_told(tmp_path):
  path = tmp_path / "alphabet.json"
  with pytest.raises(errors.UserError, match="cannot read"):
    alphabet_lib.Alphabet.load(path)
  path.write_text('{"kind": "ch')
  with pytest.raises(errors.UserError, match="damaged"):
    alphabet_lib.Alphabet.load(path)
