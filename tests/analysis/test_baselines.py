"""Tests of the baselines: untrained networks, and predictors of the last k characters."""

import jax
import made_up
import numpy as np
import planted
import pytest
import targets as targets_lib

from charrnn.analysis import baselines, effects, inference, matching, passages, recording

NAMES = ["in-quotes", "line-position", "near-line-end"]


@pytest.fixture(scope="module")
def text():
  return made_up.prose(16_000)


def test_exactly_the_planted_units_are_significant(text, tmp_path):
  symbols, ids = planted.ids(text)
  net = planted.model(len(symbols))
  recorded = recording.record(net, planted.params(net, symbols), ids, tmp_path / "r")
  targets, design = planted.prepare(text, NAMES)
  subject = planted.subject(net, text, NAMES, recorded, tmp_path / "s", untrained=19)
  compared = baselines.compare_untrained(subject)
  units = [column.unit for column in recorded.columns]
  bars = {name: each.to_beat for name, each in compared.items()}
  result = matching.match(
    recorded.values, recorded.columns, targets, design, bars=bars, units=units
  )
  best = {each.hypothesis: each for each in result.findings}
  for name, unit in (("in-quotes", planted.QUOTES), ("line-position", planted.COLUMN)):
    assert best[name].name in (f"0:c{unit}", f"0:h{unit}")
    assert best[name].significant
    assert best[name].confirmation.score > 0.99
    assert best[name].confirmation.score > best[name].untrained
    assert compared[name].family_p == pytest.approx(1 / 20)
  # The unit of the line position is also the best unit for near-line-end.
  assert units[best["near-line-end"].column] == planted.COLUMN
  assert result.interpretable.count == 2


@pytest.mark.long
def test_the_planted_unit_of_a_transformer_is_significant(tmp_path):
  text, names = made_up.prose(9_000), [planted.VOWELS.name]
  symbols, ids = planted.ids(text)
  net, params = planted.transformer(symbols)
  recorded = recording.record(net, params, ids, tmp_path / "r")
  subject = planted.subject(net, text, names, recorded, tmp_path / "s", untrained=19)
  (compared,) = baselines.compare_untrained(subject).values()
  bars = {names[0]: compared.to_beat}
  result = matching.match(
    recorded.values, recorded.columns, *planted.prepare(text, names), bars=bars
  )
  (finding,) = result.findings
  assert (finding.name, finding.lag) == (f"0:m{planted.VOWEL}", 0)
  assert finding.significant and finding.confirmation.score == pytest.approx(1)
  assert np.delete(np.abs(result.effects[:, 0]), finding.column).max() < 0.995


def _untrained(text, count, folder):
  """Return the strengths [count, hypotheses] of untrained networks with seeds 0, 1, ..."""
  symbols, ids = planted.ids(text)
  net = planted.model(len(symbols), hidden=6)
  init, columns = jax.jit(net.init), recording.columns(net)
  targets, design = planted.prepare(text, NAMES, min_characters=500)
  strengths = []
  for seed in range(count):
    values = recording.record(net, init(jax.random.key(seed)), ids, folder / "r").values
    strengths.append(matching.strengths(values, columns, targets, design))
  assert all(list(each) == NAMES for each in strengths)
  return np.array([list(each.values()) for each in strengths])


@pytest.mark.long
def test_untrained_networks_are_significant_at_most_at_the_nominal_rate(tmp_path):
  strengths = _untrained(made_up.prose(9_000, seed=1), 60, tmp_path)
  rng = np.random.default_rng(0)
  significant = 0
  for seed in range(20):
    others = 20 + rng.choice(40, 19, replace=False)
    judged = inference.significance(strengths[seed], strengths[others], 0.05)
    significant += bool((judged.family_p <= 0.05).any())
  # The expected number is 1 of 20. Four or more occur with probability 1.6%.
  assert significant <= 3


def test_an_untrained_network_is_significant_compared_with_shifts_only(text, tmp_path):
  """This is the reason for the baseline: an untrained network reads the text too."""
  symbols, ids = planted.ids(text)
  net = planted.model(len(symbols))
  recorded = recording.record(net, jax.jit(net.init)(jax.random.key(5)), ids, tmp_path / "r")
  result = matching.match(recorded.values, recorded.columns, *planted.prepare(text, NAMES))
  assert any(each.significant for each in result.findings)


def test_strengths_are_the_largest_effects_of_a_match(text):
  values = np.random.default_rng(0).standard_normal((len(text), 5)).astype(np.float32)
  targets, design = planted.prepare(text, NAMES, shifts=0)
  result = matching.match(values, "abcde", targets, design)
  expected = dict(zip(NAMES, np.abs(result.effects).max(axis=0)))
  assert matching.strengths(values, "abcde", targets, design) == pytest.approx(expected, rel=1e-5)


