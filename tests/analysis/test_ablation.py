"""Tests of ablation and steering: units are clamped while text is scored or sampled."""

import types

import jax
import made_up
import numpy as np
import planted
import pytest
import tiny

from charrnn.analysis import ablation, labels, recording
from charrnn.sampling import clamps


@pytest.fixture(scope="module")
def net():
  model = tiny.model()
  return model, jax.jit(model.init)(jax.random.key(0)), tiny.ids(700)


def test_losses_without_clamps_equal_the_losses_of_one_pass(net, tmp_path):
  model, params, ids = net
  losses = ablation.values_by_row(model, params, ids, [[], []])
  nats = recording.record(model, params, ids, tmp_path / "r").predictions.nats
  assert np.isnan(losses[:, : ablation.BURN_IN]).all()
  assert np.isnan(losses[:, -1]).all()
  for row in losses:
    np.testing.assert_allclose(row[ablation.BURN_IN : -1], nats[ablation.BURN_IN : -1], atol=1e-5)


@pytest.mark.parametrize(
  ("limit", "cell"),
  [
    ("ROWS", "lstm"),
    *(
      pytest.param(*case, marks=pytest.mark.long)
      for case in (("CARRY_BYTES", "lstm"), ("ROWS", "transformer"), ("CARRY_BYTES", "transformer"))
    ),
  ],
)
def test_rows_are_independent_for_any_batch_size(cell, limit, monkeypatch):
  model, ids = tiny.model(cell=cell), tiny.ids(700)
  params = jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(0)))
  rows = [[], [clamps.Clamp(0, 2, 1.0)], [clamps.Clamp(1, 2, -1.0), clamps.Clamp(0, 1, 0.0)]]
  together = ablation.values_by_row(model, params, ids, rows)
  monkeypatch.setattr(ablation, limit, 1)
  ticks = []
  separate = ablation.values_by_row(model, params, ids, rows, lambda *now: ticks.append(now))
  np.testing.assert_allclose(together, separate, atol=1e-5)
  assert np.nanmax(np.abs(together[1] - together[0])) > 1e-3
  assert ticks[-1][0] == ticks[-1][1]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_layers_below_the_clamps_are_computed_once(cell, monkeypatch):
  model, ids = tiny.model(cell=cell), tiny.ids(700)
  params = jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(0)))
  rows = [[clamps.Clamp(1, 2, 1.0)], [clamps.Clamp(0, 1, 0.5)], [], [clamps.Clamp(1, 0, -1.0)]]
  shared = ablation.values_by_row(model, params, ids, rows)
  monkeypatch.setattr(ablation, "_lowest", lambda row, model: 0)
  expected = ablation.values_by_row(model, params, ids, rows)
  np.testing.assert_allclose(shared, expected, rtol=1e-3, atol=1e-5)
  assert len({row[300].item() for row in shared}) == 4


def test_only_a_unit_that_the_output_reads_changes_the_loss(tmp_path):
  """The head reads only the quote unit, so no other unit can change the loss."""
  text = made_up.prose(6000)
  symbols, ids = planted.ids(text)
  model = planted.model(len(symbols))
  params = planted.params(model, symbols)
  params["head"]["W_hy"][np.arange(planted.HIDDEN) != planted.QUOTES] = 0
  params["head"]["W_hy"][planted.QUOTES, symbols.index('"')] = 3
  cells = [recording.Unit(0, "", planted.QUOTES), recording.Unit(0, "", planted.COLUMN)]
  nats = ablation.values_by_row(model, params, ids, [[], *([cell.clamp(0.0)] for cell in cells)])
  label = labels.in_quotes(text)
  own, other = (ablation.effect(row - nats[0], label) for row in nats[1:])
  assert abs(own.inside) > 0.01  # the unit is 1 in quotes and 0 elsewhere
  assert own.outside == pytest.approx(0, abs=1e-5)
  assert other == pytest.approx((0, 0), abs=1e-6)


def test_ablation_of_a_planted_unit_of_a_transformer_affects_only_its_characters():
  text = made_up.prose(2000)
  symbols, ids = planted.ids(text)
  units = [recording.Unit(0, "m", planted.VOWEL), recording.Unit(0, "m", planted.VOWEL + 1)]
  rows = [[], *([unit.clamp(0.0)] for unit in units)]
  nats = ablation.values_by_row(*planted.transformer(symbols), ids, rows)
  label = planted.VOWELS.function(text)
  own, other = (ablation.effect(row - nats[0], label) for row in nats[1:])
  assert abs(own.inside) > 0.05 and abs(own.outside) < 1e-5
  assert abs(other.inside) < 0.05


def _recorded(model):
  """Return the part of a recording that `control_units` uses, with random values."""
  columns = recording.columns(model)
  values = np.random.default_rng(0).normal(size=(700, len(columns)))
  return types.SimpleNamespace(columns=columns, values=values)


def test_control_units_are_in_the_same_layer_and_belong_to_no_finding():
  recorded = _recorded(tiny.model())
  unit, avoid = recording.Unit(1, "", 4), [recording.Unit(1, "", 2), recording.Unit(0, "", 3)]
  controls = ablation.control_units(recorded, unit, 5, avoid)
  assert len(set(controls)) == 5
  assert all(each.layer == 1 and each.number not in (4, 2) for each in controls)
  assert len(ablation.control_units(recorded, unit, 99, avoid)) == 6
  assert controls == ablation.control_units(recorded, unit, 5, avoid)


