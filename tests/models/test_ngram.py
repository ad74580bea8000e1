"""Modified Kneser-Ney against a slow one out of dictionaries, and against what must hold."""

import collections
import math

import numpy as np
import pytest

from charrnn import errors
from charrnn.models import ngram


class Slow:
  """The same model from its definition: a sum over all symbols for every probability."""

  def __init__(self, ids, order, vocab, segments):
    self.vocab, self.order = vocab, order
    self.counts = {}
    for n in range(1, order + 1):
      occurrences, left = collections.Counter(), collections.defaultdict(set)
      for start, stop in segments:
        text = ["beginning", *ids[start:stop].tolist()]
        for t in range(1, len(text) - n + 1):
          string = tuple(text[t : t + n])
          occurrences[string] += 1
          left[string].add(text[t - 1])
      self.counts[n] = occurrences if n == order else {s: len(x) for s, x in left.items()}
    self.discounts = {n: self._discounts(list(c.values())) for n, c in self.counts.items()}

  def _discounts(self, counts):
    n = [counts.count(k) for k in range(5)]
    if 0 in n[1:4]:
      return [0, 0.5, 1, 1.5]
    Y = n[1] / (n[1] + 2 * n[2])
    D = [0, 1 - 2 * Y * n[2] / n[1], 2 - 3 * Y * n[3] / n[2], 3 - 4 * Y * n[4] / n[3]]
    return D if all(0 < D[k] <= k for k in (1, 2, 3)) else [0, 0.5, 1, 1.5]

  def p(self, context, symbol):
    context = tuple(context)[max(0, len(context) - self.order + 1) :]
    lower = self.p(context[1:], symbol) if context else 1 / self.vocab
    n = len(context) + 1
    count = [self.counts[n].get((*context, w), 0) for w in range(self.vocab)]
    if not sum(count):
      return lower
    D = [self.discounts[n][min(c, 3)] for c in count]
    return (count[symbol] - D[symbol] + sum(D) * lower) / sum(count)


