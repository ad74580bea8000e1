"""Discovery and confirmation: apart, about equal, and never next to each other."""

import itertools

import numpy as np
import pytest

from charrnn.analysis import halves


def _places(spans):
  return [place for start, stop in spans for place in range(start, stop)]


def _documents(lengths):
  ends = np.cumsum([0, *lengths]).tolist()
  return list(itertools.pairwise(ends))


@pytest.mark.parametrize("seed", range(3))
def test_many_documents_stay_whole(seed):
  documents = _documents(np.random.default_rng(seed).integers(100, 2000, 40))
  parts = halves.halve(documents, seed)
  assert parts.by == "documents"
  assert sorted([*parts.discovery, *parts.confirmation]) == documents
  assert parts.length == min(stop - start for start, stop in documents)
  sizes = [len(_places(spans)) for spans in parts[:2]]
  assert min(sizes) > 0.4 * sum(sizes)
  assert parts == halves.halve(documents, seed) != halves.halve(documents, seed + 1)


@pytest.mark.parametrize("lengths", [[100_000], [60_000, 30_000, 10_000], [200_000, *[50] * 20]])
def test_few_or_unequal_documents_are_cut_into_long_blocks_with_gaps(lengths):
  documents = _documents(lengths)
  parts = halves.halve(documents)
  assert parts.by == "blocks"
  places = [_places(spans) for spans in parts[:2]]
  assert not set(places[0]) & set(places[1])
  assert min(map(len, places)) > 0.4 * sum(map(len, places))
  starts = {start for start, _ in documents}
  pieces = sorted([*parts.discovery, *parts.confirmation])
  for (_, stop), (start, _) in itertools.pairwise(pieces):
    assert start - stop == (0 if start in starts else halves.GAP)
  assert max(stop - start for start, stop in pieces) > halves.SHORTEST_BLOCK - halves.GAP


def test_too_little_text_leaves_an_empty_half():
  assert halves.halve([(0, 5)])[:2] == (((0, 5),), ())
  assert halves.halve([])[:2] == ((), ())


def test_lags_stay_inside_of_their_span():
  spans = [(0, 5), (5, 8), (10, 11)]
  assert halves.inner(spans, (-1, 0, 1)).tolist() == [1, 2, 3, 6]
  assert halves.inner(spans, (0,)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10]
  assert halves.inner(spans, (2,)).tolist() == [2, 3, 4, 7]
  assert halves.inner(spans, (-2, -1)).tolist() == [0, 1, 2, 5]
  assert halves.inner([], (0,)).tolist() == []
