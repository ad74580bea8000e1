"""Figures of what a model writes: how sure it was, how much it repeats itself, how real it is."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charrnn.scorecards import card, shakespeare

SHORTEST_LOOP = 100  # characters, so that a row of dashes is none
SIZES = (1, 2, 3, 4)  # of the n-grams that may be distinct
GRAM = 3  # characters, of the n-grams whose frequencies are compared


class Loop(NamedTuple):
  start: int  # in the text
  period: int


class Reading(NamedTuple):
  """A text and what its model said of it; entropies and nats are of every symbol, [N]."""

  text: str
  words: list[str]
  known: frozenset[str]  # the words of the training text
  loop: Loop | None
  entropies: np.ndarray  # of the distributions that the symbols were drawn from
  nats: np.ndarray  # -log p of the symbols


def known_words(training: str) -> frozenset[str]:
  return frozenset(shakespeare.words(training))


def read(text: str, known: frozenset[str], entropies: np.ndarray, nats: np.ndarray) -> Reading:
  return Reading(text, shakespeare.words(text), known, loop(text), entropies, nats)


def loop(text: Sequence) -> Loop | None:
  """The first start from which the text repeats itself to its end, and the smallest period there.

  That is text[i] == text[i + period] all along, for two periods and SHORTEST_LOOP at least. Read
  backwards, every end of the text is a beginning, and the smallest period of a beginning is its
  length less its longest border (Knuth, Morris & Pratt 1977): linear time.
  """
  borders = _borders(text[::-1])
  for length in range(len(text), SHORTEST_LOOP - 1, -1):
    period = length - borders[length - 1]
    if 2 * period <= length:
      return Loop(len(text) - length, period)
  return None


def _borders(text: Sequence) -> list[int]:
  """Of each beginning of the text, how much of its own beginning it ends with, short of all."""
  borders, border = [0] if len(text) else [], 0
  for symbol in itertools.islice(text, 1, None):
    while border and symbol != text[border]:
      border = borders[border - 1]
    border += symbol == text[border]
    borders.append(border)
  return borders


def _distinct(reading: Reading, size: int) -> np.ndarray:
  """A truth an n-gram of words, as many of them true as there are different ones."""
  # Where the training text has no words, as of digits alone, characters stand in for them.
  units = reading.words if reading.known else reading.text
  grams = _grams(units, size)
  return np.arange(len(grams)) < len(set(grams))


def _grams(units: Sequence, size: int) -> list[tuple]:
  return list(zip(*(units[start:] for start in range(size))))


def _distinct_figure(size: int) -> card.Figure:
  meaning = f"of all sequences of {size} words of a text, how many different ones there are"
  return card.Figure(f"distinct-{size}", card.SHARE, meaning, lambda r: _distinct(r, size))


FIGURES = (
  card.Figure(
    "entropy",
    card.MEAN,
    "nats, of the distribution that each symbol was drawn from",
    lambda reading: reading.entropies,
  ),
  card.Figure(
    "loss",
    card.MEAN,
    "nats a symbol, of the text by the model itself, at temperature 1",
    lambda reading: reading.nats,
  ),
  *map(_distinct_figure, SIZES),
  card.Figure(
    "known words",
    card.SHARE,
    "words (runs of letters) that the training text has",
    lambda reading: [word in reading.known for word in reading.words],
  ),
  card.Figure(
    "loops",
    card.SHARE,
    f"texts that end in a cycle, of two rounds and {SHORTEST_LOOP} characters at least",
    lambda reading: [reading.loop is not None],
  ),
  card.Figure(
    "loop start",
    card.MEAN,
    "characters before the cycle",
    lambda reading: [reading.loop.start] if reading.loop else [],
  ),
  card.Figure(
    "loop period",
    card.MEAN,
    "characters of one round",
    lambda reading: [reading.loop.period] if reading.loop else [],
  ),
  card.Figure(
    f"{GRAM}-grams",
    card.DISTRIBUTION,
    f"sequences of {GRAM} characters",
    lambda reading: _grams(reading.text, GRAM),
  ),
  card.Figure("words", card.DISTRIBUTION, "words, in lower case", lambda reading: reading.words),
)
