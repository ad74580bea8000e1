"""Metrics of text sampled at a temperature: entropy, loss, repetition, loops, frequencies."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from charrnn.scorecards import metrics, plays

METRICS: dict[str, metrics.Metric] = {}
MIN_LOOP = 100  # minimum length of a loop in characters; excludes a row of dashes
SIZES = (1, 2, 3, 4)  # numbers of words in the n-grams of the distinct-n metrics
GRAM = 3  # number of characters in the n-grams whose frequencies are compared

_metric = functools.partial(metrics.register, METRICS)


class Loop(NamedTuple):
  """A sequence that a text repeats to its end."""

  start: int  # position in the text
  period: int  # length of the sequence, in characters


class Sample(NamedTuple):
  """A text with the entropy of the sampling distribution and the loss of each token, in nats."""

  text: str
  words: list[str]
  known_words: frozenset[str]  # words of the training text
  loop: Loop | None
  entropies_N: np.ndarray
  nats_N: np.ndarray


def parser(training: str) -> Callable[[str, np.ndarray, np.ndarray], Sample]:
  """Return a function that makes a Sample from a text, its entropies and its losses."""
  known = frozenset(plays.words(training))
  return lambda text, *arrays: Sample(text, plays.words(text), known, find_loop(text), *arrays)


def find_loop(text: Sequence) -> Loop | None:
  """Return the longest loop at the end of a text with its smallest period, or None.

  In a loop text[i] == text[i + period]. It has at least two periods and MIN_LOOP characters. In the
  reversed text a loop is a prefix, and the smallest period of a prefix is its length minus the
  length of its longest border (Knuth, Morris & Pratt 1977). This takes linear time.
  """
  backward, borders, border = text[::-1], [0], 0  # lengths of the borders of all prefixes
  for character in itertools.islice(backward, 1, None):
    while border and character != backward[border]:
      border = borders[border - 1]
    border += character == backward[border]
    borders.append(border)
  for length in range(len(text), MIN_LOOP - 1, -1):
    period = length - borders[length - 1]
    if 2 * period <= length:
      return Loop(len(text) - length, period)
  return None


def _grams(units: Sequence, size: int) -> list[tuple]:
  return list(zip(*(units[start:] for start in range(size))))


@_metric("entropy", "mean", "mean entropy of the sampling distribution, nats per token")
def _entropies(sample: Sample) -> np.ndarray:
  return sample.entropies_N


@_metric("loss", "mean", "mean loss under the model at temperature 1, nats per token")
def _nats(sample: Sample) -> np.ndarray:
  return sample.nats_N


def _distinct(sample: Sample, size: int) -> np.ndarray:
  """Return a boolean per n-gram of words; as many are true as there are distinct n-grams."""
  # If the training text has no words (for example, only digits), characters are used instead.
  grams = _grams(sample.words if sample.known_words else sample.text, size)
  return np.arange(len(grams)) < len(set(grams))


for _n in SIZES:
  _meaning = f"share of distinct sequences among all sequences of {_n} words in a text"
  _metric(f"distinct-{_n}", "share", _meaning, _n)(_distinct)


@_metric("known words", "share", "share of words that occur in the training text")
def _known_words(sample: Sample) -> list[bool]:
  return [word in sample.known_words for word in sample.words]


_meaning = f"share of texts that end in a loop of at least two periods and {MIN_LOOP} characters"


@_metric("loops", "share", _meaning)
def _loops(sample: Sample) -> list[bool]:
  return [sample.loop is not None]


@_metric("loop start", "mean", "mean number of characters before the loop")
def _loop_start(sample: Sample) -> list[int]:
  return [sample.loop.start] if sample.loop else []


@_metric("loop period", "mean", "mean length of one period, in characters")
def _loop_period(sample: Sample) -> list[int]:
  return [sample.loop.period] if sample.loop else []


@_metric(f"{GRAM}-grams", "distribution", f"frequencies of {GRAM}-character sequences")
def _character_grams(sample: Sample) -> list[tuple]:
  return _grams(sample.text, GRAM)


@_metric("words", "distribution", "word frequencies, ignoring case")
def _words(sample: Sample) -> list[str]:
  return sample.words
