"""Constraints on sampled texts: regular expressions, compiled to one automaton over the vocabulary.

Constraints apply to the generated text, but not to the prompt or the stop text. This module
does not use JAX.

Regular expressions have Python's syntax, restricted to regular languages: literals, . \\d \\w \\s
and similar classes (ASCII), [...], (...), |, repetition, and ^ and $ at the ends of an alternative.
The dot matches any character except a line end, as in `re`. Unlike in `re`, $ matches only the very
end of the text.

The library greenery parses the expressions. We do not use its automata, which cover all of Unicode:
building one for 14 lines of 30 to 45 characters takes 15 s, and their size is not limited.
"""

import functools
import re
import warnings
from collections.abc import Iterator, Sequence

import greenery
import numpy as np
from greenery.parse import NoMatch

from charrnn import errors
from charrnn.data import tokenizers
from charrnn.sampling import automata
from charrnn.sampling import symbols as symbols_lib

MAX_REGEX_STATES = 20_000
MAX_STATES = 8192  # maximum number of states of an automaton
MAX_ENTRIES = 2**24  # maximum number of entries in a table of the automaton
MAX_STEPS = 5_000_000  # maximum number of visits to states of a regex while its subsets are built
END, FOUND = 0, 1  # final states of a regex: for alternatives with $ at the end, and for all others
ANY = ~greenery.Charclass()
_PIECES = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)


class Regex:
  """A nondeterministic automaton that searches a text for a match.

  State s reads a character of the class labels[s] and continues in any state of after[s]. If the
  label is None, it continues without reading. The constructor raises UserError if the text is not a
  supported regular expression; the message contains `option`.
  """

  def __init__(self, option: str, text: str):
    self.name = f"{option}={text if text.isprintable() else repr(text)}"
    self.labels, self.after = [None, ANY], [(), (FOUND,)]
    if not text:
      raise errors.UserError(f"{option}: must not be empty")
    try:
      with warnings.catch_warnings(action="ignore"):  # warnings about future changes of syntax
        re.compile(text, re.ASCII)
      self.start = self._add(*[self._search(*each) for each in _alternatives(text)])
    except (re.error, OverflowError) as error:
      raise errors.UserError(f"{self.name}: {error}") from error
    except (NoMatch, ValueError, IndexError, RecursionError) as error:
      raise errors.UserError(
        f"{self.name}: not supported: use literals, . \\d \\w \\s [...] (...) | * + ? {{m,n}}, "
        "and ^ $ at the ends of an alternative"
      ) from error

  # The methods below add states that lead to the state `after`, and return the first of them.

  def _search(self, at_start: bool, pattern, at_end: bool) -> int:
    """Add a search for the pattern, which may match anywhere unless it is anchored."""
    first = self._once(pattern, END if at_end else FOUND)
    return first if at_start else self._loop(ANY, first)

  def _once(self, part, after: int) -> int:
    if isinstance(part, greenery.Charclass):
      return self._add(after, label=part)
    return self._add(
      *[functools.reduce(self._repeat, reversed(conc.mults), after) for conc in part.concs]
    )

  def _loop(self, part, after: int) -> int:
    """Add any number of repetitions of `part`."""
    loop = self._add(after)
    self.after[loop] += (self._once(part, loop),)
    return loop

  def _repeat(self, after: int, mult) -> int:
    part, times = mult.multiplicand, mult.multiplier
    if times.max.v is None:
      after = self._loop(part, after)
    else:
      done = after
      for _ in range(times.optional.v):
        after = self._add(self._once(part, after), done)
    for _ in range(times.mandatory.v):
      after = self._once(part, after)
    return after

  def _add(self, *after: int, label=None) -> int:
    if len(self.labels) == MAX_REGEX_STATES:
      raise errors.UserError(f"{self.name}: too large: simplify it")
    self.labels.append(label)
    self.after.append(after)
    return len(self.labels) - 1


