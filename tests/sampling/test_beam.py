"""Beam search agrees with enumeration, with greedy sampling and with rescored texts."""

import itertools
import re

import numpy as np
import pytest
import toys
from scipy import special

from charrnn import errors
from charrnn.data import tokenizers
from charrnn.evaluation import score
from charrnn.sampling import beam, constraints, sampler

ABC = tokenizers.Tokenizer.from_text("abc")
MAX_LENGTH = 5
# Logits differ by step. In a plain Markov chain, texts with the same transitions would tie.
TABLE = np.random.default_rng(8).normal(size=(MAX_LENGTH, 3, 3))
CHAIN = toys.Clocked()


@pytest.fixture(scope="module")
def lstm():
  return toys.lstm_params()


def search(k, length, require=(), forbid=(), stop=None, **more):
  required = [constraints.Regex("--require", text) for text in require]
  forbidden = [constraints.Regex("--forbid", text) for text in forbid]
  automaton = constraints.build(required, forbidden, stop, ABC, length)
  result = beam.search_ids(
    CHAIN, TABLE.astype(np.float32), [0], length=length, beam=k, automaton=automaton, **more
  )
  return [(ABC.decode(ids_N), log_p) for ids_N, log_p in result]


def ranked(texts):
  """Return [(text, log p after an a)], most probable first."""
  log_p = special.log_softmax(TABLE, axis=-1)
  ids = {text: [0, *ABC.encode(text)] for text in texts}
  steps = {text: (range(len(text)), ids[text][:-1], ids[text][1:]) for text in texts}
  scored = [(text, log_p[steps[text]].sum()) for text in texts]
  return sorted(scored, key=lambda each: -each[1])


def all_texts(length):
  return ["".join(each) for each in itertools.product("abc", repeat=length)]


def assert_same(result, expected):
  assert [text for text, _ in result] == [text for text, _ in expected]
  np.testing.assert_allclose([p for _, p in result], [p for _, p in expected], atol=1e-5)


@pytest.mark.parametrize("block", [3, 64])
def test_wide_beam_equals_enumeration(block):
  expected = ranked(all_texts(4))
  assert_same(search(27, 4, block=block), expected[:27])
  assert_same(search(100, 4, block=block), expected)  # only 81 texts exist


def test_beam_1_equals_temperature_0(lstm):
  model, params = lstm
  greedy = sampler.draw(
    model, params, [3, 1], length=200, num=1, seed=0, settings=sampler.Settings(0)
  )
  ((ids_N, _),) = beam.search_ids(model, params, [3, 1], length=200, beam=1)
  np.testing.assert_array_equal(
    ids_N, np.concatenate([block.ids_BxN for block in greedy], axis=1)[0]
  )


def test_log_p_matches_the_rescored_text(lstm):
  model, params = lstm
  result = beam.search_ids(model, params, [3, 1], length=70, beam=6)
  ids_BxN = np.stack([ids_N for ids_N, _ in result])
  assert len({tuple(ids_N) for ids_N in ids_BxN.tolist()}) == 6
  _, nats_BxN = score.rescore(model, params, [3, 1], ids_BxN, sampler.Settings())
  log_p = -nats_BxN.sum(1, dtype=float)
  np.testing.assert_allclose([each for _, each in result], log_p, atol=2e-3)
  assert sorted(log_p, reverse=True) == pytest.approx(log_p, abs=2e-3)
  ((_, greedy),) = beam.search_ids(model, params, [3, 1], length=70, beam=1)
  assert result[0][1] > greedy


def test_constrained_wide_beam_equals_enumeration_of_allowed_texts():
  good = [text for text in all_texts(5) if re.search("bb", text) and not re.search("ca|^a", text)]
  assert_same(search(200, 5, ["bb"], ["ca|^a"]), ranked(good))


def test_ended_texts_compete_by_total_log_p():
  stopped = [text + "cb" for n in range(4) for text in all_texts(n) if "cb" not in text + "c"]
  whole = [text for text in all_texts(5) if "cb" not in text]
  assert_same(search(400, 5, stop="cb"), ranked(stopped + whole))
  # A narrow beam keeps a text that ended early if it is probable enough.
  (best, _), *_ = ranked(stopped + whole)
  assert search(12, 5, stop="cb")[0][0] == best == "ccb"


def test_search_stops_when_all_texts_have_ended(monkeypatch):
  run, calls = beam._run, []
  monkeypatch.setattr(beam, "_run", lambda *args: calls.append(0) or run(*args))
  assert search(2, 1000, ["^ab$"], block=4) == [("ab", pytest.approx(ranked(["ab"])[0][1]))]
  assert len(calls) == 1


def test_length_0():
  assert search(4, 0) == [("", 0.0)]


def test_diverged_model_is_an_error():
  with pytest.raises(errors.UserError, match="diverged"):
    beam.search_ids(CHAIN, np.full((9, 3, 3), np.nan, np.float32), [0], length=3, beam=2)


@pytest.mark.parametrize("k, num", [(0, 1), (-1, 1), (4097, 1), (2, 3)])
def test_invalid_beam_and_num(k, num):
  with pytest.raises(errors.UserError, match=f"^--(beam={k}|num={num}): must be"):
    beam.check(k, num)
