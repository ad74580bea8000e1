"""N-grams of tokens with interpolated modified Kneser-Ney smoothing (Chen & Goodman 1998).

Let w be a token after the context u, and u' the context without its oldest token. Then

  p_n(w | u) = (c(u w) - D(c(u w))) / c(u .) + g(u) p_(n-1)(w | u'),  p_0 = 1 / V
  g(u) = (D_1 N_1(u .) + D_2 N_2(u .) + D_3 N_3+(u .)) / c(u .)

c(u .) is the sum of c(u w) over w. N_k(u .) is the number of tokens w with c(u w) = k; N_3+(u .) is
the number with c(u w) >= 3. After a context that never occurs, p_n equals p_(n-1). At the highest
order, c counts occurrences. At lower orders, c counts the distinct tokens that occur before u w.

A level contains the strings of n tokens that occur. They are numbered from 1 to S, in ascending
order of their context and last token. The context is the number of their first n-1 tokens on the
level below. Number 0 means that a string does not occur, and the empty string has number 1. With
these numbers, NumPy processes all positions of a text at once, level by level.
"""

import types
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from charrnn import errors, runtime

EMPTY = 1  # number of the empty string
WORKING = 64  # bytes per token of the text that `fit` allocates, not counting the levels
BLOCK = 32  # number of strings of a context that a step of `_mix` adds
FALLBACK = (0.5, 1.0, 1.5)  # the values of KenLM's --discount_fallback

Progress = Callable[[int, int], None]  # called after each level with (n, number of strings)


class Level(NamedTuple):
  """The S strings of n tokens that occur, which have C contexts. Entry 0 of [S + 1] is unused."""

  first: np.ndarray  # [C + 2]: strings first[c] to first[c + 1] - 1 have context c
  symbols: np.ndarray  # [S + 1]: last token of each string, ascending within a context
  raw: np.ndarray  # [S + 1]: number of occurrences
  continuation: np.ndarray | None  # [S + 1]: number of distinct tokens before it; None at the top


class NGram(NamedTuple):
  """The counts of a text, for models of all orders up to `order`."""

  vocab: int
  levels: tuple[Level, ...]

  @property
  def order(self) -> int:
    return len(self.levels)

  def losses(self, ids, spans=None) -> np.ndarray:
    """Return the mean loss over the spans in nats per token, for each order: float64 [order].

    The context of the first tokens of a span is the text before the span. The first token of the
    text has no context and is not scored, as for networks.
    """
    spans = [(0, len(ids))] if spans is None else spans
    scored = [(max(a, 1), b) for a, b in spans if max(a, 1) < b]
    if not scored:
      raise errors.UserError("nothing to score: use at least two tokens")
    inputs = [(max(0, a - self.order + 1), b) for a, b in scored]
    is_scored = np.concatenate([np.arange(c, b) >= a for (a, b), (c, _) in zip(scored, inputs)])
    return np.array([-np.log(p[is_scored]).mean() for p in self.by_order(ids, inputs)])

  def by_order(self, ids, spans) -> Iterator[np.ndarray]:
    """Yield the probabilities [T] of all tokens of the joined spans, for each order from 1."""
    text, starts = join(ids, spans)
    p = np.full(len(text), 1 / self.vocab)
    context = np.full(len(text), EMPTY)
    for level in self.levels:
      string = find(level, context, text, self.vocab)
      own, rest = _weigh(level, level.raw)
      yield own[string] + rest[context] * p
      if level.continuation is not None:
        own, rest = _weigh(level, level.continuation)
        p = own[string] + rest[context] * p
        context = _previous(string, starts)

  def params(self, order: int | None = None) -> dict:
    """Return the parameters of the `Model` of an order (by default the highest order).

    Each level has the strings that occur (first, symbols), the discounted probability of each
    string (own), and the weight of the shorter context for each context (rest).
    """
    order = self.order if order is None else order
    tree = {}
    for n, level in enumerate(self.levels[:order], 1):
      weights = _weigh(level, level.raw if n == order else level.continuation)
      own, rest = (weight.astype(np.float32) for weight in weights)
      arrays = {"first": level.first, "symbols": level.symbols, "own": own, "rest": rest}
      tree[f"level_{n}"] = arrays
    return tree


def check_order(option: str, order: int, spans):
  """Raise UserError if an order is below 1, or longer than every span."""
  errors.check(option, order, order >= 1, "must be at least 1")
  longest = max((stop - start for start, stop in spans), default=0)
  rule = f"must be at most {longest:,}, the length of the longest training span in tokens"
  errors.check(option, order, order <= longest, rule)


