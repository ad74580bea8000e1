"""Comparison of runs: fields that differ, settings over seeds, axes, and power laws of size.

A setting is the set of runs that differ in `seed` alone. Run directories are only read, also while
they are written. The power laws are

  L(N) = A (N / N_0)^-alpha          L(N) = E + A (N / N_0)^-alpha

with N parameters and N_0 their geometric mean (Kaplan et al. 2020, arXiv 2001.08361; with the loss
E that no size falls below, Hoffmann et al. 2022, arXiv 2203.15556).
"""

import dataclasses
import functools
import math
import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, stats

from charrnn import config as config_lib
from charrnn import errors, files, models
from charrnn.runs import run as run_lib
from charrnn.runs.status import RunStatus
from charrnn.sweeps import outcomes

DAMAGED = "damaged"  # status of a run whose config cannot be read
UNUSABLE = (*outcomes.UNUSABLE, DAMAGED)  # their losses are not compared
MAX_LABEL = 64  # characters
SIZE = "parameters"  # an axis that replaces units, if networks of one size have different units
SAME_SIZE = 1.05  # largest ratio of sizes that count as one
MIN_SIZES = 3  # for a power law; one more for a law with a floor
# Fields that change neither losses nor speed.
UNCOMPARED = {"sample", "log_every", "checkpoint_every", "keep", "diverged"}
NO_AXES = {"seed", "text"}  # texts are distinguished in other ways


class Point(NamedTuple):
  """A line of metrics.jsonl; None for values that it does not have."""

  step: int
  characters: float | None
  seconds: float | None
  flops: float | None
  train: float | None  # nats
  valid: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class ComparedRun:
  name: str
  path: str
  status: str  # a RunStatus, or DAMAGED
  problems: tuple[str, ...] = ()
  fields: dict[str, Any] = dataclasses.field(default_factory=dict)  # of its config, by dotted name
  text: dict[str, Any] | None = None  # what has to be the same for losses to compare
  lines: Sequence[dict] = ()  # of metrics.jsonl
  parameters: int | None = None
  flops: float | None = None  # to train on one character

  @functools.cached_property
  def points(self) -> list[Point]:
    factors = [number(self.fields.get(name)) for name in ("batch_size", "window")]
    chars = math.prod(factors) if self.has_gradient and None not in factors else None
    points, seconds, previous = [], 0.0, 0
    for line in self.lines:
      step, rate = line["step"], number(line.get("chars_per_second")) or self.rate
      if (stored := number(line.get("seconds"))) is not None:
        seconds = stored
      elif step > previous:  # older versions did not store seconds
        seconds = (seconds or 0.0) + (step - previous) * chars / rate if chars and rate else None
      previous = step
      characters = step * chars if chars else None
      flops = characters * self.flops if characters and self.flops else None
      losses = (number(line.get(name)) for name in ("train/loss", "valid/loss"))
      points.append(Point(step, characters, seconds, flops, *losses))
    return points

  @property
  def has_gradient(self) -> bool:
    """Return whether steps are updates; those of an n-gram are orders."""
    return models.has_gradient({"cell": self.fields.get("model.cell")})

  @property
  def last(self) -> Point | None:
    return self.points[-1] if self.points else None

  @functools.cached_property
  def best(self) -> Point | None:
    """Return the first point with the lowest validation loss."""
    evaluated = [point for point in self.points if point.valid is not None]
    return min(evaluated, key=lambda point: point.valid, default=None)

  @functools.cached_property
  def rate(self) -> float | None:
    """Return the median of characters a second."""
    rates = (number(line.get("chars_per_second")) for line in self.lines)
    rates = [rate for rate in rates if rate is not None]
    return float(np.median(rates)) if rates else None

  @property
  def estimates_seconds(self) -> bool:
    """Return whether seconds are estimated from characters a second."""
    stored = [number(line.get("seconds")) for line in self.lines]
    return bool(self.last) and self.last.seconds is not None and None in stored


