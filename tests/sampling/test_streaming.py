"""Text as it comes: whole characters only, and an end before the stop text wherever it is cut."""

import itertools

import numpy as np
import pytest

from charrnn.data import tokenizers
from charrnn.sampling import streaming

LETTERS = tokenizers.Tokenizer.from_text("abcd\n")


def pieces_of(text, stop, sizes, tokenizer=LETTERS, prompt=""):
  ids = tokenizer.encode(text)
  stream = streaming.TextStream(tokenizer, tokenizer.encode(prompt), stop)
  ends = [0, *itertools.takewhile(lambda end: end < len(ids), itertools.accumulate(sizes))]
  blocks = [ids[None, a:b] for a, b in itertools.pairwise([*ends, len(ids)])]
  return [piece for (piece,) in streaming.texts(blocks, [stream])], stream


@pytest.mark.parametrize(
  "text, stop",
  [
    ("abcabdabc", "abd"),
    ("aaaab", "aab"),
    ("abababac", "ababac"),
    ("abc", "abc"),
    ("abc", "d"),
    ("abcab", "abcd"),
    ("ab\n\ncd", "\n\n"),
  ],
)
def test_ends_before_the_first_stop_however_it_is_cut(text, stop):
  for size in range(1, len(text) + 1):
    pieces, stream = pieces_of(text, stop, itertools.repeat(size))
    assert "".join(pieces) == text.split(stop)[0]
    assert stream.stopped == (stop in text)


def test_holds_back_no_more_than_what_may_begin_the_stop():
  pieces, _ = pieces_of("cabab", "abd", itertools.repeat(1))
  assert pieces == ["c", "", "", "ab", "", "ab"]


def test_a_stop_in_the_prompt_or_across_its_end_does_not_count():
  pieces, stream = pieces_of("bcab", "ab", itertools.repeat(2), prompt="aba")
  assert (stream.prompt, "".join(pieces)) == ("aba", "bc")


def test_bytes_wait_for_their_character_even_those_of_the_prompt():
  tokenizer = tokenizers.Tokenizer.from_text("x", "byte")
  euro = tokenizer.encode("€")
  stream = streaming.TextStream(tokenizer, euro[:1])
  assert [stream.prompt, stream.push(euro[1:2]), stream.push(euro[2:])] == ["", "", "€"]
  text = stream.push(euro[:2]) + stream.push([], final=True)
  assert streaming.encode(text, tokenizer) == euro[:2].tobytes()  # exactly what was sampled


def test_rows_stop_on_their_own_and_the_last_one_ends_the_work():
  rows = np.stack([LETTERS.encode(text) for text in ("abcdab", "aabbab")])
  streams = [streaming.TextStream(LETTERS, stop=stop) for stop in ("b", "bb")]
  blocks = iter(np.split(rows, 3, axis=1))
  pieces = streaming.texts(blocks, streams)
  assert ["".join(column) for column in zip(*pieces)] == ["a", "aa"]
  assert len(list(blocks)) == 1  # never read
