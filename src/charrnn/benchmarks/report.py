"""Benchmark results as text and as plots."""

from matplotlib import ticker

from charrnn import console, plotting
from charrnn.benchmarks import studies

# The limits of the roofline: (the measurement, title of the column of utilization).
LIMITS = {
  "registers": ("products in registers", "of registers"),
  "products": ("the best matrix product", "of best product"),
  "memory": ("reading the weights", "of memory"),
}
MEASURED = ("characters/s", "min - max", "compile", "memory")
SHORT = ticker.EngFormatter(sep="")  # for example 12.5k


def machine(facts: dict) -> list[str]:
  """Return the description of a machine in two lines."""
  devices = f", {facts['devices']} x {facts['device']}" if facts["platform"] != "cpu" else ""
  versions = f"Python {facts['python']}, jax {facts['packages']['jax']}"
  native, load = facts["native"], facts["load_average"]
  if reason := native.get("unavailable"):
    layers = f"no native layers: {reason}"
  else:
    layers = f"native layers: {native['instructions']}, {native['compiler']}"
    if unmeasured := native["unmeasured"]:
      layers += f", not the default: {unmeasured}"
  quiet = f"load average {load[0]:.2f} before measuring; " if load else ""
  instructions = "".join(f", {name}" for name in facts["instructions"])
  return [
    f"{facts['processor']}, {facts['cores']} cores{instructions}{devices}; {versions}",
    f"{quiet}{layers}",
  ]


def lines(result: dict):
  """Yield the lines of text for a result of any kind."""
  writers = {"scale": _scale, "profile": _profile, "startup": _startup, "cells": _cells}
  yield from writers.get(result["kind"], _comparison)(result)
  yield from (f"  {name} failed: {reason}" for name, reason in result.get("failed", {}).items())


def _table(header, rows):
  return [f"  {line}".rstrip() for line in console.table(header, rows)]


def _comparison(result):
  own = result["implementations"].get("charrnn")
  limits = result.get("limits", {})
  rows = []
  for name, row in result["implementations"].items():
    shares = row.get("utilization_of", {})
    shares = [f"{shares[limit]:.0%}" if limit in shares else "" for limit in limits]
    ratio = _ratio(result.get("ratios", {}).get(name))
    rows.append((_name(name, row, own), *_measured(row), ratio, *shares))
  columns = [LIMITS[limit][1] for limit in limits]
  yield result["title"]
  yield from _table(("", *MEASURED, "charrnn vs this", *columns), rows)
  if same := result.get("same_as_charrnn"):
    yield f"  not measured, because charrnn takes the same path: {', '.join(same)}"
  rows = []
  for label, row in result["rooflines"].items():
    unit = "GB/s" if label.startswith("reading") else "GFLOP/s"
    rates = [rate / 1e9 for rate in row["rates"]]
    rows.append((label, f"{_number(row['median'] / 1e9)} {unit}", _span(rates)))
  yield from ("", *_table(("roofline", "median", "min - max"), rows))
  if kind := result.get("limit"):
    share, limit = f"{result['utilization']:.0%}", f"{_number(limits[kind])} characters/s"
    yield f"  charrnn reaches {share} of the {limit} that {LIMITS[kind][0]} would allow"


def _name(name, row, own=None):
  """Return the name of an implementation with its version, and the path through charrnn."""
  device = f" on {row['platform']}" if own and row["platform"] != own["platform"] else ""
  if "path" in row:
    return f"charrnn {row['version']}{device}, {row['path']}"
  return f"{name} {row['version']}{device}"