def _alternatives(text: str) -> Iterator[tuple[bool, greenery.Pattern, bool]]:
  """Yield (starts with ^, greenery pattern, ends with $) for each alternative at the top level."""
  depth, parts = 0, [[]]
  for piece in _PIECES.findall(text):
    depth += (piece == "(") - (piece == ")")
    if piece == "|" and not depth:
      parts.append([])
    else:
      parts[-1].append(piece)
  for pieces in parts:
    at_start, at_end = pieces[:1] == ["^"], pieces[-1:] == ["$"]
    inner = pieces[at_start : len(pieces) - at_end]
    if {"^", "$"} & set(inner):
      raise NoMatch
    yield at_start, greenery.parse("".join(map(_translate, inner))), at_end


def _translate(piece: str) -> str:
  """Translate a piece of Python's syntax to greenery's syntax."""
  if piece == ".":
    return r"[^\n]"
  if len(piece) == 1:
    return piece
  if piece[0] == "\\":
    return piece if piece[1].isalnum() or piece[1] in "\\[]|().?*+{}" else piece[1]
  start = "[^" if piece[1] == "^" else "["
  items = re.findall(r"\\.|.", piece[len(start) : -1], re.DOTALL)
  for n, item in enumerate(items):
    if item in ("[", "]", "^") or (item == "-" and n in (0, len(items) - 1)):
      items[n] = "\\" + item
    elif item[0] == "\\" and not (item[1].isalnum() or item[1] in "\\[]^-"):
      items[n] = item[1]
  return start + "".join(items) + "]"


class _TooLargeError(Exception):
  pass


def build(
  required: Sequence[Regex],
  forbidden: Sequence[Regex],
  stop: str | None,
  tokenizer: tokenizers.Tokenizer,
  length: int,
) -> automata.Automaton | None:
  """Return the automaton of texts that match all of `required` and none of `forbidden`.

  A text ends at the stop text, if there is one, and may end with END, if the vocabulary has it.
  Return None if there are no constraints and no stop text. Raise UserError if no text of at most
  `length` tokens is allowed.
  """
  if not (required or forbidden or stop):
    return None
  regexes = [*required, *forbidden]
  names = " ".join(regex.name for regex in regexes) or "--stop"
  labels = {label: regex for regex in regexes for label in regex.labels if label is not None}
  symbols = symbols_lib.Symbols(list(labels), stop or "", tokenizer)
  classes = {label: symbols.members(label) for label in labels}
  for label, regex in labels.items():
    if not classes[label]:
      raise errors.UserError(
        f"{regex.name}: not in the run's vocabulary: {label}: use other characters"
      )
  stop_K = symbols.classes_of(stop or "")
  if unknown := [repr(c) for c, each in zip(stop or "", stop_K) if each < 0]:
    names = ", ".join(sorted({*unknown}))
    raise errors.UserError(f"--stop: not in the run's vocabulary: {names}: use other characters")
  try:
    subsets = [_Subsets(each, n < len(required), classes) for n, each in enumerate(regexes)]
    next_SxC, good_S = _product(subsets, symbols.classes)
    ended_S = np.zeros(len(good_S), bool)
    if stop:
      next_SxC, good_S, ended_S = _until(stop_K, next_SxC, good_S)
    next_SxY, good_S, ended_S = _by_symbol(next_SxC, good_S, ended_S, symbols)
    next_SxK, good_S = _by_token(next_SxY, good_S, ended_S, symbols)
    distance_S = _distances(next_SxK, good_S)
    automaton = _tables(next_SxK, distance_S, symbols.class_of_V)
  except _TooLargeError as error:
    raise errors.UserError(f"{names}: too large (more than {error}): simplify it") from error
  if distance_S[0] == automata.NEVER:
    raise errors.UserError(f"{names}: the constraints are contradictory: change or remove one")
  if distance_S[0] > length:
    raise errors.UserError(f"--length={length}: must be at least {distance_S[0]} for {names}")
  return automaton


