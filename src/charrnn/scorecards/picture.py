"""A scorecard as a picture: a panel a figure, a row a column, held-out text as the mark to meet."""

from matplotlib import ticker

from charrnn import plotting
from charrnn.scorecards import card

BAND = "#e8e4dc"
ACROSS = 4


def draw(scored, path, title: str):
  """Shares and means with their intervals, beside the interval of the real text; of names the
  distance from the real text, beside what it has to itself."""
  rows = [row for row in scored["figures"] if _shown(row, scored)]
  columns = list(scored["samples"])
  high = -(-len(rows) // ACROSS)
  size = (3.1 * ACROSS, (0.95 + 0.19 * len(columns)) * high + 0.6)
  with plotting.figure(path, title, figsize=size) as figure:
    panels = figure.subplots(high, ACROSS, squeeze=False, sharey=True).flat
    for axes, row in zip(panels, rows):
      _panel(axes, row, columns, scored["real"])
    for axes in panels[len(rows) :]:
      axes.remove()


def _shown(row, scored) -> bool:
  if row["kind"] == card.DISTRIBUTION:
    return any(cell.get("distance") is not None for cell in row["columns"].values())
  return any(cell["value"] is not None for cell in row["columns"].values())


def _panel(axes, row, columns, real):
  names = row["kind"] == card.DISTRIBUTION
  scale = 100 if row["kind"] == card.SHARE else 1
  for place, column in enumerate(columns):
    cell = row["columns"][column]
    color = plotting.REAL if column == real else plotting.COLORS[(place - 1) % len(plotting.COLORS)]
    _dot(axes, place, cell, "distance" if names else "value", color, scale)
  if names:
    _band(axes, [0, max(cell.get("floor") or 0 for cell in row["columns"].values())])
  elif row["columns"][real]["interval"]:
    _band(axes, [scale * end for end in row["columns"][real]["interval"]])
  axes.set_title(plotting.plain(row["name"]) + _unit(row["kind"]), loc="left", size=9)
  axes.set_yticks(range(len(columns)), [plotting.plain(each) for each in columns])
  axes.set_ylim(len(columns) - 0.4, -0.6)
  axes.tick_params(axis="y", length=0)
  axes.spines["left"].set_visible(False)
  axes.margins(x=0.08)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
  axes.grid(axis="x")


def _dot(axes, place, cell, key, color, scale):
  if (value := cell.get(key)) is None:
    return
  if ends := cell.get("interval"):
    axes.plot([scale * end for end in ends], [place] * 2, color=color, lw=2.5, alpha=0.45)
  face = "none" if cell["items"] < card.FEW else color
  axes.plot(scale * value, place, "o", color=color, mfc=face, ms=5)


def _band(axes, ends):
  axes.axvspan(*ends, color=BAND, lw=0, zorder=0)


def _unit(kind: str) -> str:
  return {card.SHARE: ", %", card.MEAN: "", card.DISTRIBUTION: ": distance"}[kind]
