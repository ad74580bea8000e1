"""The look that pictures share."""

import contextlib

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
def figure(path, title: str, **options):
  """A matplotlib figure with a title, saved as PNG in the end; `options` are those of figure()."""
  import matplotlib as mpl

  mpl.use("Agg")
  from matplotlib import pyplot as plt

  with plt.rc_context(_STYLE):
    made = plt.figure(layout="constrained", **options)
    try:
      made.suptitle(plain(title), size=11)
      yield made
      made.savefig(path, dpi=130)
    finally:
      plt.close(made)


def plain(text: str) -> str:
  """Names as they are: a $ would begin a formula, and a lone surrogate has no glyph."""
  return text.replace("$", r"\$").encode("utf-8", "replace").decode()
