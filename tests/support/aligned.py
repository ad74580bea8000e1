"""Compare labels with expected values that are written as one digit per character of the text."""

import random

from charrnn.analysis import labels

_SIGNS = str.maketrans({"¶": "\n", "→": "\t", "←": "\r"})


def text(shown: str) -> str:
  """Return the text with ¶ replaced by a newline, → by a tab and ← by a carriage return."""
  return shown.translate(_SIGNS)


def show(label: labels.Label) -> str:
  """Return one digit per character, and a dot where the label is not defined."""
  assert label.values.dtype == "float32" and label.mask.dtype == bool
  assert label.values.shape == label.mask.shape
  return "".join(f"{value:.0f}" if known else "." for value, known in zip(*label))


def check(function, shown: str, expected: str):
  """Check the labels that a function returns for a text."""
  actual = show(function(text(shown)))
  assert actual == expected, f"\n{shown}\n{actual} instead of\n{expected}"


def check_causal(function, text: str):
  """Check that a label does not depend on the characters after it."""
  whole = _known(function(text))
  for stop in range(len(text)):
    assert _known(function(text[:stop])) == whole[:stop], repr(text[: stop + 1])


def _known(label: labels.Label) -> list:
  return [value if known else None for value, known in zip(*label)]


def random_text(rng: random.Random, length: int) -> str:
  """Return a random text with many quotes, brackets, line ends and unusual characters."""
  pieces = [
    *"ab A:'\"“” \t\r\n\n()[]{}\\#/*;é\ud800\0😀",
    "[[",
    "]]",
    "\n\n",
    "http://",
    "A:\n",
    "if",
    *"‘’—",
    "--",
  ]
  return "".join(rng.choices(pieces, k=length))[:length]
