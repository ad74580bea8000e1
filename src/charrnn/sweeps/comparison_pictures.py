"""Settings side by side as pictures: from the best down, as a grid of two fields, and by size."""

import itertools
import math

import numpy as np
from matplotlib import ticker

from charrnn import config as config_lib
from charrnn import plotting
from charrnn.sweeps import comparison, loss_curves, size_laws

OWN, INK, FAINT = "#1f5f8b", "#23262c", "#8a8f98"
MOST = 40  # settings in a picture
FEW = 6  # values, each of which has a tick
NATS = "best validation loss, nats a character"
ELSEWHERE = "different texts: losses do not compare"


def settings(found: comparison.Comparison, path):
  """A dot for each run, a line down, and over seeds the mean with its interval."""
  chosen = [each for each in found.settings if each.so_far is not None][:MOST]
  title = "the best validation loss of each setting"
  title += "" if found.compares else f" ({ELSEWHERE})"
  longest = max((len(each.label) for each in chosen), default=0)
  size = (6 + 0.08 * longest, 1.6 + 0.3 * max(2, len(chosen)))
  with plotting.figure(path, title, figsize=size) as figure:
    axes = figure.subplots()
    if not chosen:
      _nothing(axes, "no run has a validation loss yet")
      return
    for row, setting in enumerate(chosen):
      _row(axes, row, setting)
    axes.set_yticks(range(len(chosen)), [plotting.plain(each.label) for each in chosen])
    axes.set(ylim=(len(chosen) - 0.4, -0.6), xlabel=NATS)
    _limits(axes, [run.best.valid for each in chosen for run in _sound(each)])
    top = axes.secondary_xaxis("top", functions=(_bits, _nats))
    top.set_xlabel("bits")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    _key(figure, axes, chosen, len(found.settings) - len(chosen))


def _sound(setting):
  return [run for run in setting.runs if run.best and run.state not in comparison.RUINED]


def _bits(nats):
  return nats / math.log(2)


def _nats(bits):
  return bits * math.log(2)


def _row(axes, row, setting):
  axes.axhline(row, color="#e6e2da", lw=1, zorder=0)
  for run in _sound(setting):
    face = OWN if run.state == comparison.DONE else "none"
    axes.plot(run.best.valid, row, "o", color=OWN, mfc=face, ms=6, alpha=0.8)
  if setting.interval:
    axes.plot(setting.interval, [row, row], color=INK, lw=1.4)
    axes.plot(setting.loss, row, "|", color=INK, ms=13, mew=2)


def _limits(axes, losses):
  """By the runs: the interval of two of them can be wider than all there is to see."""
  room = 0.08 * (max(losses) - min(losses)) or 0.05
  axes.set_xlim(min(losses) - room, max(losses) + room)


def _key(figure, axes, chosen, left_out):
  states = {run.state == comparison.DONE for each in chosen for run in _sound(each)}
  handles = []
  if states == {True, False}:
    handles += axes.plot([], [], "o", color=OWN, ms=6, label="a run that is done")
  if False in states:
    handles += axes.plot([], [], "o", color=OWN, mfc="none", ms=6, label="a run that is not done")
  if any(each.interval for each in chosen):
    label = "mean over seeds, 95% interval (t)"
    handles += axes.plot([], [], color=INK, lw=1.4, marker="|", ms=13, mew=2, label=label)
  if left_out:
    handles += axes.plot([], [], ls="", label=f"{left_out} more settings, without a loss or worse")
  if handles:
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def grid(found: comparison.Comparison, path):
  """The loss by two fields as a heat map, one for each value of a third; else a dot for each."""
  axes = found.axes
  if not found.compares or not axes:
    why = ELSEWHERE if axes else "the runs differ in no field that a loss could hang on"
    with plotting.figure(path, "the loss by the fields that differ", figsize=(8, 3)) as figure:
      _nothing(figure.subplots(), why)
  elif comparison.is_grid(axes, found.settings):
    _maps(found, path)
  else:
    _fields(found, path)


