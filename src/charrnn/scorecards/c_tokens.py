"""What the tokens of C tell without a syntax tree: what is closed, paired, and like a function.

For brackets the text is read as by a compiler that takes the first of all branches of `#if`, and
macros are left out, since what these open may be for others to close.
"""

import re
from collections.abc import Iterator

from charrnn.analysis import c_labels, labels

_OPENING = {")": "(", "]": "["}
_KEYWORD = re.compile(r"(?<!\w)(?:if|for|while|switch)[ \t]*\Z")
_LONGEST_KEYWORD = 16  # characters, with blanks and what is before it


def closed(code: str, *kinds: str) -> list[bool]:
  """Whether each `block` (a comment), `string` or `character` comes to its end."""
  found = (match for match in c_labels.TOKENS.finditer(code) if match.lastgroup in kinds)
  # The group goes up to the character that closes, the match includes it.
  return [match.end() > match.end(match.lastgroup) for match in found]


def paired(code: str) -> list[bool]:
  """Whether each `#if`, `#else` and `#endif` is one of a group from an `#if` to its `#endif`."""
  return _conditionals(code)[0]


def _conditionals(code: str) -> tuple[list[bool], list[tuple[int, int]]]:
  """Which of the directives are paired, and the spans of all branches but the first ones."""
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


def matched(code: str, kinds: str) -> list[bool]:
  """Whether each bracket of these kinds has its partner.

  The end of a block ends what was left open in it, and each kind of bracket is followed apart: one
  that is missing makes no other one wrong.
  """
  found = []  # kind, whether it is matched
  blocks = [(None, {"(": [], "[": []})]  # where the block opens, and what is open in it
  for match in _tokens(code):
    bracket, partner = match["bracket"], None
    if bracket is None:
      continue
    if bracket == "{":
      blocks.append((len(found), {"(": [], "[": []}))
    elif bracket == "}":
      partner = blocks.pop()[0] if len(blocks) > 1 else None
    elif bracket in _OPENING:
      opened = blocks[-1][1][_OPENING[bracket]]
      partner = opened.pop() if opened else None
    else:
      blocks[-1][1][bracket].append(len(found))
    found.append([bracket, partner is not None])
    if partner is not None:
      found[partner][1] = True
  return [done for bracket, done in found if bracket in kinds]


def function_bodies(code: str) -> Iterator[int]:
  """The braces that look like the beginning of a function, whether or not it goes on as one.

  They follow a closing parenthesis, and stand outside of all other braces or at a line's start;
  there whatever is still open was forgotten.
  """
  braces = parentheses = 0
  start, end = 0, None  # of the parentheses just before
  for match in _tokens(code):
    bracket, place = match["bracket"], match.start()
    if end is not None and code[end:place].strip():
      end = None
    if bracket == "(":
      start = start if parentheses else place
      parentheses += 1
    elif bracket == ")":
      parentheses = max(0, parentheses - 1)
      end = match.end()
    elif bracket == "{":
      braces = 0 if place == 0 or code[place - 1] == "\n" else braces
      if end is not None and not braces and not _is_statement(code, start):
        yield place
      braces, parentheses = braces + 1, 0
    elif bracket == "}":
      braces, parentheses = max(0, braces - 1), 0
    elif end is not None:  # A comment or a literal; behind a comment the brace may still come.
      end = match.end()


def _is_statement(code: str, parenthesis: int) -> bool:
  return bool(_KEYWORD.search(code[max(0, parenthesis - _LONGEST_KEYWORD) : parenthesis]))


def _tokens(code: str) -> Iterator[re.Match]:
  """Comments, literals and brackets, without macros and later branches."""
  skipped = labels.covering(len(code), _conditionals(code)[1]) > 0
  in_macro = False
  for match in c_labels.TOKENS.finditer(code):
    if match["directive"] or match["newline"]:
      in_macro = match["directive"] == "define"
    elif not in_macro and not skipped[match.start()]:
      yield match
