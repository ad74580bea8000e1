"""Scorecards as JSON data, tables and pictures."""

import functools
import pathlib
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from matplotlib import lines, patches, ticker

from charrnn import console, files, plotting
from charrnn.scorecards import c, memorization, metrics, music, names, originality, plays, systems

DOMAINS = {"plays": plays.DOMAIN, "c": c.DOMAIN, "names": names.DOMAIN, "music": music.DOMAIN}
_MAX_COPY = 70  # maximum number of characters of a copy in the table
_PANELS = 4  # number of panels in a row of the picture
_MAX_LABEL = 46  # maximum number of characters in a line of an axis label


def build(domain: metrics.Domain, samples: systems.Samples, seed: int = 0) -> dict[str, Any]:
  """Return the scorecard: the metrics of the domain and of memorization, and the longest copies."""
  matches = memorization.match_systems(samples.training.text, samples.texts)
  sources = memorization.Sources(samples.training)
  items, copies, every = {}, {}, dict(domain.metrics)
  if domain.split:
    known = frozenset(domain.split(samples.training.text))
    every |= originality.METRICS
  for name, texts in samples.texts.items():
    items[name] = metrics.measure(domain.metrics, map(samples.parse, texts))
    if domain.split:
      originals = originality.samples(map(domain.split, texts), known)
      items[name] |= metrics.measure(originality.METRICS, originals)
    items[name] |= metrics.measure(memorization.METRICS, matches[name])
    longest = memorization.longest_copies(texts, matches[name], sources)
    copies[name] = [copy._asdict() for copy in longest]
  every |= memorization.METRICS
  return metrics.compare(every, items, systems.HELD_OUT, seed) | {"copies": copies}


def to_json(report: dict[str, Any], kind: str) -> dict[str, Any]:
  """Return a scorecard with the keys of older versions added. `kind` is the value of --domain."""
  old = files.with_aliases(report, metrics.OLD_KEYS | systems.OLD_NAMES)
  return old | {"real": systems.OLD_NAMES[report["reference"]], "kind": kind}


def values(report: dict[str, Any]) -> list[str]:
  """Return the table of shares and means, with intervals if there are several samples."""

  def show(number, value) -> str:
    if 0 < value["items"] < metrics.MIN_ITEMS:
      return f"{number(value['value'])} (of {value['items']})"
    ends = ", ".join(map(number, value["interval"] or ()))
    return number(value["value"]) + (f" [{ends}]" if ends else "")

  rows = [row for row in report["metrics"] if row["kind"] != "distribution"]
  return _table(report, rows, list(report["samples"]), show)


def distances(report: dict[str, Any]) -> list[str]:
  """Return the table of distances from the reference, with noise floors in parentheses."""

  def show(number, value) -> str:
    return f"{number(value['distance'])} ({number(value['noise_floor'])})"

  names = [name for name in report["samples"] if name != report["reference"]]
  return _table(report, report["metrics"], names, show)


def _table(report, rows, names: list[str], show: Callable[..., str]):
  table = [["samples", *(f"{report['samples'][name]:,}" for name in names)]]
  for row in rows:
    number = functools.partial(_number, row["kind"])
    table.append([row["name"], *(show(number, row["systems"][name]) for name in names)])
  return console.table(["metric", *map(systems.title, names)], table)


def _number(kind: str, number: float | None) -> str:
  if number is None:
    return "-"
  return f"{number:.1%}" if kind == "share" else f"{number:.2f}"


def meanings(report: dict[str, Any]) -> list[str]:
  """Return the table that defines each metric."""
  rows = [(row["name"], row["meaning"]) for row in report["metrics"]]
  return console.table(("metric", "definition"), rows, names=2)


def copies(by_system: dict[str, list[dict[str, Any]]], count: int = 1) -> list[str]:
  """Return the table of the longest copies of each system, with their sources."""
  rows = []
  for name, longest in by_system.items():
    for copy in longest[:count]:
      text, source = copy["text"], f"{copy['document']}:{copy['line']}"
      text = text if len(text) <= _MAX_COPY else f"{text[: _MAX_COPY - 1]}…"
      rows.append((systems.title(name), f"{copy['length']:,}", source, repr(text)))
  header = ("system", "characters", "source (document:line)", "copied text")
  return console.table(header, rows, names=4) if rows else []


