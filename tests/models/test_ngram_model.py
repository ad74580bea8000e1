"""The n-gram behind the call of every model: the same figures, and text by the usual sampler."""

import jax
import numpy as np
import pytest

from charrnn.evaluation import evaluate
from charrnn.models import ngram
from charrnn.sampling import sampler
from charrnn.training import steps

VOCAB = 11


@pytest.fixture(scope="module")
def ids():
  # Every symbol leans on the two before it.
  rng = np.random.default_rng(0)
  ids = [0, 1]
  for noise in rng.random(6000):
    ids.append((2 * ids[-1] + ids[-2] + int(noise**3 * VOCAB)) % VOCAB)
  return np.array(ids, np.uint8)


@pytest.fixture(scope="module")
def counted(ids):
  return ngram.fit(ids, 5, VOCAB + 1, [(0, 5000)])


@pytest.fixture(scope="module")
def short(ids):
  return ngram.fit(ids, 3, VOCAB + 1, [(0, 5000)])


@pytest.fixture(scope="module", params=[1, 5])
def order(request):
  return request.param


def test_apply_gives_the_scores_of_the_counts(counted, ids, order):
  model = ngram.Model(VOCAB + 1, order)
  text = np.append(ids[4900:5100], [VOCAB, 0, 1, 2])  # with a symbol that was never met
  params, carry = counted.params(order), model.initial_carry(1)
  logits_TxBxV, _, out = jax.jit(model.apply)(params, text[:, None], carry)
  assert logits_TxBxV.shape == (len(text), 1, VOCAB + 1)
  assert out is None
  got = np.asarray(logits_TxBxV)[np.arange(len(text) - 1), 0, text[1:]]
  np.testing.assert_allclose(got, counted.log_prob(text, 1, order), rtol=1e-4)
  np.testing.assert_allclose(np.exp(logits_TxBxV).sum(-1), 1, rtol=1e-5)


def test_the_carry_is_all_that_a_text_leaves_behind(counted, ids, order):
  model = ngram.Model(VOCAB + 1, order)
  apply = jax.jit(model.apply)
  params, ids_TxB = counted.params(order), ids[: 3 * 41].reshape(3, 41).T
  whole, last, _ = apply(params, ids_TxB, model.initial_carry(3))
  carry, pieces = model.initial_carry(3), []
  for start, stop in [(0, 20), (20, 21), (21, 41)]:
    piece, carry, _ = apply(params, ids_TxB[start:stop], carry)
    pieces.append(piece)
  np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=1e-6)
  for a, b in zip(carry, last, strict=True):
    np.testing.assert_array_equal(a, b)


def test_evaluation_as_of_any_model_is_the_loss_by_counts(counted, ids):
  model = ngram.Model(VOCAB + 1, 5)
  got = evaluate.evaluate(
    steps.LossStep(model),
    counted.params(),
    ids,
    [(5000, 6000)],
    readers=8,
    window=32,
    burn_in=16,
  )
  np.testing.assert_allclose(got, counted.losses(ids, [(5000, 6000)])[-1], rtol=1e-5)


def test_it_writes_what_it_believes(short):
  """Frequencies after one context against the distribution there: a chi-squared of V - 1."""
  prompt, num = [3, 1, 4], 4000
  blocks = sampler.draw(
    ngram.Model(VOCAB + 1, 3),
    short.params(),
    prompt,
    length=1,
    num=num,
    seed=5,
    settings=sampler.Settings(),
    block=1,
  )
  drawn = np.concatenate([block.ids_BxN for block in blocks], axis=1)[:, 0]
  expected = num * short.distribution([prompt])[0]
  chi_squared = ((np.bincount(drawn, minlength=VOCAB + 1) - expected) ** 2 / expected).sum()
  assert chi_squared < 31.3  # passed by one in a thousand


def test_greedy_text_takes_the_likeliest_after_all_that_was_written(short):
  prompt = [1, 2]
  blocks = sampler.draw(
    ngram.Model(VOCAB + 1, 3),
    short.params(),
    prompt,
    length=40,
    num=1,
    seed=0,
    settings=sampler.Settings(temperature=0),
    block=16,
  )
  text = np.concatenate([prompt, *(block.ids_BxN[0] for block in blocks)])
  for t in range(2, len(text)):
    assert text[t] == short.distribution([text[:t]])[0].argmax()
