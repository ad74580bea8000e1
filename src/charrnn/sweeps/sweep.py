"""Sweeps as data: lists of trials, each a dict of overrides by dotted field name.

  def sweep():
    return product(sweep("model.cell", ["rnn", "lstm"]), sweep("seed", range(3)))   # 6 trials

`get_hyper(hyper)` of big_vision's and scenic's config files is given this module as `hyper`, whence
the names `zipit` and `chainit`; the "config." that they put before a field is dropped.
"""

import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Iterable
from typing import Any

from charrnn import config as config_lib
from charrnn import errors

Trials = list[dict[str, Any]]
LONGEST = 100  # characters of a name


def discrete(values: Iterable[Any]) -> list[Any]:
  """The values themselves, for `sweep`: some files write it so."""
  return list(values)


def sweep(field: str, values: Iterable[Any]) -> Trials:
  """A trial for each value of a field."""
  return [{config_lib.current_name(field): value} for value in values]


def fixed(field: str, value: Any, length: int = 1) -> Trials:
  """One value in every trial it is combined with."""
  return sweep(field, [value] * length)


def product(*sweeps: Trials | list[Trials]) -> Trials:
  """Every trial of one with every trial of the others; takes them one by one or as a list."""
  return [_merged(trials) for trials in itertools.product(*_each(sweeps))]


def zipit(*sweeps: Trials | list[Trials]) -> Trials:
  """The first trials together, the second together, and so on: all have the same length."""
  every = _each(sweeps)
  if len(lengths := {len(trials) for trials in every}) > 1:
    raise errors.UserError(f"zipit: sweeps of different lengths: {sorted(lengths)}")
  return [_merged(trials) for trials in zip(*every)]


def chainit(*sweeps: Trials | list[Trials]) -> Trials:
  """The trials of one after those of the other."""
  return [dict(trial) for trials in _each(sweeps) for trial in trials]


def log_uniform(field: str, low: float, high: float, count: int, seed: int = 0) -> Trials:
  """`count` values whose logarithms are uniform; a seed always gives the same ones."""
  if not 0 < low <= high:
    raise errors.UserError(f"log_uniform({field}): {low} to {high} is no range above 0")
  draw = random.Random(f"{field} {seed}").uniform
  values = (math.exp(draw(math.log(low), math.log(high))) for _ in range(count))
  return sweep(field, map(rounded, values))


def uniform(field: str, low: float, high: float, count: int, seed: int = 0) -> Trials:
  """`count` values from low to high; a seed always gives the same ones."""
  draw = random.Random(f"{field} {seed}").uniform
  return sweep(field, [rounded(draw(low, high)) for _ in range(count)])


def rounded(value: float) -> float:
  """To four digits, for a value that one can read and type."""
  return float(f"{value:.4g}")


def _each(sweeps) -> list[Trials]:
  """Sweeps given one by one, or as one list of them."""
  if len(sweeps) == 1 and sweeps[0] and not isinstance(sweeps[0][0], dict):
    sweeps = sweeps[0]
  return [list(trials) for trials in sweeps]


def _merged(trials) -> dict[str, Any]:
  merged: dict[str, Any] = {}
  for trial in trials:
    for field in trial:
      if field in merged:
        raise errors.UserError(f"{field} is set by two sweeps that are combined: leave one out")
    merged |= trial
  return merged


def listed(trials: Iterable[dict[str, Any]]) -> Trials:
  """What a sweep's function gives, as a list; a UserError for what is no trial."""
  found = list(trials)
  for trial in found:
    if not isinstance(trial, dict):
      raise errors.UserError(f"a sweep gives dicts of overrides, not {trial!r}")
  return [{str(field): _plain(value) for field, value in trial.items()} for trial in found]


def _plain(value):
  """Python's own number for one of NumPy's."""
  return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value


def named(trials: Trials) -> dict[str, dict[str, Any]]:
  """Trials by name; a UserError for unknown fields, wrong types and for trials that are the same.

  A name hangs on its own trial's overrides alone: it stays when others are added or left out.
  """
  found: dict[str, dict[str, Any]] = {}
  for trial in trials:
    own = {config_lib.current_name(field): value for field, value in trial.items()}
    for field, value in own.items():
      if field not in config_lib.BY_NAME:
        raise errors.UserError(f"a sweep sets {field!r}: {config_lib.unknown_field(field)}")
      if not isinstance(value, bool | int | float | str):
        raise errors.UserError(f"a sweep sets {field} to {value!r}: numbers and text can be set")
    if (name := trial_name(own)) in found:
      raise errors.UserError(f"two trials of the sweep are the same: {name}")
    found[name] = own
  if not found:
    raise errors.UserError("the sweep has no trials")
  return found


def trial_name(overrides: dict[str, Any]) -> str:
  """field=value,field=value: safe as a folder's name, and another one for other overrides."""
  text = (
    ",".join(f"{config_lib.short(field)}={value}" for field, value in overrides.items()) or "only"
  )
  safe = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", text)
  if safe == text and len(safe) <= LONGEST and not text.startswith("."):
    return safe
  digest = hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:8]
  return f"{safe[: LONGEST - 9].strip('_.')}-{digest}"
