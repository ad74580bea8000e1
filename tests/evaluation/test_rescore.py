"""Rescoring of sampled text: compared with NumPy, and at the limits of temperature."""

import functools

import jax
import jax.numpy as jnp
import ngram_scores
import numpy as np
import pytest
import toys
from scipy import special, stats

from charrnn import errors
from charrnn.evaluation import score
from charrnn.models import ngram
from charrnn.sampling import sampler
from charrnn.scorecards import diversity

VOCAB = 11
PROMPT = np.array([3, 1, 4], np.uint8)
HIGHEST = 1e30


@pytest.fixture(scope="module")
def lstm():
  model = toys.lstm(VOCAB)
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  # Larger than initial weights, so that predictions depend on the context.
  return model, jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)


def write(model, params, *, length=150, num=3, seed=0, **settings):
  settings = sampler.Settings(**settings)
  blocks = sampler.draw(
    model,
    params,
    PROMPT,
    length=length,
    num=num,
    seed=seed,
    settings=settings,
    block=min(length, 64),
  )
  return np.concatenate([block.ids_BxN for block in blocks], axis=1), settings


@functools.cache
def compiled(model):
  return jax.jit(model.apply)


def logits_by_hand(model, params, ids_N):
  """Return the logits before each token, computed token by token: [N, V]."""
  step, carry, logits = compiled(model), model.initial_carry(1), []
  for token in [*PROMPT, *ids_N]:
    logits_TxBxV, carry, _ = step(params, jnp.array([[token]], jnp.int32), carry)
    logits.append(np.asarray(logits_TxBxV[0, 0], np.float64))
  return np.array(logits[len(PROMPT) - 1 : -1])


@pytest.mark.parametrize("T", [0.3, 2.5])
def test_entropies_and_losses_equal_numpy(lstm, T):
  ids_BxN, settings = write(*lstm, temperature=T)
  entropies_BxN, nats_BxN = score.rescore(*lstm, PROMPT, ids_BxN, settings)
  for row, ids_N in enumerate(ids_BxN):
    logits_NxV = logits_by_hand(*lstm, ids_N)
    p = special.softmax(logits_NxV / T, axis=-1)
    np.testing.assert_allclose(entropies_BxN[row], stats.entropy(p, axis=-1), atol=2e-5)
    nats = -special.log_softmax(logits_NxV, axis=-1)[np.arange(len(ids_N)), ids_N]
    np.testing.assert_allclose(nats_BxN[row], nats, atol=1e-4)


def test_entropy_accounts_for_top_k(lstm):
  ids_BxN, settings = write(*lstm, temperature=2, top_k=3)
  entropies_BxN, _ = score.rescore(*lstm, PROMPT, ids_BxN, settings)
  largest = np.sort(logits_by_hand(*lstm, ids_BxN[0]), axis=-1)[:, -3:]
  expected = stats.entropy(special.softmax(largest / 2, axis=-1), axis=-1)
  np.testing.assert_allclose(entropies_BxN[0], expected, atol=2e-5)


@pytest.mark.parametrize("N", [1, *(score.SCORING_WINDOW + n for n in (-1, 0, 1))])
def test_a_prefix_is_scored_as_in_the_whole_text(lstm, N):
  ids_BxN, settings = write(*lstm)
  whole = score.rescore(*lstm, PROMPT, ids_BxN, settings)
  part = score.rescore(*lstm, PROMPT, ids_BxN[:, :N], settings)
  for a, b in zip(part, whole):
    assert a.shape == (3, N)
    np.testing.assert_allclose(a, b[:, :N], atol=1e-5)


def test_the_loss_equals_the_evaluation_loss(lstm):
  model, params = lstm
  ids_BxN, settings = write(*lstm, num=1)
  ids = np.concatenate([PROMPT, ids_BxN[0]])
  spans = [(len(PROMPT), len(ids))]
  options = {"streams": 1, "window": len(ids), "burn_in": len(PROMPT)}
  loss = score.loss(model, params, ids, spans, **options)
  _, nats_BxN = score.rescore(*lstm, PROMPT, ids_BxN, settings)
  assert nats_BxN.mean() == pytest.approx(loss, abs=1e-5)


