"""Real text in pieces, and the control with its words in disorder."""

import re

import pytest

from charrnn.scorecards import c_source, samples, shakespeare

PLAY = "ROMEO:\nAy me! what's he?\nGone.\n\nJULIET:\nO, he is gone.\n \nROMEO:\nGone to-day\n"
C = "int f(int a)\n{\n\treturn a << 1; /* twice */\n}\n\nint g; // one\n"
BLANK = re.compile(r"\n\n")


@pytest.mark.parametrize(("text", "module"), [(PLAY, shakespeare), (C, c_source)])
def test_shuffling_moves_tokens_and_nothing_else(text, module):
  shuffled = samples.shuffled(text, module.TOKENS, seed=1)
  assert shuffled != text
  assert sorted(shuffled) == sorted(text)
  assert shuffled == samples.shuffled(text, module.TOKENS, seed=1)
  assert shuffled != samples.shuffled(text, module.TOKENS, seed=2)


def test_in_a_play_speakers_keep_their_places_and_words_stay_whole():
  shuffled = samples.shuffled(PLAY, shakespeare.TOKENS, seed=3)
  lines = [line for line in shuffled.split("\n") if line.endswith(":")]
  assert lines == ["ROMEO:", "JULIET:", "ROMEO:"]
  assert "what's" in shuffled
  assert re.sub(r"[\w']+", "w", shuffled) == re.sub(r"[\w']+", "w", PLAY)


def test_tokens_of_c_are_those_of_a_compiler():
  tokens = [match["token"] for match in c_source.TOKENS.finditer('a->b<<=c /* " */"\\"//"//d\n++e')]
  assert tokens == ["a", "->", "b", "<<=", "c", '/* " */', '"\\"//"', "//d", "++", "e"]


@pytest.mark.parametrize("size", [9, 12, 50, 1000])
def test_pieces_are_cut_as_samples_of_a_model_are(size):
  text = "".join(f"{'x' * (i % 7)}\n\n" for i in range(40)) + "rest"
  cuts, at = samples.pieces(text, size, BLANK), 0
  for cut in cuts:
    assert cut == text[at : at + size]
    at += len(samples.trimmed(cut, BLANK))
  whole = "".join(samples.complete(cuts, BLANK))
  assert text.startswith(whole) and len(text) - at < size / 2 and (len(whole) == at or at == 0)


def test_what_is_longer_than_a_sample_is_cut_and_its_rest_left_out():
  text = "a" * 25 + "\n\n" + "b" * 8 + "\n\n" + "c" * 9 + "\n\nd"
  assert samples.pieces(text, 10, BLANK) == ["a" * 10, "b" * 8 + "\n\n", "c" * 9 + "\n"]


def test_pieces_of_nothing_and_of_what_has_no_boundary():
  assert samples.pieces("", 10, BLANK) == []
  assert samples.pieces("abcd", 10, BLANK) == []
  assert samples.pieces("abc", 2, BLANK) == ["ab", "c"]
  assert samples.pieces("x" * 65, 20, BLANK) == ["x" * 20] * 3


def test_what_was_cut_off_is_left_out():
  assert samples.trimmed("a\n\nb\n\nc", BLANK) == "a\n\nb\n\n"
  assert samples.trimmed("abc", BLANK) == ""
  assert samples.complete(["a\n\nb", "cde", "f\n\n"], BLANK) == ["a\n\n", "f\n\n"]
  # A text of another kind has no such ends: it stays.
  assert samples.complete(["ab", "cde"], BLANK) == ["ab", "cde"]
  assert samples.trimmed(C + "int h()\n{\n  if (a) {", c_source.BOUNDARY) == C[: C.index("\nint g")]