class _Subsets:
  """The subset construction (Rabin & Scott 1959): sets of states that a text can reach."""

  def __init__(self, regex: Regex, required: bool, classes):
    self._regex, self._required = regex, required
    self._reads = [classes.get(label, ()) for label in regex.labels]
    self._moves, self._steps = {}, 0
    self.start = self._close([regex.start])

  def is_good(self, subset) -> bool:
    """Return whether the constraint is satisfied if the text ends here."""
    return self._required == bool(subset & {END, FOUND})

  def is_dead(self, subset) -> bool:
    """Return whether no continuation of the text can satisfy the constraint."""
    return not subset if self._required else FOUND in subset

  def moves(self, subset, count: int) -> list[frozenset]:
    """Return the next subset for each of the `count` classes of tokens."""
    if subset not in self._moves:
      after_C = [set() for _ in range(count)]
      for state in subset:
        for c in self._reads[state]:
          after_C[c].update(self._regex.after[state])
      self._moves[subset] = [self._close(after) for after in after_C]
    return self._moves[subset]

  def _close(self, states) -> frozenset:
    """Return the subset with all states that are reached without reading.

    Once a match is found, no other state matters.
    """
    seen, queue = set(states), list(states)
    for state in queue:
      if self._regex.labels[state] is None:
        queue += [after for after in self._regex.after[state] if after not in seen]
        seen.update(self._regex.after[state])
    self._steps += len(queue)
    if self._steps > MAX_STEPS:
      raise _TooLargeError(f"{MAX_STEPS:,} steps")
    if FOUND in seen:
      return frozenset([FOUND])
    labels = self._regex.labels
    return frozenset(state for state in seen if labels[state] is not None or state == END)


def _product(subsets: Sequence[_Subsets], count: int):
  """Combine the regexes; return next_SxC and good_S. None represents all dead states."""

  def follow(state):
    if state is None:
      return [None] * count
    after = zip(*[each.moves(subset, count) for each, subset in zip(subsets, state)])
    return map(live, after if subsets else [()] * count)

  def live(state):
    return None if any(each.is_dead(subset) for each, subset in zip(subsets, state)) else state

  states, next_SxC = _explore(live(tuple(each.start for each in subsets)), follow)
  good = [s is not None and all(map(_Subsets.is_good, subsets, s)) for s in states]
  return next_SxC, np.array(good)


def _until(stop_K: list[int], next_SxC: np.ndarray, good_S: np.ndarray):
  """Return next_SxC, good_S and ended_S of texts that may also end at the stop text.

  ended_S marks the states after the stop text, which characters do not change. The constraints do
  not apply to the stop text. State (k, s): the last k classes are the longest suffix that is a
  prefix of the stop text, and s is the state before them.
  """
  K, (S, C) = len(stop_K), next_SxC.shape
  if K * S > MAX_ENTRIES:
    raise _TooLargeError(f"{MAX_ENTRIES:,} entries")
  begun_KxC, fallback = [], [0] * C  # Knuth, Morris & Pratt 1977
  ahead_KxS = [np.arange(S)]  # state s after reading stop_K[:k]
  for k, c in enumerate(stop_K):
    begun_KxC.append([*fallback[:c], k + 1, *fallback[c + 1 :]])
    fallback = begun_KxC[fallback[c]] if k else begun_KxC[0]
    ahead_KxS.append(next_SxC[ahead_KxS[-1], c])

  def follow(state):
    if isinstance(state, bool):  # the text has ended, and the state is whether it was good
      return [state] * C
    return [move(*state, c) for c in range(C)]

  def move(k, s, c):
    begun = begun_KxC[k][c]
    if begun == K:
      return bool(good_S[s])
    passed = k + 1 - begun  # number of classes that no longer match the stop text
    s = ahead_KxS[passed][s] if passed <= k else next_SxC[ahead_KxS[k][s], c]
    return begun, int(s)

  states, after_SxC = _explore((0, 0), follow)
  good = [s if isinstance(s, bool) else good_S[ahead_KxS[s[0]][s[1]]] for s in states]
  return after_SxC, np.array(good, bool), np.array([isinstance(s, bool) for s in states])


