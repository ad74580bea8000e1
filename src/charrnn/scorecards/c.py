"""Metrics of C source code: syntax errors, brackets, directives, indentation, and names."""

import functools
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tree_sitter

from charrnn.analysis import c_labels, labels
from charrnn.scorecards import metrics

METRICS: dict[str, metrics.Metric] = {}
_OPENING = {")": "(", "]": "[", "}": "{"}
_STATEMENT = re.compile(r"(?<!\w)(?:if|for|while|switch)[ \t]*\Z")
_MAX_STATEMENT = 16  # maximum number of characters that _STATEMENT searches before a parenthesis
_MACRO = re.compile(r"[A-Z][A-Z0-9_]*")
_MARGIN = re.compile(r"[ \t]*")
_QUOTED = re.compile(r"""/\*|//|["']""")  # start of a comment or a literal
_TOKENS = re.compile(
  r"""(?P<token>
    /\*(?s:.*?)(?:\*/|\Z) | //[^\n]*
  | "(?:[^"\\\n]|\\(?s:.))*"? | '(?:[^'\\\n]|\\(?s:.))*'?
  | \w+ | \.\.\. | <<= | >>= | -> | \+\+ | -- | && | \|\| | << | >> | [-+*/%&|^=!<>]= | \S
  )""",
  re.VERBOSE,
)
_BLOCKS = {"compound_statement", "case_statement"}
_LOOPS = {"for_statement", "while_statement", "do_statement"}
_OWNERS = {*_LOOPS, "if_statement", "else_clause", "switch_statement", "function_definition"}
_OUTDENTED = {"case_statement", "labeled_statement"}  # indented less than other statements
# Names that these nodes declare are visible in the whole file, even inside a function.
_FILE_SCOPE = {"enumerator", "preproc_def", "preproc_function_def"}
_NO_USE = {*_FILE_SCOPE, "preproc_ifdef", "preproc_params", "preproc_defined"}

_metric = functools.partial(metrics.register, METRICS)


class Function(NamedTuple):
  """The names in an outermost function."""

  stop: int  # byte after the end of the function
  declared: set[str]  # parameters, and functions declared inside
  variables: set[str]  # local variables
  called: set[str]
  used: set[str]  # names that occur other than in a declaration or as a called function


class Source(NamedTuple):
  """A parsed sample."""

  text: str
  code: str  # input of the parser, which has one byte per character of the text
  tree: tree_sitter.Tree
  functions: list[Function]  # outermost functions without a syntax error
  names: set[str]  # names declared outside of functions


def parse(text: str) -> Source:
  """Parse a sample, which may contain any characters."""
  code = c_labels.parseable(text)
  tree = c_labels.parser().parse(code)
  return Source(text, code.decode("ascii"), tree, *_names(tree))


@_metric("syntax errors", "share", "share of characters inside syntax errors")
def _syntax_errors(source: Source) -> np.ndarray:
  return ~c_labels.understood(source.tree, len(source.text))


@_metric("clean functions", "share", "share of functions without a syntax error")
def _clean_functions(source: Source) -> list[bool]:
  # The tree omits functions with severe errors, so functions are counted by their tokens.
  clean = set()
  for node in c_labels.nodes(source.tree):
    if node.type == "function_definition" and not node.has_error:
      clean.update(body.start_byte for body in node.children_by_field_name("body"))
  return [body in clean for body in _function_bodies(source.code)]


@_metric(
  "matched parentheses", "share", "share of parentheses and square brackets that match", "()[]"
)
@_metric("matched braces", "share", "share of braces that match", "{}")
def _matched(source: Source, kinds: str) -> list[bool]:
  """Return for each bracket in `kinds` whether it has a partner.

  Parentheses and square brackets match only within one block, so an extra brace may affect them.
  Otherwise each kind of bracket is matched independently: a missing parenthesis affects no braces.
  """
  brackets = [match["bracket"] for match in _compiled_tokens(source.code) if match["bracket"]]
  matched = [False] * len(brackets)
  blocks = [{"(": [], "[": []}]  # open brackets of each open block, and its opening brace
  for n, bracket in enumerate(brackets):
    if bracket == "{":
      blocks.append({"(": [], "[": [], "{": [n]})
      continue
    opened = blocks[-1].get(_OPENING.get(bracket, bracket), [])
    if bracket not in _OPENING:
      opened.append(n)
    elif opened:
      matched[n] = matched[opened.pop()] = True
      if bracket == "}":
        blocks.pop()
  return [each for bracket, each in zip(brackets, matched) if bracket in kinds]


