"""Combinators of sweeps, and names of trials."""

import pathlib
import re

import pytest

from charrnn import config, errors
from charrnn.sweeps import outcomes, trials


def test_combinators():
  cells, seeds = trials.sweep("model.cell", ["rnn", "gru"]), trials.sweep("config.seed", range(2))
  assert trials.product(cells, seeds) == [
    {"model.cell": cell, "seed": seed} for cell in ("rnn", "gru") for seed in (0, 1)
  ]
  assert trials.zipit(cells, seeds) == [
    {"model.cell": "rnn", "seed": 0},
    {"model.cell": "gru", "seed": 1},
  ]
  assert trials.chainit(cells, seeds) == [*cells, *seeds]
  assert trials.product(trials.fixed("epochs", 2.0), cells)[1] == {
    "epochs": 2.0,
    "model.cell": "gru",
  }
  assert trials.product([cells]) == cells and trials.product(cells) == cells
  assert trials.product([cells, seeds]) == trials.product(cells, seeds)
  assert trials.product([]) == trials.product(trials.sweep("seed", []), cells) == []


def test_get_hyper_of_big_vision_and_scenic_works():

  def get_hyper(hyper):
    return hyper.chainit(
      [
        hyper.product(
          [
            hyper.sweep("config.optimizer.learning_rate", [1e-3, 3e-3]),
            hyper.zipit(
              [hyper.sweep("config.epochs", [1.0, 2.0]), hyper.sweep("config.window", [32, 64])]
            ),
          ]
        ),
        hyper.fixed("config.seed", 7, length=1),
      ]
    )

  expanded = get_hyper(trials)
  assert len(expanded) == 5 and expanded[-1] == {"seed": 7}
  assert expanded[0] == {"optimizer.learning_rate": 1e-3, "epochs": 1.0, "window": 32}
  assert len(trials.by_name(expanded)) == 5


def test_random_values_depend_only_on_the_seed():
  draw = lambda seed: [  # noqa: E731
    trial["optimizer.learning_rate"]
    for trial in trials.log_uniform("optimizer.learning_rate", 1e-4, 1e-1, 200, seed)
  ]
  values = draw(0)
  assert values == draw(0) != draw(1)
  assert all(1e-4 <= value <= 1e-1 for value in values)
  # About half of the values are below the geometric mean of the limits.
  assert 70 < sum(value < 10**-2.5 for value in values) < 130
  assert all(0 <= trial["x"] <= 1 for trial in trials.uniform("x", 0, 1, 50))


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: trials.zipit(trials.sweep("seed", [1]), trials.sweep("window", [1, 2])), "lengths"),
    (lambda: trials.product(trials.sweep("seed", [1]), trials.sweep("config.seed", [2])), "seed"),
    (lambda: trials.log_uniform("seed", 0, 1, 3), "not a range above 0"),
    (lambda: trials.by_name([{"model.width": 3}]), "'model.width'"),
    (lambda: trials.by_name([{"seed": [1, 2]}]), "use a number or text"),
    (lambda: trials.by_name([{"epochs": None}]), "use a number or text"),
    (lambda: trials.by_name([{"seed": 1}, {"config.seed": 1}]), "the same: seed=1"),
    (lambda: trials.by_name([]), "no trials"),
    (lambda: trials.as_list(["seed"]), "dicts"),
  ],
)
def test_invalid_sweeps_are_refused(make, message):
  with pytest.raises(errors.UserError, match=re.escape(message)):
    make()


HOSTILE = ("../../x", "a b", "$(rm)", "x;y", "é\n", ".", "", "a" * 300, "A", "a", "a_b", "a?b", "~")


def test_names_are_safe_and_unique():
  names = list(trials.by_name([{"text.source": value} for value in HOSTILE]))
  assert len(set(names)) == len(HOSTILE)
  for name in names:
    assert re.fullmatch(r"[A-Za-z0-9=][A-Za-z0-9_.,=+-]*", name) and len(name) <= outcomes.MAX_NAME
    assert pathlib.PurePath(name).name == name


LONG = {
  "model.hidden": 1024,
  "model.layers": 3,
  "model.dropout": 0.3141,
  "optimizer.learning_rate": 0.002718,
  "optimizer.weight_decay": 0.01,
  "optimizer.clip_norm": 5.0,
  "schedule.warmup_steps": 200,
  "batch_size": 128,
  "window": 256,
  "seed": 4,
}


@pytest.mark.parametrize("field", LONG)
def test_a_shortened_name_shows_every_value(field):
  """Two trials of a search that differ in any field do not look alike, even without the digest."""
  (name,) = trials.by_name([LONG])
  (other,) = trials.by_name([LONG | {field: 7}])
  assert len(name) <= outcomes.MAX_NAME < len(",".join(f"{k}={v}" for k, v in LONG.items()))
  assert name[:-8] != other[:-8] and f"={LONG[field]}" in name and "=7" in other


def test_long_values_are_shortened_after_the_names():
  values = {"learning_rate": "0.001", "init_from": "a/long/path/" * 5, "seed": "1"}
  for longest in (90, 80, 60, 40, 30):
    text = outcomes.abbreviate(values, ", ", longest)
    assert len(text) <= longest and "=0.001" in text and text.endswith("=1")
  assert outcomes.abbreviate(values, ", ", 200) == ", ".join(f"{k}={v}" for k, v in values.items())
  assert outcomes.abbreviate({f"field{n}": "12345678" for n in range(90)}, ",", 50)[50:] == ""


def test_name_is_short_and_depends_only_on_its_trial():
  few = trials.by_name([{"model.hidden": 8, "optimizer.name": "adam"}])
  many = trials.by_name([{"seed": 1}, {"model.hidden": 8, "optimizer.name": "adam"}, {"seed": 2}])
  assert set(few) < set(many)
  # The short form `name` would be ambiguous: the schedule has a field with this name.
  assert list(few) == ["hidden=8,optimizer.name=adam"]
  fields = config.flatten(config.default().to_dict())
  shorts = [config.short(field) for field in fields]
  assert len(set(shorts)) == len(fields)
