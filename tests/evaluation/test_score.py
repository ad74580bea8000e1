"""Scores and losses of text, compared with one plain pass over it."""

import math

import jax
import jax.numpy as jnp
import ngram_scores
import numpy as np
import pytest
import tiny

from charrnn import errors
from charrnn.evaluation import score
from charrnn.models import layers, ngram


@pytest.fixture(scope="module")
def case():
  net = tiny.model()
  return net, net.init(jax.random.key(0)), tiny.ids(3000)


def loss(case, spans, **settings):
  return score.loss(*case, spans, **{"streams": 1, "window": 16, "burn_in": 0} | settings)


def scores(case, spans, **settings):
  return score.score(*case, spans, **{"window": 16} | settings)


def logits(case, start, stop):
  """Return the logits [N, V] of tokens start + 1 to stop - 1, with context from `start` on."""
  net, params, ids = case
  x = ids[start : stop - 1, None].astype(np.int32)
  return jax.jit(net.apply)(params, x, net.initial_carry(1))[0][:, 0]


def nats(case, start, stop):
  y = case[2][start + 1 : stop].astype(np.int32)
  return np.asarray(layers.cross_entropy(logits(case, start, stop), y), np.float64)


def test_the_loss_of_one_stream_equals_one_plain_pass(case):
  assert loss(case, [(0, 1000)]) == pytest.approx(nats(case, 0, 1000).mean(), abs=1e-5)


def test_spans_are_weighted_by_their_number_of_tokens(case):
  parts = nats(case, 99, 700), nats(case, 999, 1100)
  expected = np.concatenate(parts).mean()
  assert loss(case, [(100, 700), (1000, 1100)]) == pytest.approx(expected, abs=1e-5)


def test_many_streams_with_a_burn_in_have_the_same_loss(case):
  expected = nats(case, 0, 3000)[1499:].mean()
  spans = [(1500, 3000)]
  assert loss(case, spans, streams=30, burn_in=64) == pytest.approx(expected, abs=1e-3)
  assert loss(case, spans, streams=30) != pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("spans", [[], [(0, 1)]])
def test_spans_without_a_scorable_token(case, spans):
  assert math.isnan(loss(case, spans))
  with pytest.raises(errors.UserError, match="nothing to score"):
    scores(case, spans)


def test_scores_equal_one_plain_pass(case):
  result = scores(case, [(0, 1000)])
  p, observed = np.asarray(jax.nn.softmax(logits(case, 0, 1000))), case[2][1:1000].astype(int)
  own = np.take_along_axis(p, observed[:, None], 1)
  assert np.isnan(result.nats[0]) and result.is_scored.sum() == 999
  np.testing.assert_array_equal(result.positions, np.arange(1000))
  _, nats, rank, top_ids, top_p = (each[1:] for each in result[:5])
  np.testing.assert_allclose(nats, -np.log(own[:, 0]), atol=1e-5)
  np.testing.assert_array_equal(rank, (p >= own).sum(1))
  np.testing.assert_allclose(top_p, -np.sort(-p)[:, :5], atol=1e-6)
  np.testing.assert_allclose(np.take_along_axis(p, top_ids, 1), top_p, atol=1e-6)


def test_the_mean_of_scores_is_the_loss(case):
  spans, starts = [(200, 700), (900, 1400)], [0, 450, 1000]
  for streams in (1, 9):
    settings = {"streams": streams, "window": 16, "burn_in": 32, "starts": starts}
    result = scores(case, spans, **settings)
    assert result.mean == pytest.approx(loss(case, spans, **settings), abs=1e-6)
    assert result.positions[~result.is_scored].tolist() == [450, 1000]


def test_documents_are_scored_independently(case):
  net, params, ids = case
  result = scores(case, [(0, 900)], starts=[0, 300, 301, 500], streams=3, burn_in=100)
  for start, stop in ((0, 300), (301, 500), (500, 900)):
    alone = scores((net, params, ids[start:stop]), [(0, stop - start)])
    part = result.within([(start, stop)])
    np.testing.assert_allclose(part.nats, alone.nats, atol=2e-2)
    assert part.mean == pytest.approx(alone.mean, abs=1e-3)


def test_a_small_vocabulary_has_fewer_probable_tokens():
  net = tiny.model(vocab=3)
  result = scores((net, net.init(jax.random.key(1)), tiny.ids(50, vocab=3)), [(0, 50)])
  assert result.top_ids.shape == (50, 3)
  np.testing.assert_allclose(result.top_p[1:].sum(1), 1, atol=1e-6)


def test_scores_of_an_ngram(case):
  ids = case[2]
  counted = ngram.fit(ids[:800], 3, tiny.V)
  result = scores((ngram.Model(tiny.V, 3), counted.params(), ids), [(800, 900)], burn_in=8)
  np.testing.assert_allclose(
    result.nats, -ngram_scores.log_prob(counted, ids[:900], 800), rtol=1e-4
  )


def test_progress_ends_with_the_total(case):
  calls = []
  scores(case, [(100, 300)], burn_in=50, progress=lambda *numbers: calls.append(numbers))
  assert calls[-1] == (200, 200) and calls == sorted(calls)


def test_a_diverged_model_raises_an_error(case):
  net, params, ids = case
  broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
  with pytest.raises(errors.UserError, match="diverged"):
    scores((net, broken, ids), [(0, 100)])


def windows(case, spans, **settings):
  """Return the positions of the scored targets, and the values of measure(logits, y, recorded)."""
  pieces = list(score.windows(*case, spans, **{"window": 32} | settings))
  is_scored = [weight.T == 1 for _, _, weight in pieces]
  positions = [positions.T[mask] for (_, positions, _), mask in zip(pieces, is_scored)]
  values = [value for value, _, _ in pieces]
  return np.concatenate(positions), values


def test_windows_pass_recorded_states_to_measure(case):
  def hidden(logits, y, recorded):
    return jnp.stack([recorded[f"layer_{n}"]["h"] for n in range(2)], axis=2)

  positions, values = windows(case, [(1, 65)], measure=hidden, record=True)
  np.testing.assert_array_equal(positions, np.arange(1, 65))
  net, params, ids = case
  x = ids[:64, None].astype(np.int32)
  recorded = jax.jit(net.apply, static_argnames="record")(
    params, x, net.initial_carry(1), record=True
  )[2]
  expected = np.stack([recorded[f"layer_{n}"]["h"] for n in range(2)], axis=2)
  np.testing.assert_allclose(np.concatenate(values), expected, atol=1e-5)


def test_copies_of_a_stream_differ_only_by_their_clamps(case):
  def nats_of(logits, y, _):
    return layers.cross_entropy(logits, y)

  net, params, ids = case
  carry = net.apply(params, ids[:20, None].astype(np.int32), net.initial_carry(1))[1]
  masks = np.zeros((3, 8), bool)
  masks[1, 2] = masks[2, 5] = True
  clamp = {"layer_0": {"c": (masks, np.float32(0.5) * masks)}}
  repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), carry)
  options = {"measure": nats_of, "clamp": clamp, "carry": repeated, "copies": 3}
  positions, values = windows(case, [(21, 100)], **options)
  assert positions.tolist() == list(range(21, 100))
  rows = np.concatenate(values)[:79]
  plain = windows(case, [(21, 100)], measure=nats_of, carry=carry)[1]
  np.testing.assert_allclose(rows[:, :1], np.concatenate(plain)[:79], atol=1e-5)
  assert np.abs(rows[:, 1:] - rows[:, :1]).max(axis=0).min() > 1e-4
