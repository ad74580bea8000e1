"""Sweeps as data, and the names of their trials."""

import pathlib
import re

import pytest

from charrnn import config, errors
from charrnn.sweeps import sweep


def test_combinators():
  cells, seeds = sweep.sweep("model.cell", ["rnn", "gru"]), sweep.sweep("config.seed", range(2))
  assert sweep.product(cells, seeds) == [
    {"model.cell": cell, "seed": seed} for cell in ("rnn", "gru") for seed in (0, 1)
  ]
  assert sweep.zipit(cells, seeds) == [
    {"model.cell": "rnn", "seed": 0},
    {"model.cell": "gru", "seed": 1},
  ]
  assert sweep.chainit(cells, seeds) == [*cells, *seeds]
  assert sweep.product(sweep.fixed("epochs", 2.0), cells)[1] == {"epochs": 2.0, "model.cell": "gru"}
  assert sweep.product([cells]) == cells and sweep.product(cells) == cells
  assert sweep.product([cells, seeds]) == sweep.product(cells, seeds)
  assert sweep.product([]) == sweep.product(sweep.sweep("seed", []), cells) == []


def test_a_hyper_file_is_taken_as_it_is():
  """As big_vision and scenic write them."""

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

  trials = get_hyper(sweep)
  assert len(trials) == 5 and trials[-1] == {"seed": 7}
  assert trials[0] == {"optimizer.learning_rate": 1e-3, "epochs": 1.0, "window": 32}
  assert len(sweep.named(trials)) == 5


def test_samples_hang_on_the_seed_alone():
  draw = lambda seed: [  # noqa: E731
    trial["optimizer.learning_rate"]
    for trial in sweep.log_uniform("optimizer.learning_rate", 1e-4, 1e-1, 200, seed)
  ]
  values = draw(0)
  assert values == draw(0) != draw(1)
  assert all(1e-4 <= value <= 1e-1 for value in values)
  # As many below the geometric mean as above.
  assert 70 < sum(value < 10**-2.5 for value in values) < 130
  assert all(0 <= trial["x"] <= 1 for trial in sweep.uniform("x", 0, 1, 50))


@pytest.mark.parametrize(
  ("make", "named"),
  [
    (lambda: sweep.zipit(sweep.sweep("seed", [1]), sweep.sweep("window", [1, 2])), "lengths"),
    (lambda: sweep.product(sweep.sweep("seed", [1]), sweep.sweep("config.seed", [2])), "seed"),
    (lambda: sweep.log_uniform("seed", 0, 1, 3), "no range above 0"),
    (lambda: sweep.named([{"model.width": 3}]), "'model.width'"),
    (lambda: sweep.named([{"seed": [1, 2]}]), "numbers and text"),
    (lambda: sweep.named([{"epochs": None}]), "numbers and text"),
    (lambda: sweep.named([{"seed": 1}, {"config.seed": 1}]), "the same: seed=1"),
    (lambda: sweep.named([]), "no trials"),
    (lambda: sweep.listed(["seed"]), "dicts"),
  ],
)
def test_what_makes_no_sweep_is_named(make, named):
  with pytest.raises(errors.UserError, match=re.escape(named)):
    make()


HOSTILE = ("../../x", "a b", "$(rm)", "x;y", "é\n", ".", "", "a" * 300, "A", "a", "a_b", "a?b", "~")


def test_names_are_safe_and_never_collide():
  trials = [{"text.source": value} for value in HOSTILE]
  names = list(sweep.named(trials))
  assert len(set(names)) == len(HOSTILE)
  for name in names:
    assert re.fullmatch(r"[A-Za-z0-9=][A-Za-z0-9_.,=+-]*", name) and len(name) <= sweep.LONGEST
    assert pathlib.PurePath(name).name == name


def test_a_name_hangs_on_its_own_trial_alone_and_is_short():
  few = sweep.named([{"model.hidden": 8, "optimizer.name": "adam"}])
  many = sweep.named([{"seed": 1}, {"model.hidden": 8, "optimizer.name": "adam"}, {"seed": 2}])
  assert set(few) < set(many)
  # `name` alone would be the schedule's too.
  assert list(few) == ["hidden=8,optimizer.name=adam"]
  fields = config.flatten(config.default().to_dict())
  shorts = [config.short(field) for field in fields]
  assert len(set(shorts)) == len(fields)