def _maps(found, path):
  # What is no number, and has few values, tells maps apart; the field of most values goes across.
  pairs = sorted(found.axes, key=lambda axis: (_is_numeric(axis), len(axis.values)))
  third = pairs.pop(0) if len(pairs) == 3 else None
  down, across = sorted(pairs, key=lambda axis: len(axis.values))
  values = third.values if third else [None]
  losses = [each.loss for each in found.settings if each.loss is not None]
  ends = {"vmin": min(losses, default=0), "vmax": max(losses, default=1)}
  size = (
    1.8 + len(values) * max(1.6, 0.75 * len(across.values)),
    1.5 + max(1.2, 0.5 * len(down.values)),
  )
  title = "the best validation loss, nats a character"
  title += " (bold: the best of each map)" if third else ""
  with plotting.figure(path, title, figsize=size) as figure:
    panels = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axes, value in zip(panels, values):
      inside = [e for e in found.settings if not third or e.place.get(third.field) == value]
      image = _map(axes, inside, down, across, ends)
      axes.set_xlabel(_told(across))
      if third:
        axes.set_title(f"{config_lib.short(third.field)} = {_tick(value)}")
    panels[0].set_ylabel(_told(down))
    figure.colorbar(image, ax=panels, shrink=0.9)


def _map(axes, settings, down, across, ends):
  """Of several settings in a place (there is a fourth field) the best is shown."""
  shape = len(down.values), len(across.values)
  losses_DxA = np.full(shape, np.nan)
  places = {}
  for setting in settings:  # best first
    place = (
      down.values.index(setting.place.get(down.field)),
      across.values.index(setting.place.get(across.field)),
    )
    places.setdefault(place, setting)
  for place, setting in places.items():
    losses_DxA[place] = np.nan if setting.loss is None else setting.loss
  image = axes.imshow(losses_DxA, cmap="viridis_r", aspect="auto", **ends)
  axes.set_facecolor("#efece6")
  best = min(places, key=lambda p: places[p].loss or math.inf, default=None)
  for (row, column), setting in places.items():
    _cell(axes, row, column, setting, image, (row, column) == best)
  axes.set_xticks(range(shape[1]), [_tick(v) for v in across.values])
  axes.set_yticks(range(shape[0]), [_tick(v) for v in down.values])
  axes.tick_params(length=0)
  return image


def _cell(axes, row, column, setting, image, is_best):
  if setting.loss is not None:
    red, green, blue, _ = image.to_rgba(setting.loss)
    color = "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else INK
    text = f"{setting.loss:.3f}"
  else:
    color = FAINT
    text = setting.runs[0].state
    text += "" if setting.so_far is None else f"\n{setting.so_far:.3f}"
  weight = "bold" if is_best else "normal"
  axes.text(column, row, text, ha="center", va="center", color=color, weight=weight, size=8)


def _tick(value) -> str:
  if comparison.number(value) is not None and value >= 10_000:
    return f"{value:,g}" if value < 1e6 else ticker.EngFormatter(sep="")(value)
  return plotting.plain(comparison.cut(comparison.shown(value), 20))


def _is_numeric(axis) -> bool:
  return all(comparison.number(value) is not None for value in axis.values)


def _told(axis) -> str:
  names = [config_lib.short(name) for name in (axis.field, *axis.followers)]
  others = f"\nand {comparison.cut(', '.join(names[1:]), 24)}" if names[1:] else ""
  return comparison.cut(names[0], 24) + others


