"""What a text may be, as one deterministic automaton over a run's symbols: no JAX in here.

It reads what is written, never the prompt, and judges the text as it is before a stop text.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.data import tokenizers
from charrnn.sampling import regexes

LEAST_STATES, MOST_STATES = 64, 8192
MOST_ENTRIES = 2**24  # of a table
MOST_WORK = 5_000_000  # states of the nondeterministic automata, each time that one is come by
NEVER = np.iinfo(np.int32).max


class Automaton(NamedTuple):
  """Begins in state 0. A text ends where no symbol can lead to a good text in time.

  S is a power of two, so that automata of about one size share a compiled program.
  """

  next_SxV: np.ndarray  # int32
  least_SxV: np.ndarray  # int32: how many symbols a good text takes after this one, or NEVER

  def may_come(self, state_B, left):
    """Which symbols may come next, [B, V], if at most `left` are still to come, them included."""
    return self.least_SxV[state_B] < left


def build(
  required: Sequence[regexes.Regex],
  forbidden: Sequence[regexes.Regex],
  stop: str | None,
  tokenizer: tokenizers.Tokenizer,
  length: int,
) -> Automaton | None:
  """Of texts where all of `required` match and none of `forbidden`, and that end at the stop text.

  None if nothing is asked; raises UserError if no text of at most `length` symbols is like that.
  """
  if not (required or forbidden or stop):
    return None
  asked = " ".join(regex.name for regex in (*required, *forbidden)) or "--stop"
  stop_ids = tokenizer.encode(stop or "")
  class_of_V, reads = _classes((*required, *forbidden), stop_ids, tokenizer)
  machines = [_Machine(regex, True, reads) for regex in required]
  machines += [_Machine(regex, False, reads) for regex in forbidden]
  try:
    next_SxC, good_S = _all(machines, int(class_of_V.max()) + 1)
    if stop:
      next_SxC, good_S = _until(class_of_V[stop_ids].tolist(), next_SxC, good_S)
    least_S = _least(next_SxC, good_S)
    automaton = _tables(next_SxC, least_S, class_of_V)
  except _TooLargeError as error:
    raise errors.UserError(f"{asked}: too large: this takes more than {error}") from error
  if least_S[0] == NEVER:
    raise errors.UserError(f"{asked}: no text can be like that")
  if least_S[0] > length:
    raise errors.UserError(f"--length={length}: {asked} takes {least_S[0]} at least")
  return automaton


class _TooLargeError(Exception):
  pass


def _classes(every_regex, stop_ids, tokenizer):
  """Which symbols are alike to all regexes and the stop text -> class_of_V, classes of a label."""
  labels = {label: regex for regex in every_regex for label in regex.labels if label is not None}
  has_LxV = np.array([[label.accepts(s) for s in tokenizer.tokens] for label in labels], bool)
  is_stop_LxV = np.unique(stop_ids)[:, None] == np.arange(tokenizer.vocab_size)
  rows = np.concatenate([has_LxV.reshape(-1, tokenizer.vocab_size), is_stop_LxV])
  class_of_V = np.unique(rows, axis=1, return_inverse=True)[1].ravel()
  for (label, regex), has_V in zip(labels.items(), has_LxV):
    if not has_V.any():
      raise errors.UserError(
        f"{regex.name}: would never come, not in the run's vocabulary: {label}"
      )
    if tokenizer.kind == "byte" and not regex.ascii:
      raise errors.UserError(f"{regex.name}: the run's tokenizer is bytes: use ASCII alone")
  reads = {label: np.unique(class_of_V[has_V]).tolist() for label, has_V in zip(labels, has_LxV)}
  return class_of_V, reads


class _Machine:
  """The subsets of a regex's states that a text can lead to (Rabin & Scott 1959)."""

  def __init__(self, regex, required, reads):
    self._regex, self._required = regex, required
    self._reads = [reads.get(label, ()) for label in regex.labels]
    self._moves, self._work = {}, 0
    self.start = self._close([regex.start])

  def good(self, subset):
    """Whether the text may end here."""
    return self._required == bool(subset & {regexes.END, regexes.FOUND})

  def hopeless(self, subset):
    return not subset if self._required else regexes.FOUND in subset

  def moves(self, subset, count):
    """The next subset by each of the `count` classes."""
    if subset not in self._moves:
      after_C = [set() for _ in range(count)]
      for state in subset:
        for c in self._reads[state]:
          after_C[c].update(self._regex.after[state])
      self._moves[subset] = [self._close(after) for after in after_C]
    return self._moves[subset]

  def _close(self, states):
    """With all that is reached without reading; once a match is found nothing else matters."""
    seen, queue = set(states), list(states)
    for state in queue:
      if self._regex.labels[state] is None:
        queue += [after for after in self._regex.after[state] if after not in seen]
        seen.update(self._regex.after[state])
    self._work += len(queue)
    if self._work > MOST_WORK:
      raise _TooLargeError(f"{MOST_WORK:,} steps")
    if regexes.FOUND in seen:
      return frozenset([regexes.FOUND])
    labels = self._regex.labels
    return frozenset(state for state in seen if labels[state] is not None or state == regexes.END)


