"""A table and a picture of runs beside reference runs, which show which losses to expect.

Both kinds of runs are read from a compare.json, which `charrnn compare` writes. charrnn's reference
runs are those of experiments/reference.py; their compare.json is stored as reference.json.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import ticker

from charrnn import console, errors, files, plotting
from charrnn.runs.status import RunStatus
from charrnn.sweeps import comparison, outcomes

FILE = pathlib.Path(__file__).with_name("reference.json")
REMEDY = "use the compare.json that charrnn compare writes"
_NUMBER = int | float | None
_NUMBERS = ("text_characters", "parameters", "seconds", "bits_per_byte")
# The types in a compare.json that this module relies on.
_RUN = {
  "run": str,
  "status": str,
  "curve": list,
  **dict.fromkeys(("source", "model"), str | None),
  **dict.fromkeys(_NUMBERS, _NUMBER),
}
_POINT = dict.fromkeys(("characters", "seconds", "train_nats", "nats", "bits_per_byte"), _NUMBER)
MAX_RUNS = len(plotting.MORE_COLORS)  # maximum number of the user's runs that are shown
MAX_PANELS = 12
COLUMNS = 3
GAP = 0.045  # minimum distance of two labels, relative to the height of a panel
MAX_LABELS = int(1 / GAP)  # maximum number of labels of a panel
MAX_LABEL = 24  # maximum length of the name of a text, in characters
MAX_NAME = 40  # maximum length of the name of a run, in characters
MIN_WIDTH = 8.0  # width of the longest line of the legend, in inches
MAX_RATIO = 500  # maximum ratio of the limits of the x axis for which it has ticks between powers
LEADER = {
  "arrowstyle": "-",
  "ls": ":",
  "lw": 0.6,
  "color": plotting.EDGE,
  "shrinkA": 0,
  "shrinkB": 0,
}
LIGHT, DARK = 0.75, 0.45  # grays of the runs with the least and the most text


class Curve(NamedTuple):
  """A run of compare.json with a loss in bits per byte."""

  run: str
  status: str
  source: str  # name of the text
  model: str
  text_characters: int
  parameters: int | None  # None: an n-gram
  seconds: float | None
  bits_per_byte: float  # lowest validation loss
  points: list[dict[str, float | None]]  # the evaluations

  @property
  def line(self) -> np.ndarray:
    """Return the points (characters read, bits per byte) of the validation loss."""
    points = [(point["characters"], point["bits_per_byte"]) for point in self.points]
    return np.array([point for point in points if None not in point], float).reshape(-1, 2)

  @property
  def label(self) -> str:
    return f"{amount(self.text_characters)}, {self.model}"


def curves(value: dict[str, Any]) -> list[Curve]:
  """Return the runs of a compare.json that have all facts, the best first.

  Raises ValueError if it is not a compare.json.
  """
  runs, result = value.get("runs"), []
  if not isinstance(runs, list) or not all(files.has_types(run, _RUN) for run in runs):
    raise ValueError("has no runs with curves")
  for run in runs:
    if not all(files.has_types(point, _POINT) for point in run["curve"]):
      raise ValueError(f"the curve of {run['run']} is damaged")
    numbers = {name: _positive(run[name]) for name in _NUMBERS}
    points = [{name: _positive(point[name]) for name in _POINT} for point in run["curve"]]
    names = {name: run[name] for name in ("run", "status", "source", "model")}
    known = (run["source"], run["model"], numbers["text_characters"], numbers["bits_per_byte"])
    if None not in known and run["status"] not in comparison.UNUSABLE:
      result.append(Curve(**names, **numbers, points=points))
  return sorted(result, key=lambda curve: curve.bits_per_byte)


def _positive(value) -> float | None:
  return value if (comparison.number(value) or 0) > 0 else None


def read(path: pathlib.Path) -> list[Curve]:
  """Return the finished runs of a compare.json; raise UserError if it cannot be used."""
  if path == FILE and not path.exists():
    raise errors.UserError(
      "--reference: this version of charrnn has no reference runs: name a file, for example "
      "--reference=SWEEP/compare/compare.json"
    )
  if not path.exists():
    raise errors.UserError(f"--reference={path}: there is no such file: {REMEDY}")
  try:
    runs = curves(files.read_json(path))
  except ValueError as error:
    raise errors.UserError(f"--reference={path}: {error}: {REMEDY}") from None
  if not (finished := [curve for curve in runs if curve.status == RunStatus.FINISHED]):
    raise errors.UserError(f"--reference={path}: no run has finished: {REMEDY}")
  return finished


def sources(references: Sequence[Curve]) -> list[str]:
  """Return the names of the texts."""
  return list(dict.fromkeys(curve.source for curve in references))


def closest(curve: Curve, references: Sequence[Curve]) -> list[Curve]:
  """Return the reference run on each text with the most similar amount of text and size.

  The differences of their logarithms are added. An n-gram is compared with n-grams.
  """
  same_kind = [each for each in references if bool(each.parameters) == bool(curve.parameters)]
  result = [
    min(
      (each for each in same_kind if each.source == source),
      key=lambda each: _distance(each, curve),
    )
    for source in sources(same_kind)
  ]
  return sorted(result, key=lambda each: each.bits_per_byte)


def _distance(a: Curve, b: Curve) -> float:
  sizes = (a.text_characters / b.text_characters, (a.parameters or 1) / (b.parameters or 1))
  return sum(abs(math.log(ratio)) for ratio in sizes)


def ngram(curve: Curve, references: Sequence[Curve]) -> Curve | None:
  """Return the n-gram on the text of a reference run with the most similar amount of text."""
  grams = [each for each in references if not each.parameters and each.source == curve.source]
  return min(
    grams, key=lambda each: abs(each.text_characters - curve.text_characters), default=None
  )


def table(own: Sequence[Curve], references: Sequence[Curve]) -> list[str]:
  """Return the lines of a table: each run, followed by the closest reference runs."""
  header = ("run", "text", "model", "characters", "parameters", "bits/byte", "n-gram")
  rows = []
  for curve in own[:MAX_RUNS]:
    rows.append((curve.run, *_cells(curve), ""))
    for each in closest(curve, references):
      gram = ngram(each, references) if each.parameters else None
      rows.append(("", *_cells(each), outcomes.loss_text(gram.bits_per_byte) if gram else ""))
  if not rows:
    return [
      "No run has a loss in bits per byte, so there is nothing to compare with the references."
    ]
  lines = [
    "Each run, and the closest reference run on each text, by amount of text and parameters:",
    "",
    *console.table(header, rows, names=3),
    "",
    "n-gram: bits per byte of the best n-gram on the same text as the reference run.",
  ]
  return lines + ([f"Only the best {MAX_RUNS} runs are shown."] if len(own) > MAX_RUNS else [])


def _cells(curve: Curve) -> tuple[str, ...]:
  numbers = (f"{curve.text_characters:,}", console.number(curve.parameters, ",d"))
  name = outcomes.shorten(curve.source, MAX_LABEL)
  return name, curve.model, *numbers, outcomes.loss_text(curve.bits_per_byte)


def plot(own: Sequence[Curve], references: Sequence[Curve], path):
  """Plot validation losses over the characters read, with a panel for each reference text."""
  names, own = sources(references)[:MAX_PANELS], own[:MAX_RUNS]
  title = "Validation loss by characters read\nGray: reference runs. Dashed: n-grams."
  title += " Color: the compared runs." if own else ""
  amounts = sorted({curve.text_characters for curve in references})
  shades = np.linspace(LIGHT, DARK, len(amounts)) if len(amounts) > 1 else [DARK]
  grays = {size: f"{shade:.3f}" for size, shade in zip(amounts, shades)}
  columns = min(COLUMNS, len(names))
  size = (max(MIN_WIDTH, 5.2 * columns), 1.2 + 3.6 * -(-len(names) // columns))
  with plotting.figure(path, title, figsize=size) as figure:
    panels = plotting.panels(figure, len(names), columns, sharex=True)
    for axes, name in zip(panels, names):
      axes.set_title(plotting.plain(outcomes.shorten(console.visible(name), MAX_NAME)))
      inside = [curve for curve in references if curve.source == name]
      for curve in inside:
        _reference(axes, curve, grays[curve.text_characters])
      for curve, color in reversed(list(zip(own, plotting.MORE_COLORS))):  # The best is on top.
        _own(axes, curve, color)
      _scale_losses(axes, [*own, *inside])
    _scale_characters(panels, [*own, *(curve for curve in references if curve.source in names)])
    for axes, name in zip(panels, names):
      _label(axes, [curve for curve in references if curve.source == name])
    for axes in panels[::columns]:
      axes.set_ylabel("bits per byte")
    for axes in panels[-columns:]:
      axes.set_xlabel("characters read in training")
      axes.tick_params(labelbottom=True)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
      place = {"loc": "outside lower center", "ncols": max(1, columns - 1)}
      figure.legend(handles[::-1], labels[::-1], **place)


def _reference(axes, curve: Curve, gray: str):
  if len(curve.line):
    axes.plot(*curve.line.T, color=gray, lw=0.9, marker="o", ms=2.5, markevery=[-1], zorder=1)
  else:
    axes.axhline(curve.bits_per_byte, color=gray, lw=0.9, ls="--", zorder=1)


def _own(axes, curve: Curve, color: str):
  name = outcomes.shorten(console.visible(curve.run), MAX_NAME)
  source = outcomes.shorten(console.visible(curve.source), MAX_LABEL)
  label = plotting.plain(f"{name} ({source}, {curve.label}): {curve.bits_per_byte:.3f}")
  style = {"color": color, "lw": 1.8, "label": label, "zorder": 3}
  if len(curve.line):
    axes.plot(*curve.line.T, marker="o", ms=3, **style)
  else:
    axes.axhline(curve.bits_per_byte, ls="--", **style)


def _scale_losses(axes, inside: Sequence[Curve]):
  """Set the vertical axis of a panel, without the steep fall at the start of training."""
  losses = [*np.concatenate([curve.line[:, 1] for curve in inside])]
  losses += [curve.bits_per_byte for curve in inside]
  low, high = min(losses), float(np.quantile(losses, 0.95))
  margin = 0.03 * (high - low) + 0.01
  axes.set_ylim(low - margin, high + margin)


def _scale_characters(panels, everything: Sequence[Curve]):
  """Set the common horizontal axis of all panels."""
  points, first = np.concatenate([curve.line for curve in everything]), panels[0]
  if len(points):
    low, high = points[:, 0].min() / 1.1, points[:, 0].max() * 1.1
    first.set_xscale("log")
    first.set_xlim(low, high)
    plotting.log_ticks(first.xaxis, ticker.EngFormatter(sep=""))
    if high / low > MAX_RATIO:
      first.xaxis.set_major_locator(ticker.LogLocator())
  for axes in panels:
    axes.grid()


def _label(axes, inside: Sequence[Curve]):
  """Write the label of each curve to the right of the panel, with a line to its end."""
  shown = sorted(sorted(inside, key=lambda curve: curve.bits_per_byte)[:MAX_LABELS], key=_end)
  low, high = axes.get_ylim()
  ends = [(min(_end(curve), high) - low) / (high - low) for curve in shown]
  heights = plotting.spread_labels(ends, GAP)
  for curve, height in zip(shown, heights):
    x = curve.line[-1, 0] if len(curve.line) else axes.get_xlim()[1]
    axes.annotate(
      plotting.plain(curve.label),
      (x, min(_end(curve), high)),
      (1.03, height),
      textcoords="axes fraction",
      va="center",
      size=7,
      color=plotting.TEXT,
      arrowprops=LEADER,
      annotation_clip=False,
    )


def _end(curve: Curve) -> float:
  """Return the height at which a curve ends."""
  return curve.line[-1, 1] if len(curve.line) else curve.bits_per_byte


def amount(characters: int) -> str:
  """Return a number of characters with three digits, for example 189k."""
  return ticker.EngFormatter(sep="")(float(f"{characters:.3g}"))
