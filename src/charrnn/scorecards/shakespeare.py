"""Figures of plays: who speaks and in which turns, in which words, and whether it scans."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from charrnn.scorecards import card, pronunciation

WINDOW = 10  # speeches, within which speakers are counted
_LABEL = r"[A-Z][A-Za-z'& -]{0,40}:"
_WORD = r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*"
_LABEL_LINE, _WORDS = re.compile(_LABEL), re.compile(_WORD)

BOUNDARY = re.compile(r"^[ \t\r]*\n", re.MULTILINE)  # blank lines part the speeches
# The words to shuffle; speakers keep their places.
TOKENS = re.compile(rf"^{_LABEL}\r?$|(?P<token>{_WORD})", re.MULTILINE)


class Reference(NamedTuple):
  """What is known from the training text."""

  speakers: frozenset[str]
  words: frozenset[str]


class Block(NamedTuple):
  """What stands between two blank lines; a speech, if it begins with the label of a speaker."""

  speaker: str | None
  lines: list[str]


class Play(NamedTuple):
  blocks: list[Block]
  speakers: list[str]  # of one speech after the other
  lines: list[list[str]]  # the words of each line, lower case
  lengths: list[int]  # characters of each line
  reference: Reference


def reference(training: str) -> Reference:
  speakers = (block.speaker for block in _blocks(training) if block.speaker)
  return Reference(frozenset(speakers), frozenset(words(training)))


def read(text: str, reference: Reference) -> Play:
  blocks = list(_blocks(text))
  lines = [line for block in blocks for line in block.lines]
  return Play(
    blocks,
    [block.speaker for block in blocks if block.speaker],
    [words(line) for line in lines],
    [len(line) for line in lines],
    reference,
  )


def _blocks(text: str) -> Iterator[Block]:
  for part in BOUNDARY.split(text):
    lines = [line.removesuffix("\r") for line in part.split("\n") if line.strip()]
    if lines and _LABEL_LINE.fullmatch(lines[0]):
      yield Block(lines[0][:-1], lines[1:])
    elif lines:
      yield Block(None, lines)


def words(text: str) -> list[str]:
  return [word.lower().replace("\u2019", "'") for word in _WORDS.findall(text)]


def _labelled(play: Play) -> list[bool]:
  return [block.speaker is not None for block in play.blocks]


def _known_speakers(play: Play) -> list[bool]:
  return [speaker in play.reference.speakers for speaker in play.speakers]


def _speech_lengths(play: Play) -> list[int]:
  return [len(block.lines) for block in play.blocks if block.speaker]


def _changes(play: Play) -> list[bool]:
  return [this != last for last, this in zip(play.speakers, play.speakers[1:])]


def _returns(play: Play) -> list[bool]:
  return [this == before for before, this in zip(play.speakers, play.speakers[2:])]


def _casts(play: Play) -> list[int]:
  """How many speak within any WINDOW speeches on end."""
  starts = range(len(play.speakers) - WINDOW + 1)
  return [len(set(play.speakers[start : start + WINDOW])) for start in starts]


def _all_words(play: Play) -> list[str]:
  return [word for line in play.lines for word in line]


def _known_words(play: Play) -> list[bool]:
  return [word in play.reference.words for word in _all_words(play)]


def _dictionary_words(play: Play) -> list[bool]:
  return [word in pronunciation.stresses() for word in _all_words(play)]


def _scannable(play: Play) -> Iterator[list[str]]:
  """The lines of which every word is in the dictionary."""
  for line in play.lines:
    if line and all(word in pronunciation.stresses() for word in line):
      yield line


def _syllables(play: Play) -> list[int]:
  return [pronunciation.syllables(line) for line in _scannable(play)]


def _lengths(play: Play) -> list[int]:
  return play.lengths


def _pentameters(play: Play) -> list[bool]:
  return [pronunciation.is_pentameter(line) for line in _scannable(play)]


def _iambic(play: Play) -> list[bool]:
  return [pronunciation.is_iambic(line) for line in _scannable(play)]


FIGURES = (
  card.Figure("labelled blocks", card.SHARE, "blocks that begin with a speaker's label", _labelled),
  card.Figure("known speakers", card.SHARE, "labels with a name from training", _known_speakers),
  card.Figure("speech length", card.MEAN, "lines of a speech", _speech_lengths),
  card.Figure("speaker changes", card.SHARE, "speeches not by the speaker before", _changes),
  card.Figure("speaker returns", card.SHARE, "speeches by the speaker before that one", _returns),
  card.Figure("cast", card.MEAN, f"speakers of {WINDOW} speeches on end", _casts),
  card.Figure("line length", card.MEAN, "characters of a line", _lengths),
  card.Figure("words", card.DISTRIBUTION, "words, in lower case", _all_words),
  card.Figure("known words", card.SHARE, "words that the training text has", _known_words),
  card.Figure("dictionary words", card.SHARE, "words in CMUdict", _dictionary_words),
  card.Figure("syllables", card.MEAN, "syllables of a line wholly in CMUdict", _syllables),
  card.Figure("pentameters", card.SHARE, "such lines with 10 or 11 syllables", _pentameters),
  card.Figure(
    "iambic lines", card.SHARE, "such lines with 10 or 11 in the iambic pattern", _iambic
  ),
)