def _all(machines: Sequence[_Machine], count: int):
  """All machines side by side -> next_SxC, good_S; None stands for the states without hope."""

  def follow(state):
    if state is None:
      return [None] * count
    after = zip(*[m.moves(subset, count) for m, subset in zip(machines, state)])
    return map(hope, after if machines else [()] * count)

  def hope(state):
    return None if any(m.hopeless(subset) for m, subset in zip(machines, state)) else state

  states, next_SxC = _explore(hope(tuple(m.start for m in machines)), follow)
  good_S = [s is not None and all(m.good(each) for m, each in zip(machines, s)) for s in states]
  return next_SxC, np.array(good_S)


def _until(stop_K: list[int], next_SxC: np.ndarray, good_S: np.ndarray):
  """The same for texts that may end at a stop text too, which is read but not judged.

  State (k, s): the last k symbols are the most that begin the stop text; s is from before them.
  """
  K, (S, C) = len(stop_K), next_SxC.shape
  if K * S > MOST_ENTRIES:
    raise _TooLargeError(f"{MOST_ENTRIES:,} entries")
  begun_KxC, fallback = [], [0] * C  # Knuth, Morris & Pratt 1977
  ahead_KxS = [np.arange(S)]  # where stop_K[:k] leads to
  for k, c in enumerate(stop_K):
    begun_KxC.append([*fallback[:c], k + 1, *fallback[c + 1 :]])
    fallback = begun_KxC[fallback[c]] if k else begun_KxC[0]
    ahead_KxS.append(next_SxC[ahead_KxS[-1], c])

  def follow(state):
    if isinstance(state, bool):  # it has ended, and was good or not
      return [False] * C
    return [move(*state, c) for c in range(C)]

  def move(k, s, c):
    begun = begun_KxC[k][c]
    if begun == K:
      return bool(good_S[s])
    passed = k + 1 - begun  # so many symbols begin the stop text no more
    s = ahead_KxS[passed][s] if passed <= k else next_SxC[ahead_KxS[k][s], c]
    return begun, int(s)

  states, after_SxC = _explore((0, 0), follow)
  good = [s if isinstance(s, bool) else good_S[ahead_KxS[s[0]][s[1]]] for s in states]
  return after_SxC, np.array(good, bool)


def _explore(start: Hashable, follow: Callable[[Hashable], Iterable[Hashable]]):
  """All states there are from `start` on, in the order they are come by -> states, next_SxC."""
  numbers, states, rows = {start: 0}, [start], []
  for state in states:
    rows.append([])
    for after in follow(state):
      if after not in numbers:
        numbers[after] = len(states)
        states.append(after)
      rows[-1].append(numbers[after])
    if len(states) > MOST_STATES:
      raise _TooLargeError(f"{MOST_STATES:,} states")
  return states, np.array(rows)


def _least(next_SxC, good_S):
  """The least number of symbols from each state to a good one, or NEVER."""
  before = [[] for _ in next_SxC]
  for state, row in enumerate(next_SxC.tolist()):
    for after in set(row):
      before[after].append(state)
  least_S = np.where(good_S, 0, NEVER)
  queue = np.flatnonzero(good_S).tolist()
  for state in queue:
    new = [each for each in before[state] if least_S[each] == NEVER]
    least_S[new] = least_S[state] + 1
    queue += new
  return least_S


def _tables(next_SxC, least_S, class_of_V):
  """The automaton without the states that lead nowhere: the last row stands for them all."""
  live = np.flatnonzero(least_S < NEVER)
  size = max(LEAST_STATES, 1 << len(live).bit_length())
  if size * len(class_of_V) > MOST_ENTRIES:
    raise _TooLargeError(f"{MOST_ENTRIES:,} entries")
  number_S = np.full(len(least_S), size - 1)
  number_S[live] = np.arange(len(live))
  next_SxC = next_SxC[live]
  next_SxV = np.full((size, len(class_of_V)), size - 1, np.int32)
  next_SxV[: len(live)] = number_S[next_SxC][:, class_of_V]
  least_SxV = np.full((size, len(class_of_V)), NEVER, np.int32)
  least_SxV[: len(live)] = least_S[next_SxC][:, class_of_V]
  return Automaton(next_SxV, least_SxV)