def outputs(out: pathlib.Path | None, names: dict[str, str]) -> str:
  """Return a line that lists the files in the output folder."""
  if not out:
    return "nothing was written: add --out=DIR for the picture, the data and the samples"
  return "    ".join(f"{label}: {out / name}" for label, name in names.items())


def steps(steps: dict[str, int]) -> Iterator[str]:
  """Yield a line with the step of each run whose best checkpoint was used."""
  if steps:
    listed = ", ".join(f"{name} at step {step:,}" for name, step in steps.items())
    yield f"checkpoints with the lowest validation loss: {listed}"


def plot(report: dict[str, Any], path, title: str):
  """Plot a panel for each metric with a row for each system.

  Shares and means are shown as values with intervals; a band shows the interval of the reference.
  Distributions are shown as distances from the reference; a band shows the noise floor.
  """
  rows = []  # metrics with a value to show, and the key of the value
  for row in report["metrics"]:
    key = "distance" if row["kind"] == "distribution" else "value"
    if any(value.get(key) is not None for value in row["systems"].values()):
      rows.append((row, key))
  names, high = list(report["samples"]), -(-len(rows) // _PANELS)
  size = (3.3 * _PANELS, (1.35 + 0.19 * len(names)) * high + 0.9)
  with plotting.figure(path, title, figsize=size) as figure:
    for axes, row in zip(plotting.panels(figure, len(rows), _PANELS, sharey=True), rows):
      _panel(axes, *row, names, report["reference"])
    _legend(figure)


def _panel(axes, row: dict[str, Any], key: str, names: list[str], reference: str):
  kind, by_system = row["kind"], row["systems"]
  scale = 100 if kind == "share" else 1
  for y, name in enumerate(names):
    color = plotting.REAL if name == reference else plotting.color(y - 1)
    value = by_system[name]
    if value.get(key) is None:
      continue
    if ends := value.get("interval"):
      axes.plot([scale * end for end in ends], [y] * 2, color=color, lw=2.5, alpha=0.45)
    face = "none" if value["items"] < metrics.MIN_ITEMS else color
    axes.plot(scale * value[key], y, "o", color=color, mfc=face, ms=5)
  if kind == "distribution":
    band = [0, max(value.get("noise_floor") or 0 for value in by_system.values())]
  else:
    band = [scale * end for end in by_system[reference]["interval"] or []]
  if band:
    axes.axvspan(*band, color=plotting.GRID, lw=0, zorder=0)
  axes.set_title(plotting.plain(row["name"]), loc="left", size=9, weight="bold")
  axes.set_xlabel(plotting.plain(textwrap.fill(_axis_label(row), _MAX_LABEL)), size=8)
  plotting.label_rows(axes, [systems.title(name) for name in names])
  axes.spines["left"].set_visible(False)
  axes.margins(x=0.08)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(4))


def _axis_label(row: dict[str, Any]) -> str:
  meaning = row["meaning"]
  if row["kind"] == "distribution":
    return f"distance from held-out text: {meaning}"
  if row["kind"] == "share":
    return meaning.replace("share", "%", 1) if meaning.startswith("share of") else f"{meaning}, %"
  return meaning


def _legend(figure):
  style = {"marker": "o", "ls": "", "color": plotting.REAL, "ms": 5}
  handles = [
    lines.Line2D([], [], label="metric value or distance", **style),
    lines.Line2D([], [], label=f"fewer than {metrics.MIN_ITEMS} items", mfc="none", **style),
    lines.Line2D(
      [], [], label="95% interval over samples", color=plotting.REAL, lw=2.5, alpha=0.45
    ),
    patches.Patch(label="95% interval of held-out text, or noise floor", color=plotting.GRID),
  ]
  figure.legend(handles=handles, loc="outside lower center", ncols=4)
