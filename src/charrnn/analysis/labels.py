"""Labels of texts, the registry of hypotheses, and the hypotheses for any language and for prose.

A label function maps a text of N code points to a Label. The label of a character is the state
after that character has been read, so a closing character counts as outside.
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

TAB = 8  # number of columns between tab stops
NEAR = 0.75  # share of the text's width beyond which a character is near the line end
_WIDTH_QUANTILE = 0.95  # quantile of the line lengths that defines the text's width

_BLANK_LINE = r"\n[ \t\r]*\n"
_LEADING_BLANK = re.compile(r"^[ \t]*(?=[^ \t\r\n])", re.MULTILINE)
_QUOTES = re.compile(rf'["“”]|{_BLANK_LINE}')
# A single quote opens a quotation, unless it follows a letter or replaces letters at the beginning
# of a word, as in 'tis and '90s. It closes one if it follows a character and no letter follows it.
_ELISIONS = (
  "tis|twas|twere|twill|twould|tisn|twasn|t|s|em|til|till|cause|bout|gainst|neath|mid|midst|mongst|"
  "twixt|tween|fore|pon|scaped?|longing|oman|faith|zounds|sblood"
)
_OPENING = re.compile(rf"(?<![\w'’])['‘](?![\s'’]|(?:{_ELISIONS}|\d\ds?)\b)", re.IGNORECASE)
_CLOSING = re.compile(r"(?<=\S)['’](?!\w)")
_DASH = re.compile(r"\s*(?:—|–|―|--)[ \t]?(?=[^\s—–―-])")
# Lowercase letters are allowed, because a fifth of Shakespeare's speakers are not written in
# capitals.
_SPEAKER = re.compile(
  r"(?:\A|^[ \t\r]*\n)(?P<label>[A-Z][A-Za-z'& -]{0,40}:)(?=\r?$)", re.MULTILINE
)
_URL = re.compile(r"https?:/(?P<inside>/\S*)")
_WORD = re.compile(r"\S+")


class Label(NamedTuple):
  """Values, float32 [N], and a mask, bool [N], of the characters where they are defined."""

  values: np.ndarray
  mask: np.ndarray

  def first(self, count: int) -> "Label":
    return Label(self.values[:count], self.mask[:count])


class Hypothesis(NamedTuple):
  """A property of the text that a unit may follow."""

  name: str
  kind: str  # "binary": the label is 0 or 1; "graded": any number
  language: str  # "any", or the only language that it applies to
  about: str
  function: Callable[[str], Label]
  predicts: bool = False  # whether the label depends on later characters
  of_next: bool = False  # whether reading the next character reveals the label
  confounds: tuple[str, ...] = ()  # hypotheses to control for in a second score


HYPOTHESES: dict[str, Hypothesis] = {}


def _register(kind: str, name: str, about: str, language: str = "any", **options) -> Callable:
  """Return a decorator that registers a label function; `options` are fields of Hypothesis."""

  def decorate(function):
    HYPOTHESES[name] = Hypothesis(name, kind, language, about, function, **options)
    return function

  return decorate


binary = functools.partial(_register, "binary")
graded = functools.partial(_register, "graded")


def everywhere(values: np.ndarray) -> Label:
  """Return a label that is defined at all characters."""
  return Label(np.asarray(values, np.float32), np.ones(len(values), bool))


def covering(length: int, spans: Iterable[tuple[int, int]]) -> np.ndarray:
  """Return the number of spans [start, stop) that contain each position, int [length]."""
  starts, stops = np.array([*spans, (length, length)], np.int64).T
  changes = np.bincount(starts, minlength=length + 1) - np.bincount(stops, minlength=length + 1)
  return np.cumsum(changes)[:length]


def steps(length: int, changes: Iterable[tuple[int, float]]) -> np.ndarray:
  """Return a step function [length] that starts at 0 and changes at each (position, value)."""
  positions, values = np.array([(0, 0), *changes]).T
  lengths = np.diff(positions.astype(np.int64), append=length)
  return np.repeat(values, lengths)


@graded("line-position", "number of characters since the last newline")
def line_position(text: str) -> Label:
  return everywhere(_columns(text))


@binary(
  "near-line-end",
  f"past {NEAR:.0%} of the document's width, which is the 95th percentile of its line lengths",
)
def near_line_end(text: str) -> Label:
  # The threshold is relative to the text's width, so that it suits short lines of verse too.
  return everywhere(_columns(text) > NEAR * _width(text))


@binary(
  "next-is-newline",
  "the next character is a line break (looks ahead)",
  predicts=True,
  of_next=True,
  confounds=("line-position",),
)
def next_is_newline(text: str) -> Label:
  """Label the character before LF or CRLF; the last character of the text has no label."""
  ends = np.isin(_points(text), [ord("\n"), ord("\r")])
  defined = np.arange(len(text)) < len(text) - 1
  return Label(np.append(ends, False)[1:].astype(np.float32), defined)


@binary(
  "word-does-not-fit",
  "the next word would extend past the document's width, defined as for near-line-end "
  "(looks ahead)",
  predicts=True,
  of_next=True,
)
def word_does_not_fit(text: str) -> Label:
  """Label characters whose next word, appended to the line, would exceed the text's width.

  The label is undefined where no word follows.
  """
  words = np.array([match.span() for match in _WORD.finditer(text)], np.int64).reshape(-1, 2)
  starts, stops = np.append(words, [[len(text), len(text)]] * 2, axis=0).T
  places, columns = np.arange(len(text)), _columns(text)
  current = np.searchsorted(stops[: len(words)], places, side="right")
  in_word = starts[current] <= places
  following = current + in_word
  ends = columns + np.where(in_word, stops[current] - places, 0)
  needed = ends + (stops - starts)[following]
  return Label((needed > _width(text)).astype(np.float32), following < len(words))


@graded(
  "indentation",
  f"width of the line's leading whitespace (tab stops every {TAB} columns); defined only after it",
)
def indentation(text: str) -> Label:
  blanks = [match.span() for match in _LEADING_BLANK.finditer(text)]
  widths = [(stop, len(text[start:stop].expandtabs(TAB))) for start, stop in blanks]
  begins = np.zeros(len(text), bool)
  begins[[stop for _, stop in blanks]] = True
  values = steps(len(text), widths).astype(np.float32)
  return Label(values, _last(begins) > _last(_points(text) == ord("\n")))


@binary("url", "in a URL, from http:// or https:// to the next whitespace")
def url(text: str) -> Label:
  # The label starts at the second slash, since `http` alone does not distinguish a URL from a word.
  spans = [match.span("inside") for match in _URL.finditer(text)]
  return everywhere(covering(len(text), spans))


@binary("wiki-link", "between [[ and ]]")
def wiki_link(text: str) -> Label:
  return everywhere(_depth(text, "[[", "]]") > 0)


@binary("in-quotes", "between double quotes, straight or curly", "prose")
def in_quotes(text: str) -> Label:
  """Toggle at straight quotes, open and close at curly quotes, and reset at blank lines."""
  changes, inside = [], False
  for match in _QUOTES.finditer(text):
    # A closing curly quote or a blank line ends a quotation.
    inside = not inside if match[0] == '"' else match[0] == "“"
    changes.append((match.end() - 1, inside))
  return everywhere(steps(len(text), changes))


@binary(
  "in-single-quotes",
  "between single quotes, straight or curly (looks ahead, to tell quotes from apostrophes)",
  "prose",
  predicts=True,
)
def in_single_quotes(text: str) -> Label:
  """Label quotations that are closed in their paragraph, or that begin it and are not closed."""
  spans = []
  for start, stop in _paragraphs(text):
    position = start
    while opening := _OPENING.search(text, position, stop):
      closing = _CLOSING.search(text, opening.end(), stop)
      if closing or not text[start : opening.start()].strip():
        spans.append((opening.start(), closing.start() if closing else stop))
      position = closing.end() if closing else stop
  return everywhere(covering(len(text), spans))


@binary("dialogue-dash", "in a paragraph that begins with a dash (— or --)", "prose")
def dialogue_dash(text: str) -> Label:
  """Label such paragraphs after the dash, which marks speech in some languages and novels."""
  dashes = ((_DASH.match(text, *span), span) for span in _paragraphs(text))
  spans = [(match.end(), stop) for match, (_, stop) in dashes if match]
  return everywhere(covering(len(text), spans))


def _paragraphs(text: str) -> list[tuple[int, int]]:
  """Return the spans between blank lines; a span ends with the last line break of a blank line."""
  stops = [match.end() - 1 for match in re.finditer(_BLANK_LINE, text)]
  starts = [0, *(stop + 1 for stop in stops)]
  return list(zip(starts, [*stops, len(text)]))


@binary(
  "speaker",
  "in a line `Name:` after a blank line (looks ahead to the colon)",
  "prose",
  predicts=True,
)
def speaker(text: str) -> Label:
  spans = [match.span("label") for match in _SPEAKER.finditer(text)]
  return everywhere(covering(len(text), spans))


@graded("parenthesis-depth", "number of open parentheses", "prose")
def parenthesis_depth(text: str) -> Label:
  return everywhere(_depth(text, "(", ")"))


@graded("bracket-depth", "number of open square brackets", "prose")
def bracket_depth(text: str) -> Label:
  return everywhere(_depth(text, "[", "]"))


def _depth(text: str, opening: str, closing: str) -> np.ndarray:
  """Return the nesting depth. Blank lines reset it, to limit the effect of unclosed brackets."""
  tokens = "|".join([re.escape(opening), re.escape(closing), _BLANK_LINE])
  changes, depth = [], 0
  for match in re.finditer(tokens, text):
    step = {opening: 1, closing: -1}.get(match[0], -depth)
    depth = max(0, depth + step)
    changes.append((match.end() - 1, depth))
  return steps(len(text), changes)


def _points(text: str) -> np.ndarray:
  return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _last(where: np.ndarray) -> np.ndarray:
  """Return the last position up to each position where `where` is true, or -1."""
  return np.maximum.accumulate(np.where(where, np.arange(len(where)), -1))


def _columns(text: str) -> np.ndarray:
  """Return the distance from the last newline: 0 at the newline, 1 at a line's first character."""
  return np.arange(len(text)) - _last(_points(text) == ord("\n"))


def _width(text: str) -> float:
  """Return the text's width: a high quantile of its line lengths, close to where it is wrapped."""
  lengths = [len(line) for line in map(str.rstrip, text.split("\n")) if line]
  return float(np.quantile(lengths or [0], _WIDTH_QUANTILE, method="higher"))
