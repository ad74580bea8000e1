"""Runs side by side: which settings differ, which is best, and whether the losses compare at all.

A setting is what is the same in runs that differ in `seed` alone.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from charrnn import config as config_lib

DONE = "done"
LONGEST = 64  # characters of a label
SIZE = "parameters"  # in the place of units, where networks of a size have different ones
ALIKE = 1.05  # sizes up to so far apart are one
RUINED = ("diverged", "failed", "killed", "damaged")  # whose losses are no measure of a setting
# How a run is watched and kept: it decides neither numbers nor speed.
WATCHED = {"sample", "log_every", "checkpoint_every", "keep", "diverged"}
# Fields by which settings are not ordered: what the texts are is told apart.
_ASIDE = {"seed", "text"}


class Point(NamedTuple):
  """A line of metrics.jsonl; None for what it does not have."""

  step: int
  characters: float | None
  seconds: float | None
  flops: float | None
  train: float | None  # nats
  valid: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  name: str
  path: str
  state: str
  problems: tuple[str, ...] = ()
  fields: dict[str, Any] = dataclasses.field(default_factory=dict)  # of its config, by dotted name
  text: dict[str, Any] | None = None  # what has to be the same for losses to compare
  lines: Sequence[dict] = ()  # of metrics.jsonl
  parameters: int | None = None
  flops: float | None = None  # to train on one character

  @functools.cached_property
  def points(self) -> list[Point]:
    return list(self._points())

  def _points(self):
    chars, seconds, before = self._characters_a_step, 0.0, 0
    for line in self.lines:
      step, rate = line["step"], number(line.get("chars_per_second")) or self.rate
      if (told := number(line.get("seconds"))) is not None:
        seconds = told
      elif step > before:  # of a run from before they were written down
        seconds = (seconds or 0.0) + (step - before) * chars / rate if chars and rate else None
      before = step
      characters = step * chars if chars else None
      flops = characters * self.flops if characters and self.flops else None
      losses = (number(line.get(name)) for name in ("train/loss", "valid/loss"))
      yield Point(step, characters, seconds, flops, *losses)

  @property
  def _characters_a_step(self):
    if self.fields.get("model.cell") == "ngram":  # its steps are orders
      return None
    sizes = [number(self.fields.get(name)) for name in ("batch_size", "window")]
    return None if None in sizes else math.prod(sizes)

  @property
  def last(self) -> Point | None:
    return self.points[-1] if self.points else None

  @functools.cached_property
  def best(self) -> Point | None:
    """The first of the lowest validation loss."""
    evaluated = [point for point in self.points if point.valid is not None]
    return min(evaluated, key=lambda point: point.valid, default=None)

  @functools.cached_property
  def rate(self) -> float | None:
    """Characters a second, the median."""
    rates = [number(line.get("chars_per_second")) for line in self.lines]
    rates = [rate for rate in rates if rate is not None]
    return float(np.median(rates)) if rates else None

  @property
  def epochs(self) -> float | None:
    return number(self.lines[-1].get("epoch")) if self.lines else None

  @property
  def estimates_seconds(self) -> bool:
    told = self.last is not None and self.last.seconds is not None
    return told and any(number(line.get("seconds")) is None for line in self.lines)


class Setting(NamedTuple):
  values: dict[str, Any]  # of the fields that differ, but the seed
  text: int  # number of its text in `Comparison.texts`
  runs: list[Run]  # best first
  place: dict[str, Any]  # on the axes

  @property
  def losses(self) -> list[float]:
    """The best of each seed whose run is done."""
    done = [run for run in self.runs if run.state == DONE and run.best]
    return list({run.fields.get("seed"): run.best.valid for run in reversed(done)}.values())[::-1]

  @property
  def loss(self) -> float | None:
    """Their mean."""
    return float(np.mean(self.losses)) if self.losses else None

  @property
  def interval(self) -> tuple[float, float] | None:
    """95%, of the mean over seeds, by Student's t."""
    return interval(self.losses)

  @property
  def so_far(self) -> float | None:
    """The loss, or else the best that a run has come to which is not ruined."""
    known = [run.best.valid for run in self.runs if run.best and run.state not in RUINED]
    return min(known, default=None) if self.loss is None else self.loss

  @property
  def name(self) -> str:
    known = {field: value for field, value in self.values.items() if value is not None}
    told = [f"{config_lib.short(field)}={shown(value)}" for field, value in known.items()]
    seeds = len({run.fields.get("seed") for run in self.runs})
    return ", ".join(told) or (f"{seeds} seeds" if seeds > 1 else self.runs[0].name)

  @property
  def label(self) -> str:
    """The name, or that of its best run where this is shorter, with a hole if need be."""
    text = min(self.name, self.runs[0].name, key=len) if len(self.name) > LONGEST else self.name
    return cut(text, LONGEST)


class Axis(NamedTuple):
  """A field that settings differ in, and others whose values hang on its value."""

  field: str
  values: list
  followers: list[str]


