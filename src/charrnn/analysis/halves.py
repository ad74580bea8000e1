"""Two halves of a text: one to choose the best cell on, the other to score it once."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Span = tuple[int, int]
FEWEST_DOCUMENTS = 8
BLOCKS = 20
SHORTEST_BLOCK = 2000
# Characters left out between two blocks: what a cell still holds from the other half.
GAP = 250


class Halves(NamedTuple):
  discovery: tuple[Span, ...]
  confirmation: tuple[Span, ...]
  by: str  # "documents" or "blocks"
  length: int  # characters in the shortest piece


def halve(documents: Sequence[Span], seed: int = 0) -> Halves:
  """Whole documents at random, or alternating blocks where documents are few or very unequal.

  Blocks are a twentieth of the text, at least 2000 characters, with 250 left out between them:
  long against the memory of a cell and against the runs of the labels, which are tens to hundreds.
  """
  documents = [(int(start), int(stop)) for start, stop in documents if start < stop]
  dealt = _dealt(documents, seed)
  if len(documents) >= FEWEST_DOCUMENTS and min(map(_length, dealt)) >= 0.4 * _length(documents):
    return _halves(*dealt, "documents")
  blocks = _blocks(documents)
  return _halves(blocks[::2], blocks[1::2], "blocks")


def inner(spans: Sequence[Span], lags: Sequence[int]) -> np.ndarray:
  """The places of the spans from which every lag stays inside of the same span."""
  before, after = max(0, *lags), max(0, *(-lag for lag in lags))
  places = [np.arange(start + before, stop - after) for start, stop in spans]
  return np.concatenate([np.empty(0, np.intp), *places]).astype(np.intp)


def _length(spans) -> int:
  return sum(stop - start for start, stop in spans)


def _halves(discovery, confirmation, by) -> Halves:
  pieces = [*discovery, *confirmation]
  shortest = min((stop - start for start, stop in pieces), default=0)
  return Halves(tuple(sorted(discovery)), tuple(sorted(confirmation)), by, shortest)


def _dealt(documents, seed):
  """In random order, each to the half that has less: they differ by a document at most."""
  dealt = [], []
  for index in np.random.default_rng(seed).permutation(len(documents)):
    min(dealt, key=_length).append(documents[index])
  return dealt


def _blocks(documents) -> list[Span]:
  length = max(SHORTEST_BLOCK, _length(documents) // BLOCKS)
  blocks = []
  for start, stop in documents:
    pieces = max(1, round((stop - start) / length))
    cuts = np.linspace(start, stop, pieces + 1).astype(int).tolist()
    # The first block of a document follows nothing, so it loses nothing.
    blocks += [(a + GAP * (a > start), b) for a, b in itertools.pairwise(cuts)]
  return blocks