def random_text(rng, length, vocab):
  """Symbols of unequal frequency, with repeats, so that counts of all sizes occur."""
  ids = rng.choice(vocab, length, p=rng.dirichlet(np.ones(vocab)))
  for _ in range(length // 20):
    a, b, n = *rng.integers(0, length - 12, 2), rng.integers(2, 12)
    ids[a : a + n] = ids[b : b + n].copy()
  return ids


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("seed", "length", "vocab"), [(0, 30, 3), (1, 400, 5), (2, 700, 9)])
def test_every_probability_is_that_of_the_slow_one(order, seed, length, vocab):
  rng = np.random.default_rng(seed)
  ids = random_text(rng, length, vocab)
  segments = [(0, length // 3), (length // 3 + 2, length)]
  slow = Slow(ids, order, vocab + 1, segments)  # and a symbol that does not occur
  fast = ngram.fit(ids, order, vocab + 1, segments)
  text = np.concatenate([rng.integers(0, vocab + 1, 40), ids[: min(length, 100)]])
  expected = [math.log(slow.p(text[:t], text[t])) for t in range(len(text))]
  np.testing.assert_allclose(fast.log_prob(text), expected, rtol=1e-10)
  for known in range(order + 2):
    contexts = np.array([text[t : t + known] for t in range(0, 60, 5)])
    expected = [[slow.p(c, w) for w in range(vocab + 1)] for c in contexts]
    np.testing.assert_allclose(fast.distribution(contexts), expected, rtol=1e-10)


def test_the_texts_of_the_comparison_have_discounts_of_both_kinds():
  ids = random_text(np.random.default_rng(2), 700, 9)
  by_formula = [D != [0, 0.5, 1, 1.5] for D in Slow(ids, 5, 9, [(0, len(ids))]).discounts.values()]
  assert any(by_formula) and not all(by_formula)


def test_a_bigram_by_hand():
  # a b a b c. One: continuation counts 2 1 1; two: c(ab) = 2, c(ba) = c(bc) = 1; all fall back.
  model = ngram.fit(np.array([0, 1, 0, 1, 2]), 2, 4)
  own, rest = np.array([1, 0.5, 0.5, 0]) / 4, (1 + 0.5 + 0.5) / 4
  one = own + rest / 4
  after_b = np.array([0.5, 0, 0.5, 0]) / 2 + (0.5 + 0.5) / 2 * one
  after_a = np.array([0, 1, 0, 0]) / 2 + 1 / 2 * one
  expected = [after_a, after_b, one, one]  # nothing came after c, nor d before anything
  np.testing.assert_allclose(model.distribution([[0], [1], [2], [3]]), expected)
  np.testing.assert_allclose(model.log_prob([3, 0, 1]), np.log([one[3], one[0], after_a[1]]))


@pytest.fixture(scope="module")
def long_text():
  rng = np.random.default_rng(3)
  return random_text(rng, 20000, 40)


def test_distributions_are_positive_and_sum_to_1(long_text):
  model = ngram.fit(long_text, 8, 50)
  windows = np.lib.stride_tricks.sliding_window_view(long_text, 9)[:500]
  for contexts in (windows, windows[:, :3], windows[:1, :0], (windows + 10) % 50):
    p = model.distribution(contexts)
    assert p.shape == (len(contexts), 50)
    assert p.min() > 0
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)


def test_scores_are_those_of_the_distribution_wherever_one_begins(long_text):
  model = ngram.fit(long_text, 4, 40, [(0, 15000)])
  text = long_text[14990:16000]
  scores = model.log_prob(text)
  p = model.distribution(np.lib.stride_tricks.sliding_window_view(text, 3)[:-1])
  np.testing.assert_allclose(scores[3:], np.log(p[np.arange(len(p)), text[3:]]))
  for start in (1, 2, 3, 500, 1009, 1010):
    np.testing.assert_array_equal(model.log_prob(text, start), scores[start:])


def test_other_names_for_the_symbols_change_nothing(long_text):
  names = np.random.default_rng(4).permutation(40)
  held = long_text[15000:]
  plain = ngram.fit(long_text, 5, 40, [(0, 15000)]).log_prob(held)
  renamed = ngram.fit(names[long_text], 5, 40, [(0, 15000)]).log_prob(names[held])
  np.testing.assert_allclose(plain, renamed, rtol=1e-12)


def test_the_order_of_the_segments_changes_nothing(long_text):
  segments = [(0, 3000), (3500, 9000), (11000, 12000)]
  a, b = (ngram.fit(long_text, 4, 40, s) for s in (segments, segments[::-1]))
  np.testing.assert_array_equal(a.log_prob(long_text[12000:]), b.log_prob(long_text[12000:]))


def test_no_string_reaches_over_the_ends_of_a_segment():
  ids = np.array([0, 1, 2, 3])
  apart = ngram.fit(ids, 2, 5, [(0, 2), (2, 4)])
  together = ngram.fit(ids, 2, 5)
  assert apart.distribution([[1]])[0].argmax() != 2
  assert together.distribution([[1]])[0].argmax() == 2


def test_one_counting_answers_for_every_order(long_text):
  model = ngram.fit(long_text, 6, 40)
  # Few and short: what is known of the text before each shows.
  segments = [(2, 8), (17000, 17001), (18000, 18010), (18012, 18020)]
  losses = model.losses(long_text, segments)
  assert losses.shape == (6,)
  for order in range(1, 7):
    alone = ngram.fit(long_text, order, 40)
    scores = [alone.log_prob(long_text[:stop], start) for start, stop in segments]
    np.testing.assert_allclose(losses[order - 1], -np.concatenate(scores).mean())
    np.testing.assert_array_equal(
      model.log_prob(long_text[15000:], order=order), alone.log_prob(long_text[15000:])
    )


def test_the_first_symbol_of_all_is_not_scored(long_text):
  model = ngram.fit(long_text, 3, 40)
  expected = -model.log_prob(long_text[:100])[1:].mean()
  np.testing.assert_allclose(model.losses(long_text[:100])[-1], expected)
  np.testing.assert_allclose(model.losses(long_text, [(0, 100)])[-1], expected)


def test_a_longer_context_helps_where_the_text_hangs_on_it():
  # The next symbol is the sum of the last three: shorter contexts say nothing.
  rng = np.random.default_rng(5)
  ids = list(rng.integers(0, 4, 3))
  for noise in rng.random(30000):
    ids.append(sum(ids[-3:]) % 4 if noise < 0.9 else int(noise * 1e6) % 4)
  losses = ngram.fit(ids, 6, 4, [(0, 25000)]).losses(ids, [(25000, 30000)])
  assert losses[2] > math.log(4) - 0.02
  truth = 0.925  # of it and of three others, 0.025 each
  entropy = -truth * math.log(truth) - 3 * 0.025 * math.log(0.025)
  assert abs(losses[3] - entropy) < 0.03


def test_what_cannot_be_is_refused(long_text):
  with pytest.raises(errors.UserError, match="order=0"):
    ngram.fit(long_text, 0, 40)
  with pytest.raises(errors.UserError, match="no text"):
    ngram.fit(long_text[:0], 2, 40)
  with pytest.raises(errors.UserError, match="no text"):
    ngram.fit(long_text, 2, 40, [(5, 5)])
  with pytest.raises(ValueError, match="vocabulary of 3"):
    ngram.fit(long_text, 2, 3)
  model = ngram.fit(long_text, 2, 40)
  with pytest.raises(errors.UserError, match="order 3"):
    model.log_prob(long_text, order=3)
  with pytest.raises(errors.UserError, match="nothing to score"):
    model.losses(long_text, [(0, 1)])
