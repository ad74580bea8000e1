"""Comparison of runs: fields that differ, settings over seeds, axes, and power laws of size.

A setting is a set of runs that differ only in `seed`. Run directories are never written, and they
may be read while a run is training. The power laws are

  L(N) = A (N / N_0)^-alpha          L(N) = E + A (N / N_0)^-alpha

where N is the number of parameters and N_0 the geometric mean of the sizes. The first law is from
Kaplan et al. 2020 (arXiv 2001.08361). The floor E is the loss of an infinitely large network
(Hoffmann et al. 2022, arXiv 2203.15556).
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
from charrnn.data import corpora, tokenizers
from charrnn.runs import run as run_lib
from charrnn.runs.status import RunStatus
from charrnn.sweeps import outcomes

DAMAGED = "damaged"  # status of a run whose config cannot be read
UNUSABLE = (*outcomes.UNUSABLE, DAMAGED)  # runs with these statuses have no usable loss
MAX_LABEL = 64  # maximum length of a label, in characters
SIZE = "parameters"  # replaces the axis of units if networks of equal size have different units
SAME_SIZE = 1.05  # maximum ratio of two sizes that count as the same
MIN_SIZES = 3  # minimum number of sizes for a power law; a law with a floor needs one more
# Fields that change neither losses nor speed.
UNCOMPARED = {"sample", "log_every", "checkpoint_every", "keep", "diverged"}
TOKENS = ("tokenizer", "vocab_size", "characters")  # what tokenizers change in the facts of a text
NO_AXES = {"seed", "text"}  # fields that are never axes; texts are compared by their digests


class Point(NamedTuple):
  """A line of metrics.jsonl; a value that the line does not contain is None."""

  step: int
  characters: float | None
  seconds: float | None
  flops: float | None
  train: float | None  # training loss, in the unit of the comparison
  valid: float | None  # validation loss, in the unit of the comparison
  nats: float | None = None  # validation loss in nats per token
  per_byte: float | None = None  # validation loss in bits per byte


@dataclasses.dataclass(frozen=True, eq=False)
class ComparedRun:
  """A run of a comparison, as read from its directory."""

  name: str
  path: str
  status: str  # a RunStatus, or DAMAGED
  problems: tuple[str, ...] = ()
  fields: dict[str, Any] = dataclasses.field(default_factory=dict)  # config fields by dotted name
  text: dict[str, Any] | None = None  # losses are comparable if this is equal; None: unknown
  lines: Sequence[dict] = ()  # lines of metrics.jsonl
  parameters: int | None = None
  flops: float | None = None  # training FLOPs per token
  characters_per_token: float = 1.0
  text_characters: int | None = None  # length of the corpus
  in_bits: bool = False  # whether `points` have losses in bits per byte, or in nats per token

  @functools.cached_property
  def points(self) -> list[Point]:
    factors = [number(self.fields.get(name)) for name in ("batch_size", "window")]
    tokens = math.prod(factors) if self.has_gradient and None not in factors else None
    points, seconds, previous = [], 0.0, 0
    for line in self.lines:
      step, rate = line["step"], number(line.get("chars_per_second")) or self.rate
      if (stored := number(line.get("seconds"))) is not None:
        seconds = stored
      elif step > previous:  # Older versions did not store seconds.
        seconds = (seconds or 0.0) + (step - previous) * tokens / rate if tokens and rate else None
      previous = step
      characters = step * tokens * self.characters_per_token if tokens else None
      flops = step * tokens * self.flops if tokens and self.flops else None
      names = ("train/loss", "valid/loss", "valid/bits_per_byte")
      train, nats, bits = (number(line.get(name)) for name in names)
      losses = (None, bits) if self.in_bits else (train, nats)
      points.append(Point(step, characters, seconds, flops, *losses, nats, bits))
    return points

  @property
  def curve(self) -> list[dict[str, float | None]]:
    """Return the evaluations: step, costs and losses, rounded.

    The training loss is the last one before the evaluation.
    """
    points, train = [], None
    for point in dataclasses.replace(self, in_bits=False).points:
      train = train if point.train is None else point.train
      if point.nats is not None:
        costs = {
          "characters": point.characters and round(point.characters),
          "seconds": point.seconds and round(point.seconds, 1),
        }
        losses = {"train_nats": train, "nats": point.nats, "bits_per_byte": point.per_byte}
        losses = {name: value and round(value, 5) for name, value in losses.items()}
        points.append({"step": point.step, **costs, **losses})
    return points

  @property
  def model(self) -> str | None:
    """Return a short description of the model, for example "lstm 2 x 128"."""
    names = ("model.cell", "model.layers", "model.hidden")
    cell, layers, hidden = (self.fields.get(name) for name in names)
    if cell is None:
      return None
    if self.has_gradient:
      return f"{cell} {layers} x {hidden}"
    return f"{self.best.step}-gram" if self.best else "n-gram"

  @property
  def has_gradient(self) -> bool:
    """Return whether steps are gradient updates; the steps of an n-gram are its orders."""
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
    """Return the median speed in tokens per second."""
    rates = (number(line.get("chars_per_second")) for line in self.lines)
    rates = [rate for rate in rates if rate is not None]
    return float(np.median(rates)) if rates else None

  @property
  def estimates_seconds(self) -> bool:
    """Return whether some seconds are estimated from the speed."""
    stored = [number(line.get("seconds")) for line in self.lines]
    return bool(self.last) and self.last.seconds is not None and None in stored


class Setting(NamedTuple):
  """Runs that differ only in their seed."""

  values: dict[str, Any]  # values of the fields that differ, except the seed
  text: int  # index of its text in `Comparison.texts`
  runs: list[ComparedRun]  # sorted by loss
  place: dict[str, Any]  # position on the axes: `values`, possibly with SIZE instead of units

  @property
  def losses(self) -> list[float]:
    """Return the best validation loss of each seed that has a finished run."""
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
    """Return `loss`, or the best loss of the usable runs if no run has finished."""
    losses = [run.best.valid for run in self.usable_runs]
    return min(losses, default=None) if self.loss is None else self.loss

  @property
  def usable_runs(self) -> list[ComparedRun]:
    return [run for run in self.runs if run.best and run.status not in UNUSABLE]

  @property
  def texts(self) -> dict[str, str]:
    """Return the values as text, by the short name of the field."""
    values = {config_lib.short(field): value for field, value in self.values.items()}
    return {name: value_text(value) for name, value in values.items() if value is not None}

  @property
  def name(self) -> str:
    pairs = [f"{name}={text}" for name, text in self.texts.items()]
    seeds = len({run.fields.get("seed") for run in self.runs})
    return ", ".join(pairs) or (f"{seeds} seeds" if seeds > 1 else self.runs[0].name)

  @property
  def label(self) -> str:
    """Return the name, or a shorter one if it is longer than MAX_LABEL characters.

    The shorter one is the name of the best run, or it has all values and, if some of these are
    shortened too, a digest.
    """
    for name in (self.name, self.runs[0].name):
      if len(name) <= MAX_LABEL:
        return name
    text = outcomes.abbreviate(self.texts, ", ", MAX_LABEL)
    if self.texts and all(f"={value}" in text for value in self.texts.values()):
      return text
    text = outcomes.abbreviate(self.texts, ", ", MAX_LABEL - 9)
    text = text or outcomes.shorten(self.name, MAX_LABEL - 9)
    return f"{text}-{outcomes.digest({'name': self.name})}"


class Axis(NamedTuple):
  """A config field that differs between the settings."""

  field: str
  values: list
  followers: list[str]  # fields whose values are determined by `field`


class Comparison(NamedTuple):
  """Runs and sweeps, grouped and sorted for tables and pictures."""

  runs: list[ComparedRun]  # grouped by text, then sorted by loss; runs without a loss come last
  fields: list[str]  # fields that differ
  texts: list[dict[str, Any]]
  settings: list[Setting]  # grouped by text, then sorted by loss
  axes: list[Axis]

  @property
  def unit(self) -> str:
    """Return what a token of all runs is called."""
    kinds = {str(run.fields.get("text.tokenizer", "char")) for run in self.runs if run.fields}
    return tokenizers.unit(kinds.pop() if len(kinds) == 1 else "")

  @property
  def in_bits(self) -> bool:
    """Return whether losses are in bits per byte."""
    return any(run.in_bits for run in self.runs)

  @property
  def loss_unit(self) -> str:
    """Return the unit of the losses that are compared."""
    return "bits per byte" if self.in_bits else f"nats per {self.unit}"

  @property
  def compares(self) -> bool:
    """Return whether all losses are comparable: measured on the same characters."""
    return len({text_of(self.texts, run) for run in self.runs if run.best}) <= 1


def number(value) -> float | None:
  """Return `value` if it is a finite number, else None; a file may contain anything."""
  return value if type(value) in (int, float) and math.isfinite(value) else None


def value_text(value) -> str:
  """Format the value of a field."""
  return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
  """Return the 95% confidence interval of the mean (Student's t), or None for a single value."""
  n = len(values)
  return _interval(np.mean(values), stats.sem(values), n - 1) if n > 1 else None


def _interval(estimate, standard_error, freedom: int) -> tuple[float, float]:
  half = stats.t.ppf(0.975, freedom) * standard_error
  return float(estimate - half), float(estimate + half)


def compare(runs: Iterable[ComparedRun]) -> Comparison:
  """Sort runs, group them into settings, and return them with the axes that span the settings.

  Losses of runs with different tokenizers are compared in bits per byte.
  """
  runs, texts = _comparable(list(runs)), []
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


def _comparable(runs: list[ComparedRun]) -> list[ComparedRun]:
  """Return the runs, with losses in bits per byte if their tokenizers differ."""
  known = [run.text for run in runs if run.text is not None]
  if len({repr([text.get(name) for name in TOKENS]) for text in known}) <= 1:
    return runs
  texts = [run.text and {k: v for k, v in run.text.items() if k not in TOKENS} for run in runs]
  return [dataclasses.replace(run, text=text, in_bits=True) for run, text in zip(runs, texts)]


def text_of(texts: list[dict[str, Any]], run: ComparedRun) -> int:
  """Return the index of a run's text in `texts`, or len(texts) if its text is unknown."""
  return len(texts) if run.text is None else texts.index(run.text)


def _is_in(names: set[str], field: str) -> bool:
  """Return whether the names contain a field or its section."""
  return not names.isdisjoint({field, field.partition(".")[0]})


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
  """Return the fields that have different values in two configs; a missing field does not count."""
  values: dict[str, set] = {}
  for config in configs:
    for name, value in config.items():
      values.setdefault(name, set()).add(repr(value))
  return [name for name in values if len(values[name]) > 1 and not _is_in(UNCOMPARED, name)]


def is_grid(axes: Sequence[Axis], settings: Sequence[Setting]) -> bool:
  """Return whether there are two or three axes and the settings fill at least half of the grid."""
  places = math.prod(len(axis.values) for axis in axes)
  positions = {repr([setting.place.get(axis.field) for axis in axes]) for setting in settings}
  return len(axes) in (2, 3) and 2 * len(positions) >= places


def _place_by_size(settings: Sequence[Setting]) -> list[Setting]:
  """Return the settings with SIZE instead of units as a field; [] if a size is unknown."""
  sizes = [setting.runs[0].parameters for setting in settings]
  if None in sizes:
    return []
  groups, placed = size_groups(sizes), []
  for setting, size in zip(settings, sizes):
    others = {name: value for name, value in setting.place.items() if name != "model.hidden"}
    placed.append(setting._replace(place=others | {SIZE: float(f"{groups[size]:.3g}")}))
  return placed


def size_groups(parameters: Iterable[int]) -> dict[int, int]:
  """Map each number of parameters to the smallest one that counts as the same size."""
  least, groups = 0, {}
  for size in sorted(parameters):
    least = size if size > SAME_SIZE * least else least
    groups[size] = least
  return groups


def find_axes(settings: Sequence[dict[str, Any]]) -> list[Axis]:
  """Return the fields that differ, without fields whose values another field determines."""
  names = [name for name in differing(settings) if not _is_in(NO_AXES, name)]
  fields = [name for name in names if not config_lib.is_free(name)]
  columns = {name: [repr(setting.get(name)) for setting in settings] for name in fields}
  axes: list[Axis] = []
  # Fields with many values come first: a field is never determined by one with fewer values.
  for name in sorted(fields, key=lambda name: -len(set(columns[name]))):
    for axis in axes:  # Check whether the axis determines the field.
      leader = columns[axis.field]
      if len(set(zip(leader, columns[name]))) == len(set(leader)):
        axis.followers.append(name)
        break
    else:
      axes.append(Axis(name, ordered(setting.get(name) for setting in settings), []))
  return sorted(axes, key=lambda axis: fields.index(axis.field))


def ordered(values: Iterable) -> list:
  """Return the distinct values: numbers in ascending order, then all others by name."""
  different = {repr(value): value for value in values}.values()
  return sorted(different, key=lambda each: (1, str(each)) if number(each) is None else (0, each))


def losses_by_size(result: Comparison) -> dict[str, dict[int, float]]:
  """Return the best loss of finished settings for each cell and size: cell -> size -> loss."""
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
  """Fit power laws without and with a floor to the losses by size; return their parameters.

  The list is empty if there are too few sizes.
  """
  laws = [_fit(curve, floor) for floor in (False, True) if len(curve) >= MIN_SIZES + floor]
  return [law for law in laws if law]


def law_loss(law: dict[str, Any], sizes: np.ndarray) -> np.ndarray:
  """Return the losses that a power law predicts for the sizes."""
  return _law(sizes / law["middle"], law["factor"], law["exponent"], law["floor"])


def _law(x, factor, exponent, floor=0.0):
  return floor + factor * x**-exponent


def _fit(curve: dict[int, float], floor: bool) -> dict[str, Any] | None:
  """Fit a power law by least squares of the losses; return None if the fit fails."""
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
      warnings.simplefilter("ignore", optimize.OptimizeWarning)  # The covariance is unknown.
      fitted, covariance = optimize.curve_fit(_law, sizes / middle, losses, start, bounds=bounds)
  except RuntimeError:
    return None
  if floor and fitted[2] < 1e-3 * losses.min():  # The law without a floor is the same.
    return None
  law = {"factor": float(fitted[0]), "middle": middle, "exponent": float(fitted[1])}
  law |= {"floor": float(fitted[2]) if floor else 0.0, "sizes": len(sizes)}
  freedom, variance = len(sizes) - len(fitted), covariance[1, 1]
  has_interval = freedom and np.isfinite(variance)
  law["interval"] = _interval(fitted[1], variance**0.5, freedom) if has_interval else None
  total = ((losses - losses.mean()) ** 2).sum()
  residual = ((losses - law_loss(law, sizes)) ** 2).sum()
  return law | {"r2": float(1 - residual / total) if total else None}


def find_runs(targets: Sequence[str]) -> list[pathlib.Path]:
  """Return the folders of all runs and waiting trials in run directories, sweeps and folders."""
  paths: dict[pathlib.Path, None] = {}
  for target in map(pathlib.Path, targets):
    if not (inside := list(_runs_in(target))):
      if not (target / "sweep.json").exists():
        run_lib.check_directory(target)
      raise errors.UserError(f"{target} contains no runs: use a run directory or a sweep")
    paths |= dict.fromkeys(path.resolve() for path in inside)
  return list(paths)


def _runs_in(target: pathlib.Path) -> Iterator[pathlib.Path]:
  for folder, folders, names in os.walk(target):
    path = pathlib.Path(folder)
    if "config.json" in names:
      folders.clear()
      # A rerun repeats another run, so it is compared only if it is a target itself.
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
  """Read runs, which may be damaged. Their names are their paths relative to a common folder."""
  common = os.path.commonpath([path.parent for path in paths])
  return [_read(path, os.path.relpath(path, common)) for path in paths]


def _read(path: pathlib.Path, name: str) -> ComparedRun:
  run, problems = run_lib.Run(path), []

  def attempt(read, default=None):
    try:
      return read()
    except OSError as error:
      problems.append(f"cannot read {error.filename}: {error.strerror}: {errors.CHECK_PATH}")
    except errors.UserError as error:
      problems.append(str(error))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
      problems.append(f"{path / 'config.json'} is damaged: {type(error).__name__}: {error}")
    return default

  if not (path / "config.json").exists():
    status = run.status
    if status not in (RunStatus.WAITING, RunStatus.RUNNING):
      problems.append(f"it has no config.json: look for the reason in {path / 'log.txt'}")
    return ComparedRun(name, str(path), status, tuple(problems))
  config, lines = attempt(lambda: run.config), attempt(lambda: run.metrics, [])
  if config is None:
    return ComparedRun(name, str(path), DAMAGED, tuple(problems), lines=lines)
  fields = attempt(lambda: _fields(run), {})
  cost = attempt(lambda: _cost(run), (None, None, 1.0, None))
  status, text = attempt(lambda: run.status, RunStatus.STOPPED), attempt(lambda: _text(run))
  return ComparedRun(name, str(path), status, tuple(problems), fields, text, lines, *cost)


def _fields(run: run_lib.Run) -> dict[str, Any]:
  """Return the config fields that the model uses, by dotted name."""
  used, fields = config_lib.used_fields(run.config), config_lib.to_json(run.config)
  pairs = config_lib.flatten(fields).items()
  return {name: value for name, value in pairs if value is not None and name in used}


def _text(run: run_lib.Run) -> dict[str, Any]:
  """Return the digest and split of a run's text: losses are comparable if these are equal."""
  fields = {name: value for name, value in run.config.text.to_dict().items() if name != "source"}
  if run.config.text.split == "streams":
    fields |= {"batch_size": run.config.batch_size, "window": run.config.window}
  fields = {name: value for name, value in fields.items() if value is not None}
  return {name: run.provenance[name] for name in ("sha256", "characters")} | fields


def _cost(run: run_lib.Run) -> tuple[int | None, float | None, float, int]:
  """Return the number of parameters and the training FLOPs per token; None if unknown.

  The other numbers are those of characters per token and of characters in the corpus.
  """
  characters = run.provenance["characters"]
  lengths = characters / corpora.layout(run.provenance)[0], characters
  if not models.has_gradient(run.config.model):
    return None, None, *lengths
  size = models.size(run.tokenizer.vocab_size, run.config.model)
  return size.parameters, 6.0 * size.products, *lengths
