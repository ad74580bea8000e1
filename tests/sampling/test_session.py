"""A session is one text, read and written by one state."""

import types

import jax
import numpy as np
import pytest
import toys

from charrnn.data import tokenizers
from charrnn.sampling import automata, generate, options, session

ALPHABET = tokenizers.Tokenizer.from_text("\nabcdefghi")
LENGTH = 20


@pytest.fixture(scope="module")
def loaded():
  model, params = toys.lstm_params(vocab=ALPHABET.vocab_size)
  return types.SimpleNamespace(model=model, params=params, tokenizer=ALPHABET)


def begin(loaded, prompt="", length=LENGTH, seed=3, stop=None, **more):
  asked = automata.build([], [], stop, ALPHABET, length)
  return session.Session(
    loaded,
    ALPHABET.encode(prompt),
    length=length,
    seed=seed,
    settings=options.Settings(more.pop("temperature", 1.0)),
    automaton=asked,
    **more,
  )


def sampled(loaded, prompt, length=LENGTH, temperature=1.0):
  blocks = generate.generate(
    loaded.model,
    loaded.params,
    ALPHABET.encode(prompt),
    length=length,
    num=1,
    seed=3,
    settings=options.Settings(temperature),
  )
  return "".join(ALPHABET.decode(block[0]) for block in blocks)


def turn(each, line):
  each.read(ALPHABET.encode(line))
  return "".join(each.write())


@pytest.mark.parametrize("stop", [None, "a", "\n"])
def test_two_prompts_are_one_text_with_what_was_written_between(loaded, stop):
  talk = begin(loaded, temperature=0.0, stop=stop)
  first = turn(talk, "abc\n")
  before = talk._state
  second = turn(talk, "hi\n")
  assert first and (stop is None or first.endswith(stop) or len(first) == LENGTH)
  whole = sampled(loaded, "abc\n" + first + "hi\n", temperature=0.0)
  assert second == (whole if stop is None else whole[: whole.find(stop) + 1 or None])
  expected = generate.prime(loaded.model, loaded.params, ALPHABET.encode("abc\n" + first), 1)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), before, expected)


def test_going_on_is_one_sample_and_the_seed_decides_it(loaded):
  talk = begin(loaded, "abc")
  pieces = [turn(talk, ""), turn(talk, ""), turn(talk, "")]
  assert "".join(pieces) == sampled(loaded, "abc", 3 * LENGTH)
  other = begin(loaded, "abc", seed=4)
  assert turn(other, "") != pieces[0]


def test_without_any_prompt_a_line_end_stands_before(loaded):
  assert turn(begin(loaded), "") == sampled(loaded, "\n")


def test_what_was_not_taken_was_not_written(loaded):
  talk = begin(loaded, "abc", length=200)
  pieces = talk.write()
  first = next(pieces) + next(pieces)
  pieces.close()
  assert len(first) == 2 * session.BLOCK
  assert first + turn(talk, "") == sampled(loaded, "abc", 200 + len(first))


def test_a_clamp_holds_while_it_writes(loaded):
  where = np.arange(8) == 2
  clamp = {"layer_1": {"c": (where[None], np.full((1, 8), 3.0, np.float32))}}
  talk = begin(loaded, "abc", clamp=clamp)
  turn(talk, "")
  assert talk._state[1][1].c[0, 2] == 3.0
  talk.read(ALPHABET.encode("a"))
  assert talk._state[1][1].c[0, 2] != 3.0
