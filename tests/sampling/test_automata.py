"""The automaton leads to just those texts that Python's `re` says are good: all are enumerated."""

import itertools
import re
import time

import pytest

from charrnn import errors
from charrnn.data import tokenizers
from charrnn.sampling import automata, regexes

ABC = tokenizers.Tokenizer.from_text("ab.\n")
EVERY = ["".join(each) for n in range(6) for each in itertools.product(ABC.tokens, repeat=n)]


def build(require=(), forbid=(), stop=None, length=5, tokenizer=ABC):
  required = [regexes.Regex("--require", text) for text in require]
  forbidden = [regexes.Regex("--forbid", text) for text in forbid]
  return automata.build(required, forbidden, stop, tokenizer, length)


def leads_to(automaton, length):
  """All texts that end where nothing may come any more."""

  def walk(text, state):
    may_come_V = automaton.may_come(state, length - len(text))
    if not may_come_V.any():
      yield text
    for symbol, may_come, after in zip(ABC.tokens, may_come_V, automaton.next_SxV[state]):
      if may_come:
        yield from walk(text + symbol, after)

  return sorted(walk("", 0))


def good_texts(require, forbid, stop):
  """The same from their definition: good, and with no good text that goes on from there."""

  def good(text):
    ended = stop and text.endswith(stop)
    text = text.removesuffix(stop) if ended else text
    found = [bool(re.search(re.sub(r"\$", r"\\Z", each), text, re.ASCII)) for each in require]
    found += [not re.search(re.sub(r"\$", r"\\Z", each), text, re.ASCII) for each in forbid]
    return all(found)

  def over(text):  # a stop text may not stand before the last of what is drawn
    return stop and stop in text[:-1]

  texts = [text for text in EVERY if not over(text) and good(text)]
  before = {text[:n] for text in texts for n in range(len(text))}
  return sorted(set(texts) - before)


PATTERNS = [
  (["a"], []),
  (["^ab"], []),
  (["b$"], []),
  (["^a.b$"], []),
  (["^(ab|b+a){1,2}$"], []),
  (["a{2}|^b|\\.$"], []),
  (["^[^a]*$"], []),
  (["(a|.)*b"], []),
  (["a?b*?", "\\w\\W\\s"], []),
  ([], ["a"]),
  ([], ["ab$", "^b"]),
  ([], ["^$", "[.b]{2,}"]),
  (["aa"], ["b", "\\n"]),
  (["^(a?){3}$"], ["^$"]),
  (["(a*)*b"], ["(b|)+a"]),
  (["[a-b.]\\n", "[]\\n]"], ["[^\\S]b", "[\\-\\^a]{3}"]),
  (["^\\x61(?:b|\\.){1,}?$"], []),
]


@pytest.mark.parametrize("require, forbid", PATTERNS)
@pytest.mark.parametrize("stop", [None, "\n", "ab", "aa", "aba"])
def test_it_leads_to_all_good_texts_and_to_no_others(require, forbid, stop):
  if not good_texts(require, forbid, stop):
    with pytest.raises(errors.UserError, match="no text can be like that"):
      build(require, forbid, stop)
    return
  automaton = build(require, forbid, stop)
  assert leads_to(automaton, 5) == good_texts(require, forbid, stop)
  assert automaton.next_SxV.shape[0].bit_count() == 1


def test_nothing_asked_is_no_automaton():
  assert build() is None


def test_the_length_decides_where_a_text_ends():
  automaton = build(["^(ab){1,}$"], length=7)
  assert leads_to(automaton, 5) == ["abab"]
  assert leads_to(automaton, 3) == ["ab"]


def test_bytes():
  tokenizer = tokenizers.Tokenizer.from_text("x", "byte")
  automaton = build(["^.{2}\\xff$"], tokenizer=tokenizer)
  assert automaton.next_SxV.shape[1] == 256
  assert not automaton.may_come(0, 3)[ord("\n")]
  assert automaton.may_come(0, 3).sum() == 255
  with pytest.raises(errors.UserError, match="use ASCII"):
    build(["é"], tokenizer=tokenizer)


@pytest.mark.parametrize(
  "asked, message",
  [
    ({"require": ["abc"]}, "--require=abc: would never come, not in the run's vocabulary: c"),
    ({"forbid": ["\\d"]}, r"--forbid=\\d: would never come, not in the run's vocabulary: \\d"),
    ({"require": ["a{6}"]}, "--length=5: --require=a.6. takes 6 at least"),
    ({"require": ["^a$"], "forbid": ["a"]}, "--require=.* --forbid=a: no text can be like that"),
    ({"forbid": ["a*"]}, "no text can be like that"),
    ({"require": ["a(a|b){20}a"]}, "too large: this takes more than 8,192 states"),
    ({"require": ["^(.?){4000}$"]}, "too large: this takes more than"),
    ({"require": ["(.{999}){999}"]}, "too large"),
    ({"stop": "ab" * 5000}, "--stop: too large"),
  ],
)
def test_what_cannot_be(asked, message):
  start = time.monotonic()
  with pytest.raises(errors.UserError, match=message) as error:
    build(**asked)
  assert "\n" not in str(error.value)
  assert time.monotonic() - start < 60


@pytest.mark.parametrize(
  "text, message",
  [
    ("", "the regular expression is empty"),
    ("(a", r"missing \)"),
    ("a**", "multiple repeat"),
    ("[b-a]", "bad character range"),
    *(
      (text, "not understood")
      for text in ("\\bx", "(?=a)", "(a)\\1", "(^a)", "a$b", "(?i)a", "x{,3}")
    ),
    ("(" * 5000 + ")" * 5000, "not understood"),
    ("a\nb(", r"--require='a\\nb\('"),
  ],
)
def test_what_is_no_regular_expression(text, message):
  with pytest.raises(errors.UserError, match=message) as error:
    regexes.Regex("--require", text)
  assert "\n" not in str(error.value)