class Setting(NamedTuple):
  values: dict[str, Any]  # of the fields that differ, except the seed
  text: int  # number of its text in `Comparison.texts`
  runs: list[ComparedRun]  # best first
  place: dict[str, Any]  # on the axes

  @property
  def losses(self) -> list[float]:
    """Return the best loss of each seed that has a finished run."""
    finished = [run for run in self.runs if run.status == RunStatus.FINISHED and run.best]
    by_seed = {run.fields.get("seed"): run.best.valid for run in reversed(finished)}
    return list(by_seed.values())[::-1]

  @property
  def loss(self) -> float | None:
    """Return the mean of `losses`."""
    return float(np.mean(self.losses)) if self.losses else None

  @property
  def interval(self) -> tuple[float, float] | None:
    return interval(self.losses)

  @property
  def so_far(self) -> float | None:
    """Return the loss, or the best loss of a usable run if none has finished."""
    losses = [run.best.valid for run in self.usable_runs]
    return min(losses, default=None) if self.loss is None else self.loss

  @property
  def usable_runs(self) -> list[ComparedRun]:
    return [run for run in self.runs if run.best and run.status not in UNUSABLE]

  @property
  def name(self) -> str:
    values = {config_lib.short(field): value for field, value in self.values.items()}
    pairs = [f"{name}={value_text(value)}" for name, value in values.items() if value is not None]
    seeds = len({run.fields.get("seed") for run in self.runs})
    return ", ".join(pairs) or (f"{seeds} seeds" if seeds > 1 else self.runs[0].name)

  @property
  def label(self) -> str:
    """Return a name of at most MAX_LABEL characters; that of the best run if it is shorter."""
    names = (self.name, self.runs[0].name)
    return shorten(names[0] if len(names[0]) <= MAX_LABEL else min(names, key=len), MAX_LABEL)


class Axis(NamedTuple):
  field: str  # one that settings differ in
  values: list
  followers: list[str]  # fields that it determines


class Comparison(NamedTuple):
  runs: list[ComparedRun]  # best first, text by text; those without a loss last
  fields: list[str]  # those that differ
  texts: list[dict[str, Any]]
  settings: list[Setting]  # best first, text by text
  axes: list[Axis]

  @property
  def compares(self) -> bool:
    """Return whether all losses are on the same characters."""
    return len({text_of(self.texts, run) for run in self.runs if run.best}) <= 1


def number(value) -> float | None:
  """Return a finite number, or None for anything else that a file may contain."""
  return value if type(value) in (int, float) and math.isfinite(value) else None


def shorten(text: str, longest: int) -> str:
  """Return the text with an ellipsis in the middle if it is too long."""
  half = longest // 2
  return text if len(text) <= longest else f"{text[: half - 1]}\u2026{text[-half:]}"


def value_text(value) -> str:
  """Format the value of a field."""
  return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
  """Return the 95% interval of the mean by Student's t; None for fewer than two values."""
  n = len(values)
  return _interval(np.mean(values), stats.sem(values), n - 1) if n > 1 else None


def _interval(estimate, standard_error, freedom: int) -> tuple[float, float]:
  half = stats.t.ppf(0.975, freedom) * standard_error
  return float(estimate - half), float(estimate + half)


def compare(runs: Iterable[ComparedRun]) -> Comparison:
  """Sort runs, group them into settings, and find the axes that span the settings."""
  runs, texts = list(runs), []
  for run in runs:
    if run.text is not None and run.text not in texts:
      texts.append(run.text)
  runs.sort(
    key=lambda run: (text_of(texts, run), not run.best, run.best and run.best.valid, run.name)
  )
  fields = differing([run.fields for run in runs])
  by_values: dict[str, Setting] = {}
  for run in (run for run in runs if run.fields):
    values = {name: run.fields.get(name) for name in fields if name != "seed"}
    setting = Setting(values, text_of(texts, run), [], values)
    by_values.setdefault(repr((setting.text, values)), setting).runs.append(run)
  settings = list(by_values.values())
  settings.sort(key=lambda each: (each.text, each.so_far is None, each.so_far))
  axes = find_axes([setting.place for setting in settings])
  if not is_grid(axes, settings):
    sized = _place_by_size(settings)
    by_size = find_axes([setting.place for setting in sized])
    if is_grid(by_size, sized):
      settings, axes = sized, by_size
  return Comparison(runs, fields, texts, settings, axes)


def text_of(texts: list[dict[str, Any]], run: ComparedRun) -> int:
  """Return the number of a run's text; that of an unknown text comes after all others."""
  return len(texts) if run.text is None else texts.index(run.text)


def _is_in(names: set[str], field: str) -> bool:  # by itself or by its section
  return not names.isdisjoint({field, field.partition(".")[0]})


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
  """Return the fields of which two configs have different values; absence is no difference."""
  values: dict[str, set] = {}
  for config in configs:
    for name, value in config.items():
      values.setdefault(name, set()).add(repr(value))
  return [name for name in values if len(values[name]) > 1 and not _is_in(UNCOMPARED, name)]


