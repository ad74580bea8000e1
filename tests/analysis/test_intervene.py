"""Cells set from outside, in evaluation and in writing."""

import jax
import numpy as np
import pytest
from analysis import made_up, planted
from training import tiny

from charrnn.analysis import intervene, labels, record, steer
from charrnn.sampling import clamps


@pytest.fixture(scope="module")
def net():
  model = tiny.model()
  return model, model.init(jax.random.key(0)), tiny.ids(700)


def test_losses_without_clamps_are_those_of_one_pass(net, tmp_path):
  model, params, ids = net
  found = intervene.losses(model, params, ids, [[], []])
  nats = record.record(model, params, ids, tmp_path / "r").predictions.nats
  assert np.isnan(found[:, : intervene.BURN_IN]).all()
  assert np.isnan(found[:, -1]).all()
  for row in found:
    np.testing.assert_allclose(row[intervene.BURN_IN : -1], nats[intervene.BURN_IN : -1], atol=1e-5)


def test_rows_do_not_hear_of_each_other_whatever_the_groups(net, monkeypatch):
  model, params, ids = net
  rows = [[], [clamps.Clamp(0, 2, 1.0)], [clamps.Clamp(1, 2, -1.0), clamps.Clamp(0, 1, 0.0)]]
  together = intervene.losses(model, params, ids, rows)
  monkeypatch.setattr(intervene, "ROWS", 1)
  ticks = []
  apart = intervene.losses(model, params, ids, rows, lambda *now: ticks.append(now))
  np.testing.assert_allclose(together, apart, atol=1e-5)
  assert np.nanmax(np.abs(together[1] - together[0])) > 1e-3
  assert ticks[-1][0] == ticks[-1][1]


def test_a_cell_that_the_output_reads_matters_and_others_do_not(tmp_path):
  """The head reads the quote cell alone, so nothing else can change a loss."""
  text = made_up.prose(6000)
  symbols = sorted(set(text))
  ids = np.array([symbols.index(each) for each in text], np.uint8)
  model = planted.model(len(symbols))
  params = planted.params(model, symbols)
  params["head"]["W_hy"][np.arange(planted.HIDDEN) != planted.QUOTES] = 0
  params["head"]["W_hy"][planted.QUOTES, symbols.index('"')] = 3
  cells = [intervene.Cell(0, planted.QUOTES), intervene.Cell(0, planted.COLUMN)]
  nats = intervene.losses(model, params, ids, [[], *([c.set_to(0.0)] for c in cells)])
  label = labels.in_quotes(text)
  own, other = (intervene.effect(row - nats[0], label) for row in nats[1:])
  assert abs(own.inside) > 0.01  # in quotes the cell is 1, and 0 it is anyway elsewhere
  assert own.outside == pytest.approx(0, abs=1e-6)
  assert other == pytest.approx((0, 0), abs=1e-6)


def test_controls_are_of_the_layer_alike_and_never_those_that_were_found(net, tmp_path):
  model, params, ids = net
  recording = record.record(model, params, ids, tmp_path / "r")
  cell, found = intervene.Cell(1, 4), [intervene.Cell(1, 2), intervene.Cell(0, 3)]
  chosen = intervene.controls(recording, cell, 5, found)
  assert len(set(chosen)) == 5
  assert all(each.layer == 1 and each.cell not in (4, 2) for each in chosen)
  assert intervene.controls(recording, cell, 99, found).__len__() == 6
  assert chosen == intervene.controls(recording, cell, 5, found)


def test_values_of_settings():
  column = np.linspace(-1, 3, 101)
  assert intervene.values(column, "zero") == 0
  assert intervene.values(column, "mean") == pytest.approx(1)
  assert np.isnan(intervene.values(column, "hold"))
  assert intervene.values(column, "low") == pytest.approx(-0.8)
  assert intervene.values(column, "high") == pytest.approx(2.8)


def test_inside_is_where_a_label_is_true_or_in_its_top_quarter():
  binary = labels.Label(np.float32([0, 1, 1, 0]), np.array([True, True, False, True]))
  assert intervene.inside(binary).tolist() == [False, True, False, False]
  graded = labels.everywhere(np.arange(8))
  assert intervene.inside(graded).tolist() == [False] * 6 + [True] * 2
  assert not intervene.inside(labels.everywhere(np.zeros(5))).any()


def test_effect_of_few_characters_is_none():
  label = labels.everywhere(np.arange(100) < intervene.FEWEST - 1)
  inside, outside = intervene.effect(np.ones(100), label)
  assert inside is None
  assert outside == 1


def test_p_values_count_the_cell_itself():
  assert intervene.p_value(1.0, [0.0] * 19) == 0.05
  assert intervene.p_value(0.0, [0.0, 1.0, -1.0]) == 0.75


def test_measures():
  assert steer.line_length(["abcd\n\nab\ncut"]) == 3
  assert np.isnan(steer.line_length(["one line"]))
  assert steer.closed_quotes(['"a" "b\n\n"c"', '"d']) == 0.5
  assert np.isnan(steer.closed_quotes(["none"]))
  assert steer.indentation(["\ta\n  b\n\nc\nd"]) == 2.5


def test_writing_with_a_cell_set(net):
  model, params, _ = net
  rows = {"free": [], "set": [clamps.Clamp(1, 3, 9.0)]}
  texts = steer.write(model, params, [1], lambda ids: "".join(map(chr, 65 + ids)), rows)
  assert {len(each) for each in texts.values()} == {steer.SAMPLES}
  assert {len(text) for each in texts.values() for text in each} == {steer.LENGTH}
  assert texts["free"] != texts["set"]
  assert len(set(texts["free"])) == steer.SAMPLES
