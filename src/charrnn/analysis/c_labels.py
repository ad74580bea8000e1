"""Labels of C, from its tokens and its syntax tree.

Labels from the tree (if, else and syntax depth) are undefined where the text does not parse. The
other labels come from tokens, which are correct even in broken text and in macro bodies. The tree
does not analyze macro bodies.
"""

import collections
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tree_sitter
import tree_sitter_c

from charrnn.analysis import labels

# Each named group spans the characters after which the reader is inside the construct.
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

# Annotations in the Linux kernel that are not part of the grammar of C.
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
# Macros with types as arguments, and macros that loop. The grammar parses both as function calls.
_TYPE_ARGUMENT = re.compile(r"(?<=,)(\s*)(struct|union)(?=\s+\w+\s*[,)])")
_LOOP_MACRO = re.compile(r"^([ \t]+)(?=\w*for_each)(\w+)(?=[ \t]*\()", re.MULTILINE)
_NOT_ASCII = re.compile(r"[^\x01-\x7f]")

_BLOCKS = {"compound_statement", "field_declaration_list", "enumerator_list"}
_DEPTHS = ("parentheses", "brackets", "braces", "directives")
_LAYOUT = ("line-position", "indentation")
_WITH_BODY = {"for_statement", "while_statement", "do_statement", "switch_statement"}


class _State(NamedTuple):
  """Nesting depths, and the state before the current block, which the end of the block restores."""

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
    kind, step = "parentheses" if bracket in "()" else "brackets", 1 if bracket in "([" else -1
    return self._replace(**{kind: max(getattr(outside, kind), getattr(self, kind) + step)})


@functools.lru_cache(maxsize=1)
def _tokens(text: str) -> dict[str, list[tuple[int, int]]]:
  """Return the spans of comments and literals, and the (position, depth) of brackets, by kind."""
  tokens = collections.defaultdict(list)
  state, branches, before_macro = _State(), [], None
  for match in TOKENS.finditer(text):
    kind, position = match.lastgroup, match.start()
    if kind == "bracket":
      state = state.after(match[kind])
    elif kind == "directive":
      position, word = match.end(), match[kind]
      before_macro = state if word == "define" else None
      # Each branch starts in the same state. The last branch sets the state after #endif.
      if word.startswith("if"):
        branches.append(state)
      elif word == "endif" and branches:
        branches.pop()
      elif word.startswith("el") and branches:
        state = branches[-1]
    elif kind != "newline":
      tokens[kind].append(match.span(kind))
      continue
    elif before_macro is None:
      continue
    else:  # A macro body ends with its line; brackets that it leaves open do not count after it.
      state, before_macro = before_macro, None
    for name, depth in zip(_DEPTHS, (*state[:3], len(branches))):
      tokens[name].append((position, depth))
  return tokens


def _depth(kind: str) -> Callable:
  return lambda text: labels.everywhere(labels.steps(len(text), _tokens(text)[kind]))


def _in_tokens(*kinds: str) -> Callable:
  def inside(text: str) -> labels.Label:
    spans = [span for kind in kinds for span in _tokens(text)[kind]]
    return labels.everywhere(labels.covering(len(text), spans))

  return inside


def _in_syntax(kind: str, highest: float = 1) -> Callable:
  """Return a label function: the nesting depth in spans of a kind, at most `highest`."""

  def nesting(text: str) -> labels.Label:
    spans, verdicts = _syntax(text)
    depth, parsed = labels.covering(len(text), spans[kind]), np.ones(len(text), bool)
    for start, stop, verdict in verdicts:
      if verdict and not parsed[start:stop].all():
        # Ignore the blocks that the parser opened before the function because of the error.
        depth[start:stop] = np.maximum(0, depth[start:stop] - depth[start])
      parsed[start:stop] = verdict
    return labels.Label(np.minimum(depth, highest).astype(np.float32), parsed)

  return nesting


def understood(tree: tree_sitter.Tree, length: int) -> np.ndarray:
  """Return which characters were parsed, bool [length], including functions inside an error."""
  parsed = np.ones(length, bool)
  for start, stop, verdict in _verdicts(nodes(tree)):
    parsed[start:stop] = verdict
  return parsed