class Comparison(NamedTuple):
  runs: list[Run]  # best first, text by text; those without a loss last
  fields: list[str]  # those that differ
  texts: list[dict[str, Any]]
  settings: list[Setting]  # best first, text by text
  axes: list[Axis]

  @property
  def compares(self) -> bool:
    """Whether all losses are of the same characters."""
    return len({self.text_of(run) for run in self.runs if run.best}) <= 1

  def text_of(self, run: Run) -> int:
    return _text_of(self.texts, run)


def number(value) -> float | None:
  """A finite number, or None for all else that a file may hold."""
  is_one = isinstance(value, int | float) and not isinstance(value, bool)
  return value if is_one and math.isfinite(value) else None


def cut(text: str, longest: int) -> str:
  """With a hole in the middle, if it is longer."""
  half = longest // 2
  return text if len(text) <= longest else f"{text[: half - 1]}\u2026{text[-half:]}"


def shown(value) -> str:
  return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
  """95%, of the mean; None of fewer than two."""
  if len(values) < 2:
    return None
  half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
  return float(np.mean(values) - half), float(np.mean(values) + half)


def compare(runs: Iterable[Run]) -> Comparison:
  runs, texts = list(runs), []
  for run in runs:
    if run.text is not None and run.text not in texts:
      texts.append(run.text)
  runs.sort(key=lambda run: (_text_of(texts, run), _rank(run), run.name))
  fields = differing([run.fields for run in runs])
  settings = _settings(runs, texts, fields)
  spanned = axes([each.place for each in settings])
  if not is_grid(spanned, settings):
    sized = _by_size(settings)
    by_size = axes([each.place for each in sized])
    if is_grid(by_size, sized):
      settings, spanned = sized, by_size
  return Comparison(runs, fields, texts, settings, spanned)


def _text_of(texts, run: Run) -> int:
  return texts.index(run.text) if run.text is not None else len(texts)


def _rank(run: Run) -> float:
  return math.inf if run.best is None else run.best.valid


def _is_in(names: set[str], name: str) -> bool:
  """Return whether a field, by its dotted name, or its section is among `names`."""
  return not names.isdisjoint({name, name.partition(".")[0]})


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
  """Fields of which two configs have different values; one that lacks a field differs from none."""
  values: dict[str, set] = {}
  for config in configs:
    for name, value in config.items():
      values.setdefault(name, set()).add(repr(value))
  return [name for name, found in values.items() if len(found) > 1 and not _is_in(WATCHED, name)]


def _settings(runs, texts, fields) -> list[Setting]:
  found: dict[str, Setting] = {}
  for run in runs:
    if run.fields:
      text = _text_of(texts, run)
      values = {name: run.fields.get(name) for name in fields if name != "seed"}
      found.setdefault(repr((text, values)), Setting(values, text, [], values)).runs.append(run)
  return sorted(found.values(), key=_order)


def is_grid(axes: Sequence[Axis], settings: Sequence[Setting]) -> bool:
  """Whether two or three fields span the settings and half of the places are taken."""
  places = math.prod(len(axis.values) for axis in axes)
  taken = {repr([each.place.get(axis.field) for axis in axes]) for each in settings}
  return len(axes) in (2, 3) and 2 * len(taken) >= places


def _by_size(settings: Sequence[Setting]) -> list[Setting]:
  """The settings with their sizes on the axes, instead of their units; none if one has no size."""
  known = [each.runs[0].parameters for each in settings]
  if None in known:
    return []
  of, found = sizes(known), []
  for setting, size in zip(settings, known):
    others = {name: value for name, value in setting.place.items() if name != "model.hidden"}
    found.append(setting._replace(place=others | {SIZE: float(f"{of[size]:.3g}")}))
  return found


def sizes(parameters: Iterable[int]) -> dict[int, int]:
  """The least of those that are about the same size, for each number of parameters."""
  least, found = 0, {}
  for each in sorted(parameters):
    least = each if each > ALIKE * least else least
    found[each] = least
  return found


def _order(setting: Setting):
  return setting.text, math.inf if setting.so_far is None else setting.so_far


def axes(settings: Sequence[dict[str, Any]]) -> list[Axis]:
  """The fields that span the settings, without those whose value another one's decides."""
  fields = [name for name in differing(settings) if not _is_in(_ASIDE, name)]
  fields = [name for name in fields if not config_lib.is_free(name)]
  columns = {name: [each.get(name) for each in settings] for name in fields}
  found: list[Axis] = []
  # Those of many values first: a field never hangs on one of fewer.
  for name in sorted(fields, key=lambda name: -len(set(map(repr, columns[name])))):
    leader = next((a for a in found if _decides(columns[a.field], columns[name])), None)
    if leader:
      leader.followers.append(name)
    else:
      found.append(Axis(name, ordered(columns[name]), []))
  return sorted(found, key=lambda axis: fields.index(axis.field))


def _decides(column, other) -> bool:
  """Whether no two settings have the same value here and different ones there."""
  pairs = {(repr(a), repr(b)) for a, b in zip(column, other)}
  return len(pairs) == len(set(map(repr, column)))


def ordered(values) -> list:
  """Each once; numbers by size and before names."""
  different = {repr(value): value for value in values}.values()
  numbers = sorted(value for value in different if number(value) is not None)
  return numbers + sorted((value for value in different if number(value) is None), key=str)
