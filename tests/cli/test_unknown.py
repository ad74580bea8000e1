"""Characters that are not in the vocabulary: refused by name, or skipped and counted."""

import pytest

from charrnn import runtime
from charrnn.data import tokenizers

TEXT = "7 green bottles\n"


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)


@pytest.mark.parametrize(
  ("kind", "text", "known", "skipped"),
  [
    ("char", "aXbaYX", "aba", {"X": 2, "Y": 1}),
    ("byte", "a\xff😀", "a\xff😀", {}),
    ("word", "to bes to", "to  to", {"bes": 1}),
    ("bpe", "a😀", "a😀", {}),
  ],
)
def test_the_parts_that_are_skipped_are_those_that_encode_refuses(kind, text, known, skipped):
  size = 300 if kind == "bpe" else 10
  tokenizer = tokenizers.Tokenizer.from_text("ab to be to be", kind, size)
  assert tokenizer.skip_unknown(text) == (known, skipped)
  assert tokenizer.decode(tokenizer.encode(known)) == known


def test_unknown_characters_of_a_file(charrnn, trained, tmp_path):
  paths = tmp_path / "known.txt", tmp_path / "unknown.txt"
  for path, line in zip(paths, (TEXT, "7 gÄreenß bottÄles\n")):
    path.write_text(line * 20)
  refused = charrnn("eval", trained["a"], paths[1])
  assert refused.code == 2 and refused.err.count("\n") == 1
  assert "unknown.txt: not in the vocabulary: 'Ä' (U+00C4), 'ß' (U+00DF)" in refused.err
  known, skipped = (charrnn("eval", trained["a"], p, "--json", "--unknown=skip") for p in paths)
  assert known.json["results"][0]["nats"] == skipped.json["results"][0]["nats"]
  assert "skipped 60 characters not in the vocabulary: 'Ä' (40), 'ß' (20)" in skipped.err
  assert "skipped" not in known.err


def test_unknown_characters_of_a_prompt(charrnn, trained):
  options = ("--length=5", "--seed=1")
  refused = charrnn("sample", trained["a"], "--prime=7 gÄ", *options)
  assert refused.code == 2 and "'Ä' (U+00C4)" in refused.err
  expected = charrnn("sample", trained["a"], "--prime=7 g", *options)
  skipped = charrnn("sample", trained["a"], "--prime=7 gÄ", *options, "--unknown=skip")
  assert skipped.out == expected.out
  assert "the prompt: skipped 1 character not in the vocabulary: 'Ä' (1)" in skipped.err