def _verdicts(nodes: Iterable[tree_sitter.Node]) -> list[tuple[int, int, bool]]:
  """Return spans (start, stop, parsed). Later spans override earlier ones.

  A syntax error may span half a file, but complete functions inside it are parsed.
  """
  verdicts = []
  for node in nodes:
    # The parser inserts missing tokens to complete a node. Such a node is a guess, not parsed text.
    failed = node.is_error or (node.has_error and any(child.is_missing for child in node.children))
    if failed or node.type == "function_definition":
      verdicts.append((node.start_byte, node.end_byte, not failed))
  return verdicts


@functools.lru_cache(maxsize=1)
def _syntax(text: str) -> tuple[dict[str, list[tuple[int, int]]], list[tuple[int, int, bool]]]:
  """Return the spans of each construct, and the spans (start, stop, parsed) of `_verdicts`."""
  tree_nodes, spans = list(nodes(parser().parse(parseable(text)))), collections.defaultdict(list)
  for node in tree_nodes:
    body, kind = None, "loop"
    if node.type in _BLOCKS:
      spans["level"].append(_span(node))
    elif node.type == "if_statement":
      if condition := node.child_by_field_name("condition"):
        spans["condition"].append(_span(condition))
      body, kind = node.child_by_field_name("consequence"), "consequence"
    elif node.type == "else_clause" and node.named_children:
      last, kind = node.named_children[-1], "alternative"
      body = None if last.type == "if_statement" else last
    elif node.type in _WITH_BODY:
      body = node.child_by_field_name("body")
    if body is not None:
      spans[kind].append(_span(body))
      if body.type != "compound_statement":
        spans["level"].append(_span(body))
  return spans, _verdicts(tree_nodes)


def _span(node: tree_sitter.Node) -> tuple[int, int]:
  """Return the characters after which the reader is inside the node: all but its last one."""
  return node.start_byte, max(node.start_byte, node.end_byte - 1)


def nodes(tree: tree_sitter.Tree) -> Iterator[tree_sitter.Node]:
  """Yield all nodes, parents first. Avoid recursion, since texts can be nested deeply."""
  cursor = tree.walk()
  while True:
    yield cursor.node
    if cursor.goto_first_child():
      continue
    while not cursor.goto_next_sibling():
      if not cursor.goto_parent():
        return


def parseable(text: str) -> bytes:
  """Return a copy for the parser with one byte per character, so that offsets are the same."""
  text = _ANNOTATIONS.sub(lambda match: " " * len(match[0]), text)
  text = _TYPE_ARGUMENT.sub(lambda match: match[1] + " " * len(match[2]), text)
  text = _LOOP_MACRO.sub(lambda match: match[1] + "while".ljust(len(match[2])), text)
  return _NOT_ASCII.sub("x", text).encode("ascii")


@functools.cache
def parser() -> tree_sitter.Parser:
  """Return the parser for C."""
  return tree_sitter.Parser(tree_sitter.Language(tree_sitter_c.language()))


labels.graded("brace-depth", "number of open braces, outside comments and literals", "c")(
  _depth("braces")
)
# The bodies of struct, union and enum are blocks. Initializers and `else if` do not count.
labels.graded(
  "syntax-depth", "number of enclosing blocks; a body without braces counts as one", "c"
)(_in_syntax("level", np.inf))
labels.binary(
  "if-condition",
  "in the parentheses of an if condition",
  "c",
  confounds=("line-position", "c-parenthesis-depth"),
)(_in_syntax("condition"))
labels.binary("if-body", "in the body of an if, at any depth", "c", confounds=_LAYOUT)(
  _in_syntax("consequence")
)
labels.binary(
  "else-body",
  "in the body of an else (but not of an else if), at any depth",
  "c",
  confounds=_LAYOUT,
)(_in_syntax("alternative"))
labels.binary("comment", "in a comment, /* ... */ or // ...", "c")(_in_tokens("block", "line"))
labels.binary("block-comment", "in a comment /* ... */", "c")(_in_tokens("block"))
labels.binary("line-comment", "in a comment // ...", "c")(_in_tokens("line"))
# Character literals are excluded: the state would last for one character only.
labels.binary("string", "in a string literal, between double quotes", "c")(_in_tokens("string"))
labels.graded(
  "c-parenthesis-depth", "number of open parentheses, outside comments and literals", "c"
)(_depth("parentheses"))
labels.graded(
  "c-bracket-depth", "number of open square brackets, outside comments and literals", "c"
)(_depth("brackets"))
# The depth changes after the whole word, since `#if` may be the start of `#ifdef`.
labels.graded("directive-depth", "number of open #if, #ifdef and #ifndef, outside comments", "c")(
  _depth("directives")
)
