"""The hypotheses that units are tested for: by language, and from users' regular expressions.

To add a hypothesis, write a label function in `labels` or `c_labels` and register it with a
decorator.
"""

import re
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

# c_labels is imported to register its hypotheses.
from charrnn import errors
from charrnn.analysis import c_labels, labels  # noqa: F401

HYPOTHESES = labels.HYPOTHESES
LANGUAGES = ("prose", "c")


def choose(language: str) -> list[labels.Hypothesis]:
  """Return the hypotheses for a language, one of LANGUAGES."""
  return [each for each in HYPOTHESES.values() if each.language in ("any", language)]


def parse_regexes(arguments: Sequence[str]) -> list[labels.Hypothesis]:
  """Return the hypotheses of `--regex NAME=PATTERN` arguments; raise UserError if invalid."""
  names = [argument.partition("=")[0].strip() for argument in arguments]
  parsed = []
  for name, argument in zip(names, arguments):
    pattern = argument.partition("=")[2]
    if not name or not pattern or "|" in name:
      raise errors.UserError(
        f"--regex {argument}: must be NAME=PATTERN, for example year='[0-9]{{4}}'"
      )
    if name in HYPOTHESES:
      raise errors.UserError(f"--regex {argument}: the name {name} is in use: choose another name")
    parsed.append(from_regex(name, pattern))
  for name in names:
    if names.count(name) > 1:
      raise errors.UserError(f"--regex: two hypotheses are named {name}: rename one of them")
  return parsed


def from_regex(name: str, pattern: str) -> labels.Hypothesis:
  """Return a hypothesis that is true inside each match of a regular expression.

  ^ and $ match at line boundaries. Raises UserError if the pattern is invalid or matches the empty
  string.
  """
  try:
    with warnings.catch_warnings(action="ignore"):  # warnings about future changes of syntax
      compiled = re.compile(pattern, re.MULTILINE)
  except (re.error, OverflowError, RecursionError) as error:
    raise errors.UserError(f"{name}: {pattern!r} is not a regular expression: {error}") from error
  if compiled.search(""):
    raise errors.UserError(
      f"{name}: {pattern!r} must not match the empty string: change the pattern"
    )

  def inside(text: str) -> labels.Label:
    spans = [match.span() for match in compiled.finditer(text)]
    return labels.everywhere(labels.covering(len(text), spans))

  about = f"inside a match of {pattern} (looks ahead to the end of the match)"
  return labels.Hypothesis(name, "binary", "any", about, inside, predicts=True)


def label_documents(
  hypotheses: Sequence[labels.Hypothesis], documents: Iterable[str]
) -> dict[str, labels.Label]:
  """Label each document separately; return the concatenated labels by name of the hypothesis."""
  # The empty first document gives the arrays a dtype if there are no documents.
  parts = [[each.function(text) for each in hypotheses] for text in ("", *documents)]
  joined = [labels.Label(*map(np.concatenate, zip(*several))) for several in zip(*parts)]
  return dict(zip([each.name for each in hypotheses], joined))