def fit(
  ids, order: int, vocab: int, spans=None, progress: Progress = lambda n, strings: None
) -> NGram:
  """Count the strings of 1 to `order` tokens in a text, or in spans of a text.

  All ids must be less than `vocab`. There are no markers for the beginning or end, and no string
  crosses the ends of a span, so the first tokens of a span have shorter contexts. The start of a
  span counts as a distinct token before its first string, so that no continuation count is 0.

  Raise UserError if there is not enough free memory for a level.
  """
  try:
    text, starts = join(ids, spans)
    if text.max(initial=0) >= vocab:
      raise ValueError(f"token id {text.max()} in a vocabulary of {vocab} tokens")
    levels = []
    contexts, shorter = np.full(len(text), EMPTY), None
    for n in range(1, order + 1):
      needed, free = WORKING * len(text), runtime.free_memory()
      if needed > free:
        raise MemoryError(
          f"strings of {n} tokens need {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB is free"
        )
      size = levels[-1].raw.size if levels else EMPTY + 1
      level, strings, examples = _level(text, contexts, size, vocab)
      if levels:
        counts = np.bincount(shorter[examples], minlength=size)
        # For a string at the start of a span, the start counts as the token before it.
        counts[np.unique(shorter[(shorter > 0) & (contexts == 0)])] += 1
        levels[-1] = levels[-1]._replace(continuation=_smallest(counts))
      levels.append(level)
      contexts, shorter = _previous(strings, starts), strings
      progress(n, len(level.symbols) - 1)
  except MemoryError as error:
    text = f"order {order} needs too much memory: {error}; use a lower order"
    raise errors.UserError(text) from error
  return NGram(vocab, tuple(levels))


def _level(text, contexts, size, vocab):
  """Return the level of the strings (context, token) at all positions.

  `size` is the number of contexts, including context 0. Also return the number of the string that
  ends at each position [T], and one position of each string [S].
  """
  positions = np.flatnonzero(contexts)
  keys = contexts[positions].astype(np.int64) * vocab + text[positions]
  by_key = np.argsort(keys)
  positions, keys = positions[by_key], keys[by_key]
  starts = np.flatnonzero(np.diff(keys, prepend=-1))
  counts = np.diff(starts, append=len(keys))
  strings = np.zeros(len(text), np.int32)
  strings[positions] = np.repeat(np.arange(1, len(starts) + 1), counts)
  parents, symbols = np.divmod(keys[starts], vocab)
  first = np.cumsum(np.append(1, np.bincount(parents, minlength=size)))
  symbols, counts = (_smallest(np.append(0, values)) for values in (symbols, counts))
  return Level(first.astype(np.int32), symbols, counts, None), strings, positions[starts]


def join(ids, spans=None):
  """Return the concatenated spans of a text, and the start of each span in the result."""
  spans = [(0, len(ids))] if spans is None else spans
  pieces = [np.asarray(ids[start:stop]) for start, stop in spans if start < stop]
  lengths = [len(piece) for piece in pieces]
  return np.concatenate([np.zeros(0, np.int64), *pieces]), np.cumsum([0, *lengths])[:-1]


def _previous(strings, starts):
  """Return for each position the string that ends one position earlier, 0 at starts of spans."""
  context = np.roll(strings, 1)
  context[starts] = 0
  return context


def _smallest(values):
  return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def find(level: Level, context, symbol, vocab: int) -> np.ndarray:
  """Return the numbers of the strings (context, symbol), or 0 if absent. The arrays broadcast."""
  keys = _contexts(level) * vocab + level.symbols[1:]  # ascending
  key = np.asarray(context, np.int64) * vocab + symbol
  index = np.searchsorted(keys, key)
  return np.where(np.append(keys, -1)[index] == key, index + 1, 0)


def _contexts(level):
  """Return the context of each string: [S]."""
  return np.repeat(np.arange(len(level.first) - 1), np.diff(level.first))


def discounts(counts) -> np.ndarray:
  """Return the discounts of counts of 0, 1, 2, and 3 or more (Chen & Goodman 1998, eq. 26): [4].

  With n_c strings of count c:  Y = n_1 / (n_1 + 2 n_2),  D_c = c - (c + 1) Y n_(c+1) / n_c.

  If n_1, n_2 or n_3 is 0, or a D_c is not positive, use FALLBACK for all three, as KenLM does. This
  happens for small or repetitive texts, and at low orders, where nearly all strings are frequent.
  """
  n = np.bincount(np.minimum(counts, 5), minlength=6)
  if n[1:4].all():
    Y = n[1] / (n[1] + 2 * n[2])
    c = np.arange(1, 4)
    D = c - (c + 1) * Y * n[c + 1] / n[c]
    if np.all(D > 0):
      return np.append(0.0, D)
  return np.array((0.0, *FALLBACK))