def is_grid(axes: Sequence[Axis], settings: Sequence[Setting]) -> bool:
  """Return whether two or three fields span the settings and half of their places are taken."""
  places = math.prod(len(axis.values) for axis in axes)
  taken = {repr([setting.place.get(axis.field) for axis in axes]) for setting in settings}
  return len(axes) in (2, 3) and 2 * len(taken) >= places


def _place_by_size(settings: Sequence[Setting]) -> list[Setting]:
  """Return the settings with sizes on the axes instead of units; none if one has no size."""
  sizes = [setting.runs[0].parameters for setting in settings]
  if None in sizes:
    return []
  groups, placed = size_groups(sizes), []
  for setting, size in zip(settings, sizes):
    others = {name: value for name, value in setting.place.items() if name != "model.hidden"}
    placed.append(setting._replace(place=others | {SIZE: float(f"{groups[size]:.3g}")}))
  return placed


def size_groups(parameters: Iterable[int]) -> dict[int, int]:
  """Map each number of parameters to the least one of about the same size."""
  least, groups = 0, {}
  for size in sorted(parameters):
    least = size if size > SAME_SIZE * least else least
    groups[size] = least
  return groups


def find_axes(settings: Sequence[dict[str, Any]]) -> list[Axis]:
  """Return the fields that span the settings, without those that another field determines."""
  names = [name for name in differing(settings) if not _is_in(NO_AXES, name)]
  fields = [name for name in names if not config_lib.is_free(name)]
  columns = {name: [repr(setting.get(name)) for setting in settings] for name in fields}
  axes: list[Axis] = []
  # Those of many values first: a field never depends on one of fewer values.
  for name in sorted(fields, key=lambda name: -len(set(columns[name]))):
    for axis in axes:  # does its value determine that of the field?
      leader = columns[axis.field]
      if len(set(zip(leader, columns[name]))) == len(set(leader)):
        axis.followers.append(name)
        break
    else:
      axes.append(Axis(name, ordered(setting.get(name) for setting in settings), []))
  return sorted(axes, key=lambda axis: fields.index(axis.field))


def ordered(values: Iterable) -> list:
  """Return the different values: numbers by size, then names."""
  different = {repr(value): value for value in values}.values()
  return sorted(different, key=lambda each: (1, str(each)) if number(each) is None else (0, each))


def losses_by_size(result: Comparison) -> dict[str, dict[int, float]]:
  """Return, for each cell, the best loss of finished settings at each size."""
  points: dict[str, list[tuple[float, int]]] = {}
  for setting in result.settings if result.compares else ():
    run = setting.runs[0]
    if setting.loss and setting.loss > 0 and run.parameters:
      own = points.setdefault(str(run.fields["model.cell"]), [])
      own.append((setting.loss, run.parameters))
  curves = {}
  for cell, own in sorted(points.items()):
    groups, best = size_groups(size for _, size in own), {}
    for loss, size in sorted(own):
      best.setdefault(groups[size], (size, loss))
    curves[cell] = dict(sorted(best.values()))
  return curves


def power_laws(curve: dict[int, float]) -> list[dict[str, Any]]:
  """Return the power laws through the losses of sizes, as plain data; none for too few sizes."""
  laws = [_fit(curve, floor) for floor in (False, True) if len(curve) >= MIN_SIZES + floor]
  return [law for law in laws if law]


def law_loss(law: dict[str, Any], sizes: np.ndarray) -> np.ndarray:
  """Return the losses that a power law predicts for sizes."""
  return _law(sizes / law["middle"], law["factor"], law["exponent"], law["floor"])


def _law(x, factor, exponent, floor=0.0):
  return floor + factor * x**-exponent


def _fit(curve: dict[int, float], floor: bool) -> dict[str, Any] | None:
  """Fit a power law by least squares of the losses; None if there is no such law."""
  sizes, losses = np.array(list(curve), float), np.array(list(curve.values()), float)
  middle = float(np.exp(np.log(sizes).mean()))
  line = stats.linregress(np.log(sizes / middle), np.log(losses))
  start, bounds = [np.exp(line.intercept), -line.slope], [(0, -np.inf), (np.inf, np.inf)]
  if floor:
    if line.slope >= 0:
      return None
    lowest = losses.min()
    start = [losses.mean() - 0.9 * lowest, -line.slope, 0.9 * lowest]
    bounds = [(0, 0, 0), (np.inf, np.inf, lowest)]
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", optimize.OptimizeWarning)  # no covariance: no interval
      fitted, covariance = optimize.curve_fit(_law, sizes / middle, losses, start, bounds=bounds)
  except RuntimeError:
    return None
  if floor and fitted[2] < 1e-3 * losses.min():  # the same as the law without a floor
    return None
  law = {"factor": float(fitted[0]), "middle": middle, "exponent": float(fitted[1])}
  law |= {"floor": float(fitted[2]) if floor else 0.0, "sizes": len(sizes)}
  freedom, variance = len(sizes) - len(fitted), covariance[1, 1]
  known = freedom and np.isfinite(variance)
  law["interval"] = _interval(fitted[1], variance**0.5, freedom) if known else None
  total = ((losses - losses.mean()) ** 2).sum()
  residual = ((losses - law_loss(law, sizes)) ** 2).sum()
  return law | {"r2": float(1 - residual / total) if total else None}