def test_control_units_of_a_transformer_are_of_the_same_kind():
  recorded = _recorded(tiny.model(cell="transformer"))
  for kind, others in (("h", 6), ("m", 31)):
    unit, avoid = recording.Unit(1, kind, 4), [recording.Unit(1, "h", 2)]
    controls = set(ablation.control_units(recorded, unit, 99, avoid))
    assert len(controls) == others and not controls & {unit, *avoid}
    assert {each[:2] for each in controls} == {(1, kind)}


def test_large_carries_reduce_the_rows_of_a_batch():
  few = ablation._groups(1000, tiny.model())
  assert max(map(len, few)) <= ablation.ROWS and sum(map(len, few)) == 1000
  large = tiny.model(cell="transformer", hidden=1024, context=4096)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(large.initial_carry(1)))
  many = ablation._groups(1000, large)
  assert max(map(len, many)) * size <= ablation.CARRY_BYTES < len(many[0]) * 2 * size
  assert np.concatenate(many).tolist() == [*range(1000)]


def test_settings_have_values():
  column = np.linspace(-1, 3, 101)
  assert ablation.setting_value(column, "zero") == 0
  assert ablation.setting_value(column, "mean") == pytest.approx(1)
  assert np.isnan(ablation.setting_value(column, "hold"))
  assert ablation.setting_value(column, "low") == pytest.approx(-0.8)
  assert ablation.setting_value(column, "high") == pytest.approx(2.8)


def test_inside_is_where_a_label_is_true_or_in_its_top_quarter():
  binary = labels.Label(np.float32([0, 1, 1, 0]), np.array([True, True, False, True]))
  assert ablation.inside(binary).tolist() == [False, True, False, False]
  graded = labels.everywhere(np.arange(8))
  assert ablation.inside(graded).tolist() == [False] * 6 + [True] * 2
  assert not ablation.inside(labels.everywhere(np.zeros(5))).any()


def test_the_effect_on_too_few_characters_is_none():
  label = labels.everywhere(np.arange(100) < ablation.MIN_CHARACTERS - 1)
  inside, outside = ablation.effect(np.ones(100), label)
  assert inside is None
  assert outside == 1


def test_p_values_count_the_unit_itself():
  assert ablation.p_value(1.0, [0.0] * 19) == 0.05
  assert ablation.p_value(0.0, [0.0, 1.0, -1.0]) == 0.75


def test_a_corrected_p_value_of_one_hypothesis_is_its_p_value():
  controls = np.random.default_rng(0).standard_normal(19).tolist()
  for observed in (9.0, 0.3, -2.0):
    assert ablation.corrected([observed], [controls], "a") == [
      pytest.approx(ablation.p_value(observed, controls))
    ]


def test_corrected_p_values_of_several_hypotheses():
  rng = np.random.default_rng(1)
  controls = [rng.standard_normal(99).tolist()] * 4
  # Values far above all controls have the smallest possible p-value, whatever their number.
  strong = ablation.corrected([900.0, 800.0, 700.0, 0.0], controls, "abcd")
  assert strong[:3] == [0.01] * 3 and strong[3] > 0.3
  # A value that one control unit of another hypothesis exceeds has twice that p-value.
  controls[3] = [750.0, *controls[3][1:]]
  assert ablation.corrected([900.0, 800.0, 700.0, 0.0], controls, "abcd")[:3] == [
    *(0.01, 0.01, pytest.approx(1 - 0.99**2, abs=1e-6))
  ]
  assert ablation.corrected([], [], []) == []
  # Two hypotheses of one unit with the same values are a single test.
  controls, observed = rng.standard_normal(39).tolist(), 1.5
  p = ablation.p_value(observed, controls)
  assert ablation.corrected([observed] * 2, [controls] * 2, "aa") == pytest.approx([p] * 2)
  apart = ablation.corrected([observed] * 2, [controls] * 2, "ab")
  assert apart == pytest.approx([1 - (1 - p) ** 2] * 2, abs=1e-5)


def test_corrected_p_values_control_the_error_probability_of_the_family():
  rng, significant = np.random.default_rng(2), 0
  for _ in range(400):
    # The scales and tails of the hypotheses differ.
    values = rng.standard_t(3, (5, 20)) * [[1], [5], [0.1], [1], [20]]
    values[2] = rng.exponential(1, 20)
    p = ablation.corrected(values[:, 0], values[:, 1:], "abcde")
    raw = [ablation.p_value(each[0], each[1:]) for each in values]
    assert all(corrected >= each - 1e-5 for corrected, each in zip(p, raw))
    significant += min(p) <= 0.05
  # The expected number is at most 20. More than 34 occur with probability 0.1%.
  assert significant <= 34


def test_measures_of_samples():
  assert ablation.line_length(["abcd\n\nab\ncut"]) == 3
  assert np.isnan(ablation.line_length(["one line"]))
  assert ablation.closed_quotes(['"a" "b\n\n"c"', '"d']) == 0.5
  assert np.isnan(ablation.closed_quotes(["none"]))
  assert ablation.indentation(["\ta\n  b\n\nc\nd"]) == 2.5


def test_sampling_with_a_clamped_unit(net):
  model, params, _ = net
  rows = {"free": [], "set": [clamps.Clamp(1, 3, 9.0)]}
  tokenizer = types.SimpleNamespace(decode=lambda ids: "".join(map(chr, 65 + ids)))
  run = types.SimpleNamespace(model=model, params=params, tokenizer=tokenizer)
  texts = ablation.sample(run, [1], rows, 0, lambda *_: None)
  assert {len(each) for each in texts.values()} == {ablation.SAMPLES}
  assert {len(text) for each in texts.values() for text in each} == {ablation.LENGTH}
  assert texts["free"] != texts["set"]
  assert len(set(texts["free"])) == ablation.SAMPLES