def _scale(result):
  yield f"scale: {result['title']}"
  for name, points in result["sweeps"].items():
    title, rows = studies.TITLES[name][0], []
    first = f"{title} {points[0]['workload'][name]}" if points else title
    for point in points:
      share = "" if point["utilization"] is None else f"{point['utilization']:.0%}"
      ratio = _ratio(point["against_first"])
      rows.append((str(point["workload"][name]), *_measured(point), share, ratio))
    yield from ("", *_table((title, *MEASURED, "of roofline", f"vs {first}"), rows))
  rows = []
  for point in result["memory"]:
    window, remat = (str(point["workload"][name] or "off") for name in ("window", "remat"))
    rows.append((window, remat, _number(point["median"]), _memory(point)))
  yield from ("", *_table(("window", "remat", "characters/s", "memory"), rows))


def _profile(result):
  total, rows = sum(result["parts"].values()), []
  for name, seconds in result["parts"].items():
    rows.append((name, f"{seconds * 1e3:.1f}", f"{seconds / total:.0%}" if total else ""))
  rows.append(("not recorded", f"{result['unrecorded'] * 1e3:.1f}", ""))
  yield result["title"]
  yield from _table(("", "ms per step", "share"), rows)
  seconds = f"{result['seconds'] * 1e3:.1f} ms"
  yield f"  a step takes {seconds}; operations that run in parallel are each counted in full"


def _startup(result):
  rows = []
  for name, median in result["medians"].items():
    values = [launch[name] for launch in result["launches"]]
    rows.append((name, f"{median:.2f}", f"{min(values):.2f} - {max(values):.2f}"))
  count = len(result["launches"])
  yield f"startup: seconds to the first training step, median of {count} launches"
  yield from _table(("", "seconds", "min - max"), rows)


def _cells(result):
  yield (
    f"cells: {result['characters']:,} characters x {result['columns']:,} feature columns x "
    f"{result['hypotheses']} hypotheses x {result['lags']} lags, {result['shifts']} shifts"
  )
  yield f"  {result['median']:.1f} s, peak memory {result['peak_bytes'] / 1e9:.1f} GB"


def _measured(row):
  compiling = f"{row['compile_seconds']:.1f} s"
  return _number(row["median"]), _span(row["rates"]), compiling, _memory(row)


def _memory(row):
  return "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:,.0f} MiB"


def _span(rates):
  return f"{_number(min(rates))} - {_number(max(rates))}"


def _ratio(ratio):
  return f"{ratio:.2f} x" if ratio else ""


