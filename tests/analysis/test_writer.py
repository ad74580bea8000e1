"""Tests of the writer: what the page contains, and which runs are refused."""

import json
import pathlib
import re
import types

import numpy as np
import pytest
import writers

from charrnn import errors
from charrnn.analysis import writer


def test_page_of_a_network_of_two_layers_with_256_units_is_at_most_6_mb():
  run = writers.run("lstm", layers=2, hidden=256, text="".join(map(chr, range(32, 132))))
  assert len(writer.page(run).encode()) <= 6_000_000


def test_parameters_are_stored_exactly():
  run = writers.run("gru")
  (block,) = re.findall(r'id="weights">(.*?)</script>', writer.page(run))
  weights = json.loads(block)
  assert weights.keys() == run.params.keys()
  for layer, arrays in run.params.items():
    for name, array in arrays.items():
      stored = np.frombuffer(writers.decode(weights[layer][name]["data"]), "<f4")
      np.testing.assert_array_equal(stored.reshape(weights[layer][name]["shape"]), array)


@pytest.mark.parametrize("cell", ["transformer", "ngram", "mgu"])
def test_other_models_are_refused_in_one_line(cell):
  config = types.SimpleNamespace(model=types.SimpleNamespace(cell=cell))
  run = types.SimpleNamespace(path=pathlib.Path("runs/x"), config=config)
  with pytest.raises(errors.UserError, match=f"model.cell={cell}: .* rnn, gru, lstm") as caught:
    writer.page(run)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_refused(value):
  run = writers.run("rnn")
  run.params["head"]["b_y"][3] = value
  with pytest.raises(errors.UserError, match="not finite at step 5"):
    writer.page(run)


def test_loss_that_is_missing_or_not_finite_is_omitted():
  for loss in (None, np.nan):
    run = writers.run("rnn")
    run.meta["valid_loss"] = loss
    assert '"valid_loss":null' in writer.page(run)
