"""Labels of C, from its tokens and its syntax tree.

Labels from the tree (if and else, syntax depth) are undefined where the text does not parse. The
others come from tokens, which are right on broken text too, and inside the bodies of macros, which
the tree does not analyse.
"""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tree_sitter
import tree_sitter_c

from charrnn.analysis import labels

# Each group spans the characters after which the state is inside.
TOKENS = re.compile(
  r"""
    /(?P<block>\*.*?(?:\*(?=/)|\Z))/?
  | /(?P<line>/[^\\\n]*(?:\\(?:\r?\n)?[^\\\n]*)*)
  | (?P<string>"[^"\\\n]*(?:\\(?:\r\n|.)[^"\\\n]*)*\\?)"?
  | (?P<character>'[^'\\\n]*(?:\\(?:\r\n|.)[^'\\\n]*)*\\?)'?
  | (?P<bracket>[][(){}])
  | ^[ \t]*\#[ \t]*(?P<directive>if|ifdef|ifndef|elif|elifdef|elifndef|else|endif|define)(?=\W)
  | (?<!\\)(?<!\\\r)(?P<newline>\n)
  """,
  re.VERBOSE | re.MULTILINE | re.DOTALL,
)

# Annotations of the Linux kernel that are not in the grammar of C.
_ANNOTATIONS = re.compile(
  r"(?<!define[ \t])(?<!\w)(?:"
  r"__(?:(?:dev|cpu|mem|net_)?(?:init|exit)(?:data|const)?|user|kernel|iomem|percpu|rcu|force"
  r"|nocast|bitwise|must_check|always_inline|always_unused|maybe_unused|used|cold|hot|weak|pure"
  r"|packed|read_mostly|ro_after_init|sched|kprobes|ref|refdata|deprecated|lockfunc)"
  r"|____?cacheline_(?:internodealigned|aligned)(?:_in_smp)?"
  r"|noinline|notrace|noinstr|asmlinkage|fastcall"
  r"|__(?:acquires|releases|must_hold|printf|scanf|aligned|section|counted_by|free)"
  r"[ \t]*\([^()\n]*\)"
  r")(?!\w)"
)
# Macros with types as arguments and macros that loop; the grammar takes both for function calls.
_TYPE_ARGUMENT = re.compile(r"(?<=,)(\s*)(struct|union)(?=\s+\w+\s*[,)])")
_LOOP_MACRO = re.compile(r"^([ \t]+)(?=\w*for_each)(\w+)(?=[ \t]*\()", re.MULTILINE)
_NOT_ASCII = re.compile(r"[^\x01-\x7f]")

_BLOCKS = {"compound_statement", "field_declaration_list", "enumerator_list"}
_LAYOUT = ("line-position", "indentation")
_WITH_BODY = {"for_statement", "while_statement", "do_statement", "switch_statement"}


@labels.graded("brace-depth", "open braces outside comments and literals", "c")
def brace_depth(text: str) -> labels.Label:
  return _depth(text, "braces")


@labels.graded("syntax-depth", "enclosing blocks, and one for each body without braces", "c")
def syntax_depth(text: str) -> labels.Label:
  # Blocks also of struct, union and enum. Initializers and `else if` add nothing.
  return _nesting(text, "levels")


@labels.binary(
  "if-condition",
  "in the condition of an if, from its (",
  "c",
  confounds=("line-position", "c-parenthesis-depth"),
)
def if_condition(text: str) -> labels.Label:
  return _within(text, "conditions")


@labels.binary("if-body", "in what an if governs, at any depth", "c", confounds=_LAYOUT)
def if_body(text: str) -> labels.Label:
  return _within(text, "consequences")


@labels.binary("else-body", "in what a plain else governs", "c", confounds=_LAYOUT)
def else_body(text: str) -> labels.Label:
  return _within(text, "alternatives")


@labels.binary("comment", "in a comment of either kind", "c")
def comment(text: str) -> labels.Label:
  return _in_tokens(text, "block", "line")


