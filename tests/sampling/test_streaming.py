"""Streamed text has whole characters only, and ends before the stop text for any block size."""

import itertools

import numpy as np
import pytest

from charrnn import console
from charrnn.data import tokenizers
from charrnn.sampling import streaming

LETTERS = tokenizers.Tokenizer.from_text("abcd\n")


def stream_pieces(text, stop, sizes, tokenizer=LETTERS, prompt=""):
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
def test_ends_before_the_first_stop_for_any_block_size(text, stop):
  for size in range(1, len(text) + 1):
    pieces, stream = stream_pieces(text, stop, itertools.repeat(size))
    assert "".join(pieces) == text.split(stop)[0]
    assert stream.stopped == (stop in text)


def test_delays_only_text_that_may_begin_the_stop():
  pieces, _ = stream_pieces("cabab", "abd", itertools.repeat(1))
  assert pieces == ["c", "", "", "ab", "", "ab"]


def test_stop_inside_or_across_the_end_of_the_prompt_is_ignored():
  pieces, stream = stream_pieces("bcab", "ab", itertools.repeat(2), prompt="aba")
  assert (stream.prompt, "".join(pieces)) == ("aba", "bc")


def test_bytes_of_incomplete_characters_are_delayed_even_from_the_prompt():
  tokenizer = tokenizers.Tokenizer.from_text("x", "byte")
  euro = tokenizer.encode("€")
  stream = streaming.TextStream(tokenizer, euro[:1])
  assert [stream.prompt, stream.push(euro[1:2]), stream.push(euro[2:])] == ["", "", "€"]
  text = stream.push(euro[:2]) + stream.push([], final=True)
  assert console.encode(text) == euro[:2].tobytes()  # exactly the sampled bytes


def test_rows_stop_independently_and_the_last_ends_the_iteration():
  rows = np.stack([LETTERS.encode(text) for text in ("abcdab", "aabbab")])
  streams = [streaming.TextStream(LETTERS, stop=stop) for stop in ("b", "bb")]
  blocks = iter(np.split(rows, 3, axis=1))
  pieces = streaming.texts(blocks, streams)
  assert ["".join(column) for column in zip(*pieces)] == ["a", "aa"]
  assert len(list(blocks)) == 1  # the last block is never read
