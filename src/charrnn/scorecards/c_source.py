"""Figures of C: does it parse, is all of it closed, is it laid out as it is nested?"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tree_sitter

from charrnn.analysis import c_labels
from charrnn.scorecards import c_layout, c_names, c_tokens, card

# A brace at a line's start ends a function, a type or a table.
BOUNDARY = re.compile(r"^\}.*(?:\n|\Z)", re.MULTILINE)
TOKENS = re.compile(
  r"""(?P<token>
    /\*(?s:.*?)(?:\*/|\Z) | //[^\n]*
  | "(?:[^"\\\n]|\\(?s:.))*"? | '(?:[^'\\\n]|\\(?s:.))*'?
  | \w+ | \.\.\. | <<= | >>= | -> | \+\+ | -- | && | \|\| | << | >> | [-+*/%&|^=!<>]= | \S
  )""",
  re.VERBOSE,
)
_QUOTED = re.compile(r"""/\*|//|["']""")  # begins what holds no code


class Source(NamedTuple):
  """A text, the code that the parser was given for it, of the same length, and what it found."""

  text: str
  code: str
  tree: tree_sitter.Tree
  names: c_names.Names


def read(text: str) -> Source:
  code = c_labels.parseable(text)
  tree = c_labels.parser().parse(code)
  return Source(text, code.decode("ascii"), tree, c_names.read(tree))


def _nodes(source: Source, kind: str) -> Iterator[tree_sitter.Node]:
  return (node for node in c_labels.nodes(source.tree) if node.type == kind)


def _errors(source: Source) -> np.ndarray:
  """Of each character, whether the parser has not understood it."""
  return ~c_labels.understood(source.tree, len(source.text))


def _clean_functions(source: Source) -> list[bool]:
  """A function that is too broken is none in the tree, so they are counted by their tokens."""
  functions = _nodes(source, "function_definition")
  bodies = (node.child_by_field_name("body") for node in functions if not node.has_error)
  clean = {body.start_byte for body in bodies if body}
  return [body in clean for body in c_tokens.function_bodies(source.code)]


def _line_lengths(source: Source) -> list[int]:
  return [len(line) for line in source.text.split("\n") if line.strip()]


def _tokens(source: Source) -> list[str]:
  """Comments and literals by their opening alone, for what they say is not C."""
  tokens = (match["token"] for match in TOKENS.finditer(source.text))
  return [_QUOTED.match(token)[0] if _QUOTED.match(token) else token for token in tokens]


FIGURES = (
  card.Figure("syntax errors", card.SHARE, "characters in what does not parse", _errors),
  card.Figure("clean functions", card.SHARE, "functions that parse", _clean_functions),
  card.Figure(
    "matched braces",
    card.SHARE,
    "braces that have their partner",
    lambda source: c_tokens.matched(source.code, "{}"),
  ),
  card.Figure(
    "matched parentheses",
    card.SHARE,
    "parentheses and square brackets that have theirs",
    lambda source: c_tokens.matched(source.code, "()[]"),
  ),
  card.Figure(
    "paired conditionals",
    card.SHARE,
    "#if, #else and #endif that belong together",
    lambda source: c_tokens.paired(source.code),
  ),
  card.Figure(
    "closed comments",
    card.SHARE,
    "comments of /* that end",
    lambda source: c_tokens.closed(source.code, "block"),
  ),
  card.Figure(
    "closed strings",
    card.SHARE,
    "strings and character literals that end",
    lambda source: c_tokens.closed(source.code, "string", "character"),
  ),
  card.Figure(
    "indentation",
    card.SHARE,
    "statements indented as they are nested",
    lambda source: c_layout.indented(source.code, source.tree),
  ),
  card.Figure(
    "undeclared names",
    card.SHARE,
    "names that a function uses and nobody declares",
    lambda source: c_names.undeclared(source.names),
  ),
  card.Figure(
    "unused variables",
    card.SHARE,
    "variables that a function declares and never uses",
    lambda source: c_names.unused(source.names),
  ),
  card.Figure("line length", card.MEAN, "characters of a line that is not blank", _line_lengths),
  card.Figure("tokens", card.DISTRIBUTION, "tokens, each comment and literal as one", _tokens),
)