@labels.binary("block-comment", "in a comment /* like this */", "c")
def block_comment(text: str) -> labels.Label:
  return _in_tokens(text, "block")


@labels.binary("line-comment", "in a comment // like this", "c")
def line_comment(text: str) -> labels.Label:
  return _in_tokens(text, "line")


@labels.binary("string", "in a string, between double quotes", "c")
def string(text: str) -> labels.Label:
  # Not in character literals, in which the state lasts for one character.
  return _in_tokens(text, "string")


@labels.graded("c-parenthesis-depth", "open parentheses outside comments and literals", "c")
def parenthesis_depth(text: str) -> labels.Label:
  return _depth(text, "parentheses")


@labels.graded("c-bracket-depth", "open square brackets outside comments and literals", "c")
def bracket_depth(text: str) -> labels.Label:
  return _depth(text, "brackets")


@labels.graded("directive-depth", "open #if, #ifdef and #ifndef outside comments", "c")
def directive_depth(text: str) -> labels.Label:
  # Changes after the word: at `#if` alone nothing tells it from `#ifdef`.
  return _depth(text, "directives")


class _State(NamedTuple):
  """Depths, and the state before the current block: its end closes what was left open in it."""

  parentheses: int = 0
  brackets: int = 0
  braces: int = 0
  outside: "_State | None" = None

  def after(self, bracket: str) -> "_State":
    outside = self.outside or _State()
    if bracket == "{":
      return self._replace(braces=self.braces + 1, outside=self)
    if bracket == "}":
      return outside
    if bracket in "()":
      step = 1 if bracket == "(" else -1
      return self._replace(parentheses=max(outside.parentheses, self.parentheses + step))
    step = 1 if bracket == "[" else -1
    return self._replace(brackets=max(outside.brackets, self.brackets + step))


class _Change(NamedTuple):
  position: int
  parentheses: int
  brackets: int
  braces: int
  directives: int


class _Tokens(NamedTuple):
  """Spans of comments and literals by kind, and every change of a depth."""

  spans: dict[str, list[tuple[int, int]]]
  changes: list[_Change]


@functools.lru_cache(maxsize=1)
def _tokens(text: str) -> _Tokens:
  tokens = _Tokens({"block": [], "line": [], "string": [], "character": []}, [])
  state, branches, before_macro = _State(), [], None
  for match in TOKENS.finditer(text):
    kind, position = match.lastgroup, match.start()
    if kind in tokens.spans:
      tokens.spans[kind].append(match.span(kind))
      continue
    if kind == "bracket":
      state = state.after(match[kind])
    elif kind == "directive":
      position = match.end()
      before_macro = state if match[kind] == "define" else None
      state = _after_directive(match[kind], state, branches)
    elif before_macro is None:
      continue
    else:  # The body of a macro ends with its line; what it leaves open counts no longer.
      state, before_macro = before_macro, None
    tokens.changes.append(_Change(position, *state[:3], len(branches)))
  return tokens


def _after_directive(word: str, state: _State, branches: list[_State]) -> _State:
  """Return the state after a directive: each branch starts as the first did; the last one stays."""
  if word.startswith("if"):
    branches.append(state)
  elif word == "endif" and branches:
    branches.pop()
  elif word.startswith("el") and branches:
    return branches[-1]
  return state


def _depth(text: str, field: str) -> labels.Label:
  changes = ((change.position, getattr(change, field)) for change in _tokens(text).changes)
  return labels.everywhere(labels.steps(len(text), changes))


def _in_tokens(text: str, *kinds: str) -> labels.Label:
  spans = [span for kind in kinds for span in _tokens(text).spans[kind]]
  return labels.everywhere(labels.covering(len(text), spans))


class _Syntax(NamedTuple):
  """Spans by construct, and verdicts: spans (start, stop, parsed), later ones overruling earlier.

  A syntax error may span half a file, but a complete function inside it has been parsed.
  """

  levels: list[tuple[int, int]]
  conditions: list[tuple[int, int]]
  consequences: list[tuple[int, int]]
  alternatives: list[tuple[int, int]]
  verdicts: list[tuple[int, int, bool]]


