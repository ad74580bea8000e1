"""Comparison of runs: differing fields, settings, comparable losses, axes and power laws."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import optimize

from charrnn.sweeps import comparison

TEXT = {"sha256": "ab", "split": "tail"}


def run(name="r", losses=(2.0,), state="finished", text=TEXT, parameters=None, rate=None, **fields):
  """Return a run that was evaluated every 10 steps; `fields` may have short names."""
  full = {"seed": 1, "model.cell": "lstm", "batch_size": 4, "window": 5}
  full |= {f"model.{k}" if k in ("cell", "hidden", "layers") else k: v for k, v in fields.items()}
  lines = [{"step": 10 * n, "epoch": n / 2, "valid/loss": x} for n, x in enumerate(losses, 1)]
  lines = [line | ({"chars_per_second": rate} if rate else {}) for line in lines]
  return comparison.ComparedRun(name, f"/{name}", state, (), full, text, lines, parameters, 12.0)


def test_runs_are_sorted_by_loss_and_runs_without_loss_come_last():
  runs = [run("none", ()), run("b", (3.0, 2.0, 2.0)), run("a", (1.5, 1.7)), run("nan", (math.nan,))]
  result = comparison.compare(runs)
  assert [each.name for each in result.runs] == ["a", "b", "nan", "none"]
  assert [each.best and each.best.step for each in result.runs] == [10, 20, None, None]


def test_invalid_numbers_are_ignored():
  invalid = [math.inf, math.nan, "1.0", True, None, [1.0], {}]
  assert [comparison.number(value) for value in invalid] == [None] * len(invalid)
  assert run(losses=(*invalid, 3, 2.5)).best.valid == 2.5


def test_fields_are_those_that_differ():
  runs = [run(hidden=8, layers=1), run(hidden=16, layers=1), run(layers=1, order=3)]
  assert comparison.compare(runs).fields == ["model.hidden"]
  assert comparison.compare(runs[:1]).fields == []
  # Fields about logging and storage are not compared.
  assert comparison.differing([{"log_every": 1, "keep": 2}, {"log_every": 5, "keep": 3}]) == []


def test_runs_that_differ_only_in_seed_are_one_setting():
  losses = [2.0, 2.1, 2.4]
  runs = [run(f"{h} {s}", (x + h,), seed=s, hidden=h) for s, x in enumerate(losses) for h in (0, 8)]
  runs += [run("bad", (9.0,), "diverged", seed=7, hidden=0), run("on", (1.0,), "running", hidden=8)]
  small, large = comparison.compare(runs).settings
  assert [small.name, large.name] == ["hidden=0", "hidden=8"]
  assert small.losses == losses and len(small.runs) == 4 and len(large.runs) == 4
  assert small.loss == pytest.approx(np.mean(losses))
  # The 0.975 quantile of Student's t with 2 degrees of freedom is 4.302653.
  half = 4.302653 * np.std(losses, ddof=1) / math.sqrt(3)
  assert small.interval == pytest.approx((small.loss - half, small.loss + half), rel=1e-6)
  assert comparison.interval([1.0]) is None
  # Two runs with the same seed count once.
  twice = [run("a", (2.0,)), run("b", (2.0,)), run("c", (2.5,), seed=2)]
  (setting,) = comparison.compare(twice).settings
  assert setting.losses == [2.0, 2.5] and len(setting.runs) == 3


def test_interval_covers_the_mean_in_95_percent_of_samples():
  samples = np.random.default_rng(0).normal(3.0, 0.2, (2000, 4))
  covered = np.mean([low < 3.0 < high for low, high in map(comparison.interval, samples)])
  assert 0.935 < covered < 0.965


def test_runs_on_other_texts_are_separate_and_not_comparable():
  other = TEXT | {"split": "middle"}
  runs = [
    run("a", (2.0,), text=other, seed=2),
    run("b", (1.0,), hidden=1),
    run("c", (3.0,), hidden=2),
  ]
  result = comparison.compare([runs[1], runs[2], runs[0]])
  assert not result.compares and result.texts == [TEXT, other]
  assert [each.name for each in result.runs] == ["b", "c", "a"]
  assert [len(each.runs) for each in result.settings] == [1, 1, 1]
  assert comparison.losses_by_size(result) == {}
  # An unknown text is not assumed to be the same.
  assert not comparison.compare([run(), run("x", text=None)]).compares
  assert comparison.compare([run(), run("x", (), text=other)]).compares


def test_axes_are_fields_that_no_other_field_determines():
  settings = [
    {"model.cell": cell, "model.hidden": h, "optimizer.learning_rate": 1 / h, "eval_every": h // 16}
    for cell in ("rnn", "lstm")
    for h in (8, 16, 32)
  ]
  axes = comparison.find_axes(settings)
  assert [(axis.field, axis.values) for axis in axes] == [
    ("model.cell", ["lstm", "rnn"]),
    ("model.hidden", [8, 16, 32]),
  ]
  assert axes[1].followers == ["optimizer.learning_rate", "eval_every"]
  assert comparison.find_axes([]) == []


def test_networks_of_equal_size_form_a_grid():
  """The sizes are numbers of parameters, as in the 2015 paper."""
  shapes = {("rnn", 1): 14, ("rnn", 2): 9, ("lstm", 1): 6, ("lstm", 2): 4}
  runs = [
    run(f"{cell} {layers} {size}", parameters=size + hidden, cell=cell, layers=layers, hidden=n)
    for size in (1000, 3000)
    for (cell, layers), hidden in shapes.items()
    for n in [hidden * size // 1000]
  ]
  result = comparison.compare(runs)
  assert [(axis.field, axis.values) for axis in result.axes] == [
    ("model.cell", ["lstm", "rnn"]),
    ("model.layers", [1, 2]),
    ("parameters", [1000.0, 3000.0]),
  ]
  assert all("hidden=" in each.name and "parameters" not in each.name for each in result.settings)
  # If the units already form a grid, they remain an axis.
  grid = [run(f"{c} {h}", parameters=h, cell=c, hidden=h) for c in ("rnn", "gru") for h in (8, 16)]
  assert [axis.field for axis in comparison.compare(grid).axes] == ["model.cell", "model.hidden"]


def test_similar_sizes_are_grouped():
  assert comparison.size_groups([1060, 1000, 1049, 1112, 2000]) == {
    1000: 1000,
    1049: 1000,
    1060: 1060,
    1112: 1060,
    2000: 2000,
  }


def test_values_are_ordered():
  assert comparison.ordered([16, 8, None, "b", 16.5, "a"]) == [8, 16, 16.5, None, "a", "b"]


def test_seconds_are_stored_or_estimated_from_the_speed():
  timed = run(losses=(2.0, 1.0), rate=100.0)
  assert [point.characters for point in timed.points] == [200, 400]
  assert [point.seconds for point in timed.points] == [2.0, 4.0] and timed.estimates_seconds
  assert [point.flops for point in timed.points] == [2400, 4800]
  stored = comparison.ComparedRun(
    *("r", "/r", "finished", (), timed.fields, TEXT),
    [line | {"seconds": 7.0 * n} for n, line in enumerate(timed.lines)],
  )
  assert [point.seconds for point in stored.points] == [0.0, 7.0] and not stored.estimates_seconds
  # Stored seconds include the time before them.
  mixed = comparison.ComparedRun(
    "r", "/r", "finished", (), timed.fields, TEXT, [*timed.lines, stored.lines[1]]
  )
  assert [point.seconds for point in mixed.points] == [2.0, 4.0, 7.0] and mixed.estimates_seconds
  assert run().points[0].seconds is None
  assert run(cell="ngram", rate=9.0).points[0][1:4] == (None, None, None)


def test_a_curve_has_the_last_training_loss_before_each_evaluation():
  steps = {5: {"train/loss": 3.0}, 10: {"valid/loss": 3.123456789, "seconds": 1.25}}
  steps |= {15: {"train/loss": 2.0}, 20: {"train/loss": 1.5}}
  lines = [{"step": step, **values} for step, values in steps.items()]
  lines += [{"step": 20, "valid/loss": 2.5, "valid/bits_per_byte": 3.5, "seconds": 2.0}]
  timed = dataclasses.replace(run(), lines=lines)
  first, second = timed.curve
  costs = {"characters": 200, "seconds": 1.2}
  losses = {"train_nats": 3.0, "nats": 3.12346, "bits_per_byte": None}
  assert first == {"step": 10, **costs, **losses}
  costs = {"characters": 400, "seconds": 2.0}
  losses = {"train_nats": 1.5, "nats": 2.5, "bits_per_byte": 3.5}
  assert second == {"step": 20, **costs, **losses}
  # The unit of the comparison does not matter.
  assert dataclasses.replace(timed, in_bits=True).curve == timed.curve


def test_models_have_short_names():
  assert run(layers=2, hidden=128).model == "lstm 2 x 128"
  assert run(cell="ngram", losses=(3.0, 2.0, 2.5)).model == "20-gram"  # Its steps are orders.
  assert run(cell="ngram", losses=()).model == "n-gram"
  assert comparison.ComparedRun("a", "a", "waiting").model is None


@pytest.mark.parametrize("floor", [0.0, 1.1])
def test_fit_recovers_a_power_law(floor):
  sizes = np.array([1e3, 3e3, 1e4, 3e4, 1e5])
  curve = dict(zip(sizes, floor + 1.5 * (sizes / 1e4) ** -0.3))
  fits = list(comparison.power_laws(curve))
  # Without a floor, the second law equals the first one and is left out.
  assert len(fits) == (2 if floor else 1)
  assert fits[-1]["exponent"] == pytest.approx(0.3, rel=1e-3)
  assert fits[-1]["floor"] == pytest.approx(floor, abs=1e-2)
  assert fits[-1]["r2"] == pytest.approx(1.0)
  np.testing.assert_allclose(comparison.law_loss(fits[-1], sizes), list(curve.values()), rtol=1e-4)


def test_fit_minimizes_the_squares():
  sizes = np.array([1e3, 2e3, 5e3, 9e3, 3e4])
  losses = 2 * (sizes / 5e3) ** -0.1 + np.array([0.03, -0.05, 0.02, 0.01, -0.02])
  (plain, *_) = comparison.power_laws(dict(zip(sizes, losses)))
  squares = lambda p: ((p[0] * (sizes / plain["middle"]) ** -p[1] - losses) ** 2).sum()  # noqa: E731
  best = optimize.minimize(squares, [1.0, 0.5], method="Nelder-Mead", options={"xatol": 1e-9})
  assert (plain["factor"], plain["exponent"]) == pytest.approx(tuple(best.x), rel=1e-4)
  assert plain["r2"] == pytest.approx(1 - best.fun / losses.var() / len(losses), rel=1e-4)
  low, high = plain["interval"]
  assert low < plain["exponent"] < high


def test_power_laws_of_few_sizes_and_of_rising_or_flat_losses():
  assert list(comparison.power_laws({10: 2.0, 20: 1.0})) == []
  assert len(list(comparison.power_laws({10: 2.0, 20: 1.5, 40: 1.2}))) == 1
  (rising,) = comparison.power_laws({10: 1.0, 20: 1.5, 40: 2.0, 80: 2.6})
  assert rising["exponent"] < 0 and rising["floor"] == 0
  (flat,) = comparison.power_laws({10: 1.0, 20: 1.0, 40: 1.0, 80: 1.0})
  assert flat["exponent"] == pytest.approx(0) and flat["r2"] is None


def test_losses_by_size_are_the_best_of_finished_runs():
  runs = [
    run("a", (2.0,), parameters=10, hidden=1),
    run("b", (1.8,), parameters=10, hidden=1, window=6),
    run("c", (1.5,), parameters=20, hidden=2),
    run("d", (0.1,), "running", parameters=30, hidden=3),
    run("e", (1.2,), cell="gru", parameters=5, hidden=1),
    run("f", (1.0,), cell="ngram"),
  ]
  assert comparison.losses_by_size(comparison.compare(runs)) == {
    "gru": {5: 1.2},
    "lstm": {10: 1.8, 20: 1.5},
  }
