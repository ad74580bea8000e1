"""Figures against temperature, a panel each, beside those of held-out text."""

import math

import numpy as np

from charrnn import plotting
from charrnn.scorecards import diversity

TICKS = (0, 0.25, 0.5, 1, 2, 4, math.inf)
# Title, unit, figures and what of them.
PANELS = (
  ("entropy of what is drawn from", "nats", ("entropy",), "value"),
  ("loss of the text by the model", "nats a symbol", ("loss",), "value"),
  ("known words", "share", ("known words",), "value"),
  (
    "distinct sequences of n words",
    "share",
    tuple(f"distinct-{n}" for n in diversity.SIZES),
    "value",
  ),
  (f"{diversity.GRAM}-grams of characters", "distance", (f"{diversity.GRAM}-grams",), "distance"),
  ("words", "distance", ("words",), "distance"),
  ("texts that end in a loop", "share", ("loops",), "value"),
)


def draw(found, path):
  rows = {row["name"]: row["columns"] for row in found["figures"]}
  settings, places = found["settings"], [_place(float(T)) for T in found["temperatures"]]
  title = (
    f"{found['run']}, step {found['step']}: {settings['num']} texts of {settings['length']:,} "
    "symbols at each temperature"
  )
  with plotting.figure(path, title, figsize=(13, 6.2)) as figure:
    *panels, last = figure.subplots(2, 4).flat
    for axes, (head, unit, names, key) in zip(panels, PANELS):
      for name, color in zip(names, plotting.COLORS):
        real = rows[name][found["real"]]
        cells = [rows[name][T] for T in found["temperatures"]]
        _line(axes, places, cells, key, color, name)
        _reference(axes, real, cells, key, plotting.REAL if len(names) == 1 else color)
      if len(names) > 1:
        axes.legend(loc="lower right", frameon=True, edgecolor="none")
      axes.set_title(head, loc="left")
      axes.set_ylabel(unit)
      if names == ("loss",):
        _logarithmic(axes)
      _scale(axes, places)
    _periods(panels[-1], places, rows, found["temperatures"])
    _key(last, found["text"])
    figure.supxlabel("temperature T, spaced as T / (1 + T)", size=9, color="#50545c")


def _place(T: float) -> float:
  return 1.0 if math.isinf(T) else T / (1 + T)


def _line(axes, places, cells, key, color, label):
  if key == "value":
    # None, where there was nothing to measure, becomes NaN and a gap.
    ends = np.array([cell["interval"] or (None, None) for cell in cells], float)
    axes.fill_between(places, *ends.T, color=color, alpha=0.2, lw=0)
  values = np.array([cell[key] for cell in cells], float)
  axes.plot(places, values, "o-", color=color, ms=3.5, lw=1.4, label=label)


def _reference(axes, real, cells, key, color):
  """Held-out text, or how far as much of it is from the rest of it."""
  value = real["value"] if key == "value" else cells[0]["floor"]
  if value is not None:
    axes.axhline(value, color=color, lw=1, ls="--", zorder=1)
  if key == "value" and real["interval"]:
    axes.axhspan(*real["interval"], color=color, alpha=0.12, lw=0, zorder=0)


def _scale(axes, places):
  names = ["\u221e" if math.isinf(T) else f"{T:g}" for T in TICKS]
  axes.set_xticks([_place(T) for T in TICKS], names)
  axes.set_xlim(places[0] - 0.06, places[-1] + 0.06)
  if axes.get_yscale() == "linear":
    axes.set_ylim(bottom=0)
  axes.grid()


def _logarithmic(axes):
  """The loss: at infinity it is many times what it is where the text is read."""
  from matplotlib import ticker

  axes.set_yscale("log")
  axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.yaxis.set_major_formatter("{x:g}")
  axes.yaxis.set_minor_locator(ticker.NullLocator())


def _periods(axes, places, rows, temperatures):
  for place, T in zip(places, temperatures):
    if rows["loop period"][T]["items"]:
      share, period = rows["loops"][T]["value"], rows["loop period"][T]["quantiles"]["0.5"]
      axes.annotate(f"{period:g}", (place, share), (5, 0), textcoords="offset points", size=8)


def _key(axes, text):
  axes.plot([], [], "o-", color=plotting.COLORS[0], ms=3.5, lw=1.4, label="what the model writes")
  axes.plot([], [], color=plotting.REAL, lw=1, ls="--", label=plotting.plain(text))
  axes.fill_between([], [], color=plotting.REAL, alpha=0.2, lw=0, label="95% interval over texts")
  axes.legend(loc="upper left")
  note = (
    "distance: of the frequencies from those\nof held-out text (total variation);\n"
    "dashed: of as much of it from the rest\n\nnumbers at loops: the median period"
  )
  axes.text(0.03, 0.55, note, va="top", color="#50545c", transform=axes.transAxes)
  axes.set_axis_off()
