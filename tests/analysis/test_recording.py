"""Tests of recordings, which equal the values of one pass of the model."""

import jax
import numpy as np
import pytest
import tiny

from charrnn import errors
from charrnn.analysis import recording
from charrnn.evaluation import score
from charrnn.sampling import clamps


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "transformer"])
def test_a_recording_equals_the_values_of_one_pass(cell, tmp_path):
  model, ids = tiny.model(cell=cell), tiny.ids(2500)
  params = model.init(jax.random.key(0))
  ticks = []
  recorded = recording.record(model, params, ids, tmp_path / "r", lambda *now: ticks.append(now))
  logits, _, out = model.apply(
    params, ids[:, None].astype(np.int32), model.initial_carry(1), record=True
  )
  assert recorded.values.shape == (2500, len(recorded.columns))
  assert {column.quantity for column in recorded.columns} == set(out["layer_0"])
  for place, (layer, quantity, index) in enumerate(recorded.columns):
    whole = np.asarray(out[f"layer_{layer}"][quantity])[:, 0, index]
    np.testing.assert_allclose(recorded.values[:, place], whole, atol=1e-5)
  log_p = np.asarray(jax.nn.log_softmax(logits[:, 0]))
  nats = -log_p[np.arange(2499), ids[1:].astype(int)]
  np.testing.assert_allclose(recorded.predictions.nats[:-1], nats, atol=1e-5)
  assert np.isnan(recorded.predictions.nats[-1])
  falling = np.sort(np.exp(log_p), axis=1)[:, ::-1][:, : score.K]
  np.testing.assert_allclose(recorded.predictions.top_p, falling, atol=1e-5)
  assert ticks == [(1024, 2500), (2048, 2500), (2500, 2500)]


def test_the_file_contains_the_recording(tmp_path):
  model, ids = tiny.model(), tiny.ids(300)
  recorded = recording.record(model, model.init(jax.random.key(0)), ids, tmp_path / "r")
  recorded.values.flush()
  again = np.memmap(tmp_path / "r", np.float32, mode="r", shape=recorded.values.shape)
  np.testing.assert_array_equal(again, recorded.values)


def test_columns_have_the_names_of_clamps():
  columns = recording.columns(tiny.model())
  assert [str(columns[n]) for n in (0, 8, 48)] == ["0:h0", "0:c0", "1:h0"]


@pytest.mark.parametrize(
  ("cell", "names"),
  [
    ("lstm", [f"{layer}:{number}" for layer in range(2) for number in range(8)]),
    pytest.param(
      "transformer",
      [f"{layer}:{kind}{n}" for layer in range(2) for kind in "hm" for n in range(8)]
      + [f"{layer}:m{n}" for layer in range(2) for n in range(8, 32)],
      marks=pytest.mark.long,
    ),
  ],
)
def test_the_name_of_a_unit_is_that_of_a_clamp_of_one_of_its_columns(cell, names):
  model = tiny.model(cell=cell)
  columns, params = recording.columns(model), model.init(jax.random.key(0))
  groups = recording.by_unit(recording.units(model))
  assert sorted(map(str, groups)) == sorted(names)
  assert sorted(index for group in groups.values() for index in group) == [*range(len(columns))]
  rows = [[unit.clamp(5.0)] for unit in groups]
  assert [[clamps.parse(f"{unit}=5")] for unit in groups] == rows
  ids_TxB = np.tile(tiny.ids(10)[:, None], len(rows)).astype(np.int32)
  clamp, carry = clamps.arrays(rows, model), model.initial_carry(len(rows))
  recorded = model.apply(params, ids_TxB, carry, record=True, clamp=clamp)[2]
  for row, group in enumerate(groups.values()):
    values = [recorded[f"layer_{columns[n].layer}"][columns[n].quantity] for n in group]
    assert any((v[:, row, columns[n].unit] == 5).all() for v, n in zip(values, group))


def test_a_recording_without_disk_space_raises(tmp_path, monkeypatch):
  monkeypatch.setattr(
    recording.shutil, "disk_usage", lambda path: type("", (), {"free": 1 << 20})()
  )
  model = tiny.model()
  with pytest.raises(errors.UserError, match="reduce --characters"):
    recording.record(model, model.init(jax.random.key(0)), tiny.ids(300), tmp_path / "r")
