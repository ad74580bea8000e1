"""Tests of passages: which characters are read, and whether rows give the states of one stream."""

import jax
import made_up
import numpy as np
import planted
import pytest
import targets as targets_lib
import tiny

from charrnn.analysis import effects, passages, recording

SPANS = [[(0, 400), (600, 1000)], [(450, 550), (1000, 1800)]]


def test_passages_are_in_their_half_and_evenly_spaced():
  parts = passages.choose(SPANS, 4, 100, 50)
  assert parts.positions_BxT.shape == (8, 150)
  for spans, rows in zip(SPANS, np.split(parts.positions_BxT, 2)):
    joined = np.concatenate([np.arange(*span) for span in spans])
    assert (rows[0, 0], rows[-1, -1]) == (joined[0], joined[-1])
    places = np.searchsorted(joined, rows)
    assert (joined[places] == rows).all() and (np.diff(places, axis=1) == 1).all()
    assert np.ptp(np.diff(places[:, 0])) <= 1
  assert len(parts.scored) == 800 == len(set(parts.scored.tolist()))


def test_passages_of_a_short_half_are_shorter():
  parts = passages.choose([[(0, 400)]], 10, 1000, 500)
  assert (parts.warm_up, parts.positions_BxT.shape) == (100, (10, 130))
  assert parts.scored.tolist() == [*range(100, 400)]


def test_restricted_targets_have_the_labels_of_the_scored_characters():
  values = np.random.default_rng(0).integers(0, 2, 1800)
  targets = targets_lib.make({"x": ("binary", targets_lib.label(values, np.arange(1800) != 700))})
  design = effects.Design(targets_lib.in_two(1800), min_characters=0)
  parts = passages.choose(SPANS, 4, 100, 50)
  (target,), design = parts.restrict(targets, design)
  assert (target.values == values[parts.scored]).all()
  assert design.shifts == 0
  for half, rows in enumerate(np.split(parts.scored, 2)):
    positions = design.positions(target, half)
    # All lags of a position are in the same passage, or in adjacent ones.
    for lag in design.lags:
      assert (parts.scored[positions - lag] == parts.scored[positions] - lag).all()
      assert 700 not in parts.scored[positions - lag]
    assert set(parts.scored[positions]) <= set(rows)


@pytest.mark.parametrize(
  "cell", ["lstm", "gru", pytest.param("transformer", marks=pytest.mark.long)]
)
def test_rows_have_the_states_of_one_stream(cell, tmp_path, monkeypatch):
  """A network forgets the characters before the warm-up. A transformer has a limited context."""
  model, ids = tiny.model(cell=cell), np.random.default_rng(0).integers(0, tiny.V, 1800)
  params = model.init(jax.random.key(0))
  recorded = recording.record(model, params, ids, tmp_path / "r")
  expected, parts = recorded.values, passages.choose(SPANS, 4, 100, 200)
  values, nats = passages.read(model, params, ids, parts, tmp_path / "s")
  continuous = (np.diff(parts.positions_BxT, axis=1) == 1).all(axis=1)
  rows = np.repeat(continuous, 100)
  assert rows.any()
  np.testing.assert_allclose(values[rows], expected[parts.scored][rows], atol=1e-3)
  ends = np.isnan(nats)
  assert np.flatnonzero(ends).tolist() == [*range(99, 800, 100)]
  losses = recorded.predictions.nats[parts.scored]
  np.testing.assert_allclose(nats[rows & ~ends], losses[rows & ~ends], atol=1e-3)
  # A large recording is read in several windows, into a file.
  monkeypatch.setattr(passages, "MAX_WINDOW", 37 * values.shape[1] * len(parts.positions_BxT))
  monkeypatch.setattr(passages, "IN_MEMORY", 0)
  stored = passages.read(model, params, ids, parts, tmp_path / "s").values
  np.testing.assert_allclose(stored, values, atol=1e-5)
  assert (tmp_path / "s").stat().st_size == values.nbytes


def test_the_state_of_a_unit_with_a_long_memory_follows_from_the_warm_up(tmp_path):
  text = made_up.prose(3000)
  symbols, ids = planted.ids(text)
  net = planted.model(len(symbols))
  params = planted.params(net, symbols)
  expected = recording.record(net, params, ids, tmp_path / "r").values
  parts = passages.choose([[(0, 3000)]], 5, 300, 200)
  values = passages.read(net, params, ids, parts, tmp_path / "s").values
  counter = [str(column) for column in recording.columns(net)].index(f"0:c{planted.COLUMN}")
  np.testing.assert_allclose(values[:, counter], expected[parts.scored, counter], atol=1e-4)