def _weigh(level: Level, counts):
  """Return (c(u w) - D) / c(u .) of each string u w [S + 1], and g(u) of each context [C + 1]."""
  discount = discounts(counts[1:])[np.minimum(counts, 3)]
  contexts, size = _contexts(level), len(level.first) - 1
  total = np.bincount(contexts, counts[1:], size)
  rest = np.bincount(contexts, discount[1:], size)
  rest = np.divide(rest, total, out=np.ones(size), where=total > 0)
  return np.append(0.0, (counts[1:] - discount[1:]) / total[contexts]), rest


class Model:
  """The n-gram model of one order as a `models.Model`, whose logits [T, B, V] are log p.

  Its parameters are the result of `NGram.params`.
  """

  has_gradient = can_hold = False
  units = types.MappingProxyType({})
  states = ()
  implementation = "look-up"
  reset_id = None

  def __init__(self, vocab_size: int, order: int):
    self.vocab_size, self.order = vocab_size, order
    self.description = f"{order}-gram"

  def init(self, key):
    """Return the parameters of an empty text, for which all tokens are equally probable."""
    del key
    return fit(np.zeros(0, int), self.order, self.vocab_size).params()

  def initial_carry(self, batch):
    """Return the numbers of the last strings of 1 to `order` - 1 tokens, [batch] each."""
    return tuple(jnp.zeros(batch, jnp.int32) for _ in range(1, self.order))

  def prepare(self, params):
    return params

  def products(self, params):
    """Return 0: strings are looked up."""
    del params
    return 0

  def apply(self, params, ids_TxB, carry, *, rngs=None, record=False, clamp=None):
    del rngs  # there is no dropout
    if clamp:
      raise ValueError("an n-gram has no units to clamp")
    if carry is None:
      carry = self.initial_carry(ids_TxB.shape[1])
    levels = [params[f"level_{n}"] for n in range(1, self.order + 1)]
    strings_TxB = jnp.full(ids_TxB.shape, EMPTY)
    # All tokens have the same context of length 0, so this distribution is computed only once.
    p_TxBxV = self._mix(levels[0], strings_TxB[:1, :1], jnp.full((1, 1, 1), 1 / self.vocab_size))
    contexts_TxB, after = strings_TxB, []
    for level, longer, before_B in zip(levels, levels[1:], carry):
      strings_TxB = self._find(level, contexts_TxB, ids_TxB)
      p_TxBxV = self._mix(longer, strings_TxB, p_TxBxV)
      contexts_TxB = jnp.concatenate([before_B[None], strings_TxB[:-1]])
      after.append(strings_TxB[-1])
    p_TxBxV = jnp.broadcast_to(p_TxBxV, (*ids_TxB.shape, self.vocab_size))
    return jnp.log(p_TxBxV), tuple(after), {} if record else None

  def _mix(self, level, contexts_TxB, p_TxBxV):
    """Return p for the contexts, given p for the contexts that are one token shorter."""
    first, own = jnp.asarray(level["first"]), jnp.asarray(level["own"])
    symbols, rest = jnp.asarray(level["symbols"]), jnp.asarray(level["rest"])
    starts_TxBx1 = first[contexts_TxB][..., None]
    counts_TxBx1 = first[contexts_TxB + 1][..., None] - starts_TxBx1
    shape = (*contexts_TxB.shape, self.vocab_size)
    p_TxBxV = jnp.broadcast_to(rest[contexts_TxB][..., None] * p_TxBxV, shape)
    t, b = np.ogrid[: shape[0], : shape[1]]

    def add(block, p_TxBxV):
      """Add the probabilities of the next BLOCK strings of each context."""
      numbers = block * BLOCK + np.arange(BLOCK)
      strings_TxBxN = starts_TxBx1 + numbers
      own_TxBxN = jnp.where(numbers < counts_TxBx1, own[strings_TxBxN], 0)
      return p_TxBxV.at[t[..., None], b[..., None], symbols[strings_TxBxN]].add(own_TxBxN)

    return lax.fori_loop(0, (counts_TxBx1.max() + BLOCK - 1) // BLOCK, add, p_TxBxV)

  def _find(self, level, context, symbol):
    """Return the same as `find`, by a binary search among the strings of each context."""
    first, symbols = jnp.asarray(level["first"]), jnp.asarray(level["symbols"])
    low, end, symbol = jnp.broadcast_arrays(first[context], first[context + 1], symbol)

    def halve(_, ends):
      low, high = ends
      middle = (low + high) // 2
      below = (low < high) & (symbols[middle] < symbol)
      return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

    low, _ = lax.fori_loop(0, self.vocab_size.bit_length(), halve, (low, end))
    # JAX clips an index beyond the end to the last string.
    return jnp.where((low < end) & (symbols[low] == symbol), low, 0)


def make(vocab_size: int, *, cell: str, order: int) -> Model:
  """Return the model for these fields of `config.model`."""
  del cell
  return Model(vocab_size, order)
