"""Which fields differ, which runs are one setting, whether losses compare, and the laws of size."""

import math

import numpy as np
import pytest
from scipy import optimize

from charrnn.sweeps import comparison

TEXT = {"sha256": "ab", "split": "tail"}


def run(name="r", losses=(2.0,), state="finished", text=TEXT, parameters=None, rate=None, **fields):
  """A run that was evaluated every 10 steps; fields by their last part."""
  full = {"seed": 1, "model.cell": "lstm", "batch_size": 4, "window": 5}
  full |= {f"model.{k}" if k in ("cell", "hidden", "layers") else k: v for k, v in fields.items()}
  lines = [{"step": 10 * n, "epoch": n / 2, "valid/loss": x} for n, x in enumerate(losses, 1)]
  lines = [line | ({"chars_per_second": rate} if rate else {}) for line in lines]
  return comparison.ComparedRun(name, f"/{name}", state, (), full, text, lines, parameters, 12.0)


def test_the_best_comes_first_and_what_has_no_loss_last():
  runs = [run("none", ()), run("b", (3.0, 2.0, 2.0)), run("a", (1.5, 1.7)), run("nan", (math.nan,))]
  found = comparison.compare(runs)
  assert [each.name for each in found.runs] == ["a", "b", "nan", "none"]
  assert [each.best and each.best.step for each in found.runs] == [10, 20, None, None]


def test_numbers_that_a_file_should_not_hold_are_passed_over():
  odd = [math.inf, math.nan, "1.0", True, None, [1.0], {}]
  assert [comparison.number(value) for value in odd] == [None] * len(odd)
  assert run(losses=(*odd, 3, 2.5)).best.valid == 2.5


def test_only_the_fields_that_differ():
  runs = [run(hidden=8, layers=1), run(hidden=16, layers=1), run(layers=1, order=3)]
  assert comparison.compare(runs).fields == ["model.hidden"]
  assert comparison.compare(runs[:1]).fields == []
  # How a run is watched is not compared.
  assert comparison.differing([{"log_every": 1, "keep": 2}, {"log_every": 5, "keep": 3}]) == []


def test_runs_that_differ_in_seed_alone_are_one_setting():
  losses = [2.0, 2.1, 2.4]
  runs = [run(f"{h} {s}", (x + h,), seed=s, hidden=h) for s, x in enumerate(losses) for h in (0, 8)]
  runs += [run("bad", (9.0,), "diverged", seed=7, hidden=0), run("on", (1.0,), "running", hidden=8)]
  small, large = comparison.compare(runs).settings
  assert [small.name, large.name] == ["hidden=0", "hidden=8"]
  assert small.losses == losses and len(small.runs) == 4 and len(large.runs) == 4
  assert small.loss == pytest.approx(np.mean(losses))
  # By hand: t of 0.975 with 2 degrees of freedom is 4.302653.
  half = 4.302653 * np.std(losses, ddof=1) / math.sqrt(3)
  assert small.interval == pytest.approx((small.loss - half, small.loss + half), rel=1e-6)
  assert comparison.interval([1.0]) is None
  # The same run at two places is one run.
  twice = [run("a", (2.0,)), run("b", (2.0,)), run("c", (2.5,), seed=2)]
  (setting,) = comparison.compare(twice).settings
  assert setting.losses == [2.0, 2.5] and len(setting.runs) == 3


def test_the_interval_covers_the_mean_as_often_as_it_says():
  draws = np.random.default_rng(0).normal(3.0, 0.2, (2000, 4))
  covered = np.mean([low < 3.0 < high for low, high in map(comparison.interval, draws)])
  assert 0.935 < covered < 0.965


def test_other_texts_come_apart_and_losses_do_not_compare():
  other = TEXT | {"split": "middle"}
  runs = [
    run("a", (2.0,), text=other, seed=2),
    run("b", (1.0,), hidden=1),
    run("c", (3.0,), hidden=2),
  ]
  found = comparison.compare([runs[1], runs[2], runs[0]])
  assert not found.compares and found.texts == [TEXT, other]
  assert [each.name for each in found.runs] == ["b", "c", "a"]
  assert [len(each.runs) for each in found.settings] == [1, 1, 1]
  assert comparison.losses_by_size(found) == {}
  # A text that nobody knows is not taken for the same.
  assert not comparison.compare([run(), run("x", text=None)]).compares
  assert comparison.compare([run(), run("x", (), text=other)]).compares


