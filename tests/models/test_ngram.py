"""Counts, modified Kneser-Ney smoothing and the model, compared with slow implementations."""

import collections
import math

import jax
import ngram_scores
import numpy as np
import pytest

from charrnn import errors
from charrnn.evaluation import score
from charrnn.models import ngram
from charrnn.sampling import sampler


class Slow:
  """A reference model from the definition, which sums over all tokens for each probability."""

  def __init__(self, ids, order, vocab, spans):
    self.vocab, self.order = vocab, order
    self.counts = {}
    for n in range(1, order + 1):
      occurrences, left = collections.Counter(), collections.defaultdict(set)
      for start, stop in spans:
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
  """Return tokens of unequal frequency, with repeated spans, so that counts of all sizes occur."""
  ids = rng.choice(vocab, length, p=rng.dirichlet(np.ones(vocab)))
  for _ in range(length // 20):
    a, b, n = *rng.integers(0, length - 12, 2), rng.integers(2, 12)
    ids[a : a + n] = ids[b : b + n].copy()
  return ids


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("seed", "length", "vocab"), [(0, 30, 3), (1, 400, 5), (2, 700, 9)])
def test_probabilities_match_the_reference_model(order, seed, length, vocab):
  rng = np.random.default_rng(seed)
  ids = random_text(rng, length, vocab)
  spans = [(0, length // 3), (length // 3 + 2, length)]
  slow = Slow(ids, order, vocab + 1, spans)  # one token of the vocabulary does not occur
  fast = ngram.fit(ids, order, vocab + 1, spans)
  text = np.concatenate([rng.integers(0, vocab + 1, 40), ids[: min(length, 100)]])
  expected = [math.log(slow.p(text[:t], text[t])) for t in range(len(text))]
  np.testing.assert_allclose(ngram_scores.log_prob(fast, text), expected, rtol=1e-10)
  for known in range(order + 2):
    contexts = np.array([text[t : t + known] for t in range(0, 60, 5)])
    expected = [[slow.p(c, w) for w in range(vocab + 1)] for c in contexts]
    np.testing.assert_allclose(ngram_scores.distribution(fast, contexts), expected, rtol=1e-10)


def test_the_random_text_has_computed_and_fallback_discounts():
  ids = random_text(np.random.default_rng(2), 700, 9)
  by_formula = [D != [0, 0.5, 1, 1.5] for D in Slow(ids, 5, 9, [(0, len(ids))]).discounts.values()]
  assert any(by_formula) and not all(by_formula)


def test_bigram_probabilities_by_hand():
  # Text a b a b c: continuation counts 2 1 1; c(ab) = 2, c(ba) = c(bc) = 1; fallback discounts.
  model = ngram.fit(np.array([0, 1, 0, 1, 2]), 2, 4)
  own, rest = np.array([1, 0.5, 0.5, 0]) / 4, (1 + 0.5 + 0.5) / 4
  one = own + rest / 4
  after_b = np.array([0.5, 0, 0.5, 0]) / 2 + (0.5 + 0.5) / 2 * one
  after_a = np.array([0, 1, 0, 0]) / 2 + 1 / 2 * one
  expected = [after_a, after_b, one, one]  # c and d are never followed by a token
  np.testing.assert_allclose(ngram_scores.distribution(model, [[0], [1], [2], [3]]), expected)
  np.testing.assert_allclose(
    ngram_scores.log_prob(model, [3, 0, 1]), np.log([one[3], one[0], after_a[1]])
  )


@pytest.fixture(scope="module")
def long_text():
  rng = np.random.default_rng(3)
  return random_text(rng, 20000, 40)


def test_distributions_are_positive_and_sum_to_1(long_text):
  model = ngram.fit(long_text, 8, 50)
  windows = np.lib.stride_tricks.sliding_window_view(long_text, 9)[:100]
  for contexts in (windows, windows[:, :3], windows[:1, :0], (windows + 10) % 50):
    p = ngram_scores.distribution(model, contexts)
    assert p.shape == (len(contexts), 50)
    assert p.min() > 0
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)


def test_scores_match_the_distribution_from_any_start(long_text):
  model = ngram.fit(long_text, 4, 40, [(0, 15000)])
  text = long_text[14990:16000]
  scores = ngram_scores.log_prob(model, text)
  p = ngram_scores.distribution(model, np.lib.stride_tricks.sliding_window_view(text, 3)[:-1])
  np.testing.assert_allclose(scores[3:], np.log(p[np.arange(len(p)), text[3:]]))
  for start in (1, 2, 3, 500, 1009, 1010):
    np.testing.assert_array_equal(ngram_scores.log_prob(model, text, start), scores[start:])


def test_permuting_token_ids_does_not_change_scores(long_text):
  names = np.random.default_rng(4).permutation(40)
  held = long_text[15000:]
  plain = ngram_scores.log_prob(ngram.fit(long_text, 5, 40, [(0, 15000)]), held)
  renamed = ngram_scores.log_prob(ngram.fit(names[long_text], 5, 40, [(0, 15000)]), names[held])
  np.testing.assert_allclose(plain, renamed, rtol=1e-12)


def test_the_order_of_spans_does_not_change_scores(long_text):
  spans = [(0, 3000), (3500, 9000), (11000, 12000)]
  a, b = (ngram.fit(long_text, 4, 40, s) for s in (spans, spans[::-1]))
  np.testing.assert_array_equal(
    ngram_scores.log_prob(a, long_text[12000:]), ngram_scores.log_prob(b, long_text[12000:])
  )


def test_no_string_crosses_the_ends_of_a_span():
  ids = np.array([0, 1, 2, 3])
  apart = ngram.fit(ids, 2, 5, [(0, 2), (2, 4)])
  together = ngram.fit(ids, 2, 5)
  assert ngram_scores.distribution(apart, [[1]])[0].argmax() != 2
  assert ngram_scores.distribution(together, [[1]])[0].argmax() == 2


def test_one_fit_scores_all_orders(long_text):
  model = ngram.fit(long_text, 6, 40)
  # In short spans, the context before each span matters.
  spans = [(2, 8), (17000, 17001), (18000, 18010), (18012, 18020)]
  losses = model.losses(long_text, spans)
  assert losses.shape == (6,)
  for order in range(1, 7):
    alone = ngram.fit(long_text, order, 40)
    scores = [ngram_scores.log_prob(alone, long_text[:stop], start) for start, stop in spans]
    np.testing.assert_allclose(losses[order - 1], -np.concatenate(scores).mean())
    np.testing.assert_array_equal(
      ngram_scores.log_prob(model, long_text[15000:], order=order),
      ngram_scores.log_prob(alone, long_text[15000:]),
    )


def test_the_first_token_of_the_text_is_not_scored(long_text):
  model = ngram.fit(long_text, 3, 40)
  expected = -ngram_scores.log_prob(model, long_text[:100])[1:].mean()
  np.testing.assert_allclose(model.losses(long_text[:100])[-1], expected)
  np.testing.assert_allclose(model.losses(long_text, [(0, 100)])[-1], expected)


def test_a_longer_context_helps_if_the_text_depends_on_it():
  # The next token is the sum of the last three, so shorter contexts do not help.
  rng = np.random.default_rng(5)
  ids = list(rng.integers(0, 4, 3))
  for noise in rng.random(30000):
    ids.append(sum(ids[-3:]) % 4 if noise < 0.9 else int(noise * 1e6) % 4)
  losses = ngram.fit(ids, 6, 4, [(0, 25000)]).losses(ids, [(25000, 30000)])
  assert losses[2] > math.log(4) - 0.02
  truth = 0.925  # probability of the sum; the three other tokens have 0.025 each
  entropy = -truth * math.log(truth) - 3 * 0.025 * math.log(0.025)
  assert abs(losses[3] - entropy) < 0.03


def test_invalid_arguments_raise_errors(long_text):
  with pytest.raises(ValueError, match="vocabulary of 3"):
    ngram.fit(long_text, 2, 3)
  model = ngram.fit(long_text, 2, 40)
  with pytest.raises(errors.UserError, match="nothing to score"):
    model.losses(long_text, [(0, 1)])


def strings(levels, vocab):
  """Yield the list of strings of each level, as tuples of tokens."""
  spelled = [None, ()]
  for level in levels:
    contexts = np.repeat(np.arange(len(level.first) - 1), np.diff(level.first))
    spelled = [None, *((*spelled[c], int(s)) for c, s in zip(contexts, level.symbols[1:]))]
    yield spelled


def test_counts_by_hand():
  # In the text a b a b c, the beginning counts as a token before a and a b. The comments on
  # continuation counts list the tokens before each string.
  levels = ngram.fit(np.array([0, 1, 0, 1, 2], np.uint8), 3, 3).levels
  one, two, three = strings(levels, 3)
  assert one[1:] == [(0,), (1,), (2,)]
  assert levels[0].raw[1:].tolist() == [2, 2, 1]
  assert levels[0].continuation[1:].tolist() == [2, 1, 1]  # the beginning and b; a; b
  assert two[1:] == [(0, 1), (1, 0), (1, 2)]
  assert levels[1].raw[1:].tolist() == [2, 1, 1]
  assert levels[1].continuation[1:].tolist() == [2, 1, 1]  # the beginning and b; a; a
  assert three[1:] == [(0, 1, 0), (0, 1, 2), (1, 0, 1)]
  assert levels[2].raw[1:].tolist() == [1, 1, 1]
  assert levels[2].continuation is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_counts_match_a_dictionary(dtype):
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 4, 300).astype(dtype)
  spans = [(0, 100), (120, 121), (121, 121), (150, 300)]
  levels = ngram.fit(ids, 5, 4, spans).levels
  for n, (level, spelled) in enumerate(zip(levels, strings(levels, 4)), 1):
    raw, left = {}, {}
    for start, stop in spans:
      for t in range(start, stop - n + 1):
        string = tuple(ids[t : t + n].tolist())
        raw[string] = raw.get(string, 0) + 1
        left.setdefault(string, set()).add(int(ids[t - 1]) if t > start else "beginning")
    assert dict(zip(spelled[1:], level.raw[1:].tolist())) == raw
    assert spelled[1:] == sorted(raw)
    if n < 5:
      assert level.continuation[1:].tolist() == [len(left[s]) for s in spelled[1:]]