def test_passages_of_an_untrained_network_give_the_strengths_of_one_stream(text, tmp_path):
  symbols, ids = planted.ids(text)
  net = planted.model(len(symbols))
  params = jax.jit(net.init)(jax.random.key(3))
  targets, design = planted.prepare(text, NAMES, min_characters=baselines.MIN_CHARACTERS)
  sizes = baselines.ROWS, baselines.LENGTH, baselines.WARM_UP
  parts = passages.choose([design.halves.discovery], *sizes)
  targets, design = parts.restrict(targets, design)
  columns = recording.columns(net)
  stream = recording.record(net, params, ids, tmp_path / "r").values[parts.scored]
  rows = passages.read(net, params, ids, parts, tmp_path / "s").values
  expected = matching.strengths(stream, columns, targets, design)
  strengths = matching.strengths(rows, columns, targets, design)
  assert list(strengths) == NAMES
  assert strengths == pytest.approx(expected, abs=2e-3)


def test_the_candidates_contain_the_best_columns(text, tmp_path, monkeypatch):
  text = text[:6000]
  symbols, ids = planted.ids(text)
  net = planted.model(len(symbols), hidden=40)
  params = jax.jit(net.init)(jax.random.key(4))
  values = recording.record(net, params, ids, tmp_path / "r").values
  targets, design = planted.prepare(text, NAMES)
  columns = recording.columns(net)
  strengths = matching.strengths(values, columns, targets, design)
  assert len(matching.candidates(values, targets, design)) < len(columns) / 2
  monkeypatch.setattr(matching, "CANDIDATES", len(columns))
  assert strengths == pytest.approx(matching.strengths(values, columns, targets, design))


N = 8000
DOCUMENTS = [(0, N // 2), (N // 2, N)]
IDS = np.random.default_rng(0).integers(0, 4, N)
TWO_BACK = np.append([0, 0], IDS[:-2])


def _last_k(values, k, kind="binary", lag=0, mask=None):
  (target,) = targets_lib.make({"label": (kind, targets_lib.label(values, mask))})
  contexts = baselines.contexts(IDS, k, DOCUMENTS)
  return baselines.last_k_scores(contexts, target, effects.Design(targets_lib.in_two(N)), lag)


def test_a_label_needs_a_context_that_is_long_enough():
  scores = _last_k(TWO_BACK == 3, 4)
  assert [score > 0.99 for score in scores] == [False, False, False, True, True]
  assert scores[:3] == pytest.approx([0.5] * 3, abs=0.05)


def test_last_k_scores_of_graded_labels_and_lags():
  # Ties of the label limit the rank correlation to sqrt(1 - 1 / 16) = 0.968.
  assert _last_k(TWO_BACK, 3, "graded")[3] > 0.96
  # At lag -1, the prediction is for the label of the next character, which needs one less.
  assert _last_k(TWO_BACK, 2, "graded", lag=-1)[2] > 0.96
  assert _last_k(TWO_BACK, 3, "graded", lag=1)[3] < 0.1


def test_back_off_equals_a_calculation_by_hand():
  ids, aims = np.array([0, 1, 0, 1, 1, 0, 1]), np.array([0, 1, 0, 1, 0])
  context = baselines.contexts(ids, 1, [(0, 7)])[1]
  predicted = baselines.back_off(context, np.full(7, 0.4), np.arange(5), aims)
  # The mean is 0.4; after 0: (0 + 0.4) / (2 + 1), after 1: (2 + 0.4) / (3 + 1).
  np.testing.assert_allclose(predicted, np.array([0.4 / 3, 0.6])[ids])


def test_long_contexts_back_off_to_short_ones():
  assert _last_k(IDS == 3, 12)[12] > 0.99


def test_contexts_do_not_extend_into_the_previous_document():
  contexts = baselines.contexts(np.zeros(10, int), 2, [(0, 5), (5, 10)])
  np.testing.assert_array_equal(contexts[2][:5], contexts[2][5:])
  assert len(set(contexts[2][:5])) == 2  # one context at the first character, one at the others


def test_masked_characters_are_ignored():
  rng = np.random.default_rng(1)
  mask = rng.random(N) < 0.5
  values = np.where(mask, IDS == 3, rng.random(N) < 0.5)
  assert _last_k(values, 1, mask=mask)[1] == pytest.approx(1)
  assert np.isnan(_last_k(values, 1, mask=mask & False)).all()
