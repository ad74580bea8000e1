"""Recordings hold what the model computes in one pass, whatever the chunks."""

import jax
import numpy as np
import pytest
import tiny

from charrnn import errors
from charrnn.analysis import recording
from charrnn.evaluation import score


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_recording_is_what_one_pass_computes(cell, tmp_path):
  model, ids = tiny.model(cell=cell), tiny.ids(2500)
  params = model.init(jax.random.key(0))
  ticks = []
  found = recording.record(model, params, ids, tmp_path / "r", lambda *now: ticks.append(now))
  logits, _, out = model.apply(
    params, ids[:, None].astype(np.int32), model.initial_carry(1), record=True
  )
  assert found.values.shape == (2500, len(found.columns))
  assert {column.quantity for column in found.columns} == set(out["layer_0"])
  for place, (layer, quantity, index) in enumerate(found.columns):
    whole = np.asarray(out[f"layer_{layer}"][quantity])[:, 0, index]
    np.testing.assert_allclose(found.values[:, place], whole, atol=1e-6)
  log_p = np.asarray(jax.nn.log_softmax(logits[:, 0]))
  nats = -log_p[np.arange(2499), ids[1:].astype(int)]
  np.testing.assert_allclose(found.predictions.nats[:-1], nats, atol=1e-5)
  assert np.isnan(found.predictions.nats[-1])
  falling = np.sort(np.exp(log_p), axis=1)[:, ::-1][:, : score.K]
  np.testing.assert_allclose(found.predictions.top_p, falling, atol=1e-5)
  assert ticks == [(1024, 2500), (2048, 2500), (2500, 2500)]


def test_the_file_is_the_recording(tmp_path):
  model, ids = tiny.model(), tiny.ids(300)
  found = recording.record(model, model.init(jax.random.key(0)), ids, tmp_path / "r")
  found.values.flush()
  again = np.memmap(tmp_path / "r", np.float32, mode="r", shape=found.values.shape)
  np.testing.assert_array_equal(again, found.values)


def test_columns_are_named_as_clamps_are():
  columns = recording.columns(tiny.model())
  assert [str(columns[n]) for n in (0, 8, 48)] == ["0:h0", "0:c0", "1:h0"]


def test_a_recording_that_does_not_fit_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(
    recording.shutil, "disk_usage", lambda path: type("", (), {"free": 1 << 20})()
  )
  model = tiny.model()
  with pytest.raises(errors.UserError, match="reduce --characters"):
    recording.record(model, model.init(jax.random.key(0)), tiny.ids(300), tmp_path / "r")
