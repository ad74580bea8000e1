"""Planted cells are found and nothing else is; untrained networks have no findings."""

import functools

import jax
import numpy as np
import pytest
from analysis import made_up, planted

from charrnn.analysis import chance, halves, hypotheses, match, record, twins

NAMES = ["in-quotes", "line-position", "near-line-end"]


@pytest.fixture(scope="module")
def text():
  return made_up.prose(24_000)


def entries_of(text):
  found = hypotheses.of_text(text, NAMES)
  return {name: (hypotheses.HYPOTHESES[name].kind, label) for name, label in found.items()}


def ids_of(text):
  symbols = sorted(set(text))
  return symbols, np.array([symbols.index(each) for each in text], np.uint8)


def test_exactly_the_planted_cells_are_found(text, tmp_path):
  symbols, ids = ids_of(text)
  net = planted.model(len(symbols))
  recorded = record.record(net, planted.params(net, symbols), ids, tmp_path / "r")
  entries, documents = entries_of(text), [(0, len(text))]
  compared = twins.compare(net, ids, recorded.values, entries, documents, tmp_path / "s", count=19)
  found = match.match(
    recorded.values,
    [str(column) for column in recorded.columns],
    entries,
    documents,
    bars=compared.to_beat,
    cells=[column.cell for column in recorded.columns],
  )
  best = {each.hypothesis: each for each in found.findings}
  for name, cell in (("in-quotes", planted.QUOTES), ("line-position", planted.COLUMN)):
    assert best[name].name in (f"0:c{cell}", f"0:h{cell}")
    assert best[name].survives
    assert best[name].confirmation.score > 0.99
    assert best[name].confirmation.score > best[name].untrained
    assert compared.family_p[name] == pytest.approx(1 / 20)
  # A line position says where the end of the line is: the same cell, and no other.
  assert recorded.columns[best["near-line-end"].column].cell == planted.COLUMN
  assert found.interpretable.found == 2


@functools.cache
def _untrained(text, count, tmp):
  """The strengths [count, hypotheses] of networks that never learnt, seed by seed."""
  symbols, ids = ids_of(text)
  net = planted.model(len(symbols), hidden=6)
  init, entries = jax.jit(net.init), entries_of(text)
  columns = [str(column) for column in record.columns(net)]
  found = []
  for seed in range(count):
    values = record.record(net, init(jax.random.key(seed)), ids, tmp / "r").values
    found.append(match.strengths(values, columns, entries, [(0, len(text))], fewest=500))
  assert all(set(each) == set(NAMES) for each in found)
  return np.array([[each[name] for name in NAMES] for each in found])


def test_untrained_networks_have_findings_at_the_stated_rate_over_20_seeds(tmp_path):
  strengths = _untrained(made_up.prose(9_000, seed=1), 80, tmp_path)
  rng = np.random.default_rng(0)
  significant = 0
  for seed in range(20):
    others = 20 + rng.choice(60, 19, replace=False)
    judged = chance.judge(strengths[seed], strengths[others], 0.05)
    significant += bool((judged.family_p <= 0.05).any())
  # One of 20 is what 5% promises; four or more come in 1.6% of such experiments.
  assert significant <= 3


def test_shifts_alone_would_call_them_significant(tmp_path):
  """Why there are twins: a network that never learnt hears the text all the same."""
  text = made_up.prose(24_000)
  symbols, ids = ids_of(text)
  net = planted.model(len(symbols))
  params = jax.jit(net.init)(jax.random.key(5))
  recorded = record.record(net, params, ids, tmp_path / "r")
  columns = [str(column) for column in recorded.columns]
  found = match.match(recorded.values, columns, entries_of(text), [(0, len(text))])
  assert any(each.survives for each in found.findings)


def test_strengths_are_the_largest_effects_of_a_match(text):
  rng = np.random.default_rng(0)
  values = rng.standard_normal((len(text), 5)).astype(np.float32)
  documents, columns = [(0, len(text))], list("abcde")
  entries = entries_of(text)
  result = match.match(values, columns, entries, documents, shifts=0)
  assert result.halves == halves.halve(documents)
  wanted = dict(zip(result.hypotheses, np.abs(result.effects).max(axis=0)))
  found = match.strengths(values, columns, entries, documents)
  assert found == pytest.approx(wanted, rel=1e-5)
