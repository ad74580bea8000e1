"""Tests of the emergence of findings over checkpoints."""

import made_up
import planted

from charrnn.analysis import matching, recording, study


def test_a_unit_that_emerges_between_two_checkpoints(tmp_path):
  text = made_up.prose(12_000)
  symbols, ids = planted.ids(text)
  model = planted.model(len(symbols))
  early, late = planted.params(model, symbols), planted.params(model, symbols)
  early["layer_0"]["W_xh"][:] = 0  # ignores its input
  targets, design = planted.prepare(text, ["line-position"], shifts=0)
  recorded = recording.record(model, late, ids, tmp_path / "r")
  findings = matching.match(recorded.values, recorded.columns, targets, design).findings
  checkpoints = [(10, lambda: early), (15, lambda: None), (20, lambda: late)]
  subject = planted.subject(model, text, ["line-position"], recorded, tmp_path / "s")
  (entry,) = study.trace(subject, checkpoints, findings)
  assert entry["steps"] == [10, 20]
  assert abs(entry["score"][0]) < 0.1
  assert entry["score"][1] > 0.99
  assert entry["best"][1] >= entry["score"][1]
  assert entry["best_column"][1] == entry["column"]


def test_checkpoints_include_the_first_and_the_last_and_more_early_ones():
  steps = list(range(0, 5000, 50))
  selected = study.spread(steps)
  assert len(selected) <= study.MAX_CHECKPOINTS
  assert (selected[0], selected[-1]) == (0, 4950)
  assert selected == sorted(set(selected))
  assert sum(step < 2500 for step in selected) > len(selected) / 2
  assert study.spread([3, 7]) == [3, 7]
