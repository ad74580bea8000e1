"""The hypotheses that units are tested for: those of a language, and regular expressions of users.

A new one is a function in `labels` or `c_labels` with one line of registration above it.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

# c_labels is imported to register its hypotheses.
from charrnn import errors
from charrnn.analysis import c_labels, labels  # noqa: F401

HYPOTHESES = labels.HYPOTHESES
LANGUAGES = ("prose", "c")


def choose(language: str) -> list[labels.Hypothesis]:
  """Return the hypotheses that make sense in a language of LANGUAGES."""
  return [each for each in HYPOTHESES.values() if each.language in ("any", language)]


def parse_regexes(arguments: Sequence[str]) -> list[labels.Hypothesis]:
  """Return the hypotheses of `--regex NAME=PATTERN`; raise UserError if one is invalid."""
  names = [argument.partition("=")[0].strip() for argument in arguments]
  parsed = []
  for name, argument in zip(names, arguments):
    pattern = argument.partition("=")[2]
    if not name or not pattern or "|" in name:
      raise errors.UserError(f"--regex {argument}: write NAME=PATTERN, as year='[0-9]{{4}}'")
    if name in HYPOTHESES:
      raise errors.UserError(f"--regex {argument}: there is a {name} already; choose another name")
    parsed.append(from_regex(name, pattern))
  for name in names:
    if names.count(name) > 1:
      raise errors.UserError(f"--regex: two hypotheses are named {name}: rename one")
  return parsed


def from_regex(name: str, pattern: str) -> labels.Hypothesis:
  """Return the hypothesis that a position is inside a match; ^ and $ match at line ends.

  Raises UserError for an invalid pattern, and for one that matches the empty string.
  """
  try:
    compiled = re.compile(pattern, re.MULTILINE)
  except (re.error, OverflowError, RecursionError) as error:
    raise errors.UserError(f"{name}: {pattern!r} is not a regular expression: {error}") from error
  if compiled.search(""):
    raise errors.UserError(f"{name}: {pattern!r} matches the empty string, which is everywhere")

  def inside(text: str) -> labels.Label:
    spans = [match.span() for match in compiled.finditer(text)]
    return labels.everywhere(labels.covering(len(text), spans))

  about = f"in a match of {pattern} (may look ahead)"
  return labels.Hypothesis(name, "binary", "any", about, inside, predicts=True)


def label_documents(
  hypotheses: Sequence[labels.Hypothesis], documents: Iterable[str]
) -> dict[str, labels.Label]:
  """Label documents one by one; return the concatenated labels by the names of the hypotheses."""
  # The empty document gives the arrays of no documents a type.
  parts = [[each.function(text) for each in hypotheses] for text in ("", *documents)]
  joined = [labels.Label(*map(np.concatenate, zip(*several))) for several in zip(*parts)]
  return dict(zip([each.name for each in hypotheses], joined))