def find_runs(targets: Sequence[str]) -> list[pathlib.Path]:
  """Return the folders of all runs in run directories and sweeps, and of trials still to come."""
  paths: dict[pathlib.Path, None] = {}
  for target in map(pathlib.Path, targets):
    if not (inside := list(_runs_in(target))):
      if not (target / "sweep.json").exists():
        run_lib.check_directory(target)
      raise errors.UserError(f"{target} has no runs that can be read")
    paths |= dict.fromkeys(path.resolve() for path in inside)
  return list(paths)


def _runs_in(target: pathlib.Path) -> Iterator[pathlib.Path]:
  for folder, folders, names in os.walk(target):
    path = pathlib.Path(folder)
    if "config.json" in names:
      folders.clear()
      # What `charrnn rerun` made repeats another run.
      if path == target or "rerun_of" not in _read_json(path / "run.json"):
        yield path
      continue
    folders.sort()
    trials = _read_json(path / "sweep.json").get("trials")
    for name in trials if isinstance(trials, dict) else ():
      if pathlib.Path(name).name == name and not (path / name / "config.json").exists():
        yield path / name


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return files.read_json(path)
  except errors.UserError:
    return {}


def read_runs(paths: Sequence[pathlib.Path]) -> list[ComparedRun]:
  """Read runs, which may be damaged; they are named by their paths below the common folder."""
  common = os.path.commonpath([path.parent for path in paths])
  return [_read(path, os.path.relpath(path, common)) for path in paths]


def _read(path: pathlib.Path, name: str) -> ComparedRun:
  run, problems = run_lib.Run(path), []

  def attempt(read, default=None):
    try:
      return read()
    except OSError as error:
      problems.append(f"cannot read {error.filename}: {error.strerror}")
    except errors.UserError as error:
      problems.append(str(error))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
      problems.append(f"{path / 'config.json'} is damaged: {type(error).__name__}: {error}")
    return default

  if not (path / "config.json").exists():
    status = run.status
    if status not in (RunStatus.WAITING, RunStatus.RUNNING):
      problems.append(f"it has no config.json: {path / 'log.txt'} may have the reason")
    return ComparedRun(name, str(path), status, tuple(problems))
  config, lines = attempt(lambda: run.config), attempt(lambda: run.metrics, [])
  if config is None:
    return ComparedRun(name, str(path), DAMAGED, tuple(problems), lines=lines)
  fields, cost = attempt(lambda: _fields(run), {}), attempt(lambda: _cost(run), (None, None))
  status, text = attempt(lambda: run.status, RunStatus.STOPPED), attempt(lambda: _text(run))
  return ComparedRun(name, str(path), status, tuple(problems), fields, text, lines, *cost)


def _fields(run: run_lib.Run) -> dict[str, Any]:
  """Return the fields that the model uses."""
  used, fields = config_lib.used_fields(run.config), config_lib.to_json(run.config)
  pairs = config_lib.flatten(fields).items()
  return {name: value for name, value in pairs if value is not None and name in used}


def _text(run: run_lib.Run) -> dict[str, Any]:
  """Return what has to be the same for losses to compare; a text counts by its digest."""
  fields = {name: value for name, value in run.config.text.to_dict().items() if name != "source"}
  if run.config.text.split == "streams":
    fields |= {"batch_size": run.config.batch_size, "window": run.config.window}
  return {name: run.provenance[name] for name in ("sha256", "characters")} | fields


def _cost(run: run_lib.Run) -> tuple[int | None, float | None]:
  """Return the parameters and the operations to train on a character, if they are known."""
  m = run.config.model
  if not models.has_gradient(m):
    return None, None
  shape = run.tokenizer.vocab_size, m.cell, m.layers, m.hidden, m.embed
  return models.parameter_count(*shape), 6.0 * models.matmul_parameters(*shape)
