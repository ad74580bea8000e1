"""Whether C is indented as it is nested, in whatever style."""

import re
from collections.abc import Iterator

import tree_sitter

from charrnn.analysis import c_labels, labels

_BLANK = re.compile(r"[ \t]*")
_BLOCKS = {"compound_statement", "case_statement"}
_OWNERS = {
  "if_statement",
  "else_clause",
  "for_statement",
  "while_statement",
  "do_statement",
  "switch_statement",
  "function_definition",
}
# Cases and labels stand apart from their neighbours in many styles.
_OUTDENTED = {"case_statement", "labeled_statement"}


def indented(code: str, tree: tree_sitter.Tree) -> list[bool]:
  """Whether each statement that begins a line agrees with the statements around it.

  It stands as far in as the one before it in its block, and the first one of a block, or of a body
  without braces, farther in than the line on which begins what it belongs to.
  """
  margins = [_BLANK.match(line)[0] for line in code.split("\n")]
  widths = [len(margin.expandtabs(labels.TAB)) for margin in margins]
  found = []
  for owner, statements in _bodies(tree):
    outside, before = widths[owner.start_point.row], None
    for statement in statements:
      row, column = statement.start_point
      if column == len(margins[row]):
        width = widths[row]
        found.append(width > outside if before is None else width == before)
        before = width
  return found


def _bodies(tree: tree_sitter.Tree) -> Iterator[tuple[tree_sitter.Node, list[tree_sitter.Node]]]:
  """Blocks, and bodies without braces: to what each belongs, and the statements in it."""
  owners = {}  # of blocks, by their position
  for node in c_labels.nodes(tree):
    if node.type in _OWNERS:
      bodies = _statements(node)
      owners.update((body.start_byte, node) for body in bodies if body.type in _BLOCKS)
      yield from ((node, [body]) for body in bodies if body.type not in _BLOCKS)
    elif node.type in _BLOCKS:
      yield owners.get(node.start_byte, node), _statements(node)


def _statements(node: tree_sitter.Node) -> list[tree_sitter.Node]:
  kinds = ((child, child.type) for child in node.named_children)
  return [
    child
    for child, kind in kinds
    if kind.endswith(("_statement", "declaration")) and kind not in _OUTDENTED
  ]
