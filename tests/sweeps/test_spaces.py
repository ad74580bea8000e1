"""Spaces: what is drawn from them, and which are none."""

import math

import pytest

from charrnn import errors
from charrnn.sweeps import spaces

SPACE = {
  "optimizer.learning_rate": spaces.log_uniform(1e-4, 1e-1),
  "model.dropout": spaces.uniform(0.1, 0.5),
  "model.hidden": spaces.integers(16, 70, step=16),
  "model.cell": spaces.choice(["rnn", "gru"]),
}


def test_draws_lie_in_the_space():
  trials = spaces.draw(SPACE, 300, seed=0)
  rates = [trial["optimizer.learning_rate"] for trial in trials]
  assert all(1e-4 <= rate <= 1e-1 for rate in rates)
  # As many below the geometric mean as above.
  assert 115 < sum(rate < math.sqrt(1e-5) for rate in rates) < 185
  assert all(0.1 <= trial["model.dropout"] <= 0.5 for trial in trials)
  assert {trial["model.hidden"] for trial in trials} == {16, 32, 48, 64}
  assert {trial["model.cell"] for trial in trials} == {"rnn", "gru"}


def test_draws_stay_when_more_are_wanted_or_another_field_comes():
  trials = spaces.draw(SPACE, 20, seed=3)
  assert spaces.draw(SPACE, 30, seed=3)[:20] == trials
  assert spaces.draw(SPACE, 20, seed=4) != trials
  more = spaces.draw({"window": spaces.integers(8, 64)} | SPACE, 20, seed=3)
  assert [{name: trial[name] for name in SPACE} for trial in more] == trials


def test_every_trial_is_another_one():
  space = {"model.cell": spaces.choice(["rnn", "gru"]), "seed": spaces.integers(1, 3)}
  assert len({tuple(trial.items()) for trial in spaces.draw(space, 6, seed=0)}) == 6
  with pytest.raises(errors.UserError, match="only 6 different trials"):
    spaces.draw(space, 7, seed=0)


def test_ends():
  assert list(spaces.extremes(SPACE))[4:] == [
    *({"model.hidden": hidden} for hidden in (16, 64)),
    *({"model.cell": cell} for cell in ("rnn", "gru")),
  ]


@pytest.mark.parametrize(
  ("make", "named"),
  [
    (lambda: spaces.uniform(2, 1), "no range"),
    (lambda: spaces.uniform(0, math.nan), "no range"),
    (lambda: spaces.log_uniform(0, 1), "no range above 0"),
    (lambda: spaces.integers(4, 2), "has no values"),
    (lambda: spaces.integers(1, 8, step=0), "has no values"),
    (lambda: spaces.integers(1, 2.5), "has no values"),
    (lambda: spaces.choice([]), "can be chosen"),
    (lambda: spaces.choice([[1]]), "can be chosen"),
    (lambda: spaces.checked({}), "return a dict"),
    (lambda: spaces.checked([1]), "return a dict"),
    (lambda: spaces.checked({"model.width": spaces.integers(1, 2)}), "'model.width'"),
    (lambda: spaces.checked({"seed": 3}), "seed is 3"),
  ],
)
def test_what_is_no_space(make, named):
  with pytest.raises(errors.UserError, match=named):
    make()
