"""Regular expressions in Python's syntax as nondeterministic automata: no JAX in here.

They may say what is regular: literals, . \\d \\w \\s and the like (of ASCII), [...], (...), |,
repetition, and ^ and $ at the two ends of an alternative. The dot is, as in `re`, any character but
a line end; $ is, unlike there, the very end alone.

The library greenery parses them. Its own finite automata are over all of Unicode: they take 15 s
for 14 lines of 30 to 45 characters, and know no limit.
"""

import re
import warnings

import greenery
from greenery.parse import NoMatch

from charrnn import errors

MOST = 20_000  # states
END, FOUND = 0, 1  # the states after a match at the end of the text, and after one anywhere
ANY = ~greenery.Charclass()
_TOKENS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)


class Regex:
  """An automaton that reads a text from its first character on and looks for a match.

  State s reads a character of the class labels[s] and goes on to any of after[s]; without a label
  it goes on at once. Raises UserError, with the option that gave the text, for what it can't read.
  """

  def __init__(self, option: str, text: str):
    self.name = f"{option}={text if text.isprintable() else repr(text)}"
    self.ascii = text.isascii()
    self.labels, self.after = [None, ANY], [(), (FOUND,)]
    if not text:
      raise errors.UserError(f"{option}: the regular expression is empty")
    try:
      with warnings.catch_warnings(action="ignore"):  # of what may mean more in Pythons to come
        re.compile(text, re.ASCII)
      self.start = self._state(*[self._search(*each) for each in _alternatives(text)])
    except (re.error, OverflowError) as error:
      raise errors.UserError(f"{self.name}: {error}") from error
    except (NoMatch, ValueError, IndexError, RecursionError) as error:
      raise errors.UserError(
        f"{self.name}: not understood: use literals, . \\d \\w \\s [...] (...) | * + ? {{m,n}}, "
        "and ^ and $ at the ends alone"
      ) from error

  def _search(self, at_start, pattern, at_end):
    """A match of the pattern, anywhere unless it is anchored."""
    begin = self._pattern(pattern, END if at_end else FOUND)
    if at_start:
      return begin
    again = self._state(begin)
    self.after[again] += (self._state(again, label=ANY),)
    return again

  def _pattern(self, pattern, after):
    return self._state(*[self._sequence(conc.mults, after) for conc in pattern.concs])

  def _sequence(self, mults, after):
    for mult in reversed(mults):
      after = self._repeated(mult.multiplicand, mult.multiplier, after)
    return after

  def _repeated(self, part, times, after):
    if times.max.v is None:
      loop = self._state(after)
      self.after[loop] += (self._once(part, loop),)
      after = loop
    else:
      done = after
      for _ in range(times.optional.v):
        after = self._state(self._once(part, after), done)
    for _ in range(times.mandatory.v):
      after = self._once(part, after)
    return after

  def _once(self, part, after):
    if isinstance(part, greenery.Charclass):
      return self._state(after, label=part)
    return self._pattern(part, after)

  def _state(self, *after, label=None):
    if len(self.labels) == MOST:
      raise errors.UserError(f"{self.name}: too large")
    self.labels.append(label)
    self.after.append(after)
    return len(self.labels) - 1


def _alternatives(text):
  """(starts with ^, what is between as greenery's Pattern, ends with $) for all at the top."""
  depth, parts = 0, [[]]
  for token in _TOKENS.findall(text):
    depth += (token == "(") - (token == ")")
    if token == "|" and not depth:
      parts.append([])
    else:
      parts[-1].append(token)
  for tokens in parts:
    at_start, at_end = tokens[:1] == ["^"], tokens[-1:] == ["$"]
    inner = tokens[at_start : len(tokens) - at_end]
    if {"^", "$"} & set(inner):
      raise NoMatch
    yield at_start, greenery.parse("".join(map(_translate, inner))), at_end


def _translate(token):
  """A token of Python's syntax in greenery's, where the two differ."""
  if token == ".":
    return r"[^\n]"
  if len(token) > 1 and token[0] == "[":
    return _translate_class(token)
  plain = token[0] == "\\" and not (token[1].isalnum() or token[1] in "\\[]|().?*+{}")
  return token[1] if plain else token


def _translate_class(token):
  start = "[^" if token[1] == "^" else "["
  items = re.findall(r"\\.|.", token[len(start) : -1], re.DOTALL)
  for n, item in enumerate(items):
    if item in ("[", "]", "^") or (item == "-" and n in (0, len(items) - 1)):
      items[n] = "\\" + item
    elif item[0] == "\\" and not (item[1].isalnum() or item[1] in "\\[]^-"):
      items[n] = item[1]
  return start + "".join(items) + "]"
