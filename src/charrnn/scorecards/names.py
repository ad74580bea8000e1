"""Metrics of names, or of other single words: length, spelling, and first and last letters."""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

from charrnn.scorecards import metrics

METRICS: dict[str, metrics.Metric] = {}
_EDGE = "\n"  # stands for the beginning and the end of a name

_metric = functools.partial(metrics.register, METRICS)


class Names(NamedTuple):
  """A parsed sample."""

  names: list[str]
  known_pairs: frozenset[str]  # pairs of adjacent characters of the training text
  known_triples: frozenset[str]


def split(text: str) -> list[str]:
  """Return the names of a text, one per line."""
  return [name for line in text.split("\n") if (name := line.strip())]


def parser(training: str) -> Callable[[str], Names]:
  """Return a function that parses samples, given the training text."""
  known = [frozenset(_sequences(split(training), size)) for size in (2, 3)]
  return lambda text: Names(split(text), *known)


def _sequences(names: list[str], size: int) -> list[str]:
  """Return the sequences of `size` characters of all names; the edges of a name are characters."""
  edged = (f"{_EDGE}{name}{_EDGE}" for name in names)
  return [each[n : n + size] for each in edged for n in range(len(each) - size + 1)]


@_metric("length", "mean", "mean number of characters per name")
def _lengths(sample: Names) -> list[int]:
  return [len(name) for name in sample.names]


@_metric("last letters", "distribution", "frequencies of the last characters", -1)
@_metric("first letters", "distribution", "frequencies of the first characters", 0)
def _letters(sample: Names, position: int) -> list[str]:
  return [name[position] for name in sample.names]


@_metric("pairs", "distribution", "frequencies of pairs of characters, with the edges of names")
def _pairs(sample: Names) -> list[str]:
  return _sequences(sample.names, 2)


@_metric("known pairs", "share", "share of pairs of characters that occur in the training text")
def _known_pairs(sample: Names) -> list[bool]:
  return [pair in sample.known_pairs for pair in _sequences(sample.names, 2)]


@_metric("known triples", "share", "share of character triples that occur in the training text")
def _known_triples(sample: Names) -> list[bool]:
  return [triple in sample.known_triples for triple in _sequences(sample.names, 3)]


DOMAIN = metrics.Domain(
  METRICS,
  parser,
  boundary=re.compile(r"\n"),
  tokens=re.compile(r"(?P<token>[^\n])"),  # The control shuffles the characters of a name.
  prompt="\n",
  source="names",
  documents="lines",
  num=1000,
  split=split,
)
