"""Texts and their labels as two lines one below the other, character by character."""

import random

from charrnn.analysis import labels

_SIGNS = str.maketrans({"¶": "\n", "→": "\t", "←": "\r"})


def text(shown: str) -> str:
  """The text itself: ¶ shows a newline, → a tab and ← a carriage return."""
  return shown.translate(_SIGNS)


def show(label: labels.Label) -> str:
  """A digit for each character, and a dot where the label is not defined."""
  assert label.values.dtype == "float32" and label.mask.dtype == bool
  assert label.values.shape == label.mask.shape
  return "".join(f"{value:.0f}" if known else "." for value, known in zip(*label))


def check(function, shown: str, expected: str):
  got = show(function(text(shown)))
  assert got == expected, f"\n{shown}\n{got} instead of\n{expected}"


def check_causal(function, text: str):
  """The label up to a character is the same whether or not more follow."""
  whole = _known(function(text))
  for stop in range(len(text)):
    assert _known(function(text[:stop])) == whole[:stop], repr(text[: stop + 1])


def _known(label: labels.Label) -> list:
  return [value if known else None for value, known in zip(*label)]


def random_text(rng: random.Random, length: int) -> str:
  pieces = [
    *"ab A:'\"“” \t\r\n\n()[]{}\\#/*;é\ud800\0😀",
    "[[",
    "]]",
    "\n\n",
    "http://",
    "A:\n",
    "if",
  ]
  return "".join(rng.choices(pieces, k=length))[:length]
