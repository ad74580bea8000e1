"""Labels of C: from its tokens, which are right on broken text too, and from its syntax tree.

What only the tree knows (the if's and the syntax depth) is undefined where the text does not
parse. The rest needs comments, literals, brackets and directives alone, and these are read here:
the tree takes the bodies of macros as they are, with the comments and strings in them.
"""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tree_sitter
import tree_sitter_c

from charrnn.analysis import labels

# Each group spans the characters after which one is inside.
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

# Annotations of the Linux kernel, which C's grammar does not know.
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
# Macros take types as arguments and loop over lists; the grammar sees calls of functions.
_TYPE_ARGUMENT = re.compile(r"(?<=,)(\s*)(struct|union)(?=\s+\w+\s*[,)])")
_LOOP_MACRO = re.compile(r"^([ \t]+)(?=\w*for_each)(\w+)(?=[ \t]*\()", re.MULTILINE)
_NOT_ASCII = re.compile(r"[^\x01-\x7f]")

_BLOCKS = {"compound_statement", "field_declaration_list", "enumerator_list"}
_WITH_BODY = {"for_statement", "while_statement", "do_statement", "switch_statement"}


def brace_depth(text: str) -> labels.Label:
  return _tokens(text).depth(text, "braces")


def parenthesis_depth(text: str) -> labels.Label:
  return _tokens(text).depth(text, "parentheses")


def bracket_depth(text: str) -> labels.Label:
  return _tokens(text).depth(text, "brackets")


def directive_depth(text: str) -> labels.Label:
  """Begins and ends after the word: at `#if` alone nobody knows that it is not `#ifdef`."""
  return _tokens(text).depth(text, "directives")


def comment(text: str) -> labels.Label:
  return _inside_tokens(text, "block", "line")


def block_comment(text: str) -> labels.Label:
  return _inside_tokens(text, "block")


def line_comment(text: str) -> labels.Label:
  return _inside_tokens(text, "line")


def string(text: str) -> labels.Label:
  """Double quotes alone: in a character literal the state lasts for one character."""
  return _inside_tokens(text, "string")


def syntax_depth(text: str) -> labels.Label:
  """Blocks, also those of struct, union and enum, and one more for each body without braces.

  Neither initializers nor `else if` make it deeper.
  """
  return _of_syntax(text, "levels")


def if_condition(text: str) -> labels.Label:
  """Begins with the opening parenthesis of the condition and is over at the closing one."""
  return _of_syntax(text, "conditions", binary=True)


def if_body(text: str) -> labels.Label:
  return _of_syntax(text, "consequences", binary=True)


def else_body(text: str) -> labels.Label:
  """What a plain `else` governs; in `else if (b) B` there is a condition and an if body."""
  return _of_syntax(text, "alternatives", binary=True)


class _State(NamedTuple):
  """Depths, and the state before the block we are in: its end closes what was left open in it."""

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
  """Spans of what holds no code, by kind, and every change of a depth."""

  spans: dict[str, list[tuple[int, int]]]
  changes: list[_Change]

  def depth(self, text: str, field: str) -> labels.Label:
    at = _Change._fields.index(field)
    changes = ((change.position, change[at]) for change in self.changes)
    return labels.everywhere(labels.steps(len(text), changes))


# The last text only: what asks for its labels does so one hypothesis after the other.
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
    else:  # The body of a macro ends with its line, and what it leaves open is its own affair.
      state, before_macro = before_macro, None
    tokens.changes.append(_Change(position, *state[:3], len(branches)))
  return tokens


def _after_directive(word: str, state: _State, branches: list[_State]) -> _State:
  """Every branch begins as the first one did; the last one tells how to go on after all."""
  if word.startswith("if"):
    branches.append(state)
  elif word == "endif" and branches:
    branches.pop()
  elif word.startswith("el") and branches:
    return branches[-1]
  return state


def _inside_tokens(text: str, *kinds: str) -> labels.Label:
  spans = [span for kind in kinds for span in _tokens(text).spans[kind]]
  return labels.everywhere(labels.covering(len(text), spans))


class _Syntax(NamedTuple):
  """Spans of characters by what is inside them, and what of it is to be believed.

  A verdict is a span and whether it parsed, each overruling those before it: a syntax error may
  take in half a file, but a whole function inside it was understood all the same.
  """

  levels: list[tuple[int, int]]
  conditions: list[tuple[int, int]]
  consequences: list[tuple[int, int]]
  alternatives: list[tuple[int, int]]
  verdicts: list[tuple[int, int, bool]]


def _of_syntax(text: str, field: str, binary: bool = False) -> labels.Label:
  syntax = _syntax(text)
  depth = labels.covering(len(text), getattr(syntax, field))
  parsed = np.ones(len(text), bool)
  for start, stop, verdict in syntax.verdicts:
    if verdict and not parsed[start:stop].all():
      # What the error seemed to open around the function is not there.
      depth[start:stop] = np.maximum(0, depth[start:stop] - depth[start])
    parsed[start:stop] = verdict
  return labels.Label((depth > 0 if binary else depth).astype(np.float32), parsed)


def understood(tree: tree_sitter.Tree, length: int) -> np.ndarray:
  """Which characters of a text the parser has understood: bool [length].

  For a macro it may put a whole file into an error: functions in it that it has read do count.
  """
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
  # A token that is missing was put in to save its parent: that is a guess about all of the parent.
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
  """The characters after which one is inside: all but the last, which closes."""
  return node.start_byte, max(node.start_byte, node.end_byte - 1)


def nodes(tree: tree_sitter.Tree) -> Iterator[tree_sitter.Node]:
  """All nodes, parents first, without recursion: a text may be nested at any depth."""
  cursor = tree.walk()
  while True:
    yield cursor.node
    if cursor.goto_first_child():
      continue
    while not cursor.goto_next_sibling():
      if not cursor.goto_parent():
        return


def parseable(text: str) -> bytes:
  """A copy for the parser alone, with one byte for each character: its offsets are ours."""
  text = _ANNOTATIONS.sub(lambda match: " " * len(match[0]), text)
  text = _TYPE_ARGUMENT.sub(lambda match: match[1] + " " * len(match[2]), text)
  text = _LOOP_MACRO.sub(lambda match: match[1] + "while".ljust(len(match[2])), text)
  return _NOT_ASCII.sub("x", text).encode("ascii")


@functools.cache
def parser() -> tree_sitter.Parser:
  return tree_sitter.Parser(tree_sitter.Language(tree_sitter_c.language()))
