"""The splits agree with nanoGPT, torch-rnn and char-rnn, each computed here independently."""

import itertools

import numpy as np
import pytest

from charrnn import errors
from charrnn.data import splits


def _positions(spans):
  return [position for start, stop in spans for position in range(start, stop)]


def test_tail_agrees_with_nanogpt_on_tinyshakespeare():
  # nanoGPT's prepare.py prints 1,003,854 training and 111,540 validation tokens.
  train, valid, test = splits.split(1_115_394, "tail", 0.1, 0)
  assert train == (splits.Span(0, 1_003_854),)
  assert valid == (splits.Span(1_003_854, 1_115_394),)
  assert test == ()


def test_middle_rounds_like_torch_rnn():
  train, valid, test = splits.split(1_115_394, "middle", 0.1, 0.1)
  assert valid[0].stop - valid[0].start == 111_539 == test[0].stop - test[0].start
  assert train[0].stop == valid[0].start and valid[0].stop == test[0].start
  assert test[0].stop == 1_115_394


@pytest.mark.parametrize("kind", ["tail", "middle"])
def test_splits_cover_the_text_in_order(kind):
  rng = np.random.default_rng(0)
  for length in rng.integers(100, 5000, size=50):
    valid, test = rng.uniform(0.02, 0.4, size=2)
    result = splits.split(int(length), kind, valid, test)
    assert _positions(result.train + result.valid + result.test) == list(range(length))


def _char_rnn(length, streams, window, fractions):
  """Split by reshaping, like CharSplitLMMinibatchLoader: return train, valid and test positions."""
  whole = length // (streams * window) * streams * window
  rows = np.arange(whole).reshape(streams, -1)
  train_fraction, valid_fraction, test_fraction = fractions
  batches = np.split(rows, rows.shape[1] // window, axis=1)
  train = int(np.floor(len(batches) * train_fraction))
  valid = int(np.floor(len(batches) * valid_fraction)) if test_fraction else len(batches) - train
  parts = batches[:train], batches[train : train + valid], batches[train + valid :]
  return [sorted(np.concatenate(part, axis=1).ravel()) if part else [] for part in parts]


@pytest.mark.parametrize("fractions", [(0.95, 0.05, 0), (0.9, 0.05, 0.05), (0.8, 0.1, 0.1)])
@pytest.mark.parametrize("length", [3000, 3010, 7777])
def test_streams_agrees_with_char_rnn(length, fractions):
  result = splits.split(length, "streams", *fractions[1:], streams=3, window=10)
  assert [_positions(spans) for spans in result] == _char_rnn(length, 3, 10, fractions)


@pytest.mark.parametrize("fractions", [(-0.1, 0), (0.5, 0.5), (0, 1), (float("nan"), 0)])
def test_invalid_fractions_are_reported(fractions):
  with pytest.raises(errors.UserError, match="their sum must be below 1"):
    splits.split(1000, "tail", *fractions)


@pytest.mark.parametrize("kind", splits.SPLITS)
def test_a_short_text_is_reported(kind):
  with pytest.raises(errors.UserError, match="too short for a validation split"):
    splits.split(9, kind, 0.05, 0.05, streams=2, window=2)


def test_an_unknown_kind_is_reported():
  with pytest.raises(errors.UserError, match="tail, middle, streams"):
    splits.split(1000, "head", 0.1, 0.1)


def test_adjacent_spans_are_merged_in_order():
  spans = [(5, 7), (0, 2), (2, 5), (9, 12)]
  assert splits.merge(spans) == [splits.Span(0, 7), splits.Span(9, 12)]
  assert splits.merge([]) == []


def test_intersections_of_documents_and_spans_are_the_common_positions():
  rng = np.random.default_rng(0)
  for _ in range(50):
    cuts = np.sort(rng.choice(100, 8, replace=False)).tolist()
    documents = [splits.Span(*pair) for pair in itertools.pairwise([0, *cuts[::2], 100])]
    spans = [splits.Span(*pair) for pair in zip(cuts[::2], cuts[1::2])]
    result = list(splits.intersect(documents, spans))
    positions = [position for _, *span in result for position in range(*span)]
    assert positions == _positions(spans)
    assert all(d.start <= start < stop <= d.stop for d, start, stop in result)


def test_documents_are_looked_up_one_by_one():
  class Lines:
    """A billion documents of ten tokens, which cannot be held in memory."""

    def __len__(self):
      return 10**9

    def __getitem__(self, number: int):
      return splits.Span(10 * number, 10 * number + 10)

  spans = [splits.Span(5 * 10**9 + 5, 5 * 10**9 + 25), splits.Span(3, 12), splits.Span(12, 13)]
  result = list(splits.intersect(Lines(), spans))
  assert [span for _, *span in result] == [
    *([3, 10], [10, 13]),
    *([5 * 10**9 + 5, 5 * 10**9 + 10], [5 * 10**9 + 10, 5 * 10**9 + 20]),
    [5 * 10**9 + 20, 5 * 10**9 + 25],
  ]
  assert [document.start for document, *_ in result[:2]] == [0, 10]
