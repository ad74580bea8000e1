"""Names in C: what a function uses that nobody declared, and what it declares and never uses."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import tree_sitter

from charrnn.analysis import c_labels

_MACRO = re.compile(r"[A-Z][A-Z0-9_]*")
# Their names belong to the whole file, wherever they stand.
_OF_THE_FILE = {"enumerator", "preproc_def", "preproc_function_def"}
_NOT_USED = {*_OF_THE_FILE, "preproc_ifdef", "preproc_params", "preproc_defined"}


class Function(NamedTuple):
  """The names in a function that parses."""

  stop: int
  declared: set[str]  # parameters, and functions declared inside
  variables: set[str]
  called: set[str]
  used: set[str]  # other than to be called


class Names(NamedTuple):
  functions: list[Function]
  file: set[str]  # what is declared outside of functions


def undeclared(names: Names) -> list[bool]:
  """Of each name that a function uses, whether it is declared nowhere in the text.

  Functions that are called and names in capitals are left out: headers declare most of these.
  """
  found = []
  for function in names.functions:
    known = names.file | function.declared | function.variables
    found += [name not in known for name in function.used if not _MACRO.fullmatch(name)]
  return found


def unused(names: Names) -> list[bool]:
  """Of each variable that a function declares, whether it is never mentioned again."""
  found = []
  for function in names.functions:
    mentioned = function.used | function.called
    found += [name not in mentioned for name in function.variables]
  return found


def read(tree: tree_sitter.Tree) -> Names:
  names = Names([], set())
  function = None  # the outermost one, which alone is looked at
  known = set()  # positions of identifiers that are no use of a name
  for node in c_labels.nodes(tree):
    if function and node.start_byte >= function.stop:
      function = None
    if node.type == "function_definition":
      outside, function = function, function or _function(node, names)
      _note(node, outside.declared if outside else names.file, known)
    elif node.type == "identifier":
      if function and node.start_byte not in known:
        function.used.add(_name(node))
    else:
      _note_declaration(node, function, names.file, known)
  return names


def _function(node: tree_sitter.Node, names: Names) -> Function:
  function = Function(node.end_byte, set(), set(), set(), set())
  if not node.has_error:
    names.functions.append(function)
  return function


def _note_declaration(
  node: tree_sitter.Node, function: Function | None, file: set[str], known: set[int]
):
  """Parents come before their children, so that identifiers are known when they come."""
  if node.type == "declaration":
    _note(node, function.variables if function else file, known, function and function.declared)
  elif node.type == "parameter_declaration":
    _note(node, function.declared if function else set(), known)
  elif node.type == "call_expression":
    callee = node.child_by_field_name("function")
    if function and callee and callee.type == "identifier":
      function.called.add(_name(callee))
      known.add(callee.start_byte)
  elif node.type in _NOT_USED:
    identifiers = [child for child in node.children if child.type == "identifier"]
    known.update(child.start_byte for child in identifiers)
    if node.type in _OF_THE_FILE:
      file.update(map(_name, identifiers))


def _note(node, variables: set[str], known: set[int], prototypes: set[str] | None = None):
  """The names that a declaration gives to variables and, if these are told apart, to functions."""
  for name, is_prototype in _declarators(node):
    known.add(name.start_byte)
    kind = prototypes if is_prototype and prototypes is not None else variables
    kind.add(_name(name))


def _declarators(node: tree_sitter.Node) -> Iterator[tuple[tree_sitter.Node, bool]]:
  """The identifiers inside of `*`, `[]`, `()` and `=`, and whether each is declared a function."""
  for inner in node.children_by_field_name("declarator"):
    found, is_prototype = inner, False
    while found is not None and found.type != "identifier":
      is_prototype = found.type == "function_declarator"
      found = found.child_by_field_name("declarator") or _in_parentheses(found)
    if found is not None:
      yield found, is_prototype


def _in_parentheses(node: tree_sitter.Node) -> tree_sitter.Node | None:
  if node.type != "parenthesized_declarator":
    return None
  kinds = ("declarator", "identifier")
  return next((child for child in node.named_children if child.type.endswith(kinds)), None)


def _name(node: tree_sitter.Node) -> str:
  return node.text.decode("ascii")
