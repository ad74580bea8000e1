"""The style and colours of all pictures."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

REAL = "#23262c"  # of real text, or what others are compared with
COLORS = ("#0072b2", "#d55e00", "#007d5d", "#b0568f", "#8a6d00", "#555b66")
_STYLE = {
  "font.size": 9,
  "axes.titlesize": 10,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.edgecolor": "#b9b5ad",
  "axes.labelcolor": "#50545c",
  "axes.axisbelow": True,
  "grid.color": "#e6e2da",
  "legend.frameon": False,
  "xtick.color": "#50545c",
  "ytick.color": "#50545c",
}


@contextlib.contextmanager
def figure(path: pathlib.Path, title: str, **options) -> Iterator[Any]:
  """Yield a matplotlib figure with a title, which is saved as PNG at the end.

  `options` are those of matplotlib.figure.Figure. pyplot and its backend are left alone: in a
  notebook they belong to the user.
  """
  import matplotlib as mpl  # slow: only when there is something to plot
  from matplotlib import figure as figure_lib

  with mpl.rc_context(_STYLE):
    made = figure_lib.Figure(layout="constrained", **options)
    made.suptitle(plain(title), size=11)
    yield made
    made.savefig(path, dpi=130)


def plain(text: str) -> str:
  """Return a text that matplotlib shows as it is: $ begins a formula, surrogates have no glyph."""
  return text.replace("$", r"\$").encode("utf-8", "replace").decode()
