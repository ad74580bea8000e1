"""The style and the colors of all plots, and helpers for their axes."""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from charrnn import console, files

REAL = "#23262c"  # color of held-out text, or of the reference in a comparison
BLUE, GRAY, EDGE, TEXT, GRID = "#1f5f8b", "#8a8f98", "#b9b5ad", "#50545c", "#e6e2da"
SHADE = "#efece6"  # color of shaded regions behind data
COLORS = ("#0072b2", "#d55e00", "#007d5d", "#b0568f", "#8a6d00", "#555b66")
MORE_COLORS = (*COLORS[:5], "#56b4e9", COLORS[5], "#e69f00")  # more colors, less distinct
_STYLE = {
  "font.size": 9,
  "axes.titlesize": 10,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.edgecolor": EDGE,
  "axes.labelcolor": TEXT,
  "axes.axisbelow": True,
  "grid.color": GRID,
  "legend.frameon": False,
  "xtick.color": TEXT,
  "ytick.color": TEXT,
}


@contextlib.contextmanager
def figure(path: pathlib.Path, title: str, **options) -> Iterator[Any]:
  """Yield a matplotlib figure with a title, and save it as PNG at the end.

  `options` are passed to matplotlib.figure.Figure. pyplot is not used, because it would change
  the backend of a user's notebook.
  """
  import matplotlib as mpl  # The import is slow, so it is done only for a plot.
  from matplotlib import figure as figure_lib

  with mpl.rc_context(_STYLE):
    result = figure_lib.Figure(layout="constrained", **options)
    result.suptitle(plain(title), size=11)
    yield result
    with files.replace_file(path) as file, warnings.catch_warnings():
      # The font lacks some scripts, for example Chinese. It shows a box instead.
      warnings.filterwarnings("ignore", "Glyph .* missing from")
      result.savefig(file, format="png", dpi=130)


def color(number: int) -> str:
  """Return the color with this number; numbers wrap around after the last color."""
  return COLORS[number % len(COLORS)]


def panels(figure, count: int, columns: int, **options) -> list[Any]:
  """Return the axes of `count` panels with at most `columns` in a row.

  `options` are passed to Figure.subplots.
  """
  axes = figure.subplots(-(-count // columns), min(columns, count), squeeze=False, **options)
  for unused in axes.flat[count:]:
    unused.remove()
  return list(axes.flat[:count])


def label_rows(axes, names: Sequence[str]):
  """Label the rows 0, 1, ... of a plot with `names`, with row 0 at the top."""
  axes.set_yticks(range(len(names)), [plain(name) for name in names])
  axes.set_ylim(len(names) - 0.4, -0.6)
  axes.tick_params(axis="y", length=0)
  axes.grid(axis="x")


def spread_labels(heights: Sequence[float], distance: float) -> np.ndarray:
  """Return ascending heights in [0, 1], moved as little as possible to be `distance` apart.

  Heights minus `distance` times their rank must not decrease, so this is an isotonic regression.
  """
  if not len(heights):
    return np.zeros(0)
  from scipy import optimize

  offsets = distance * np.arange(len(heights))
  fitted = optimize.isotonic_regression(np.asarray(heights) - offsets).x
  return np.clip(fitted, 0, max(0, 1 - offsets[-1])) + offsets


def log_ticks(axis, formatter="{x:g}"):
  """Place the ticks of a logarithmic axis at 1, 2 and 5 times the powers of ten."""
  from matplotlib import ticker

  axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axis.set_major_formatter(formatter)
  axis.set_minor_locator(ticker.NullLocator())


def write(axes, text: str):
  """Show a text instead of a plot."""
  axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes)
  axes.set_axis_off()


def plain(text: str) -> str:
  """Return a text that matplotlib shows literally: escape $ and what cannot be shown."""
  return console.visible(text.expandtabs(1), lines=True).replace("$", r"\$")
