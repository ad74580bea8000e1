"""Filters, draws, sessions and samples: exact repeats, independent of how they are cut up.

Draws follow the model's own distribution.
"""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from scipy import stats

from charrnn import errors
from charrnn.data import tokenizers
from charrnn.sampling import constraints, sampler


@pytest.mark.parametrize(
  "name, values",
  {
    "temperature": (-1.0, float("nan"), float("inf"), 1e31),
    "top_k": (0, -5, 2**31),
    "top_p": (0.0, -0.1, 1.01, float("nan")),
  }.items(),
)
def test_settings_out_of_range(name, values):
  for value in values:
    start = f"--{name.replace('_', '-')}={value}: must be"
    with pytest.raises(errors.UserError, match="^" + re.escape(start)):
      sampler.Settings(**{name: value})


def test_settings_at_the_ends_of_their_ranges():
  sampler.Settings()
  sampler.Settings(temperature=0, top_k=1, top_p=1)
  sampler.Settings(temperature=1e30, top_k=2**31 - 1, top_p=1e-30)


@pytest.mark.parametrize("name, value", [("length", -1), ("num", 0), ("seed", -1), ("seed", 2**32)])
def test_counts_out_of_range(name, value):
  with pytest.raises(errors.UserError, match=f"^--{name}={value}: must be"):
    sampler.check(**{"length": 0, "num": 1, "seed": 2**32 - 1} | {name: value})


filter_logits = jax.jit(sampler.filter_logits)


def random_logits(rng, B=6, V=13):
  """Some flat, some peaked, some with ties and some with impossible symbols."""
  logits = rng.normal(size=(B, V)) * rng.choice([0.3, 2.0, 20.0], size=(B, 1))
  logits[0] = np.round(logits[0])
  logits[1, 2:5] = -np.inf
  return logits.astype(np.float32)


def allowed(logits):
  return [set(np.flatnonzero(row > -np.inf).tolist()) for row in np.asarray(logits)]


def softmax(logits):
  p = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def falling(row):
  return sorted(range(len(row)), key=lambda i: (-row[i], i))


@pytest.mark.parametrize("T", [0.0, 1e-300, 1e-38])
def test_temperature_towards_0_is_argmax_in_every_row(T):
  logits = np.random.default_rng(0).normal(size=(50, 9)).astype(np.float32)
  p = softmax(np.asarray(filter_logits(logits, T)))
  np.testing.assert_array_equal(p, np.eye(9)[logits.argmax(-1)])


def test_temperature_0_takes_the_first_of_equals():
  assert allowed(filter_logits(np.float32([[1, 3, 3, 2], [0, 0, 0, 0]]), 0.0)) == [{1}, {0}]


def test_temperature_1_keeps_the_distribution_and_a_large_one_makes_it_uniform():
  logits = random_logits(np.random.default_rng(1))
  np.testing.assert_allclose(
    softmax(np.asarray(filter_logits(logits, 1.0))), softmax(logits), rtol=1e-5
  )
  uniform = softmax(np.asarray(filter_logits(logits, 1e30)))
  possible = logits > -np.inf
  np.testing.assert_allclose(uniform, possible / possible.sum(-1, keepdims=True), rtol=1e-6)


def test_top_k_keeps_the_first_k_in_order():
  rng = np.random.default_rng(2)
  for k in (1, 2, 5, 13, 14, 2**31 - 1):
    logits = random_logits(rng)
    possible = allowed(logits)
    expected = [set(falling(row)[:k]) & s for row, s in zip(logits, possible)]
    assert allowed(filter_logits(logits, 1.0, k)) == expected
  assert allowed(sampler.keep_top_k(jnp.zeros((2, 5)), 3)) == [{0, 1, 2}] * 2


def test_top_p_keeps_the_smallest_set_that_reaches_p():
  rng = np.random.default_rng(3)
  for _ in range(100):
    logits, p = random_logits(rng), rng.uniform(0.05, 0.999)
    for row, probabilities, result in zip(
      logits, softmax(logits), allowed(filter_logits(logits, 1.0, None, p))
    ):
      order = falling(row)
      assert result == set(order[: len(result)])
      mass = probabilities[order].cumsum()
      assert mass[len(result) - 1] >= p - 1e-6
      assert len(result) == 1 or mass[len(result) - 2] < p + 1e-6


def test_top_p_at_its_ends():
  logits = random_logits(np.random.default_rng(4)) / 4
  assert allowed(sampler.keep_top_p(logits, 1.0)) == allowed(logits)
  assert allowed(sampler.keep_top_p(logits, 1e-30)) == [{falling(row)[0]} for row in logits]
  # Powers of two are exact: the mass of the first two is 0.75 and reaches it.
  assert allowed(sampler.keep_top_p(np.log2([[0.25, 0.5, 0.25]]) * np.log(2), 0.75)) == [{0, 1}]


