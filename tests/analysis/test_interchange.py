"""Tests of interchange interventions with planted units and with untrained networks."""

import jax
import made_up
import numpy as np
import planted
import pytest

from charrnn.analysis import interchange, labels, matching, recording

NAMES = ["in-quotes", "line-position"]
HIDDEN = 40


@pytest.fixture(scope="module")
def text():
  return made_up.prose(16_000)


def _study(net, params, text, names, folder):
  ids = planted.ids(text)[1]
  recorded = recording.record(net, params, ids, folder / "r")
  subject = planted.subject(net, text, names, recorded, folder / "s", params)
  targets, design = planted.prepare(text, names, shifts=0)
  columns, units = recorded.columns, recorded.units
  result = matching.match(recorded.values, columns, targets, design, units=units)
  return interchange.interchange(subject, result, design), result


def test_a_unit_that_the_output_reads_moves_the_predictions(text, tmp_path):
  """The head reads the line counter and ignores the quote unit."""
  symbols, _ = planted.ids(text)
  net = planted.model(len(symbols), HIDDEN)
  params = planted.params(net, symbols)
  params["head"]["W_hy"][planted.QUOTES] = 0
  params["head"]["W_hy"][planted.COLUMN] = 0
  params["head"]["W_hy"][planted.COLUMN, symbols.index("\n")] = 8
  entries, _ = _study(net, params, text, NAMES, tmp_path)
  quotes, line = entries
  assert [each["hypothesis"] for each in entries] == NAMES
  assert (quotes["cell"], line["cell"]) == (f"0:{planted.QUOTES}", f"0:{planted.COLUMN}")
  assert line["pairs"] == interchange.PAIRS and len(line["controls"]) == HIDDEN - 2
  # No other unit depends on the counter, which alone moves the prediction of a line end.
  assert line["share"] > 0.5 and line["moved"] > 4 * abs(line["same"])
  assert (line["p"], line["p_corrected"]) == pytest.approx((1 / (HIDDEN - 1),) * 2, abs=1e-5)
  assert (quotes["moved"], quotes["same"]) == pytest.approx((0, 0), abs=1e-5)
  assert quotes["p"] > 0.1 and quotes["p_corrected"] >= quotes["p"]


def test_pairs_have_different_labels_and_read_on_within_a_span():
  label = labels.Label(np.repeat([0, 1, 0, 1], 50).astype(np.float32), np.arange(200) > 9)
  pairs = interchange.choose(label, [(5, 60), (80, 170)], [0])
  recipient, donor, same = (label.values[places] for places in pairs[:3])
  assert (pairs.signs == donor - recipient).all() and (same == recipient).all()
  inside = [*range(10, 60 - interchange.READ), *range(81, 170 - interchange.READ)]
  assert {*np.concatenate(pairs[:3])} <= {*inside}
  assert sorted(pairs.signs.tolist()) == [-1] * 32 + [1] * 32
  assert interchange.choose(label, [(0, 62)], [0]) is None


def test_pairs_of_a_graded_label_are_from_its_outer_quarters():
  label = labels.everywhere(np.arange(400) % 40)
  pairs = interchange.choose(label, [(0, 400)], [0])
  low, high = np.split(label.values[pairs.recipients], 2)
  assert low.max() <= 10 and high.min() >= 29
  low, high = np.split(label.values[pairs.donors], 2)[::-1]
  assert low.max() <= 10 and high.min() >= 29


def test_log_odds_of_the_next_character():
  ids = np.tile([0, 1, 0, 2], 250)
  label = labels.everywhere(np.tile([0, 0, 1, 1], 250))
  odds = interchange.log_odds(ids, label, [(0, 1000)], 4)
  # 1 follows only low labels, 2 only high ones, 0 both, and 3 never occurs.
  assert odds[1] < -5 < 5 < odds[2]
  assert odds[0] == pytest.approx(0, abs=0.01) and odds[3] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_cells_without_a_separate_cell_state(text, tmp_path, cell):
  text = text[:8000]
  net = planted.model(len(planted.ids(text)[0]), cell=cell)
  params = jax.tree.map(np.array, jax.jit(net.init)(jax.random.key(0)))
  (entry,), _ = _study(net, params, text, ["in-quotes"], tmp_path)
  assert entry["moved"] != 0 and len(entry["controls"]) == planted.HIDDEN - 1
  assert 1 / planted.HIDDEN <= entry["p"] <= 1


def test_a_transformer_has_no_states_to_interchange(tmp_path):
  text = made_up.prose(5000)
  net, params = planted.transformer(planted.ids(text)[0])
  entries, _ = _study(net, params, text, [planted.VOWELS.name], tmp_path)
  assert entries == []


@pytest.mark.long
def test_p_values_of_untrained_networks_are_not_systematically_small(text, tmp_path):
  net, p = planted.model(len(planted.ids(text)[0]), HIDDEN), []
  for seed in range(30):
    params = jax.jit(net.init)(jax.random.key(seed))
    entries, _ = _study(net, params, text, NAMES, tmp_path)
    p += [entry["p"] for entry in entries]
  assert len(p) == 60
  # The expected number is 6 of 60. More than 13 occur with probability 0.2%.
  assert np.sum(np.array(p) <= 0.1) <= 13
  assert 0.35 < np.mean(p) < 0.65