def _nesting(text: str, field: str) -> labels.Label:
  """Return the depth of nesting in spans of a field of _Syntax."""
  syntax = _syntax(text)
  depth = labels.covering(len(text), getattr(syntax, field))
  parsed = np.ones(len(text), bool)
  for start, stop, verdict in syntax.verdicts:
    if verdict and not parsed[start:stop].all():
      # Blocks that the error seemed to open around the function do not exist.
      depth[start:stop] = np.maximum(0, depth[start:stop] - depth[start])
    parsed[start:stop] = verdict
  return labels.Label(depth.astype(np.float32), parsed)


def _within(text: str, field: str) -> labels.Label:
  label = _nesting(text, field)
  return label._replace(values=np.minimum(label.values, 1))


def understood(tree: tree_sitter.Tree, length: int) -> np.ndarray:
  """Return bool [length]: which characters were parsed, including functions inside an error."""
  syntax, parsed = _Syntax([], [], [], [], []), np.ones(length, bool)
  for node in nodes(tree):
    _judge(node, syntax)
  for start, stop, verdict in syntax.verdicts:
    parsed[start:stop] = verdict
  return parsed


@functools.lru_cache(maxsize=1)
def _syntax(text: str) -> _Syntax:
  syntax = _Syntax([], [], [], [], [])
  for node in nodes(parser().parse(parseable(text))):
    _judge(node, syntax)
    _note(node, syntax)
  return syntax


def _judge(node: tree_sitter.Node, syntax: _Syntax):
  # The parser inserts a missing token to complete the parent, which makes the parent a guess.
  failed = node.is_error or (node.has_error and any(child.is_missing for child in node.children))
  if failed or node.type == "function_definition":
    syntax.verdicts.append((node.start_byte, node.end_byte, not failed))


def _note(node: tree_sitter.Node, syntax: _Syntax):
  if node.type in _BLOCKS:
    syntax.levels.append(_span(node))
  elif node.type == "if_statement":
    if condition := node.child_by_field_name("condition"):
      syntax.conditions.append(_span(condition))
    _note_body(node.child_by_field_name("consequence"), syntax, syntax.consequences)
  elif node.type == "else_clause":
    body = node.named_children[-1] if node.named_children else None
    if body is not None and body.type != "if_statement":
      _note_body(body, syntax, syntax.alternatives)
  elif node.type in _WITH_BODY:
    _note_body(node.child_by_field_name("body"), syntax, [])


def _note_body(body: tree_sitter.Node | None, syntax: _Syntax, kind: list[tuple[int, int]]):
  if body is None:
    return
  kind.append(_span(body))
  if body.type != "compound_statement":
    syntax.levels.append(_span(body))


def _span(node: tree_sitter.Node) -> tuple[int, int]:
  """Return the characters after which the state is inside: all but the last, which closes."""
  return node.start_byte, max(node.start_byte, node.end_byte - 1)


def nodes(tree: tree_sitter.Tree) -> Iterator[tree_sitter.Node]:
  """Yield all nodes, parents first, without recursion: texts are nested at any depth."""
  cursor = tree.walk()
  while True:
    yield cursor.node
    if cursor.goto_first_child():
      continue
    while not cursor.goto_next_sibling():
      if not cursor.goto_parent():
        return


def parseable(text: str) -> bytes:
  """Return a copy for the parser with one byte a character, so that offsets are the same."""
  text = _ANNOTATIONS.sub(lambda match: " " * len(match[0]), text)
  text = _TYPE_ARGUMENT.sub(lambda match: match[1] + " " * len(match[2]), text)
  text = _LOOP_MACRO.sub(lambda match: match[1] + "while".ljust(len(match[2])), text)
  return _NOT_ASCII.sub("x", text).encode("ascii")


@functools.cache
def parser() -> tree_sitter.Parser:
  return tree_sitter.Parser(tree_sitter.Language(tree_sitter_c.language()))