def test_top_p_sees_what_temperature_and_top_k_left():
  logits = np.log(np.float32([[0.4, 0.3, 0.2, 0.1]]))
  assert allowed(filter_logits(logits, 1.0, None, 0.55)) == [{0, 1}]
  assert allowed(filter_logits(logits, 1.0, 2, 0.55)) == [{0}]  # 0.4 of 0.7
  assert allowed(filter_logits(logits, 0.25, None, 0.55)) == [{0}]
  assert allowed(filter_logits(logits, 100.0, None, 0.55)) == [{0, 1, 2}]


def test_nothing_is_ever_nan_or_empty():
  logits = random_logits(np.random.default_rng(5)) * 1e3
  grid = itertools.product((0.0, 1e-38, 0.5, 1e30), (None, 1, 4), (None, 1e-30, 0.5, 1.0))
  for T, k, p in grid:
    out = np.asarray(filter_logits(logits, T, k, p))
    assert not np.isnan(out).any()
    assert out.max(-1).min() > -np.inf


PROMPT = np.array([3, 1, 4, 1, 5], np.uint8)


@pytest.fixture(scope="module")
def lstm():
  return toys.lstm_params()


def draw(model, params, prompt=PROMPT, *, length=50, num=1, seed=7, block=16, **settings):
  settings = sampler.Settings(**settings)
  blocks = sampler.draw(
    model, params, prompt, length=length, num=num, seed=seed, settings=settings, block=block
  )
  return np.concatenate([np.zeros((num, 0), np.int32), *(b.ids_BxN for b in blocks)], axis=1)


@pytest.mark.parametrize("P", [1, 5, 127, 128, 129, 400])
def test_priming_in_chunks_is_priming_in_one_call(lstm, P):
  model, params = lstm
  ids_P = np.random.default_rng(P).integers(0, 11, P)
  logits, carry = sampler.prime(model, params, ids_P, 2)
  expected, expected_carry, _ = model.apply(
    params, jnp.array(np.stack([ids_P, ids_P], axis=1)), model.initial_carry(2)
  )
  np.testing.assert_allclose(logits, expected[-1], atol=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), carry, expected_carry)


def test_prompts_of_any_length_share_two_programs():
  model, table = toys.Chain(), jnp.zeros((4, 4))
  before = sampler.read_chunk._cache_size(), sampler._read_first._cache_size()
  for P in (1, 2, 77, 128, 200, 1000):
    _, carry = sampler.prime(model, table, np.zeros(P, np.int64), 1)
    assert carry["read"].tolist() == [P]
  after = sampler.read_chunk._cache_size(), sampler._read_first._cache_size()
  assert [a - b for a, b in zip(after, before)] == [1, 1]


def test_greedy_is_argmax_by_hand(lstm):
  model, params = lstm
  logits, carry, _ = model.apply(params, jnp.array(PROMPT)[:, None], model.initial_carry(1))
  expected, step = [], jax.jit(model.apply)
  for _ in range(30):
    expected.append(int(logits[-1, 0].argmax()))
    logits, carry, _ = step(params, jnp.array([[expected[-1]]]), carry)
  assert draw(model, params, length=30, num=2, temperature=0).tolist() == [expected] * 2
  assert len(set(expected)) > 2


def test_the_seed_decides_the_text(lstm):
  text = draw(*lstm)
  np.testing.assert_array_equal(draw(*lstm), text)
  assert (draw(*lstm, seed=8) != text).any()


def test_neither_block_nor_num_nor_length_changes_a_row(lstm):
  rows = draw(*lstm, num=3)
  assert len({tuple(row) for row in rows.tolist()}) == 3
  for block in (1, 7, 64):
    np.testing.assert_array_equal(draw(*lstm, num=3, block=block), rows)
  np.testing.assert_array_equal(draw(*lstm, num=1), rows[:1])
  np.testing.assert_array_equal(draw(*lstm, num=3, length=20), rows[:, :20])


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 40])
def test_the_length_is_exact(length):
  ids = draw(toys.Chain(), toys.cycle(5), [4], length=length, num=2)
  assert ids.tolist() == [[t % 5 for t in range(length)]] * 2


def test_the_next_block_is_under_way_before_one_is_fetched(monkeypatch):
  run, started = sampler._run, []
  monkeypatch.setattr(sampler, "_run", lambda *args: started.append(0) or run(*args))
  blocks = sampler.draw(
    toys.Chain(), toys.cycle(3), [0], length=9, num=1, seed=0, settings=sampler.Settings(), block=3
  )
  assert [len(started) for _ in blocks] == [2, 3, 3]


def test_other_settings_compile_nothing_new():
  model, table = toys.Chain(), jnp.zeros((4, 4))
  draw(model, table, [0], temperature=1.0, top_k=3, top_p=0.5)
  before = sampler._run._cache_size()
  draw(model, table, [0], temperature=0.0, top_k=1, top_p=0.9, seed=3, length=99)
  assert sampler._run._cache_size() == before