def test_axes_are_the_fields_that_nothing_else_decides():
  settings = [
    {"model.cell": cell, "model.hidden": h, "optimizer.learning_rate": 1 / h, "eval_every": h // 16}
    for cell in ("rnn", "lstm")
    for h in (8, 16, 32)
  ]
  found = comparison.find_axes(settings)
  assert [(axis.field, axis.values) for axis in found] == [
    ("model.cell", ["lstm", "rnn"]),
    ("model.hidden", [8, 16, 32]),
  ]
  assert found[1].followers == ["optimizer.learning_rate", "eval_every"]
  assert comparison.find_axes([]) == []


def test_networks_of_a_size_are_a_grid_whatever_their_units():
  """As in the 2015 paper, whose sizes are numbers of parameters."""
  shapes = {("rnn", 1): 14, ("rnn", 2): 9, ("lstm", 1): 6, ("lstm", 2): 4}
  runs = [
    run(f"{cell} {layers} {size}", parameters=size + hidden, cell=cell, layers=layers, hidden=n)
    for size in (1000, 3000)
    for (cell, layers), hidden in shapes.items()
    for n in [hidden * size // 1000]
  ]
  found = comparison.compare(runs)
  assert [(axis.field, axis.values) for axis in found.axes] == [
    ("model.cell", ["lstm", "rnn"]),
    ("model.layers", [1, 2]),
    ("parameters", [1000.0, 3000.0]),
  ]
  assert all("hidden=" in each.name and "parameters" not in each.name for each in found.settings)
  # Where units make a grid by themselves, they stay.
  grid = [run(f"{c} {h}", parameters=h, cell=c, hidden=h) for c in ("rnn", "gru") for h in (8, 16)]
  assert [axis.field for axis in comparison.compare(grid).axes] == ["model.cell", "model.hidden"]


def test_sizes_that_are_about_the_same():
  assert comparison.size_groups([1060, 1000, 1049, 1112, 2000]) == {
    1000: 1000,
    1049: 1000,
    1060: 1060,
    1112: 1060,
    2000: 2000,
  }


def test_values_in_order():
  assert comparison.ordered([16, 8, None, "b", 16.5, "a"]) == [8, 16, 16.5, None, "a", "b"]


def test_seconds_as_told_or_estimated_from_the_rate():
  timed = run(losses=(2.0, 1.0), rate=100.0)
  assert [point.characters for point in timed.points] == [200, 400]
  assert [point.seconds for point in timed.points] == [2.0, 4.0] and timed.estimates_seconds
  assert [point.flops for point in timed.points] == [2400, 4800]
  told = comparison.ComparedRun(
    *("r", "/r", "finished", (), timed.fields, TEXT),
    [line | {"seconds": 7.0 * n} for n, line in enumerate(timed.lines)],
  )
  assert [point.seconds for point in told.points] == [0.0, 7.0] and not told.estimates_seconds
  # What is told later stands for what was before, too.
  mixed = comparison.ComparedRun(
    "r", "/r", "finished", (), timed.fields, TEXT, [*timed.lines, told.lines[1]]
  )
  assert [point.seconds for point in mixed.points] == [2.0, 4.0, 7.0] and mixed.estimates_seconds
  assert run().points[0].seconds is None
  assert run(cell="ngram", rate=9.0).points[0][1:4] == (None, None, None)


@pytest.mark.parametrize("floor", [0.0, 1.1])
def test_a_power_law_is_found_again(floor):
  sizes = np.array([1e3, 3e3, 1e4, 3e4, 1e5])
  curve = dict(zip(sizes, floor + 1.5 * (sizes / 1e4) ** -0.3))
  fits = list(comparison.power_laws(curve))
  # Without a floor there is nothing for the second law to add.
  assert len(fits) == (2 if floor else 1)
  assert fits[-1]["exponent"] == pytest.approx(0.3, rel=1e-3)
  assert fits[-1]["floor"] == pytest.approx(floor, abs=1e-2)
  assert fits[-1]["r2"] == pytest.approx(1.0)
  np.testing.assert_allclose(comparison.law_loss(fits[-1], sizes), list(curve.values()), rtol=1e-4)


def test_the_fit_is_the_least_squares():
  sizes = np.array([1e3, 2e3, 5e3, 9e3, 3e4])
  losses = 2 * (sizes / 5e3) ** -0.1 + np.array([0.03, -0.05, 0.02, 0.01, -0.02])
  (plain, *_) = comparison.power_laws(dict(zip(sizes, losses)))
  squares = lambda p: ((p[0] * (sizes / plain["middle"]) ** -p[1] - losses) ** 2).sum()  # noqa: E731
  best = optimize.minimize(squares, [1.0, 0.5], method="Nelder-Mead", options={"xatol": 1e-9})
  assert (plain["factor"], plain["exponent"]) == pytest.approx(tuple(best.x), rel=1e-4)
  assert plain["r2"] == pytest.approx(1 - best.fun / losses.var() / len(losses), rel=1e-4)
  low, high = plain["interval"]
  assert low < plain["exponent"] < high


def test_too_few_sizes_and_losses_that_do_not_fall():
  assert list(comparison.power_laws({10: 2.0, 20: 1.0})) == []
  assert len(list(comparison.power_laws({10: 2.0, 20: 1.5, 40: 1.2}))) == 1
  (rising,) = comparison.power_laws({10: 1.0, 20: 1.5, 40: 2.0, 80: 2.6})
  assert rising["exponent"] < 0 and rising["floor"] == 0
  (flat,) = comparison.power_laws({10: 1.0, 20: 1.0, 40: 1.0, 80: 1.0})
  assert flat["exponent"] == pytest.approx(0) and flat["r2"] is None


def test_the_best_of_each_size_and_only_of_runs_that_are_done():
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