def _fields(found, path):
  """A panel for each field, also for those that hang together: none is a grid."""
  names = list(itertools.chain(*((axis.field, *axis.followers) for axis in found.axes)))
  columns = min(3, len(names))
  rows = -(-len(names) // columns)
  size = (1 + 3.6 * columns, 0.8 + 3 * rows)
  with plotting.figure(path, "the best validation loss by each field", figsize=size) as figure:
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, name in itertools.zip_longest(panels.flat, names):
      if name is None:
        axes.remove()
      else:
        _field(axes, found.settings, name)
    for axes in panels[:, 0]:
      axes.set_ylabel("nats a character")


def _field(axes, settings, name):
  values = comparison.ordered(each.place.get(name) for each in settings)
  numeric = all(comparison.number(value) is not None for value in values)
  place = {repr(value): value if numeric else n for n, value in enumerate(values)}
  for setting in settings:
    x = place[repr(setting.place.get(name))]
    for run in _sound(setting):
      face = OWN if run.state == comparison.DONE else "none"
      axes.plot(x, run.best.valid, "o", color=OWN, mfc=face, ms=5, alpha=0.8)
    if not _sound(setting):
      axes.plot(x, 0.98, "x", color=FAINT, ms=6, transform=axes.get_xaxis_transform())
      axes.annotate(setting.runs[0].state, (x, 0.96), size=7, color=FAINT, ha="center", va="top",
                    rotation=90, xycoords=axes.get_xaxis_transform())  # fmt: skip
  if numeric and values[0] > 0 and values[-1] > 8 * values[0]:
    axes.set_xscale("log")
  if not numeric:
    axes.set_xticks(range(len(values)), [_tick(value) for value in values])
  elif len(values) <= FEW:
    axes.set_xticks(values, [_tick(value) for value in values])
    axes.minorticks_off()
  axes.set_xlabel(config_lib.short(name))
  axes.grid()


def sizes(found: comparison.Comparison, path):
  """Loss against parameters: a dot for each setting, a line for the best of each size."""
  curves = size_laws.curves(found)
  with plotting.figure(path, "loss by size", figsize=(8.5, 5.5)) as figure:
    axes = figure.subplots()
    if not any(len(curve) > 1 for curve in curves.values()):
      why = "needs runs of several sizes that are done"
      _nothing(axes, why if found.compares else ELSEWHERE)
      return
    for color, (cell, curve) in zip(loss_curves.COLORS, curves.items()):
      own = [e for e in found.settings if e.runs[0].fields["model.cell"] == cell]
      _size(axes, cell, curve, own, color)
    _logarithmic(axes)
    axes.set(xlabel="parameters", ylabel=NATS)
    axes.legend(title="the best of each size, and a power law through it", loc="best")


def _size(axes, cell, curve, settings, color):
  done = [(each.runs[0].parameters, each.loss) for each in settings if each.loss is not None]
  axes.plot(*zip(*done), "o", color=color, ms=4, alpha=0.35)
  places, laws = np.geomspace(min(curve), max(curve), 50), list(size_laws.fits(curve))
  for law, style in zip(laws, ("-", ":")):
    floor = f" with a floor of {law['floor']:.3f}" if law["floor"] else ""
    label = f"{cell}{floor}: exponent {law['exponent']:.3f}, {_fitness(law)}"
    axes.plot(places, size_laws.loss(law, places), style, color=color, lw=1.4, label=label)
    axes.plot(*zip(*curve.items()), "o", color=color, ms=6)
  if not laws:
    label = f"{cell}: too few sizes for a law"
    axes.plot(*zip(*curve.items()), "o--", color=color, ms=6, lw=0.8, label=label)


def _fitness(law) -> str:
  return "all losses are the same" if law["r2"] is None else f"R\u00b2 {law['r2']:.3f}"


def _logarithmic(axes):
  axes.set_xscale("log")
  axes.set_yscale("log")
  axes.yaxis.set_major_locator(ticker.MaxNLocator(7, min_n_ticks=3))
  axes.yaxis.set_major_formatter("{x:g}")
  axes.yaxis.set_minor_locator(ticker.NullLocator())
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.grid()


def _nothing(axes, text):
  axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes)
  axes.set_axis_off()
