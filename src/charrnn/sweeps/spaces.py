"""Search spaces as data: the values that fields may have, for random search and for Optuna.

def space():
  return {
    "optimizer.learning_rate": spaces.log_uniform(1e-3, 1e-1),
    "model.hidden": spaces.integers(64, 256, step=32),
    "model.cell": spaces.choice(["gru", "lstm"]),
  }
"""

import math
import random
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from charrnn import config as config_lib
from charrnn import errors


class Floats(NamedTuple):
  low: float
  high: float
  log: bool

  def suggest(self, source, field: str) -> float:
    value = rounded(source.suggest_float(field, self.low, self.high, log=self.log))
    return min(max(value, self.low), self.high)

  def extremes(self) -> tuple:
    return self.low, self.high


class Integers(NamedTuple):
  low: int
  high: int
  step: int

  def suggest(self, source, field: str) -> int:
    return source.suggest_int(field, self.low, self.high, step=self.step)

  def extremes(self) -> tuple:
    return self.low, self.high


class Choice(NamedTuple):
  values: tuple

  def suggest(self, source, field: str):
    return source.suggest_categorical(field, self.values)

  def extremes(self) -> tuple:
    return self.values


Space = dict[str, Floats | Integers | Choice]


def rounded(value: float) -> float:
  """Round to four significant digits, so that values can be read and typed."""
  return float(f"{value:.4g}")


def uniform(low: float, high: float) -> Floats:
  """Return the numbers from low to high."""
  if not -math.inf < low <= high < math.inf:
    raise errors.UserError(f"uniform({low}, {high}) is no range")
  return Floats(float(low), float(high), log=False)


def log_uniform(low: float, high: float) -> Floats:
  """Return the numbers from low to high, uniform in their logarithm."""
  if not 0 < low <= high < math.inf:
    raise errors.UserError(f"log_uniform({low}, {high}) is no range above 0")
  return Floats(float(low), float(high), log=True)


def integers(low: int, high: int, step: int = 1) -> Integers:
  """Return low, low + step, and so on, up to `high`."""
  if not (low <= high and step >= 1 and {type(low), type(high), type(step)} == {int}):
    raise errors.UserError(f"integers({low}, {high}, step={step}) has no values")
  return Integers(low, high - (high - low) % step, step)


def choice(values: Iterable[Any]) -> Choice:
  """Return a choice of numbers or texts."""
  values = tuple(values)
  if not values or not all(isinstance(value, bool | int | float | str) for value in values):
    raise errors.UserError(f"choice({list(values)}): numbers and text can be chosen")
  return Choice(values)


def checked(space: Any) -> Space:
  """Return the result of an experiment's space(); raise UserError if it is no space."""
  if not isinstance(space, dict) or not space:
    raise errors.UserError("return a dict with a space for each field")
  space = {config_lib.current_name(str(field)): values for field, values in space.items()}
  for field, values in space.items():
    if field not in config_lib.BY_NAME:
      raise errors.UserError(config_lib.unknown_field(field))
    if not isinstance(values, Floats | Integers | Choice):
      raise errors.UserError(f"{field} is {values!r}: use uniform, log_uniform, integers or choice")
  return space


def suggest(space: Space, source) -> dict[str, Any]:
  """Return a value for each field; `source` is a trial of Optuna or a RandomSource."""
  return {field: values.suggest(source, field) for field, values in space.items()}


def extremes(space: Space) -> Iterator[dict[str, Any]]:
  """Yield each field's least and largest value, or each of its choices, one at a time."""
  for field, values in space.items():
    yield from ({field: value} for value in values.extremes())


class RandomSource(NamedTuple):
  """Suggests random values through the methods of an Optuna trial.

  A field's value depends on seed, number and field alone, so it stays when other fields are added.
  """

  seed: int
  number: int

  def _random(self, field):
    return random.Random(f"{field} {self.seed} {self.number}")

  def suggest_float(self, field, low, high, log=False):
    if log:
      low, high = math.log(low), math.log(high)
    value = self._random(field).uniform(low, high)
    return math.exp(value) if log else value

  def suggest_int(self, field, low, high, step=1):
    return self._random(field).randrange(low, high + 1, step)

  def suggest_categorical(self, field, choices):
    return self._random(field).choice(choices)


def draw(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
  """Return `count` different random trials; a larger count adds to those of a smaller one."""
  trials: dict[tuple, dict[str, Any]] = {}
  for number in range(100 * count):
    trial = suggest(space, RandomSource(seed, number))
    trials.setdefault(tuple(trial.values()), trial)
    if len(trials) == count:
      return list(trials.values())
  raise errors.UserError(f"--trials={count}: the space has only {len(trials)} different trials")
