"""The report of `charrnn rates`: tables for a terminal, and the picture."""

from collections.abc import Iterator
from typing import Any

from charrnn import console, errors, plotting
from charrnn.analysis import rates

BLOG = 0.05  # share of interpretable cells in the blog post, estimated by eye
HEADER = (
  *("hypothesis", "networks", "95% interval", "units", "score", "threshold"),
  *("since step", "loss, nats"),
)
LEGEND = """\
networks      networks with a significant unit, of those in which this was tested
95% interval  of their share (Wilson)
units         units that follow the hypothesis in a network: median (range over networks)
score         of the best unit of each network, significant or not: AUROC or rank correlation
threshold     score that a unit must exceed
since step    first scored checkpoint at which the best unit exceeds the threshold, in networks
              where it is significant; <=: no earlier checkpoint but step 0 was scored
loss, nats    of the network at this checkpoint, on passages of the text"""


def lines(result: dict[str, Any]) -> Iterator[str]:
  """Yield the lines of the tables."""
  groups = result["groups"]
  labels = list(dict.fromkeys(group["label"] for group in groups))
  families = []
  for text, members in _by_text(groups):
    by_label = {group["label"]: group["families"] for group in members}
    names = (name for name in rates.FAMILIES if any(name in own for own in by_label.values()))
    for name in names:
      cells = [_rate(by_label.get(label, {}).get(name)) for label in labels]
      families.append([text, name, *cells])
  yield "Networks with a significant unit, and the 95% interval of their share"
  yield ""
  yield from console.table(["text", "unit", *labels], families, names=2)
  for group in groups:
    yield ""
    yield f"{_name(group)}: {errors.plural(len(group['networks']), 'network')}"
    yield ""
    rows = [_row(name, each) for name, each in group["hypotheses"].items()]
    yield from console.table(HEADER, rows)
  yield from ("", *LEGEND.splitlines(), "")
  yield (
    "Share of the units of a network that follow a hypothesis that does not look ahead "
    f"(blog post: about {BLOG:.0%})"
  )
  yield ""
  rows = [
    [_name(group), *(console.number(value, ".1%") for value in group["shares"].values())]
    for group in groups
    if group["shares"]
  ]
  yield from console.table(["group", *rates.QUARTILES], rows)


def _by_text(groups) -> list[tuple[str, list[dict[str, Any]]]]:
  """Return the groups of each text, by the name of the text."""
  names = dict.fromkeys(group["text"]["name"] for group in groups)
  return [(name, [each for each in groups if each["text"]["name"] == name]) for name in names]


def _name(group) -> str:
  return f"{group['text']['name']}, {group['label']}"


def _rate(entry) -> str:
  if not entry:
    return "-"
  return f"{entry['count']} of {entry['of']} ({_interval(entry)})"


def _interval(entry) -> str:
  return f"{entry['low']:.0%} to {entry['high']:.0%}"


def _row(name: str, entry) -> list[str]:
  emergence = entry["emergence"]
  return [
    name,
    f"{entry['count']} of {entry['of']}",
    _interval(entry),
    _spread(entry["units"], "g"),
    _spread(entry["score"], ".3f"),
    console.number(entry["threshold"]["median"]),
    _spread(emergence["step"], ",.0f", "<= " if emergence["at_first"] else ""),
    _spread(emergence["nats"], ".2f"),
  ]


def _spread(values, style: str, mark: str = "") -> str:
  """Return the median and the range as text, with a mark before the lowest value."""
  if not values:
    return "-"
  low, middle, high = (format(values[name], style) for name in ("min", "median", "max"))
  first = mark if low == middle else ""
  return f"{mark}{middle}" if low == high else f"{first}{middle} ({mark}{low} to {high})"


def plot(result: dict[str, Any], path):
  """Plot the rate of each hypothesis with its interval, and the shares of units that follow one.

  Each text has a column, and each kind of network a color.
  """
  texts = _by_text(result["groups"])
  labels = list(dict.fromkeys(group["label"] for group in result["groups"]))
  colors = {label: plotting.color(number) for number, label in enumerate(labels)}
  rows = max(len(_hypotheses(members)) for _, members in texts)
  heights = [0.5 + 0.14 * rows * (1 + len(labels)), 0.8 + 0.3 * len(labels)]
  size = (2.2 + 3.6 * len(texts), 1.6 + sum(heights))
  title = (
    "Networks with a significant unit for each hypothesis,\nand the share of units that follow one"
  )
  with plotting.figure(path, title, figsize=size) as figure:
    options = {"squeeze": False, "sharex": "row", "height_ratios": heights}
    axes = figure.subplots(2, len(texts), **options)
    for column, (text, members) in enumerate(texts):
      _rates(axes[0, column], members, colors)
      axes[0, column].set_ylim(rows - 0.5, -0.5)  # Rows of all panels have the same height.
      axes[0, column].set_title(plotting.plain(text))
      _shares(axes[1, column], members, colors)
    # All panels of a row share these limits. Points at 0 are not cut.
    right = axes[1, 0].get_xlim()[1]
    axes[1, 0].set_xlim(-0.02 * right, right)
    entries = {}  # of the legend
    for each in axes.flat:
      handles, names = each.get_legend_handles_labels()
      entries |= dict(zip(names, handles))
    style = {"loc": "outside lower center", "ncols": 4, "fontsize": 8}
    figure.legend(entries.values(), entries.keys(), **style)


def _hypotheses(members) -> list[str]:
  """Return the hypotheses of a text's groups: first those of families, in the order of these."""
  names = list(dict.fromkeys(name for group in members for name in group["hypotheses"]))
  first = [name for family in rates.FAMILIES.values() for name in family if name in names]
  return [*first, *(name for name in names if name not in first)]


def _offset(number: int, count: int) -> float:
  """Return the vertical distance of a mark from the middle of its row."""
  return 0.22 * (number - (count - 1) / 2)


def _rates(axes, members, colors):
  names = _hypotheses(members)
  for number, group in enumerate(members):
    color = colors[group["label"]]
    for row, name in enumerate(names):
      if not (entry := group["hypotheses"].get(name)):
        continue
      y = row + _offset(number, len(members))
      axes.plot([entry["low"], entry["high"]], [y, y], color=color, lw=1.6, alpha=0.5)
      label = plotting.plain(group["label"])
      axes.plot(entry["share"], y, "o", color=color, ms=5, label=label)
  plotting.label_rows(axes, names)
  axes.set(xlim=(-0.03, 1.03), xlabel="share of networks with\na significant unit (95% interval)")
  axes.xaxis.set_major_formatter(_percent)


def _shares(axes, members, colors):
  """Plot the share of units that follow a hypothesis: a point for each network, and quartiles."""
  axes.axvline(BLOG, color=plotting.REAL, ls="--", lw=1.2, label="blog post: about 5% of cells")
  for row, group in enumerate(members):
    color, shares = colors[group["label"]], group["shares"]
    known = [each["share"] for each in group["networks"] if each["share"] is not None]
    if not shares:
      continue
    axes.plot([shares["q1"], shares["q3"]], [row, row], color=color, lw=9, alpha=0.25)
    axes.plot(shares["median"], row, "|", color=color, ms=14, mew=2)
    axes.plot(known, [row] * len(known), "o", color=color, ms=4, alpha=0.7)
  plotting.label_rows(axes, [group["label"] for group in members])
  axes.set_xlabel("share of units that follow\na hypothesis (bar: quartiles)")
  axes.xaxis.set_major_formatter(_percent)


def _percent(value, _) -> str:
  return f"{100 * value:g}%"
