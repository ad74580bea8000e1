"""Readers never jump, the whole text is read, and each character is scored exactly once."""

import numpy as np
import pytest

from charrnn import errors
from charrnn.data import batches, splits


def _circles(seed=0, count=20):
  """Random segments of a corpus whose ids are their own places, with their circle."""
  rng = np.random.default_rng(seed)
  for _ in range(count):
    cuts = np.sort(rng.choice(np.arange(2000), size=2 * rng.integers(1, 5), replace=False))
    segments = tuple(splits.Span(*map(int, pair)) for pair in cuts.reshape(-1, 2))
    circle = np.concatenate([np.arange(*segment) for segment in segments])
    batch, window = map(int, rng.integers(1, 9, size=2))
    if len(circle) >= batch * window:
      yield batches.TrainingWindows(np.arange(2000), segments, batch, window), circle


def test_each_reader_goes_round_the_circle_without_a_jump():
  for windows, circle in _circles():
    steps = int(2.5 * windows.steps_per_epoch) + 2
    pairs = [windows.window_at(step) for step in range(steps)]
    x_SxB, y_SxB = (np.concatenate(arrays) for arrays in zip(*pairs))
    starts_B = np.arange(windows.batch) * len(circle) // windows.batch
    places_SxB = starts_B + np.arange(len(x_SxB))[:, None]
    np.testing.assert_array_equal(x_SxB, circle[places_SxB % len(circle)])
    np.testing.assert_array_equal(y_SxB, circle[(places_SxB + 1) % len(circle)])


def test_an_epoch_reads_every_character():
  for windows, circle in _circles(seed=1):
    steps = int(np.ceil(windows.steps_per_epoch))
    read = [windows.window_at(7 + step)[0] for step in range(steps)]
    assert set(np.concatenate(read).ravel()) == set(circle)


def test_a_step_depends_on_nothing_but_its_number():
  for windows, _ in _circles(seed=2):
    later = windows.window_at(10**15)
    windows.window_at(3)
    np.testing.assert_array_equal(later, windows.window_at(10**15))
    for rows in (slice(0, 1), slice(1, None, 2)):
      part = windows.window_at(10**15, rows)
      np.testing.assert_array_equal(part, [array[:, rows] for array in later])


def test_arrays_are_time_major_int32():
  ids = np.arange(100, dtype=np.uint8)
  windows = batches.TrainingWindows(ids, (splits.Span(0, 100),), batch=4, window=5)
  x_TxB, y_TxB = windows.window_at(np.int32(0))
  assert x_TxB.shape == y_TxB.shape == (5, 4)
  assert x_TxB.dtype == y_TxB.dtype == np.int32


def test_streams_split_gives_each_reader_the_row_of_char_rnn():
  segments = splits.split(3010, "streams", 0.1, 0, streams=3, window=10).train
  windows = batches.TrainingWindows(np.arange(3010), segments, batch=3, window=10)
  x_TxB, _ = windows.window_at(0)
  assert x_TxB[0].tolist() == [segment.start for segment in segments]


def test_a_text_shorter_than_a_step_is_reported():
  with pytest.raises(errors.UserError, match=r"99 characters .* 10 streams x 10 characters"):
    batches.TrainingWindows(np.arange(200), (splits.Span(0, 99),), batch=10, window=10)


def _scored_cases(seed=0, count=60):
  rng = np.random.default_rng(seed)
  for _ in range(count):
    size = int(rng.integers(2, 300))
    start, stop = sorted(map(int, rng.integers(0, size + 1, size=2)))
    yield size, splits.Span(start, stop), *map(int, rng.integers((1, 1, 0), (9, 20, 30)))


def test_every_character_with_a_past_is_scored_once():
  for size, segment, readers, window, burn_in in _scored_cases():
    ids, scored = np.arange(size), []
    windows = batches.scoring_windows(ids, [segment], readers, window, burn_in)
    for x_TxB, y_TxB, weight_TxB, positions_TxB in windows:
      assert x_TxB.shape == y_TxB.shape == weight_TxB.shape and len(x_TxB) == window
      assert weight_TxB.dtype == np.float32
      scored += y_TxB[weight_TxB == 1].tolist()
      np.testing.assert_array_equal(positions_TxB[weight_TxB == 1], y_TxB[weight_TxB == 1])
      assert set(weight_TxB.ravel()) <= {0, 1}
      np.testing.assert_array_equal(x_TxB[weight_TxB == 1] + 1, y_TxB[weight_TxB == 1])
    assert sorted(scored) == list(range(max(segment.start, 1), segment.stop))


def test_each_reader_is_contiguous_with_all_the_past_there_is():
  for size, segment, readers, window, burn_in in _scored_cases(seed=1):
    triples = list(batches.scoring_windows(np.arange(size), [segment], readers, window, burn_in))
    if not triples:
      continue
    x_SxB, y_SxB, weight_SxB, _ = (np.concatenate(arrays) for arrays in zip(*triples))
    for x_S, y_S, weight_S in zip(x_SxB.T, y_SxB.T, weight_SxB.T):
      first, last = np.flatnonzero(weight_S)[[0, -1]]
      assert first == min(burn_in, y_S[first] - 1)
      np.testing.assert_array_equal(x_S[: last + 1], x_S[0] + np.arange(last + 1))
      assert not x_S[last + 1 :].any() and weight_S[first : last + 1].all()


def test_a_short_segment_has_fewer_readers():
  shapes = [
    x_TxB.shape
    for x_TxB, *_ in batches.scoring_windows(np.arange(99), [splits.Span(50, 75)], 8, 10)
  ]
  assert shapes == [(10, 2)] * 2


def test_nothing_before_the_beginning_of_a_document_is_read():
  rng = np.random.default_rng(2)
  for size, segment, readers, window, burn_in in _scored_cases(seed=2):
    begins = [0, *map(int, rng.integers(1, size, size=5))]
    begin_of = np.maximum.accumulate(np.where(np.isin(np.arange(size), begins), np.arange(size), 0))
    triples = list(
      batches.scoring_windows(np.arange(size), [segment], readers, window, burn_in, begins)
    )
    expected = sorted(set(range(*segment)) - set(begins))
    if not triples:
      assert not expected
      continue
    x_SxB, y_SxB, weight_SxB, _ = (np.concatenate(arrays) for arrays in zip(*triples))
    # Reader by reader is the order of the text.
    assert y_SxB.T[weight_SxB.T == 1].tolist() == expected
    for x_S, y_S, weight_S in zip(x_SxB.T, y_SxB.T, weight_SxB.T):
      first, last = np.flatnonzero(weight_S)[[0, -1]]
      assert first == min(burn_in, y_S[first] - 1 - begin_of[y_S[first]])
      assert (begin_of[x_S[: last + 1]] == begin_of[y_S[first]]).all()


def test_stretches_are_cut_where_documents_begin():
  result = list(batches.scorable_spans([(2, 10), (10, 11), (12, 20)], [0, 10, 15, 16]))
  assert result == [(2, 10), (12, 15), (17, 20)]
  assert list(batches.scorable_spans([(0, 1), (5, 5)])) == []