@_metric("paired conditionals", "share", "share of #if, #else and #endif in complete groups")
def _paired_conditionals(source: Source) -> list[bool]:
  return _conditionals(source.code)[0]


@_metric(
  "closed strings", "share", "share of quoted literals that are closed", "string", "character"
)
@_metric("closed comments", "share", "share of block comments that are closed", "block")
def _closed(source: Source, *kinds: str) -> list[bool]:
  matches = (each for each in c_labels.TOKENS.finditer(source.code) if each.lastgroup in kinds)
  # The match includes the closing character; the group does not.
  return [match.end() > match.end(match.lastgroup) for match in matches]


@_metric("indentation", "share", "share of statements indented according to their nesting")
def _indented(source: Source) -> list[bool]:
  """Return for each statement that begins a line whether its indentation is consistent.

  A statement must have the indentation of the previous one in its block. The first statement of a
  block, or a body without braces, must be indented more than the first line of its owner: the
  statement or function to which the block or body belongs.
  """
  margins = [_MARGIN.match(line)[0] for line in source.code.split("\n")]
  widths = [len(margin.expandtabs(labels.TAB)) for margin in margins]
  result = []
  for owner, statements in _bodies(source.tree):
    starts = (statement.start_point for statement in statements)
    inside = [widths[row] for row, column in starts if column == len(margins[row])]
    result += [width > widths[owner.start_point.row] for width in inside[:1]]
    result += [width == before for before, width in itertools.pairwise(inside)]
  return result


@_metric(
  "undeclared names", "share", "share of names used in clean functions that are not declared"
)
def _undeclared_names(source: Source) -> list[bool]:
  # Most called functions and uppercase names are declared in headers, so they are excluded.
  result = []
  for function in source.functions:
    known = source.names | function.declared | function.variables
    result += [name not in known for name in function.used if not _MACRO.fullmatch(name)]
  return result


@_metric("unused variables", "share", "share of variables of clean functions that are never used")
def _unused_variables(source: Source) -> list[bool]:
  result = []
  for function in source.functions:
    result += [name not in function.used | function.called for name in function.variables]
  return result


@_metric("line length", "mean", "mean number of characters per nonblank line")
def _line_lengths(source: Source) -> list[int]:
  return [len(line) for line in source.text.split("\n") if line.strip()]


@_metric("tokens", "distribution", "token frequencies, ignoring the text of comments and literals")
def _tokens(source: Source) -> list[str]:
  tokens = (match["token"] for match in _TOKENS.finditer(source.text))
  return [match[0] if (match := _QUOTED.match(token)) else token for token in tokens]


def _conditionals(code: str) -> tuple[list[bool], list[tuple[int, int]]]:
  """Return whether each directive is in a complete group, and the span after each first branch."""
  paired, later, groups = [], [], []
  for match in c_labels.TOKENS.finditer(code):
    word, number = match["directive"], len(paired)
    if word is None or word == "define":
      continue
    paired.append(False)
    if word.startswith("if"):
      groups.append(([number], []))
    elif groups:
      numbers, ends = groups[-1]
      numbers.append(number)
      ends.append(match.start())
      if word == "endif":
        groups.pop()
        later.append((ends[0], ends[-1]))
        for number in numbers:
          paired[number] = True
  return paired, later


def _compiled_tokens(code: str) -> Iterator[re.Match]:
  """Yield comments, literals and brackets, taking only the first branch of each #if.

  Macro definitions are skipped, because brackets that they open may be closed elsewhere.
  """
  skipped = labels.covering(len(code), _conditionals(code)[1]) > 0
  in_macro = False
  for match in c_labels.TOKENS.finditer(code):
    if match["directive"] or match["newline"]:
      in_macro = match["directive"] == "define"
    elif not in_macro and not skipped[match.start()]:
      yield match


