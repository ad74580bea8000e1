"""Streams are contiguous, an epoch reads every token, and each token is scored exactly once."""

import numpy as np
import pytest

from charrnn import errors
from charrnn.data import batches, splits


def _circles(seed=0, count=20):
  """Yield (windows, ids in circular order) for random spans of a corpus with id i at position i."""
  rng = np.random.default_rng(seed)
  for _ in range(count):
    cuts = np.sort(rng.choice(np.arange(2000), size=2 * rng.integers(1, 5), replace=False))
    spans = tuple(splits.Span(*map(int, pair)) for pair in cuts.reshape(-1, 2))
    circle = np.concatenate([np.arange(*span) for span in spans])
    batch, window = map(int, rng.integers(1, 9, size=2))
    if len(circle) >= batch * window:
      yield batches.TrainingWindows(np.arange(2000), spans, batch, window), circle


def test_each_stream_reads_the_circle_contiguously():
  for windows, circle in _circles():
    steps = int(2.5 * windows.steps_per_epoch) + 2
    pairs = [windows.window_at(step) for step in range(steps)]
    x_SxB, y_SxB = (np.concatenate(arrays) for arrays in zip(*pairs))
    starts_B = np.arange(windows.batch) * len(circle) // windows.batch
    positions_SxB = starts_B + np.arange(len(x_SxB))[:, None]
    np.testing.assert_array_equal(x_SxB, circle[positions_SxB % len(circle)])
    np.testing.assert_array_equal(y_SxB, circle[(positions_SxB + 1) % len(circle)])


def test_an_epoch_reads_every_token():
  for windows, circle in _circles(seed=1):
    steps = int(np.ceil(windows.steps_per_epoch))
    inputs = [windows.window_at(7 + step)[0] for step in range(steps)]
    assert set(np.concatenate(inputs).ravel()) == set(circle)


def test_windows_depend_only_on_the_step_number():
  for windows, _ in _circles(seed=2):
    expected = windows.window_at(10**15)
    windows.window_at(3)
    np.testing.assert_array_equal(windows.window_at(10**15), expected)
    for rows in (slice(0, 1), slice(1, None, 2)):
      part = windows.window_at(10**15, rows)
      np.testing.assert_array_equal(part, [array[:, rows] for array in expected])


def test_arrays_are_time_major_int32():
  ids = np.arange(100, dtype=np.uint8)
  windows = batches.TrainingWindows(ids, (splits.Span(0, 100),), batch=4, window=5)
  x_TxB, y_TxB = windows.window_at(np.int32(0))
  assert x_TxB.shape == y_TxB.shape == (5, 4)
  assert x_TxB.dtype == y_TxB.dtype == np.int32


def test_the_split_streams_gives_each_stream_a_row_of_char_rnn():
  spans = splits.split(3010, "streams", 0.1, 0, streams=3, window=10).train
  windows = batches.TrainingWindows(np.arange(3010), spans, batch=3, window=10)
  x_TxB, _ = windows.window_at(0)
  assert x_TxB[0].tolist() == [span.start for span in spans]


def test_a_text_shorter_than_a_batch_is_rejected():
  with pytest.raises(errors.UserError, match=r"99 tokens, .*\(10 streams x 10 tokens"):
    batches.TrainingWindows(np.arange(200), (splits.Span(0, 99),), batch=10, window=10)


def _scored_cases(seed=0, count=60):
  """Yield random (length of the text, span, streams, window, burn-in)."""
  rng = np.random.default_rng(seed)
  for _ in range(count):
    size = int(rng.integers(2, 300))
    start, stop = sorted(map(int, rng.integers(0, size + 1, size=2)))
    yield size, splits.Span(start, stop), *map(int, rng.integers((1, 1, 0), (9, 20, 30)))


def test_every_token_with_a_predecessor_is_scored_once():
  for size, span, streams, window, burn_in in _scored_cases():
    ids, scored = np.arange(size), []
    windows = batches.scoring_windows(ids, [span], streams, window, burn_in)
    for x_TxB, y_TxB, weight_TxB, positions_TxB in windows:
      assert x_TxB.shape == y_TxB.shape == weight_TxB.shape and len(x_TxB) == window
      assert weight_TxB.dtype == np.float32
      scored += y_TxB[weight_TxB == 1].tolist()
      np.testing.assert_array_equal(positions_TxB[weight_TxB == 1], y_TxB[weight_TxB == 1])
      assert set(weight_TxB.ravel()) <= {0, 1}
      np.testing.assert_array_equal(x_TxB[weight_TxB == 1] + 1, y_TxB[weight_TxB == 1])
    assert sorted(scored) == list(range(max(span.start, 1), span.stop))


def test_each_stream_is_contiguous_and_uses_the_available_burn_in():
  for size, span, streams, window, burn_in in _scored_cases(seed=1):
    windows = list(batches.scoring_windows(np.arange(size), [span], streams, window, burn_in))
    if not windows:
      continue
    x_SxB, y_SxB, weight_SxB, _ = (np.concatenate(arrays) for arrays in zip(*windows))
    for x_S, y_S, weight_S in zip(x_SxB.T, y_SxB.T, weight_SxB.T):
      first, last = np.flatnonzero(weight_S)[[0, -1]]
      assert first == min(burn_in, y_S[first] - 1)
      np.testing.assert_array_equal(x_S[: last + 1], x_S[0] + np.arange(last + 1))
      assert not x_S[last + 1 :].any() and weight_S[first : last + 1].all()


def test_a_short_span_has_fewer_streams():
  shapes = [
    x_TxB.shape
    for x_TxB, *_ in batches.scoring_windows(np.arange(99), [splits.Span(50, 75)], 8, 10)
  ]
  assert shapes == [(10, 2)] * 2


def test_a_stream_does_not_read_across_the_start_of_a_document():
  rng = np.random.default_rng(2)
  for size, span, streams, window, burn_in in _scored_cases(seed=2):
    starts = [0, *map(int, rng.integers(1, size, size=5))]
    start_of = np.maximum.accumulate(np.where(np.isin(np.arange(size), starts), np.arange(size), 0))
    windows = list(
      batches.scoring_windows(np.arange(size), [span], streams, window, burn_in, starts)
    )
    expected = sorted(set(range(*span)) - set(starts))
    if not windows:
      assert not expected
      continue
    x_SxB, y_SxB, weight_SxB, _ = (np.concatenate(arrays) for arrays in zip(*windows))
    # The streams are in text order.
    assert y_SxB.T[weight_SxB.T == 1].tolist() == expected
    for x_S, y_S, weight_S in zip(x_SxB.T, y_SxB.T, weight_SxB.T):
      first, last = np.flatnonzero(weight_S)[[0, -1]]
      assert first == min(burn_in, y_S[first] - 1 - start_of[y_S[first]])
      assert (start_of[x_S[: last + 1]] == start_of[y_S[first]]).all()


def test_spans_are_split_at_document_starts():
  result = list(batches.scorable_spans([(2, 10), (10, 11), (12, 20)], [0, 10, 15, 16]))
  assert result == [(2, 10), (12, 15), (17, 20)]
  assert list(batches.scorable_spans([(0, 1), (5, 5)])) == []
