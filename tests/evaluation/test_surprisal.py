"""What is said of every character, against one plain pass and against the loss."""

import jax
import ngram_scores
import numpy as np
import pytest
import tiny

from charrnn import errors
from charrnn.evaluation import evaluate, surprisal
from charrnn.models import ngram
from charrnn.training import steps


@pytest.fixture(scope="module")
def case():
  net = tiny.model()
  return net, net.init(jax.random.key(0)), tiny.ids(1500)


def read(case, segments, **settings):
  return surprisal.read(*case, segments, **{"readers": 1, "window": 16, "burn_in": 0} | settings)


def p_of_all(case, start, stop):
  """p [N, V] of what may come at start + 1 to stop - 1, read from `start` on."""
  net, params, ids = case
  logits, _, _ = net.apply(params, ids[start : stop - 1, None].astype(int), net.initial_carry(1))
  return np.asarray(jax.nn.softmax(logits[:, 0]))


def test_a_text_is_one_plain_pass(case):
  found = read(case, [(0, 1000)])
  p, came = p_of_all(case, 0, 1000), case[2][1:1000].astype(int)
  own = np.take_along_axis(p, came[:, None], 1)
  assert np.isnan(found.predictions.nats[0]) and found.scored.sum() == 999
  np.testing.assert_array_equal(found.places, np.arange(1000))
  nats, rank, top_ids, top_p = (each[1:] for each in found.predictions)
  np.testing.assert_allclose(nats, -np.log(own[:, 0]), atol=1e-5)
  np.testing.assert_array_equal(rank, (p >= own).sum(1))
  np.testing.assert_allclose(top_p, -np.sort(-p)[:, :5], atol=1e-6)
  np.testing.assert_allclose(np.take_along_axis(p, top_ids, 1), top_p, atol=1e-6)


def test_its_mean_is_the_loss_of_as_many_readers(case):
  segments, begins = [(200, 700), (900, 1400)], [0, 450, 1000]
  for readers in (1, 9):
    settings = {"readers": readers, "window": 16, "burn_in": 32, "begins": begins}
    loss = evaluate.evaluate(steps.LossStep(case[0]), *case[1:], segments, **settings)
    found = read(case, segments, **settings)
    assert found.mean == pytest.approx(loss, abs=1e-6)
    assert found.places[~found.scored].tolist() == [450, 1000]


def test_a_document_is_read_as_if_it_were_alone(case):
  net, params, ids = case
  found = read(case, [(0, 900)], begins=[0, 300, 301, 500], readers=3, burn_in=100)
  for start, stop in ((0, 300), (301, 500), (500, 900)):
    alone = read((net, params, ids[start:stop]), [(0, stop - start)])
    part = found.within([(start, stop)])
    np.testing.assert_allclose(part.predictions.nats, alone.predictions.nats, atol=2e-2)
    assert part.mean == pytest.approx(alone.mean, abs=1e-3)


def test_an_alphabet_may_have_fewer_than_the_likeliest_to_name(case):
  net = tiny.model(vocab=3)
  found = read((net, net.init(jax.random.key(1)), tiny.ids(50, vocab=3)), [(0, 50)])
  assert found.predictions.top_ids.shape == (50, 3)
  np.testing.assert_allclose(found.predictions.top_p[1:].sum(1), 1, atol=1e-6)


def test_an_ngram(case):
  ids = case[2]
  counted = ngram.fit(ids[:800], 3, tiny.V)
  found = read((ngram.Model(tiny.V, 3), counted.params(), ids), [(800, 900)], burn_in=8)
  expected = -ngram_scores.log_prob(counted, ids[:900], 800)
  np.testing.assert_allclose(found.predictions.nats, expected, rtol=1e-4)


def test_progress_ends_with_all_of_it(case):
  said = []
  read(case, [(100, 300)], burn_in=50, progress=lambda *numbers: said.append(numbers))
  assert said[-1] == (200, 200) and said == sorted(said)


def test_a_model_that_has_diverged_is_told(case):
  net, params, ids = case
  broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
  with pytest.raises(errors.UserError, match="diverged"):
    read((net, broken, ids), [(0, 100)])


@pytest.mark.parametrize("segments", [[], [(0, 1)]])
def test_nothing_to_score(case, segments):
  with pytest.raises(errors.UserError, match="nothing to score"):
    read(case, segments)