def _by_symbol(next_SxC, good_S, ended_S, symbols: symbols_lib.Symbols):
  """Return the arrays of an automaton that reads symbols: next_SxY, good_S and ended_S.

  State (s, d): the state s after all complete characters, and the state d of the decoder.
  """
  if symbols.count == symbols.classes:  # No token contains a part of a character.
    return next_SxC, good_S, ended_S
  rows = next_SxC.tolist()

  def step(s, completed):
    return functools.reduce(lambda s, c: rows[s][c], completed, s)

  def follow(state):
    s, decoder = state
    for symbol in range(symbols.count):
      completed, after = symbols.read(decoder, symbol)
      end = step(s, completed)
      yield (end, symbols_lib.START if ended_S[end] else after)

  states, next_SxY = _explore((0, symbols_lib.START), follow)
  good = [good_S[step(s, symbols.flush(decoder))] for s, decoder in states]
  return next_SxY, np.array(good, bool), np.array([ended_S[s] for s, _ in states])


def _by_token(next_SxY, good_S, ended_S, symbols: symbols_lib.Symbols):
  """Return next_SxK and good_S of an automaton that reads whole tokens.

  A token that contains the stop text ends the text, wherever the stop text is in the token. No
  token may follow. END ends the text if the constraints are satisfied before it.
  """
  S, Y = next_SxY.shape
  dead, finished = S, S + 1
  next_SxY = np.pad(next_SxY.astype(np.int32), ((0, 2), (0, 3)), constant_values=dead)
  next_SxY[:, Y] = np.arange(S + 2)  # the padding of short tokens
  next_SxY[:S, Y + 2] = np.where(good_S, finished, dead)  # END
  ended_S, good_S = np.append(ended_S, [True, True]), np.append(good_S, [False, True])
  found, rows = np.zeros(1, np.int64), []  # state numbers in order of discovery
  number_S = np.full(S + 2, -1)
  number_S[0] = done = 0
  while done < len(found):
    new, done = found[done:], len(found)
    after = np.broadcast_to(new[:, None], (len(new), len(symbols.symbols_KxL)))
    if len(found) * after.shape[1] > MAX_ENTRIES:
      raise _TooLargeError(f"{MAX_ENTRIES:,} entries")
    for symbol_K in symbols.symbols_KxL.T:
      after = next_SxY[after, symbol_K]
    rows.append(np.where(ended_S[new][:, None], dead, after))
    unseen = np.unique(rows[-1])
    unseen = unseen[number_S[unseen] < 0]
    number_S[unseen] = len(found) + np.arange(len(unseen))
    found = np.concatenate([found, unseen])
  return number_S[np.concatenate(rows)], good_S[found]


def _explore(start, follow):
  """Return all states that are reachable from `start`, in order of discovery, and next_SxC."""
  numbers, states, rows = {start: 0}, [start], []
  for state in states:
    rows.append([])
    for after in follow(state):
      if after not in numbers:
        numbers[after] = len(states)
        states.append(after)
      rows[-1].append(numbers[after])
    if len(states) > MAX_STATES:
      raise _TooLargeError(f"{MAX_STATES:,} states")
  return states, np.array(rows)


def _distances(next_SxC, good_S):
  """Return the smallest number of tokens from each state to a good state, or automata.NEVER."""
  before = [[] for _ in next_SxC]
  for state, row in enumerate(next_SxC):
    for after in np.unique(row).tolist():
      before[after].append(state)
  distance_S = np.where(good_S, 0, automata.NEVER)
  queue = np.flatnonzero(good_S).tolist()
  for state in queue:
    new = [each for each in before[state] if distance_S[each] == automata.NEVER]
    distance_S[new] = distance_S[state] + 1
    queue += new
  return distance_S


def _tables(next_SxC, distance_S, class_of_V):
  """Return the automaton, with all dead states merged into the last row."""
  live = np.flatnonzero(distance_S < automata.NEVER)
  size = max(automata.MIN_STATES, 1 << len(live).bit_length())
  if size * len(class_of_V) > MAX_ENTRIES:
    raise _TooLargeError(f"{MAX_ENTRIES:,} entries")
  number_S = np.full(len(distance_S), size - 1)
  number_S[live] = np.arange(len(live))
  next_SxV = next_SxC[live][:, class_of_V]
  padding = ((0, size - len(live)), (0, 0))
  return automata.Automaton(
    np.pad(number_S[next_SxV].astype(np.int32), padding, constant_values=size - 1),
    np.pad(distance_S[next_SxV].astype(np.int32), padding, constant_values=automata.NEVER),
  )
