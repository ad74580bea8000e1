"""Loss curves of many runs: against steps, characters, seconds and operations, a panel each."""

import math
from typing import NamedTuple

import numpy as np
from matplotlib import ticker

from charrnn import plotting
from charrnn.sweeps import comparison

PANELS = {
  "step": "steps",
  "characters": "characters read",
  "seconds": "seconds of training, evaluation and saving",
  "flops": "floating point operations, 6 x weights x characters (Kaplan et al. 2020)",
}
ESTIMATED = "seconds (of some runs estimated from characters/s: steps alone)"
COLORS = ("#0072b2", "#d55e00", "#007d5d", "#b0568f", "#8a6d00", "#56b4e9", "#555b66", "#e69f00")
OTHERS = "#b9b5ad"
NGRAM = {"color": "#23262c", "ls": "--", "lw": 1}


class Style(NamedTuple):
  color: str
  label: str | None  # in the key; None for those that are drawn thin


def draw(found: comparison.Comparison, path):
  """Validation solid, training faint; over seeds the mean, and of validation its interval."""
  title = "validation loss (solid) and training loss (faint)"
  if not found.compares:
    title += "; different texts: losses do not compare"
  trained = [each for each in found.settings if _shape(each)]
  counted = [each for each in found.settings if not _shape(each) and each.so_far is not None]
  with plotting.figure(path, title, figsize=(13, 8)) as figure:
    styles = _styles(found, trained)
    estimated = any(run.estimates_seconds for each in trained for run in each.runs)
    labels = PANELS | ({"seconds": ESTIMATED} if estimated else {})
    for axes, (key, label) in zip(figure.subplots(2, 2, sharey=True).flat, labels.items()):
      for setting in counted:
        axes.axhline(setting.so_far, **NGRAM, label=plotting.plain(setting.label))
      # The best last, on top.
      for setting, style in reversed(list(zip(trained, styles))):
        _setting(axes, setting, key, style)
      _scale(axes, label, trained, counted)
    if any(len(line.get_xdata()) for line in axes.lines):
      axes.set_xscale("log")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
      thin = any(style.label is None for style in styles)
      title = "thick: the best of its colour; thin: the others, validation alone" if thin else None
      key = handles[::-1], labels[::-1]
      columns = min(3, 150 // max(map(len, labels)))  # a label has comparison.LONGEST at most
      figure.legend(*key, loc="outside lower center", ncols=columns, title=title)


def _shape(setting) -> bool:
  """Whether there is a curve to be drawn."""
  return any(point.characters for run in setting.runs for point in run.points)


def _styles(found, settings) -> list[Style]:
  """A color for each of few settings; of many, for each value of the first field that has few."""
  if len(settings) <= len(COLORS):
    return [Style(color, each.label) for color, each in zip(COLORS, settings)]
  field = next((a for a in found.axes if len(a.values) <= len(COLORS)), None)
  if field is None:
    best = [Style(color, each.label) for color, each in zip(COLORS, settings)]
    return best + [Style(OTHERS, None)] * (len(settings) - len(best))
  colors, styles = dict(zip(map(repr, field.values), COLORS)), []
  for setting in settings:
    color = colors[repr(setting.place[field.field])]
    is_best = color not in [style.color for style in styles]
    styles.append(Style(color, setting.label if is_best else None))
  return styles


def mean_curve(setting: comparison.Setting, key: str, loss: str) -> np.ndarray:
  """Rows (x, mean, half the interval) at the steps that all runs have; NaN: no interval."""
  curves = {}  # by seed
  for run in setting.runs:  # best first
    if run.state in comparison.RUINED and len(setting.runs) > 1:
      continue
    known = {p.step: (getattr(p, key), getattr(p, loss)) for p in run.points if _has(p, key, loss)}
    if known:
      curves.setdefault(run.fields.get("seed"), known)
  curves = list(curves.values())
  steps = sorted(set.intersection(*map(set, curves))) if curves else []
  rows = []
  for step in steps:
    places, losses = zip(*(curve[step] for curve in curves))
    low, high = comparison.interval(losses) or (math.nan, math.nan)
    rows.append((np.mean(places), np.mean(losses), (high - low) / 2))
  return np.array(rows).reshape(-1, 3)


def _has(point, key, loss) -> bool:
  return getattr(point, key) is not None and getattr(point, loss) is not None


def _setting(axes, setting, key, style):
  x, mean, half = mean_curve(setting, key, "valid").T
  if style.label is None:
    axes.plot(x, mean, color=style.color, lw=0.8, alpha=0.7)
    return
  label = plotting.plain(style.label)
  axes.plot(x, mean, color=style.color, lw=2, marker="o", ms=3, label=label)
  axes.fill_between(x, mean - half, mean + half, color=style.color, alpha=0.2, lw=0)
  x, mean, _ = mean_curve(setting, key, "train").T
  axes.plot(x, mean, color=style.color, lw=0.7, alpha=0.4)


def _scale(axes, label, settings, counted):
  axes.set_xlabel(label)
  axes.set_ylabel("nats a character")
  axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
  axes.grid(which="both")
  points = [
    point
    for setting in settings
    for run in setting.runs
    if run.state not in comparison.RUINED
    for point in run.points
  ]
  train = [point.train for point in points if point.train is not None]
  valid = [point.valid for point in points if point.valid is not None]
  valid += [setting.so_far for setting in counted]
  if valid or train:
    # But for the fall from the loss of chance, and for what diverged.
    low, high = min(train + valid), float(np.quantile(valid or train, 0.9))
    room = 0.05 * (high - low) + 0.01
    axes.set_ylim(low - room, max(high, low) + room)
  axes.yaxis.set_major_locator(ticker.MaxNLocator(8))
