"""The hypotheses that cells are tested for: what there is, in a table, and users' own patterns."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable

import numpy as np

from charrnn import errors
from charrnn.analysis import c_labels, labels

LANGUAGES = ("prose", "c")


@dataclasses.dataclass(frozen=True)
class Hypothesis:
  """What a cell might follow: a pure function from a text to its Label.

  `predicts` marks those that look at characters still to come: they are no states, and a cell
  that follows one has guessed well.
  """

  name: str
  kind: str  # binary: 0 or 1; graded: any number
  language: str  # any, or the one of LANGUAGES in which it makes sense
  function: Callable[[str], labels.Label]
  about: str
  predicts: bool = False
  of_next: bool = False  # about the character to come: who has read it knows

  def instances(self, label: labels.Label) -> int:
    """Characters for which a binary label is true, or different values of a graded one."""
    defined = label.values[label.mask]
    return int(np.count_nonzero(defined)) if self.kind == "binary" else len(np.unique(defined))


# A hypothesis of your own: a function like those in `labels`, and a line here.
_TABLE = (
  Hypothesis(
    "line-position", "graded", "any", labels.line_position, "characters since the newline"
  ),
  Hypothesis(
    "near-line-end",
    "binary",
    "any",
    labels.near_line_end,
    f"past {labels.NEAR:.0%} of the length that 95% of the document's lines keep to",
  ),
  Hypothesis(
    "next-is-newline",
    "binary",
    "any",
    labels.next_is_newline,
    "the next character ends the line (looks ahead)",
    predicts=True,
    of_next=True,
  ),
  Hypothesis(
    "word-does-not-fit",
    "binary",
    "any",
    labels.word_does_not_fit,
    "the next word would pass the length that 95% of the lines keep to (looks ahead)",
    predicts=True,
    of_next=True,
  ),
  Hypothesis(
    "indentation",
    "graded",
    "any",
    labels.indentation,
    f"width of the line's leading blank, once it has ended (tabs to multiples of {labels.TAB})",
  ),
  Hypothesis("url", "binary", "any", labels.url, "from http:// or https:// to white space"),
  Hypothesis("wiki-link", "binary", "any", labels.wiki_link, "from [[ to ]]"),
  Hypothesis(
    "in-quotes", "binary", "prose", labels.in_quotes, "between double quotes, straight or curly"
  ),
  Hypothesis(
    "speaker",
    "binary",
    "prose",
    labels.speaker,
    "in a line `Name:` after a blank one (looks ahead to the colon)",
    predicts=True,
  ),
  Hypothesis("parenthesis-depth", "graded", "prose", labels.parenthesis_depth, "open parentheses"),
  Hypothesis("bracket-depth", "graded", "prose", labels.bracket_depth, "open square brackets"),
  Hypothesis(
    "brace-depth", "graded", "c", c_labels.brace_depth, "open braces outside comments and literals"
  ),
  Hypothesis(
    "syntax-depth",
    "graded",
    "c",
    c_labels.syntax_depth,
    "enclosing blocks, and one for each body without braces",
  ),
  Hypothesis(
    "if-condition", "binary", "c", c_labels.if_condition, "in the condition of an if, from its ("
  ),
  Hypothesis("if-body", "binary", "c", c_labels.if_body, "in what an if governs, at any depth"),
  Hypothesis("else-body", "binary", "c", c_labels.else_body, "in what a plain else governs"),
  Hypothesis("comment", "binary", "c", c_labels.comment, "in a comment of either kind"),
  Hypothesis(
    "block-comment", "binary", "c", c_labels.block_comment, "in a comment /* like this */"
  ),
  Hypothesis("line-comment", "binary", "c", c_labels.line_comment, "in a comment // like this"),
  Hypothesis("string", "binary", "c", c_labels.string, "in a string, between double quotes"),
  Hypothesis(
    "c-parenthesis-depth",
    "graded",
    "c",
    c_labels.parenthesis_depth,
    "open parentheses outside comments and literals",
  ),
  Hypothesis(
    "c-bracket-depth",
    "graded",
    "c",
    c_labels.bracket_depth,
    "open square brackets outside comments and literals",
  ),
  Hypothesis(
    "directive-depth",
    "graded",
    "c",
    c_labels.directive_depth,
    "open #if, #ifdef and #ifndef outside comments",
  ),
)
HYPOTHESES = {hypothesis.name: hypothesis for hypothesis in _TABLE}


def from_regex(name: str, pattern: str) -> Hypothesis:
  """True inside each match, from its first character on to its last; ^ and $ are those of a line.

  Raises UserError for a pattern that is none, or that matches where nothing is.
  """
  try:
    compiled = re.compile(pattern, re.MULTILINE)
  except (re.error, OverflowError, RecursionError) as error:
    raise errors.UserError(f"{name}: {pattern!r} is no regular expression: {error}") from error
  if compiled.search(""):
    raise errors.UserError(f"{name}: {pattern!r} matches the empty string, which is everywhere")

  def inside(text: str) -> labels.Label:
    spans = [match.span() for match in compiled.finditer(text)]
    return labels.everywhere(labels.covering(len(text), spans))

  about = f"in a match of {pattern} (may look ahead)"
  return Hypothesis(name, "binary", "any", inside, about, predicts=True)


def parse_regex(argument: str) -> Hypothesis:
  """The hypothesis that `--regex NAME=PATTERN` asks for."""
  name, _, pattern = argument.partition("=")
  name = name.strip()
  if not name or not pattern or "|" in name:
    raise errors.UserError(f"--regex {argument}: write NAME=PATTERN, as year='[0-9]{{4}}'")
  if name in HYPOTHESES:
    raise errors.UserError(f"--regex {argument}: there is a {name} already; choose another name")
  return from_regex(name, pattern)


def choose(names: Iterable[str] | None = None, language: str | None = None) -> list[Hypothesis]:
  """Those named, whatever their language; without names all that fit the language, or any."""
  if names is not None:
    return [_named(name) for name in names]
  if language not in (None, *LANGUAGES):
    raise errors.UserError(f"no language {language!r}: use {' or '.join(LANGUAGES)}")
  return [each for each in HYPOTHESES.values() if each.language in ("any", language)]


def _named(name: str) -> Hypothesis:
  if name in HYPOTHESES:
    return HYPOTHESES[name]
  near = difflib.get_close_matches(name, HYPOTHESES, n=1)
  hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(HYPOTHESES)}"
  raise errors.UserError(f"no hypothesis {name!r}; {hint}")


def of_text(
  text: str,
  names: Iterable[str] | None = None,
  language: str | None = None,
  extra: Iterable[Hypothesis] = (),
) -> dict[str, labels.Label]:
  """The labels of one text by name; `extra` are hypotheses besides the chosen, as of a regex."""
  chosen = [*choose(names, language), *extra]
  return {hypothesis.name: hypothesis.function(text) for hypothesis in chosen}


def over(
  documents: Iterable[str],
  names: Iterable[str] | None = None,
  language: str | None = None,
  extra: Iterable[Hypothesis] = (),
) -> dict[str, labels.Label]:
  """The labels of documents put one after another; each is labelled as if it were alone."""
  names = None if names is None else list(names)
  extra = list(extra)
  # The empty one is for when there are none.
  parts = [of_text(text, names, language, extra) for text in ("", *documents)]
  return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: list[labels.Label]) -> labels.Label:
  return labels.Label(*(np.concatenate(arrays) for arrays in zip(*parts)))