def test_find_returns_the_number_of_each_string_and_0_otherwise():
  ids = np.random.default_rng(1).integers(0, 7, 200)
  levels = ngram.fit(ids, 3, 7).levels
  for level, spelled in zip(levels, strings(levels, 7)):
    contexts = np.arange(len(level.first) - 1)
    found = ngram.find(level, contexts[:, None], np.arange(7), 7)
    assert not found[0].any()  # after a context that does not occur
    assert sorted(found[found > 0].tolist()) == list(range(1, len(spelled)))
    rows, symbols = np.nonzero(found)
    assert (level.symbols[found[rows, symbols]] == symbols).all()
    assert (level.first[rows] <= found[rows, symbols]).all()
    assert (found[rows, symbols] < level.first[rows + 1]).all()


def test_a_text_shorter_than_the_order_has_levels_without_strings():
  levels = ngram.fit(np.array([1, 0]), 4, 2).levels
  assert [len(level.raw) - 1 for level in levels] == [2, 1, 0, 0]


def test_discounts_by_hand():
  counts = np.repeat([1, 2, 3, 4, 9], [10, 5, 3, 2, 7])
  # Y = 10 / 20;  1 - 2 Y 5/10, 2 - 3 Y 3/5, 3 - 4 Y 2/3
  np.testing.assert_allclose(ngram.discounts(counts), [0, 0.5, 1.1, 3 - 4 / 3])


