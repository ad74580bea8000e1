"""How often every string of up to N symbols occurs, and what is taken off these counts.

The strings of n symbols are numbered from 1 to G, in the order of their context (the number of
their first n-1 symbols, on the level before) and last symbol. 0 stands for any that does not occur;
the one string of no symbols is number 1. So a text is read level by level, all of it at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from charrnn import startup

Progress = Callable[[int, int], None]

EMPTY = 1  # the number of the string of no symbols
WORKING = 64  # bytes for each symbol of the text that `count` takes, besides the levels


class Level(NamedTuple):
  """The strings of n symbols that occur. Entry 0 of what has one for each string is unused."""

  first: np.ndarray  # [C + 2]: strings first[c] to first[c + 1] - 1 have context c
  symbols: np.ndarray  # [G + 1]: the last of the string, rising within a context
  raw: np.ndarray  # [G + 1]: occurrences
  continuation: np.ndarray | None  # [G + 1]: different symbols before it; None on the last level


def count(
  ids,
  order: int,
  vocab: int,
  segments=None,
  progress: Progress = lambda n, strings: None,
) -> tuple[Level, ...]:
  """The levels 1 to `order` of a text of symbols below `vocab`, or of segments (start, stop) of it.

  There are no marks of a beginning or an end, and no string reaches over the ends of a segment: the
  first symbols of one have shorter contexts. Its beginning counts as one more different symbol
  before what it opens with, so that no string has a continuation count of 0.

  `progress` hears of each level when it is done: its number and how many strings it has. Raises
  MemoryError before a level for which there is too little left.
  """
  text, begins = join(ids, segments)
  if text.max(initial=0) >= vocab:
    raise ValueError(f"symbol {text.max()} in a vocabulary of {vocab}")
  levels = []
  contexts, shorter = np.full(len(text), EMPTY), None
  for n in range(1, order + 1):
    _check_memory(len(text), n)
    size = levels[-1].raw.size if levels else EMPTY + 1
    level, strings, one_each = _level(text, contexts, size, vocab)
    if levels:
      opening = (shorter > 0) & (contexts == 0)
      continuation = _continuation(shorter, one_each, opening, size)
      levels[-1] = levels[-1]._replace(continuation=continuation)
    levels.append(level)
    contexts, shorter = before(strings, begins), strings
    progress(n, len(level.symbols) - 1)
  return tuple(levels)


def _check_memory(characters, n):
  needed, free = WORKING * characters, startup.free_memory()
  if needed > free:
    raise MemoryError(
      f"strings of {n} symbols take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    )


def _level(text, contexts, size, vocab):
  """The level of the strings (context, symbol) at each place; `size` contexts there are, with 0.

  Returns it, the string that ends at each place [T], and one place for each string [G].
  """
  at = np.flatnonzero(contexts)
  keys = contexts[at].astype(np.int64) * vocab + text[at]
  by_key = np.argsort(keys)
  at, keys = at[by_key], keys[by_key]
  starts = np.flatnonzero(np.diff(keys, prepend=-1))
  counts = np.diff(starts, append=len(keys))
  strings = np.zeros(len(text), np.int32)
  strings[at] = np.repeat(np.arange(1, len(starts) + 1), counts)
  parents, symbols = np.divmod(keys[starts], vocab)
  first = np.cumsum(np.append(1, np.bincount(parents, minlength=size)))
  symbols, counts = (_smallest(np.append(0, values)) for values in (symbols, counts))
  return Level(first.astype(np.int32), symbols, counts, None), strings, at[starts]


def join(ids, segments=None):
  """The segments (start, stop) of a text, end to end; and where each begins."""
  segments = [(0, len(ids))] if segments is None else segments
  parts = [np.asarray(ids[start:stop]) for start, stop in segments if start < stop]
  lengths = [len(part) for part in parts]
  return np.concatenate([np.zeros(0, np.int64), *parts]), np.cumsum([0, *lengths])[:-1]


def before(strings, begins):
  """Given the string that ends at each place of a text, that which ends just before it."""
  context = np.roll(strings, 1)
  context[begins] = 0
  return context


def _continuation(shorter, one_each, opening, size):
  """Different symbols before the strings of a level: how many longer strings end with each.

  `shorter`: the level's string at each place of the text; `one_each`: a place for each longer one;
  `opening`: where a segment's beginning stands before the string.
  """
  counts = np.bincount(shorter[one_each], minlength=size)
  counts[np.unique(shorter[opening])] += 1
  return _smallest(counts)


def _smallest(values):
  return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def find(first, symbols, context, symbol, vocab: int):
  """The numbers of the strings (context, symbol) on a level, 0 where there is none; they broadcast.

  A binary search among at most `vocab` strings, for all of them at once.
  """
  low, end = first[context], first[context + 1]
  high, last = end, len(symbols) - 1
  for _ in range(vocab.bit_length()):
    middle = (low + high) // 2
    below = (low < high) & (symbols[np.minimum(middle, last)] < symbol)
    low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
  found = (low < end) & (symbols[np.minimum(low, last)] == symbol)
  return np.where(found, low, 0)


# Where no discounts can be had, those of KenLM's --discount_fallback.
FALLBACK = (0.5, 1.0, 1.5)


def discounts(counts):
  """What is taken off counts of 0, 1, 2, and 3 or more (Chen & Goodman 1998, equation 26): [4].

  With n_c strings of count c:  Y = n_1 / (n_1 + 2 n_2),  D_c = c - (c + 1) Y n_(c+1) / n_c.

  On small or repetitive texts, and at low orders, where nearly all strings are frequent, n_1, n_2
  or n_3 may be 0, or a D_c not above 0: then all three are FALLBACK's, as in KenLM.
  """
  n = np.bincount(np.minimum(counts, 5), minlength=6)
  if n[1:4].all():
    Y = n[1] / (n[1] + 2 * n[2])
    c = np.arange(1, 4)
    D = c - (c + 1) * Y * n[c + 1] / n[c]
    if np.all(D > 0):
      return np.append(0.0, D)
  return np.array((0.0, *FALLBACK))
