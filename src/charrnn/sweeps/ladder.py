"""The report of `charrnn ladder`: tables for a terminal and Markdown, and the picture."""

import itertools
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib import ticker

from charrnn import console, plotting
from charrnn.sweeps import comparison_report

Rows = list[list[str]]
WIDTH = 100  # maximum width of a line of a sample, in characters
SAMPLE = 600  # maximum length of a sample in the report, in characters
COSTS = {  # columns: key, heading, format, and the factor of its unit
  "valid": ("valid, bits/byte", ".3f", 1),
  "test": ("test, bits/byte", ".3f", 1),
  "parameters": ("parameters", ",.0f", 1),
  "flops": ("training TFLOPs", ",.3g", 1e-12),
  "seconds": ("seconds", ",.0f", 1),
  "train_bytes": ("training MB", ",.1f", 1e-6),
  "train_bytes_per_second": ("training kB/s", ",.1f", 1e-3),
  "sample_bytes_per_second": ("sampling B/s", ",.0f", 1),
  "carry_bytes": ("carry, kB", ",.3g", 1e-3),
}
AXES = {"parameters": "parameters", "flops": "training FLOPs", "seconds": "seconds of training"}
CLOSERS = {
  "p": "closers: mean probability",
  "top": "closers: share that is the most probable token",
}
MARKERS = {"char": "o", "bpe": "s", "byte": "^", "word": "D"}
LINES = {"char": "-", "bpe": "--", "byte": "-.", "word": ":"}


