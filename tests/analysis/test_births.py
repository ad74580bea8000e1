"""Scores by checkpoint."""

import numpy as np
from analysis import made_up, planted

from charrnn.analysis import births, hypotheses, match, record


def test_a_cell_that_appears_between_two_checkpoints(tmp_path):
  text = made_up.prose(12_000)
  symbols = sorted(set(text))
  ids = np.array([symbols.index(each) for each in text], np.uint8)
  model = planted.model(len(symbols))
  early, late = planted.params(model, symbols), planted.params(model, symbols)
  early["layer_0"]["W_xh"][:] = 0  # it has not learnt to read
  label = hypotheses.of_text(text, ["in-quotes"])["in-quotes"]
  entries, documents = {"in-quotes": ("binary", label)}, [(0, len(text))]
  recorded = record.record(model, late, ids, tmp_path / "r")
  names = [str(column) for column in recorded.columns]
  found = match.match(recorded.values, names, entries, documents, shifts=0).findings
  (birth,) = births.trace(
    model, [(10, lambda: early), (20, lambda: late)], ids, entries, documents, found, tmp_path / "s"
  )
  assert birth.steps == [10, 20]
  assert abs(birth.score[0] - 0.5) < 0.1
  assert birth.score[1] > 0.99
  assert birth.best[1] >= birth.score[1]
  assert birth.best_column[1] == birth.column


def test_of_many_checkpoints_the_first_and_the_last_are_taken_and_more_early_ones():
  steps = list(range(0, 5000, 50))
  chosen = births.spread(steps)
  assert len(chosen) <= births.MOST
  assert (chosen[0], chosen[-1]) == (0, 4950)
  assert chosen == sorted(set(chosen))
  assert sum(step < 2500 for step in chosen) > len(chosen) / 2
  assert births.spread([3, 7]) == [3, 7]