def chi_square(observed, p):
  """The chance of a fit as bad as this one if p is true."""
  count = np.bincount(observed.ravel(), minlength=len(p))
  assert not count[p == 0].any()
  return stats.chisquare(count[p > 0], p[p > 0] * observed.size).pvalue


P_FIXED = np.array([0.4, 0.05, 0.3, 0.05, 0.2])


@pytest.mark.parametrize(
  "settings, expected",
  [
    ({}, P_FIXED),
    ({"temperature": 0.5}, P_FIXED**2 / (P_FIXED**2).sum()),
    ({"temperature": 1e30}, np.full(5, 0.2)),
    ({"top_k": 3}, np.array([4, 0, 3, 0, 2]) / 9),
    ({"top_p": 0.6}, np.array([4, 0, 3, 0, 0]) / 7),
  ],
)
def test_samples_follow_the_filtered_distribution(settings, expected):
  table = np.tile(np.log(P_FIXED), (5, 1)).astype(np.float32)
  ids = draw(toys.Chain(), table, [0], length=400, num=50, block=100, **settings)
  assert chi_square(ids, expected) > 0.001
  # Neighbours in a row and between rows are independent.
  for a, b in ((ids[:, 1:], ids[:, :-1]), (ids[1:], ids[:-1])):
    assert chi_square(5 * a + b, np.outer(expected, expected).ravel()) > 0.001


def test_a_diverged_model_is_named():
  with pytest.raises(errors.UserError, match="diverged"):
    draw(toys.Chain(), np.full((3, 3), np.nan, np.float32), [0], temperature=0)


def test_bad_counts_fail_before_anything_is_read():
  with pytest.raises(errors.UserError, match="--num=0"):
    sampler.draw(None, None, [], length=1, num=0, seed=0, settings=sampler.Settings())


LETTERS = tokenizers.Tokenizer.from_text("\nabcdefghi")
LENGTH = 20


@pytest.fixture(scope="module")
def source():
  model, params = toys.lstm_params(vocab=LETTERS.vocab_size)
  return sampler.Source(model, params, LETTERS)


def begin(source, prompt="", length=LENGTH, seed=3, stop=None, **more):
  automaton = constraints.build([], [], stop, LETTERS, length)
  return sampler.Session(
    source,
    LETTERS.encode(prompt),
    length=length,
    seed=seed,
    settings=sampler.Settings(more.pop("temperature", 1.0)),
    automaton=automaton,
    **more,
  )


def sampled(source, prompt, length=LENGTH, temperature=1.0):
  settings = sampler.Settings(temperature)
  (text,) = sampler.sample_texts(
    source, prompt=prompt, length=length, num=1, seed=3, settings=settings
  )
  return text


def turn(each, line):
  each.read(LETTERS.encode(line))
  return "".join(each.write())


@pytest.mark.parametrize("stop", [None, "a", "\n"])
def test_two_prompts_are_one_text_with_what_was_written_between(source, stop):
  talk = begin(source, temperature=0.0, stop=stop)
  first = turn(talk, "abc\n")
  before = talk._state
  second = turn(talk, "hi\n")
  assert first and (stop is None or first.endswith(stop) or len(first) == LENGTH)
  whole = sampled(source, "abc\n" + first + "hi\n", temperature=0.0)
  assert second == (whole if stop is None else whole[: whole.find(stop) + 1 or None])
  expected = sampler.prime(source.model, source.params, LETTERS.encode("abc\n" + first), 1)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), before, expected)


def test_going_on_is_one_sample_and_the_seed_decides_it(source):
  talk = begin(source, "abc")
  pieces = [turn(talk, ""), turn(talk, ""), turn(talk, "")]
  assert "".join(pieces) == sampled(source, "abc", 3 * LENGTH)
  other = begin(source, "abc", seed=4)
  assert turn(other, "") != pieces[0]


def test_without_any_prompt_a_line_end_stands_before(source):
  assert turn(begin(source), "") == sampled(source, "\n")


def test_what_was_not_taken_was_not_written(source):
  talk = begin(source, "abc", length=200)
  pieces = talk.write()
  first = next(pieces) + next(pieces)
  pieces.close()
  assert len(first) == 2 * sampler.SESSION_BLOCK
  assert first + turn(talk, "") == sampled(source, "abc", 200 + len(first))


def test_a_clamp_holds_while_it_writes(source):
  where = np.arange(8) == 2
  clamp = {"layer_1": {"c": (where[None], np.full((1, 8), 3.0, np.float32))}}
  talk = begin(source, "abc", clamp=clamp)
  turn(talk, "")
  assert talk._state[1][1].c[0, 2] == 3.0
  talk.read(LETTERS.encode("a"))
  assert talk._state[1][1].c[0, 2] != 3.0