def _function_bodies(code: str) -> Iterator[int]:
  """Yield the positions of braces that seem to open the body of a function.

  Such a brace follows a closing parenthesis, and is outside of all other braces or at the start of
  a line. A brace at the start of a line closes everything that is still open.
  """
  braces = parentheses = 0
  start, end = 0, None  # positions of the last outermost parentheses
  for match in _compiled_tokens(code):
    bracket, position = match["bracket"], match.start()
    if end is not None and code[end:position].strip():
      end = None
    if bracket == "(":
      start = start if parentheses else position
      parentheses += 1
    elif bracket == ")":
      parentheses = max(0, parentheses - 1)
      end = match.end()
    elif bracket == "{":
      braces = 0 if position == 0 or code[position - 1] == "\n" else braces
      before = code[max(0, start - _MAX_STATEMENT) : start]
      if end is not None and not braces and not _STATEMENT.search(before):
        yield position
      braces, parentheses = braces + 1, 0
    elif bracket == "}":
      braces, parentheses = max(0, braces - 1), 0
    elif end is not None:  # a comment between the parenthesis and the brace is allowed
      end = match.end()


def _bodies(tree: tree_sitter.Tree) -> Iterator[tuple[tree_sitter.Node, list[tree_sitter.Node]]]:
  """Yield (owner, statements) for each block and each body without braces; see `_indented`."""
  owners = {}  # owner of each block, by the position of the block
  for node in c_labels.nodes(tree):
    if node.type in _OWNERS:
      bodies = _statements(node)
      owners.update((body.start_byte, node) for body in bodies if body.type in _BLOCKS)
      yield from ((node, [body]) for body in bodies if body.type not in _BLOCKS)
    elif node.type in _BLOCKS:
      yield owners.get(node.start_byte, node), _statements(node)


def _statements(node: tree_sitter.Node) -> list[tree_sitter.Node]:
  children = (child for child in node.named_children if child.type not in _OUTDENTED)
  return [child for child in children if child.type.endswith(("_statement", "declaration"))]


def _names(tree: tree_sitter.Tree) -> tuple[list[Function], set[str]]:
  """Return the outermost functions without a syntax error, and the names of file scope."""
  functions, file = [], set()
  outside = Function(tree.root_node.end_byte + 1, file, file, set(), set())
  scope = outside  # becomes the outermost function that contains the node
  declarations = set()  # positions of identifiers that declare or call a name
  for node in c_labels.nodes(tree):  # parents before children
    if node.start_byte >= scope.stop:
      scope = outside
    if node.type == "function_definition":
      _add(node, scope.declared, scope.declared, declarations)
      if scope is outside:
        scope = Function(node.end_byte, set(), set(), set(), set())
        functions += [] if node.has_error else [scope]
    elif node.type == "identifier":
      if node.start_byte not in declarations:
        scope.used.add(node.text.decode())
    elif node.type == "declaration":
      _add(node, scope.variables, scope.declared, declarations)
    elif node.type == "parameter_declaration":
      names = set() if scope is outside else scope.declared
      _add(node, names, names, declarations)
    elif node.type == "call_expression":
      callee = node.child_by_field_name("function")
      if callee and callee.type == "identifier":
        scope.called.add(callee.text.decode())
        declarations.add(callee.start_byte)
    elif node.type in _NO_USE:
      identifiers = [child for child in node.children if child.type == "identifier"]
      declarations.update(child.start_byte for child in identifiers)
      if node.type in _FILE_SCOPE:
        file.update(child.text.decode() for child in identifiers)
  return functions, file


def _add(node, variables: set[str], functions: set[str], declarations: set[int]):
  """Add the names that a node declares to the sets, and their positions to `declarations`."""
  for declarator in node.children_by_field_name("declarator"):
    name, names = declarator, variables
    while name and name.type != "identifier":
      names = functions if name.type == "function_declarator" else variables
      inside = name.named_children if name.type == "parenthesized_declarator" else []
      inside = [child for child in inside if child.type.endswith(("declarator", "identifier"))]
      name = name.child_by_field_name("declarator") or next(iter(inside), None)
    if name:
      declarations.add(name.start_byte)
      names.add(name.text.decode())


DOMAIN = metrics.Domain(
  METRICS,
  lambda training: parse,
  # A brace at the start of a line ends a function, a type or a table.
  boundary=re.compile(r"^\}.*(?:\n|\Z)", re.MULTILINE),
  tokens=_TOKENS,
  prompt="\n}\n\n",
  source="linux",
)
