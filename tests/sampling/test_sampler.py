"""Filters, sampling and sessions: results are reproducible and do not depend on the block size.

Samples follow the model's distribution.
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


def test_settings_at_the_limits_of_their_ranges():
  sampler.Settings()
  sampler.Settings(temperature=0, top_k=1, top_p=1)
  sampler.Settings(temperature=1e30, top_k=2**31 - 1, top_p=1e-30)


@pytest.mark.parametrize("name, value", [("length", -1), ("num", 0), ("seed", -1), ("seed", 2**32)])
def test_counts_out_of_range(name, value):
  with pytest.raises(errors.UserError, match=f"^--{name}={value}: must be"):
    sampler.check(**{"length": 0, "num": 1, "seed": 2**32 - 1} | {name: value})


filter_logits = jax.jit(sampler.filter_logits)


def random_logits(rng, B=6, V=13):
  """Return flat and peaked logits; row 0 has ties and row 1 has impossible tokens."""
  logits = rng.normal(size=(B, V)) * rng.choice([0.3, 2.0, 20.0], size=(B, 1))
  logits[0] = np.round(logits[0])
  logits[1, 2:5] = -np.inf
  return logits.astype(np.float32)


def possible_ids(logits):
  return [set(np.flatnonzero(row > -np.inf).tolist()) for row in np.asarray(logits)]


def softmax(logits):
  p = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def ids_by_logit(row):
  return sorted(range(len(row)), key=lambda i: (-row[i], i))


@pytest.mark.parametrize("T", [0.0, 1e-300, 1e-38])
def test_temperature_near_0_is_argmax(T):
  logits = np.random.default_rng(0).normal(size=(50, 9)).astype(np.float32)
  p = softmax(np.asarray(filter_logits(logits, T)))
  np.testing.assert_array_equal(p, np.eye(9)[logits.argmax(-1)])


def test_temperature_0_resolves_ties_by_id():
  assert possible_ids(filter_logits(np.float32([[1, 3, 3, 2], [0, 0, 0, 0]]), 0.0)) == [{1}, {0}]


def test_temperature_1_changes_nothing_and_a_large_one_gives_a_uniform_distribution():
  logits = random_logits(np.random.default_rng(1))
  np.testing.assert_allclose(
    softmax(np.asarray(filter_logits(logits, 1.0))), softmax(logits), rtol=1e-5
  )
  uniform = softmax(np.asarray(filter_logits(logits, 1e30)))
  possible = logits > -np.inf
  np.testing.assert_allclose(uniform, possible / possible.sum(-1, keepdims=True), rtol=1e-6)


def test_top_k_keeps_the_k_largest():
  rng = np.random.default_rng(2)
  for k in (1, 2, 5, 13, 14, 2**31 - 1):
    logits = random_logits(rng)
    possible = possible_ids(logits)
    expected = [set(ids_by_logit(row)[:k]) & s for row, s in zip(logits, possible)]
    assert possible_ids(filter_logits(logits, 1.0, k)) == expected
  assert possible_ids(sampler.keep_top_k(jnp.zeros((2, 5)), 3)) == [{0, 1, 2}] * 2


def test_top_p_keeps_the_smallest_set_that_reaches_p():
  rng = np.random.default_rng(3)
  for _ in range(100):
    logits, p = random_logits(rng), rng.uniform(0.05, 0.999)
    for row, probabilities, result in zip(
      logits, softmax(logits), possible_ids(filter_logits(logits, 1.0, None, p))
    ):
      order = ids_by_logit(row)
      assert result == set(order[: len(result)])
      mass = probabilities[order].cumsum()
      assert mass[len(result) - 1] >= p - 1e-6
      assert len(result) == 1 or mass[len(result) - 2] < p + 1e-6


def test_top_p_at_its_limits():
  logits = random_logits(np.random.default_rng(4)) / 4
  assert possible_ids(sampler.keep_top_p(logits, 1.0)) == possible_ids(logits)
  assert possible_ids(sampler.keep_top_p(logits, 1e-30)) == [
    {ids_by_logit(row)[0]} for row in logits
  ]
  # Powers of two are exact in float32: the mass of the first two is exactly 0.75.
  assert possible_ids(sampler.keep_top_p(np.log2([[0.25, 0.5, 0.25]]) * np.log(2), 0.75)) == [
    {0, 1}
  ]


def test_top_p_applies_after_temperature_and_top_k():
  logits = np.log(np.float32([[0.4, 0.3, 0.2, 0.1]]))
  assert possible_ids(filter_logits(logits, 1.0, None, 0.55)) == [{0, 1}]
  assert possible_ids(filter_logits(logits, 1.0, 2, 0.55)) == [{0}]  # 0.4 / 0.7 exceeds 0.55
  assert possible_ids(filter_logits(logits, 0.25, None, 0.55)) == [{0}]
  assert possible_ids(filter_logits(logits, 100.0, None, 0.55)) == [{0, 1, 2}]


def test_filters_never_give_nan_or_exclude_all_tokens():
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
def test_reading_in_chunks_equals_reading_in_one_call(lstm, P):
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


def test_greedy_sampling_equals_argmax_by_hand(lstm):
  model, params = lstm
  logits, carry, _ = model.apply(params, jnp.array(PROMPT)[:, None], model.initial_carry(1))
  expected, step = [], jax.jit(model.apply)
  for _ in range(30):
    expected.append(int(logits[-1, 0].argmax()))
    logits, carry, _ = step(params, jnp.array([[expected[-1]]]), carry)
  assert draw(model, params, length=30, num=2, temperature=0).tolist() == [expected] * 2
  assert len(set(expected)) > 2


def test_seed_determines_the_text(lstm):
  text = draw(*lstm)
  np.testing.assert_array_equal(draw(*lstm), text)
  assert (draw(*lstm, seed=8) != text).any()


def test_rows_do_not_depend_on_block_num_or_length(lstm):
  rows = draw(*lstm, num=3)
  assert len({tuple(row) for row in rows.tolist()}) == 3
  for block in (1, 7, 64):
    np.testing.assert_array_equal(draw(*lstm, num=3, block=block), rows)
  np.testing.assert_array_equal(draw(*lstm, num=1), rows[:1])
  np.testing.assert_array_equal(draw(*lstm, num=3, length=20), rows[:, :20])


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 40])
def test_length_is_exact(length):
  ids = draw(toys.Chain(), toys.cycle(5), [4], length=length, num=2)
  assert ids.tolist() == [[t % 5 for t in range(length)]] * 2


def test_next_block_starts_before_a_block_is_fetched(monkeypatch):
  run, calls = sampler._run, []
  monkeypatch.setattr(sampler, "_run", lambda *args: calls.append(0) or run(*args))
  blocks = sampler.draw(
    toys.Chain(), toys.cycle(3), [0], length=9, num=1, seed=0, settings=sampler.Settings(), block=3
  )
  assert [len(calls) for _ in blocks] == [2, 3, 3]


def test_new_settings_do_not_recompile():
  model, table = toys.Chain(), jnp.zeros((4, 4))
  draw(model, table, [0], temperature=1.0, top_k=3, top_p=0.5)
  before = sampler._run._cache_size()
  draw(model, table, [0], temperature=0.0, top_k=1, top_p=0.9, seed=3, length=99)
  assert sampler._run._cache_size() == before


def chi_square(observed, p):
  """Return the p-value of the observed tokens under the distribution p."""
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
  # Adjacent tokens in a row, and in adjacent rows, are independent.
  for a, b in ((ids[:, 1:], ids[:, :-1]), (ids[1:], ids[:-1])):
    assert chi_square(5 * a + b, np.outer(expected, expected).ravel()) > 0.001


def test_diverged_model_is_an_error():
  with pytest.raises(errors.UserError, match="diverged"):
    draw(toys.Chain(), np.full((3, 3), np.nan, np.float32), [0], temperature=0)


def test_invalid_counts_fail_before_the_prompt_is_read():
  with pytest.raises(errors.UserError, match="--num=0"):
    sampler.draw(None, None, [], length=1, num=0, seed=0, settings=sampler.Settings())


LETTERS = tokenizers.Tokenizer.from_text("\nabcdefghi")
LENGTH = 20


@pytest.fixture(scope="module")
def source():
  model, params = toys.lstm_params(vocab=LETTERS.vocab_size)
  return sampler.Source(model, params, LETTERS)


def make_session(source, prompt="", length=LENGTH, seed=3, stop=None, **more):
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


def sample_text(source, prompt, length=LENGTH, temperature=1.0):
  settings = sampler.Settings(temperature)
  (text,) = sampler.sample_texts(
    source, prompt=prompt, length=length, num=1, seed=3, settings=settings
  )
  return text


def turn(session, line):
  session.read(LETTERS.encode(line))
  return "".join(session.write())


@pytest.mark.parametrize("stop", [None, "a", "\n"])
def test_session_equals_sampling_after_the_whole_conversation(source, stop):
  session = make_session(source, temperature=0.0, stop=stop)
  first = turn(session, "abc\n")
  before = session._state
  second = turn(session, "hi\n")
  assert first and (stop is None or first.endswith(stop) or len(first) == LENGTH)
  whole = sample_text(source, "abc\n" + first + "hi\n", temperature=0.0)
  assert second == (whole if stop is None else whole[: whole.find(stop) + 1 or None])
  expected = sampler.prime(source.model, source.params, LETTERS.encode("abc\n" + first), 1)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), before, expected)


def test_continued_turns_equal_one_sample_of_the_same_seed(source):
  session = make_session(source, "abc")
  pieces = [turn(session, ""), turn(session, ""), turn(session, "")]
  assert "".join(pieces) == sample_text(source, "abc", 3 * LENGTH)
  other = make_session(source, "abc", seed=4)
  assert turn(other, "") != pieces[0]


def test_empty_prompt_is_replaced_by_a_line_end(source):
  assert turn(make_session(source), "") == sample_text(source, "\n")


def test_pieces_that_are_not_consumed_are_not_written(source):
  session = make_session(source, "abc", length=200)
  pieces = session.write()
  first = next(pieces) + next(pieces)
  pieces.close()
  assert len(first) == 2 * sampler.SESSION_BLOCK
  assert first + turn(session, "") == sample_text(source, "abc", 200 + len(first))


def test_clamp_applies_only_while_writing(source):
  mask = np.arange(8) == 2
  clamp = {"layer_1": {"c": (mask[None], np.full((1, 8), 3.0, np.float32))}}
  session = make_session(source, "abc", clamp=clamp)
  turn(session, "")
  assert session._state[1][1].c[0, 2] == 3.0
  session.read(LETTERS.encode("a"))
  assert session._state[1][1].c[0, 2] != 3.0