def _number(x):
  return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def plot(report: dict, path):
  """Write a plot of the results to `path`: bars for each comparison, or the curves of `scale`."""
  results = report["results"]
  if is_scale := results[0]["kind"] == "scale":
    title, size = f"Cost of training: {results[0]['title']}", (12, 7.2)
  else:
    title = "Characters per second: median, slowest and fastest round"
    size = 6 * min(2, len(results)), 1.9 * -(-len(results) // 2) + 0.9
  with plotting.figure(path, title, figsize=size) as figure:
    if is_scale:
      _plot_scale(figure, results[0])
    else:
      for axes, result in zip(plotting.panels(figure, len(results), 2), results):
        _plot_comparison(axes, result)
    figure.supxlabel("\n".join(machine(report["machine"])), size=7, color=plotting.GRAY)


def _plot_comparison(axes, result):
  """Plot a bar for each implementation, its rate beside it, and a line at the limit."""
  entries = result["implementations"]
  own = entries.get("charrnn")
  names = [_name(name, row, own) for name, row in entries.items()]
  for n, (name, row) in enumerate(entries.items()):
    color = plotting.COLORS[0 if name == "charrnn" else -1]
    spans = [[row["median"] - min(row["rates"])], [max(row["rates"]) - row["median"]]]
    axes.barh(n, row["median"], color=color, xerr=spans, error_kw={"lw": 0.8, "capsize": 2})
    text = _number(row["median"])
    if ratio := _ratio(result.get("ratios", {}).get(name)):
      text += f" (charrnn: {ratio})"
    elif result.get("utilization"):
      text += f" ({result['utilization']:.0%} of limit)"
    # Right of the axes, so that it crosses neither the bars nor the line.
    axes.text(1.02, n, text, transform=axes.get_yaxis_transform(), va="center")
  ends = [max(row["rates"]) for row in entries.values()]
  if kind := result.get("limit"):
    limit = result["limits"][kind]
    ends.append(limit)
    axes.axvline(limit, color=plotting.COLORS[1], ls="--", lw=1)
    text = f"limit of {kind}: {_number(limit)}"
    axes.annotate(text, (limit, -0.6), (-4, 0), textcoords="offset points", ha="right",
                  va="bottom", size=8, color=plotting.COLORS[1])  # fmt: skip
  plotting.label_rows(axes, names)
  axes.set(title=result["title"], xlim=(0, 1.03 * max(ends, default=1)))
  axes.set_ylim(len(names) - 0.4, -1.1)
  axes.xaxis.set_major_formatter(SHORT)


def _plot_scale(figure, result):
  *panels, last = plotting.panels(figure, len(studies.TITLES) + 1, 3)
  for axes, (name, points) in zip(panels, result["sweeps"].items()):
    title, label = studies.TITLES[name]
    title += "" if name == "devices" else f" (base {result['base'][name]})"
    sizes = [point["workload"][name] for point in points]
    _plot_sweep(axes, points, sizes)
    _set_sizes(axes, sizes, log=name not in ("layers", "devices"))
    axes.set(title=title, xlabel=label, ylabel="characters/s")
  panels[0].legend(fontsize=8, loc="upper right")  # the limit falls with the width
  _plot_memory(last, result["memory"])


def _plot_sweep(axes, points, sizes):
  """Plot measured rates and their utilization, and the limit that the rooflines set."""
  color, other = plotting.COLORS[:2]
  rates = [point["median"] for point in points]
  lows, highs = ([f(point["rates"]) for point in points] for f in (min, max))
  axes.plot(sizes, rates, color=color, marker="o", ms=4, label="median (numbers: utilization)")
  axes.fill_between(sizes, lows, highs, color=color, alpha=0.2, lw=0, label="range of the rounds")
  limits = [point["limits"].get(point["limit"]) for point in points]
  if all(limits):
    label = f"limit of {points[0]['limit']}"
    axes.plot(sizes, limits, color=other, ls="--", lw=1, label=label)
  place = {"xytext": (0, -13), "textcoords": "offset points", "ha": "center", "size": 8}
  for size, rate, point in zip(sizes, rates, points):
    if point["utilization"] is not None:
      axes.annotate(f"{point['utilization']:.0%}", (size, rate), **place)
  limits = [*lows, *highs, *filter(None, limits)] or [1]
  axes.set(yscale="log", ylim=(0.5 * min(limits), 4 * max(limits)))
  plotting.log_ticks(axes.yaxis, SHORT)


def _plot_memory(axes, points):
  for n, label in enumerate(("all states stored", "remat: some states stored, others recomputed")):
    selection = [point for point in points if bool(point["workload"]["remat"]) == bool(n)]
    windows = [point["workload"]["window"] for point in selection]
    sizes = [(point["memory_bytes"] or 0) / 2**20 for point in selection]
    style = {"color": plotting.COLORS[2 * n], "marker": "os"[n], "ls": ("-", "--")[n]}
    axes.plot(windows, sizes, ms=4, label=label, **style)
  axes.set(title="memory of long windows", ylabel="peak MiB", ylim=(0, 1.3 * axes.get_ylim()[1]))
  axes.set_xlabel(studies.TITLES["window"][1])
  axes.legend(fontsize=8)
  _set_sizes(axes, sorted({point["workload"]["window"] for point in points}), log=True)


def _set_sizes(axes, sizes, log):
  """Put a tick at each measured size."""
  if log:
    axes.set_xscale("log", base=2)
  axes.set_xticks(sizes, [str(size) for size in sizes])
  axes.minorticks_off()
  axes.grid(alpha=0.3)
