"""Labels of any text and of prose: for every character the state after reading it. Knows no JAX.

A label function takes a text of N characters and gives a Label. N counts code points. Ends count
as outside: at the last character of a quote, a link or a pair of brackets the state is already
that after it.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

TAB = 8  # columns from one tab stop to the next
NEAR = 0.75  # of the text's width: from there on the end of the line is near
_WIDE = 0.95  # of the lines are no longer than the text is wide

_BLANK_LINE = r"\n[ \t\r]*\n"
_LEADING_BLANK = re.compile(r"^[ \t]*(?=[^ \t\r\n])", re.MULTILINE)
_QUOTES = re.compile(rf'["“”]|{_BLANK_LINE}')
# "ALL CAPS" would miss a fifth of the names in Shakespeare.
_SPEAKER = re.compile(
  r"(?:\A|^[ \t\r]*\n)(?P<label>[A-Z][A-Za-z'& -]{0,40}:)(?=\r?$)", re.MULTILINE
)
_URL = re.compile(r"https?:/(?P<inside>/\S*)")
_WORD = re.compile(r"\S+")


class Label(NamedTuple):
  """values float32 [N], and where they are defined: mask bool [N]; the rest is not scored."""

  values: np.ndarray
  mask: np.ndarray

  def first(self, count: int) -> "Label":
    return Label(self.values[:count], self.mask[:count])

  @property
  def varies(self) -> bool:
    """Whether there is something to score: a text without an instance has one value only."""
    defined = self.values[self.mask]
    return bool(np.any(defined != defined[:1]))


def everywhere(values: np.ndarray) -> Label:
  return Label(np.asarray(values, np.float32), np.ones(len(values), bool))


def covering(length: int, spans: Iterable[tuple[int, int]]) -> np.ndarray:
  """How many of the spans [start, stop) hold each position: int [length]."""
  starts, stops = np.array([*spans, (length, length)], np.int64).T
  changes = np.bincount(starts, minlength=length + 1) - np.bincount(stops, minlength=length + 1)
  return np.cumsum(changes)[:length]


def steps(length: int, changes: Iterable[tuple[int, float]]) -> np.ndarray:
  """0 up to the first change (position, value), and from each position on its value: [length]."""
  positions, values = np.array([(0, 0), *changes]).T
  lengths = np.diff(positions.astype(np.int64), append=length)
  return np.repeat(values, lengths)


def line_position(text: str) -> Label:
  return everywhere(_columns(text))


def near_line_end(text: str) -> Label:
  """Measured by the text's own width, so that verse has ends as prose has."""
  return everywhere(_columns(text) > NEAR * _width(text))


def next_is_newline(text: str) -> Label:
  """A line end is next, be it LF or CRLF; of the last character nobody knows."""
  ends = np.isin(_points(text), [ord("\n"), ord("\r")])
  defined = np.arange(len(text)) < len(text) - 1
  return Label(np.append(ends, False)[1:].astype(np.float32), defined)


def word_does_not_fit(text: str) -> Label:
  """The word after this one, set behind it in the same line, would pass the text's width.

  At a space it is the word that comes. Undefined where no more words follow.
  """
  words = np.array([match.span() for match in _WORD.finditer(text)], np.int64).reshape(-1, 2)
  starts, stops = np.append(words, [[len(text), len(text)]] * 2, axis=0).T
  places, columns = np.arange(len(text)), _columns(text)
  this = np.searchsorted(stops[: len(words)], places, side="right")
  in_word = starts[this] <= places
  following = this + in_word
  ends = columns + np.where(in_word, stops[this] - places, 0)
  needed = ends + (stops - starts)[following]
  return Label((needed > _width(text)).astype(np.float32), following < len(words))


def indentation(text: str) -> Label:
  """Undefined until the leading blank has ended, for its width is not known before."""
  blanks = [match.span() for match in _LEADING_BLANK.finditer(text)]
  widths = [(stop, len(text[start:stop].expandtabs(TAB))) for start, stop in blanks]
  begins = np.zeros(len(text), bool)
  begins[[stop for _, stop in blanks]] = True
  values = steps(len(text), widths).astype(np.float32)
  return Label(values, _last(begins) > _last(_newlines(text)))


def in_quotes(text: str) -> Label:
  """A straight quote toggles, curly ones open and close, a blank line ends; ' is an apostrophe."""
  changes, inside = [], False
  for match in _QUOTES.finditer(text):
    # What is neither of the two closes: the other curly quote, and the blank line.
    inside = not inside if match[0] == '"' else match[0] == "“"
    changes.append((match.end() - 1, inside))
  return everywhere(steps(len(text), changes))


def speaker(text: str) -> Label:
  spans = [match.span("label") for match in _SPEAKER.finditer(text)]
  return everywhere(covering(len(text), spans))


def parenthesis_depth(text: str) -> Label:
  return everywhere(_depth(text, "(", ")"))


def bracket_depth(text: str) -> Label:
  return everywhere(_depth(text, "[", "]"))


def wiki_link(text: str) -> Label:
  return everywhere(_depth(text, "[[", "]]") > 0)


def url(text: str) -> Label:
  """Begins with the second slash: at `http` alone nobody knows yet."""
  spans = [match.span("inside") for match in _URL.finditer(text)]
  return everywhere(covering(len(text), spans))


def _depth(text: str, opening: str, closing: str) -> np.ndarray:
  """Nesting that a blank line ends, so that one never closed does not last for ever."""
  tokens = "|".join([re.escape(opening), re.escape(closing), _BLANK_LINE])
  changes, depth = [], 0
  for match in re.finditer(tokens, text):
    step = {opening: 1, closing: -1}.get(match[0], -depth)
    depth = max(0, depth + step)
    changes.append((match.end() - 1, depth))
  return steps(len(text), changes)


def _points(text: str) -> np.ndarray:
  return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _newlines(text: str) -> np.ndarray:
  return _points(text) == ord("\n")


def _last(where: np.ndarray) -> np.ndarray:
  """The last position up to and with each one that is true, -1 before there is any."""
  return np.maximum.accumulate(np.where(where, np.arange(len(where)), -1))


def _columns(text: str) -> np.ndarray:
  """Characters since the newline: 0 at the newline itself, 1 at the first of a line."""
  return np.arange(len(text)) - _last(_newlines(text))


def _width(text: str) -> float:
  """The length that all but the longest lines keep to; in wrapped text where it was wrapped."""
  lengths = [len(line) for line in map(str.rstrip, text.split("\n")) if line]
  return float(np.quantile(lengths or [0], _WIDE, method="higher"))
