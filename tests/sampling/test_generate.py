"""Generation: exact repeats, independence of how it is cut up, and the model's own distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from scipy import stats

from charrnn import errors
from charrnn.sampling import generate, options

PROMPT = np.array([3, 1, 4, 1, 5], np.uint8)


@pytest.fixture(scope="module")
def lstm():
  return toys.lstm_params()


def sample(model, params, prompt=PROMPT, *, length=50, num=1, seed=7, block=16, **settings):
  settings = options.Settings(**settings)
  blocks = generate.generate(
    model, params, prompt, length=length, num=num, seed=seed, settings=settings, block=block
  )
  return np.concatenate([np.zeros((num, 0), np.int32), *blocks], axis=1)


@pytest.mark.parametrize("P", [1, 5, 127, 128, 129, 400])
def test_priming_in_chunks_is_priming_in_one_call(lstm, P):
  model, params = lstm
  ids_P = np.random.default_rng(P).integers(0, 11, P)
  logits, carry = generate.prime(model, params, ids_P, 2)
  expected, expected_carry, _ = model.apply(
    params, jnp.array(np.stack([ids_P, ids_P], axis=1)), model.initial_carry(2)
  )
  np.testing.assert_allclose(logits, expected[-1], atol=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), carry, expected_carry)


def test_prompts_of_any_length_share_two_programs():
  model, table = toys.Chain(), jnp.zeros((4, 4))
  before = generate.read_chunk._cache_size(), generate._read_some._cache_size()
  for P in (1, 2, 77, 128, 200, 1000):
    _, carry = generate.prime(model, table, np.zeros(P, np.int64), 1)
    assert carry["read"].tolist() == [P]
  after = generate.read_chunk._cache_size(), generate._read_some._cache_size()
  assert [a - b for a, b in zip(after, before)] == [1, 1]


def test_an_empty_prompt_is_refused():
  with pytest.raises(ValueError, match="empty prompt"):
    generate.prime(toys.Chain(), toys.cycle(3), [], 1)


def test_greedy_is_argmax_by_hand(lstm):
  model, params = lstm
  logits, carry, _ = model.apply(params, jnp.array(PROMPT)[:, None], model.initial_carry(1))
  expected, step = [], jax.jit(model.apply)
  for _ in range(30):
    expected.append(int(logits[-1, 0].argmax()))
    logits, carry, _ = step(params, jnp.array([[expected[-1]]]), carry)
  assert sample(model, params, length=30, num=2, temperature=0).tolist() == [expected] * 2
  assert len(set(expected)) > 2


def test_the_seed_decides_the_text(lstm):
  text = sample(*lstm)
  np.testing.assert_array_equal(sample(*lstm), text)
  assert (sample(*lstm, seed=8) != text).any()


def test_neither_block_nor_num_nor_length_changes_a_row(lstm):
  rows = sample(*lstm, num=3)
  assert len({tuple(row) for row in rows.tolist()}) == 3
  for block in (1, 7, 64):
    np.testing.assert_array_equal(sample(*lstm, num=3, block=block), rows)
  np.testing.assert_array_equal(sample(*lstm, num=1), rows[:1])
  np.testing.assert_array_equal(sample(*lstm, num=3, length=20), rows[:, :20])


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 40])
def test_the_length_is_exact(length):
  ids = sample(toys.Chain(), toys.cycle(5), [4], length=length, num=2)
  assert ids.tolist() == [[t % 5 for t in range(length)]] * 2


def test_the_next_block_is_under_way_before_one_is_fetched(monkeypatch):
  run, started = generate._run, []
  monkeypatch.setattr(generate, "_run", lambda *args: started.append(0) or run(*args))
  blocks = generate.generate(
    toys.Chain(), toys.cycle(3), [0], length=9, num=1, seed=0, settings=options.Settings(), block=3
  )
  assert [len(started) for _ in blocks] == [2, 3, 3]


def test_other_settings_compile_nothing_new():
  model, table = toys.Chain(), jnp.zeros((4, 4))
  sample(model, table, [0], temperature=1.0, top_k=3, top_p=0.5)
  before = generate._run._cache_size()
  sample(model, table, [0], temperature=0.0, top_k=1, top_p=0.9, seed=3, length=99)
  assert generate._run._cache_size() == before


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
  ids = sample(toys.Chain(), table, [0], length=400, num=50, block=100, **settings)
  assert chi_square(ids, expected) > 0.001
  # Neighbours in a row and between rows are independent.
  for a, b in ((ids[:, 1:], ids[:, :-1]), (ids[1:], ids[:-1])):
    assert chi_square(5 * a + b, np.outer(expected, expected).ravel()) > 0.001


def test_a_diverged_model_is_named():
  with pytest.raises(errors.UserError, match="diverged"):
    sample(toys.Chain(), np.full((3, 3), np.nan, np.float32), [0], temperature=0)


def test_bad_counts_fail_before_anything_is_read():
  with pytest.raises(errors.UserError, match="--num=0"):
    generate.generate(None, None, [], length=1, num=0, seed=0, settings=options.Settings())