def test_temperature_0_is_greedy_and_ends_in_a_loop(lstm):
  ids_BxN, settings = write(*lstm, length=500, num=3, temperature=0)
  np.testing.assert_array_equal(ids_BxN[0], logits_by_hand(*lstm, ids_BxN[0]).argmax(-1))
  np.testing.assert_array_equal(ids_BxN[0], ids_BxN[1])
  entropies_BxN, _ = score.rescore(*lstm, PROMPT, ids_BxN, settings)
  assert not entropies_BxN.any()
  loop = diversity.find_loop(ids_BxN[0].tolist())
  assert loop is not None
  text = ids_BxN[0][loop.start :]
  np.testing.assert_array_equal(text[loop.period :], text[: -loop.period])


def test_a_tiny_temperature_is_deterministic(lstm):
  entropies_BxN, _ = score.rescore(*lstm, PROMPT, *write(*lstm, temperature=1e-6))
  np.testing.assert_allclose(entropies_BxN, 0, atol=1e-6)


def test_a_huge_temperature_is_uniform(lstm):
  ids_BxN, settings = write(*lstm, length=640, num=30, temperature=HIGHEST)
  counts = np.bincount(ids_BxN.ravel(), minlength=VOCAB)
  assert stats.chisquare(counts).pvalue > 0.001
  pairs = np.bincount((VOCAB * ids_BxN[:, 1:] + ids_BxN[:, :-1]).ravel(), minlength=VOCAB**2)
  assert stats.chisquare(pairs).pvalue > 0.001
  entropies_BxN, _ = score.rescore(*lstm, PROMPT, ids_BxN, settings)
  np.testing.assert_allclose(entropies_BxN, np.log(VOCAB), rtol=1e-6)


def test_only_temperature_1_samples_from_the_model(lstm):
  p = special.softmax(logits_by_hand(*lstm, [0])[0])

  def fit(T):
    ids_BxN, _ = write(*lstm, length=1, num=5000, temperature=T)
    return stats.chisquare(np.bincount(ids_BxN[:, 0], minlength=VOCAB), 5000 * p).pvalue

  assert fit(1) > 0.001
  assert max(fit(0.8), fit(1.25)) < 1e-4


def test_at_temperature_1_the_mean_loss_equals_the_mean_entropy(lstm):
  entropies_BxN, nats_BxN = score.rescore(*lstm, PROMPT, *write(*lstm, length=640, num=30))
  surplus = (nats_BxN - entropies_BxN).ravel()  # each value has mean 0, given its context
  assert abs(surplus.mean()) < 4 * surplus.std() / np.sqrt(len(surplus))


def test_rescoring_an_ngram():
  rng = np.random.default_rng(0)
  ids = np.cumsum(rng.integers(0, 3, 3000)) % VOCAB
  counted = ngram.fit(ids, 3, VOCAB, [(0, len(ids))])
  model, params = ngram.Model(VOCAB, 3), counted.params()
  ids_BxN, settings = write(model, params, temperature=0.5)
  entropies_BxN, nats_BxN = score.rescore(model, params, PROMPT, ids_BxN, settings)
  ids = [*PROMPT, *ids_BxN[0]]
  for n, token in enumerate(ids_BxN[0]):
    p = ngram_scores.distribution(counted, [ids[: len(PROMPT) + n]])[0]
    assert nats_BxN[0, n] == pytest.approx(-np.log(p[token]), abs=1e-4)
    assert entropies_BxN[0, n] == pytest.approx(stats.entropy(p**2), abs=1e-4)


def test_a_diverged_model_raises_an_error(lstm):
  model, params = lstm
  broken = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), params)
  with pytest.raises(errors.UserError, match="diverged"):
    score.rescore(model, broken, PROMPT, np.zeros((2, 5), np.int32), sampler.Settings())
