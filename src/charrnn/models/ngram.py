"""Character n-grams with modified Kneser-Ney smoothing, interpolated (Chen & Goodman 1998).

For a symbol w after the context u, and u' which is u without its oldest symbol:

  p_n(w | u) = (c(u w) - D(c(u w))) / c(u .) + g(u) p_(n-1)(w | u'),  p_0 = 1 / V
  g(u) = (D_1 N_1(u .) + D_2 N_2(u .) + D_3 N_3+(u .)) / c(u .)

c(u .) is the sum of c(u w) over w, N_k(u .) the number of w with a count of k. A context that never
came before a symbol leaves all to the shorter one. c counts occurrences on the highest level; on
those below it, the different symbols that occur before u w.

There is no JAX in here: `ngram_model` runs the model as the programs run any.
"""

import dataclasses
import functools
import itertools

import numpy as np

from charrnn import errors
from charrnn.models import ngram_counts


@dataclasses.dataclass(frozen=True, eq=False)
class NGram:
  """What a text counts up to, for models of every order up to its own."""

  vocab: int
  levels: tuple[ngram_counts.Level, ...]

  @property
  def order(self) -> int:
    return len(self.levels)

  def log_prob(self, ids, start: int = 0, order: int | None = None):
    """log p of every symbol from `start` on, given up to order - 1 before it: float64 [T]."""
    order = self._check(order)
    begin = max(0, start - order + 1)
    text, begins = ngram_counts.join(ids, [(begin, len(ids))])
    p = next(itertools.islice(self._by_order(text, begins), order - 1, None))
    return np.log(p[start - begin :])

  def losses(self, ids, segments=None):
    """Mean nats per symbol of the segments, for the orders 1 to N: float64 [N].

    A segment's first symbols have what precedes it in the text as context. As for the networks,
    the very first symbol of the text is not scored: it has nothing before it.
    """
    segments = [(0, len(ids))] if segments is None else segments
    scored = [(max(a, 1), b) for a, b in segments if max(a, 1) < b]
    if not scored:
      raise errors.UserError("there is nothing to score: two symbols are the least")
    spans = [(max(0, a - self.order + 1), b) for a, b in scored]
    text, begins = ngram_counts.join(ids, spans)
    counted = np.concatenate([np.arange(c, b) >= a for (a, b), (c, _) in zip(scored, spans)])
    return np.array([-np.log(p[counted]).mean() for p in self._by_order(text, begins)])

  def by_order(self, ids, spans):
    """p of every symbol of spans (start, stop), end to end, by the orders 1 to N in turn: [T]."""
    yield from self._by_order(*ngram_counts.join(ids, spans))

  def _by_order(self, text, begins):
    """p of every symbol of a text in pieces, by the models of the orders 1 to N in turn."""
    p = np.full(len(text), 1 / self.vocab)
    context = np.full(len(text), ngram_counts.EMPTY)
    for level in self.levels:
      string = self._find(level, context, text)
      own, rest = _weigh(level, level.raw)
      yield own[string] + rest[context] * p
      if level.continuation is not None:
        own, rest = _weigh(level, level.continuation)
        p = own[string] + rest[context] * p
        context = ngram_counts.before(string, begins)

  def distribution(self, contexts_BxC):
    """p of every symbol after contexts of one length, of which the last N - 1 count: [B, V]."""
    contexts_BxC = np.asarray(contexts_BxC)
    length = min(contexts_BxC.shape[1], self.order - 1)
    recent_BxC = contexts_BxC[:, contexts_BxC.shape[1] - length :]
    p = np.full((len(contexts_BxC), self.vocab), 1 / self.vocab)
    for n, (level, (own, rest)) in enumerate(zip(self.levels[: length + 1], self._own_weights)):
      context = self._number(recent_BxC[:, length - n :])
      strings = self._find(level, context[:, None], np.arange(self.vocab))
      p = own[strings] + rest[context][:, None] * p
    return p

  def _number(self, strings_BxC):
    """The numbers of strings of one length, [B]."""
    number = np.full(len(strings_BxC), ngram_counts.EMPTY)
    for level, symbol_B in zip(self.levels, strings_BxC.T):
      number = self._find(level, number, symbol_B)
    return number

  def _find(self, level, context, symbol):
    return ngram_counts.find(level.first, level.symbols, context, symbol, self.vocab)

  @functools.cached_property
  def _own_weights(self):
    return list(self._weights(self.order))

  def _weights(self, order):
    """`_weigh` of the levels of the model of an order, one by one: they are large."""
    *below, highest = self.levels[:order]
    yield from (_weigh(level, level.continuation) for level in below)
    yield _weigh(highest, highest.raw)

  def params(self, order: int | None = None) -> dict:
    """The model of an order as a tree of arrays, for `ngram_model`."""
    order = self._check(order)
    return {
      f"level_{n}": {
        "first": level.first,
        "symbols": level.symbols,
        "own": own.astype(np.float32),
        "rest": rest.astype(np.float32),
      }
      for n, (level, (own, rest)) in enumerate(zip(self.levels, self._weights(order)), 1)
    }

  def _check(self, order):
    order = self.order if order is None else order
    if not 1 <= order <= self.order:
      raise errors.UserError(f"no order {order}: this text was counted for 1 to {self.order}")
    return order


def check_order(option: str, order: int, segments):
  """Raises UserError for an order that segments (start, stop) of a text cannot be counted for."""
  if order < 1:
    raise errors.UserError(f"{option}={order}: must be at least 1")
  longest = max((stop - start for start, stop in segments), default=0)
  if order > longest:
    raise errors.UserError(
      f"{option}={order}: the longest stretch of training text has {longest:,} characters"
    )


def fit(
  ids,
  order: int,
  vocab: int,
  segments=None,
  progress: ngram_counts.Progress = lambda n, strings: None,
) -> NGram:
  """Counts the strings of up to `order` symbols in a text, or in segments (start, stop) of it.

  `progress`: see `ngram_counts.count`.
  """
  if order < 1:
    raise errors.UserError(f"--config.model.order={order}: must be at least 1")
  try:
    levels = ngram_counts.count(ids, order, vocab, segments, progress)
  except MemoryError as error:
    raise errors.UserError(
      f"order {order} takes too much memory: {error}; take a lower one"
    ) from error
  if not levels[0].raw.any():
    raise errors.UserError("there is no text to count")
  return NGram(vocab, levels)


def _weigh(level: ngram_counts.Level, counts):
  """(c(u w) - D) / c(u .) for every string u w [G + 1], and g(u) for every context u [C + 1]."""
  taken = ngram_counts.discounts(counts[1:])[np.minimum(counts, 3)]
  contexts = np.repeat(np.arange(len(level.first) - 1), np.diff(level.first))
  total = np.bincount(contexts, counts[1:], len(level.first) - 1)
  rest = np.bincount(contexts, taken[1:], len(level.first) - 1)
  rest = np.divide(rest, total, out=np.ones_like(total), where=total > 0)
  return np.append(0.0, (counts[1:] - taken[1:]) / total[contexts]), rest
