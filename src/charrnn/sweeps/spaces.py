"""Spaces to search, as data: what values a field may have. Drawn from at random, or by Optuna.

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
from charrnn.sweeps import sweep


class Floats(NamedTuple):
  low: float
  high: float
  log: bool

  def suggest(self, source, field: str) -> float:
    value = sweep.rounded(source.suggest_float(field, self.low, self.high, log=self.log))
    return min(max(value, self.low), self.high)

  def ends(self) -> tuple:
    return self.low, self.high


class Integers(NamedTuple):
  low: int
  high: int
  step: int

  def suggest(self, source, field: str) -> int:
    return source.suggest_int(field, self.low, self.high, step=self.step)

  def ends(self) -> tuple:
    return self.low, self.high


class Choice(NamedTuple):
  values: tuple

  def suggest(self, source, field: str):
    return source.suggest_categorical(field, self.values)

  def ends(self) -> tuple:
    return self.values


Space = dict[str, Floats | Integers | Choice]


def uniform(low: float, high: float) -> Floats:
  if not -math.inf < low <= high < math.inf:
    raise errors.UserError(f"uniform({low}, {high}) is no range")
  return Floats(float(low), float(high), log=False)


def log_uniform(low: float, high: float) -> Floats:
  """Uniform in the logarithm."""
  if not 0 < low <= high < math.inf:
    raise errors.UserError(f"log_uniform({low}, {high}) is no range above 0")
  return Floats(float(low), float(high), log=True)


def integers(low: int, high: int, step: int = 1) -> Integers:
  """low, low + step, and so on, up to `high`."""
  if not (low <= high and step >= 1 and {type(low), type(high), type(step)} == {int}):
    raise errors.UserError(f"integers({low}, {high}, step={step}) are none")
  return Integers(low, high - (high - low) % step, step)


def choice(values: Iterable[Any]) -> Choice:
  values = tuple(values)
  if not values or not all(isinstance(value, bool | int | float | str) for value in values):
    raise errors.UserError(f"choice({list(values)}): numbers and text can be chosen")
  return Choice(values)


def checked(space) -> Space:
  """What an experiment's space() gives; a UserError for unknown fields and for other values."""
  if not isinstance(space, dict) or not space:
    raise errors.UserError("a dict is wanted, with a space for each field")
  found = {config_lib.current_name(str(field)): each for field, each in space.items()}
  for field, each in found.items():
    if field not in config_lib.BY_NAME:
      raise errors.UserError(config_lib.unknown_field(field))
    if not isinstance(each, Floats | Integers | Choice):
      raise errors.UserError(
        f"{field} is {each!r}: uniform, log_uniform, integers or choice is wanted"
      )
  return found


def suggested(space: Space, source) -> dict[str, Any]:
  """A value for each field; `source` is a trial of Optuna's, or a Draw."""
  return {field: each.suggest(source, field) for field, each in space.items()}


def ends(space: Space) -> Iterator[dict[str, Any]]:
  """Each field's least and largest value, or each of its choices, alone."""
  for field, each in space.items():
    yield from ({field: value} for value in each.ends())


class Draw(NamedTuple):
  """Draws as a trial of Optuna's suggests; the same number gives the same values.

  Those of a field hang on nothing but it, so that they stay when others come and go.
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


def drawn(space: Space, count: int, seed: int) -> sweep.Trials:
  """So many different trials at random; those of a smaller number are among them."""
  found: dict[tuple, dict[str, Any]] = {}
  for number in range(100 * count):
    trial = suggested(space, Draw(seed, number))
    found.setdefault(tuple(trial.values()), trial)
    if len(found) == count:
      return list(found.values())
  raise errors.UserError(f"--trials={count}: the space has only {len(found)} different trials")