@pytest.mark.parametrize(
  "numbers",
  [(0, 5, 3, 2), (10, 0, 3, 2), (10, 5, 0, 2), (10, 1, 30, 2), (10, 5, 1, 9), (0, 0, 0, 0)],
  ids=["no 1", "no 2", "no 3", "D_2 < 0", "D_3 < 0", "none"],
)
def test_discounts_use_the_fallback_if_the_formula_is_undefined(numbers):
  counts = np.repeat([1, 2, 3, 4], numbers)
  assert ngram.discounts(counts).tolist() == [0, *ngram.FALLBACK]


def test_the_formula_is_defined_without_counts_of_4():
  counts = np.repeat([1, 2, 3], [10, 5, 3])
  np.testing.assert_allclose(ngram.discounts(counts), [0, 0.5, 1.1, 3])


VOCAB = 11


@pytest.fixture(scope="module")
def ids():
  # Each token depends on the two previous ones.
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


def test_apply_matches_scores_from_counts(counted, ids, order):
  model = ngram.Model(VOCAB + 1, order)
  text = np.append(
    ids[4900:5100], [VOCAB, 0, 1, 2]
  )  # with a token that does not occur in the training text
  params, carry = counted.params(order), model.initial_carry(1)
  logits_TxBxV, _, out = jax.jit(model.apply)(params, text[:, None], carry)
  assert logits_TxBxV.shape == (len(text), 1, VOCAB + 1)
  assert out is None
  got = np.asarray(logits_TxBxV)[np.arange(len(text) - 1), 0, text[1:]]
  np.testing.assert_allclose(got, ngram_scores.log_prob(counted, text, 1, order), rtol=1e-4)
  np.testing.assert_allclose(np.exp(logits_TxBxV).sum(-1), 1, rtol=1e-5)


def test_the_carry_preserves_the_context_between_windows(counted, ids, order):
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


def test_evaluation_matches_the_loss_from_counts(counted, ids):
  model = ngram.Model(VOCAB + 1, 5)
  got = score.loss(
    model,
    counted.params(),
    ids,
    [(5000, 6000)],
    streams=8,
    window=32,
    burn_in=16,
  )
  np.testing.assert_allclose(got, counted.losses(ids, [(5000, 6000)])[-1], rtol=1e-5)


def test_samples_follow_the_distribution(short):
  """Compare frequencies after a context with the distribution, by a chi-squared test."""
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
  expected = num * ngram_scores.distribution(short, [prompt])[0]
  chi_squared = ((np.bincount(drawn, minlength=VOCAB + 1) - expected) ** 2 / expected).sum()
  assert chi_squared < 31.3  # exceeded with probability 0.001 for V - 1 degrees of freedom


def test_greedy_text_takes_the_most_probable_tokens(short):
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
    assert text[t] == ngram_scores.distribution(short, [text[:t]])[0].argmax()


def test_initial_parameters_give_a_uniform_distribution():
  model = ngram.Model(5, 3)
  logits_TxBxV, _, recorded = model.apply(
    model.init(jax.random.key(0)), np.zeros((4, 2), int), model.initial_carry(2), record=True
  )
  np.testing.assert_allclose(np.exp(logits_TxBxV), 1 / 5, rtol=1e-6)
  assert recorded == {} == dict(model.units) and not model.has_gradient
  with pytest.raises(ValueError, match="no units"):
    model.apply({}, np.zeros((1, 1), int), (), clamp={"layer_0": {}})