def order(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Return the runs by tokenizer, and those of a tokenizer from the highest loss to the lowest.

  Each gets a `label` that is unique.
  """
  runs = sorted(runs, key=lambda run: (run["tokenizer"] != "char", run["tokenizer"], -run["valid"]))
  labels = [f"{run['name']}, {run['tokenizer']}" for run in runs]
  return [
    run | {"label": label if labels.count(label) == 1 else f"{label}, {run['run']}"}
    for run, label in zip(runs, labels)
  ]


def _tables(result) -> Iterator[tuple[str, list[str], Rows]]:
  """Yield the title, the header and the rows of each table."""
  runs = result["runs"]
  yield (
    f"Losses and costs on {result['text']}",
    ["model", *(heading for heading, *_ in COSTS.values())],
    [[run["label"], *(_cost(run, key) for key in COSTS)] for run in runs],
  )
  yield (
    "Bits per byte by distance from the start of the context, in bytes",
    ["model", *_buckets(runs[0]["positions"])],
    [
      [run["label"], *(console.number(row["bits_per_byte"], ".2f") for row in run["positions"])]
      for run in runs
    ],
  )
  for closer, rows in {key: rows for run in runs for key, rows in run["closers"].items()}.items():
    if not any(row["count"] for run in runs for row in run["closers"].get(closer, ())):
      continue
    yield (
      f"Closers {closer}: mean probability, and share predicted as the most probable token, by "
      "distance from the opener in bytes",
      ["model", *_buckets(rows), "count"],
      [_closers(run, closer) for run in runs if closer in run["closers"]],
    )
  if cards := [run["scorecard"] for run in runs if run["scorecard"]]:
    yield (
      "Scorecard: distances of samples from held-out text, with noise floors in parentheses",
      ["model", *cards[0]],
      [[run["label"], *map(_distance, run["scorecard"].values())] for run in runs],
    )


def _cost(run, key: str) -> str:
  _, style, factor = COSTS[key]
  return console.number(run[key] and run[key] * factor, style)


def _buckets(rows) -> list[str]:
  firsts = [row["from"] for row in rows]
  ends = [f"{a}" if b == a + 1 else f"{a}-{b - 1}" for a, b in itertools.pairwise(firsts)]
  return [*ends, f"{firsts[-1]}+"]


def _closers(run, closer: str) -> list[str]:
  rows = run["closers"][closer]
  cells = (f"{row['p']:.2f}, {row['top']:.0%}" if row["count"] else "-" for row in rows)
  return [run["label"], *cells, f"{sum(row['count'] for row in rows):,}"]


def _distance(value) -> str:
  return " ".join(
    (console.number(value["distance"], ".3f"), f"({console.number(value['noise_floor'], '.3f')})")
  )


def lines(result: dict[str, Any]) -> Iterator[str]:
  """Yield the lines of the first table, and of the closers of all kinds together."""
  for number, (title, header, rows) in enumerate(_tables(result)):
    if number < 3:
      yield from (*([""] if number else []), title, "", *console.table(header, rows))


def markdown(result: dict[str, Any]) -> str:
  """Return all tables, the picture and the samples as Markdown."""
  blocks, escaped = [], comparison_report.escaped
  for title, header, rows in _tables(result):
    table = comparison_report.markdown_table(header, rows)
    blocks.append([f"## {escaped(title)}", "", *table])
  blocks.append(["![Losses, costs, and use of the context](ladder.png)"])
  for run in result["runs"]:
    wrapped = (textwrap.wrap(line, WIDTH) or [""] for line in run["sample"][:SAMPLE].split("\n"))
    text = [f"    {console.visible(line)}".rstrip() for part in wrapped for line in part]
    blocks.append([f"## Sample: {escaped(run['label'])}", "", *text])
  return comparison_report.join(blocks)


def plot(result: dict[str, Any], path):
  """Plot bits per byte against three costs, and how predictions use the context."""
  runs = result["runs"]
  names = sorted({run["name"] for run in runs if run["parameters"]})
  colors = {name: plotting.color(number) for number, name in enumerate(names)}
  grams = sorted({run["name"] for run in runs} - {*names}, key=lambda name: int(name[:-5]))
  colors |= {name: _gray(n / max(1, len(grams) - 1)) for n, name in enumerate(grams)}
  title = f"Models and tokenizers on {result['text']} (validation split)"
  has_closers = any(row["count"] for run in runs for row in run["closers"]["all"])
  columns, height = (3, 8) if has_closers else (4, 4.6)
  with plotting.figure(path, title, figsize=(13, height)) as figure:
    panels = plotting.panels(figure, 6 if has_closers else 4, columns)
    for axes, (key, label) in zip(panels, AXES.items()):
      _against(axes, runs, key, colors)
      axes.set(xlabel=label, ylabel="loss, bits per byte")
    _by_bucket(panels[3], runs, colors, lambda run: run["positions"], "bits_per_byte")
    panels[3].set(xlabel="bytes since the start of the context", ylabel="loss, bits per byte")
    for axes, (key, label) in zip(panels[4:], CLOSERS.items()):  # no panels without closers
      _by_bucket(axes, runs, colors, lambda run: run["closers"]["all"], key)
      axes.set(xlabel="bytes from opener to closer", ylabel=label, ylim=(0, 1))
    handles, labels = panels[3].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7)


def _gray(share: float) -> str:
  """Return a gray: light for 0, dark for 1."""
  return str(round(0.75 - 0.55 * share, 3))


def _against(axes, runs, key: str, colors):
  """Plot the loss of the networks against a cost, with the best n-gram of each tokenizer."""
  networks = [run for run in runs if run[key] and run["parameters"]]
  for run in networks:
    marker = MARKERS.get(run["tokenizer"], "o")
    axes.plot(run[key], run["valid"], marker=marker, color=colors[run["name"]], ms=7)
  for number, tokenizer in enumerate(dict.fromkeys(run["tokenizer"] for run in runs)):
    grams = [r for r in runs if not r["parameters"] and r["tokenizer"] == tokenizer]
    if grams:
      best = min(grams, key=lambda run: run["valid"])
      axes.axhline(best["valid"], ls=LINES.get(tokenizer, "-"), color=colors[best["name"]], lw=1.2)
      x, side = ((0.01, "left"), (0.99, "right"))[number % 2]
      options = {"xycoords": axes.get_yaxis_transform(), "ha": side, "size": 8}
      options |= {"textcoords": "offset points", "color": plotting.TEXT}
      label = plotting.plain(f"{best['name']}, {tokenizer}")
      axes.annotate(label, (x, best["valid"]), xytext=(0, 3), **options)
  axes.set_xscale("log")
  plotting.log_ticks(axes.xaxis, ticker.EngFormatter(sep=""))
  if costs := [run[key] for run in networks]:
    # Equal costs would otherwise fill the axis with their rounding.
    axes.set_xlim(min(costs) / 3, max(costs) * 3)
  axes.grid()


def _by_bucket(axes, runs, colors, rows_of, key: str):
  """Plot a measurement by bucket: a line for each run."""
  rows = rows_of(runs[0])
  for run in runs:
    points = [(n, row[key]) for n, row in enumerate(rows_of(run)) if row[key] is not None]
    style = {"color": colors[run["name"]], "lw": 1.4, "ms": 3}
    style |= {"ls": LINES.get(run["tokenizer"], "-"), "marker": MARKERS.get(run["tokenizer"], "o")}
    axes.plot(*np.reshape(points, (-1, 2)).T, label=plotting.plain(run["label"]), **style)
  axes.set_xticks(range(len(rows)), _buckets(rows), rotation=45, ha="right")
  axes.grid()
