"""Results as a picture."""

from charrnn.benchmarks import scale, work

OWN, OTHER, LIMIT = "tab:blue", "tab:gray", "tab:orange"
AXES = {
  "hidden": "units in a layer",
  "layers": "layers",
  "batch": "streams side by side",
  "window": "characters between updates",
  "devices": "devices",
}


def draw(report, path):
  import matplotlib as mpl

  mpl.use("Agg")
  from matplotlib import pyplot as plt

  results = report["results"]
  is_scale = results[0]["kind"] == "scale"
  figure = _scale(plt, results[0]) if is_scale else _comparisons(plt, results)
  figure.text(
    0.99, 0.005, _machine(report["machine"]), ha="right", va="bottom", size=7, color="gray"
  )
  figure.savefig(path, dpi=120)
  plt.close(figure)


def _machine(found):
  device = "" if found["platform"] == "cpu" else f", {found['device']}"
  return f"{found['processor']}, {found['cores']} cores{device}, jax {found['packages']['jax']}"


def _comparisons(plt, results):
  """A panel of bars for every race."""
  columns = 2 if len(results) > 1 else 1
  rows = -(-len(results) // columns)
  figure, panels = plt.subplots(
    rows, columns, figsize=(5.5 * columns, 1.9 * rows + 0.9), layout="constrained", squeeze=False
  )
  for axes, result in zip(panels.flat, results):
    _bars(axes, result)
  for axes in panels.flat[len(results) :]:
    axes.remove()
  figure.suptitle("characters a second: medians, and the slowest and fastest round")
  figure.get_layout_engine().set(rect=(0, 0.03, 1, 0.97))
  return figure


def _bars(axes, result):
  entries = result["contestants"]
  for name, row in entries.items():
    color = OWN if name == "charrnn" else OTHER
    spans = [[row["median"] - min(row["rates"])], [max(row["rates"]) - row["median"]]]
    axes.barh(name, row["median"], color=color, xerr=spans, error_kw={"lw": 0.8, "capsize": 2})
    ratio = result.get("ratios", {}).get(name)
    text = f"{_short(row['median'])}" + (f": charrnn is {ratio:.2f} x" if ratio else "")
    axes.annotate(text, (max(row["rates"]), name), (5, 0), textcoords="offset points", va="center")
  most = max((max(row["rates"]) for row in entries.values()), default=1)
  axes.set(title=str(_task(result)), xlim=(0, 1.6 * most))
  axes.title.set_size(9)
  axes.xaxis.set_major_formatter(lambda x, _: _short(x))
  axes.invert_yaxis()
  axes.spines[["top", "right"]].set_visible(False)


def _task(result):
  return f"{result['kind']}: {work.KINDS[result['kind']](**result['work'])}"


def _scale(plt, result):
  figure, panels = plt.subplots(2, 3, figsize=(12, 7.2), layout="constrained")
  for axes, (name, points) in zip(panels.flat, result["sweeps"].items()):
    _sweep(axes, name, points, result["base"])
  _memory(panels.flat[-1], result["memory"])
  base = work.Training(**result["base"])
  figure.suptitle(f"What training costs: {base}, and one size of it changed at a time\n", size=12)
  handles, labels = panels.flat[0].get_legend_handles_labels()
  figure.legend(
    handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.965), ncols=3, frameon=False
  )
  figure.get_layout_engine().set(rect=(0, 0.03, 1, 0.97), wspace=0.04, hspace=0.06)
  return figure


def _sweep(axes, name, points, base):
  """Measured rates with their shares, below what the best rate of products would allow."""
  values = [point["work"][name] for point in points]
  rates = [point["median"] for point in points]
  lows, highs = ([f(point["rates"]) for point in points] for f in (min, max))
  axes.plot(values, rates, color=OWN, marker="o", ms=4, label="characters a second")
  axes.fill_between(
    values, lows, highs, color=OWN, alpha=0.2, lw=0, label="slowest to fastest round"
  )
  limits = [point["limits"].get("products") for point in points]
  if all(limits):
    label = "the most that matrix products allow (%: reached of it)"
    axes.plot(values, limits, color=LIMIT, ls="--", lw=1, label=label)
  for value, rate, point in zip(values, rates, points):
    if point["share"] is not None:
      axes.annotate(
        f"{point['share']:.0%}",
        (value, rate),
        (0, -13),
        textcoords="offset points",
        ha="center",
        size=8,
      )
  axes.set(title=_title(name, base), xlabel=AXES[name], ylabel="characters/s")
  axes.set_yscale("log")
  axes.set_ylim(0.5 * min([*lows, 1e9]), 2 * max([*highs, *filter(None, limits), 1e-9]))
  axes.set_yticks(_ticks(axes.get_ylim()))
  axes.yaxis.set_major_formatter(lambda x, _: _short(x))
  axes.yaxis.set_minor_formatter(lambda x, _: "")
  _sizes(axes, values, log=name not in ("layers", "devices"))


def _title(name, base):
  usual = "" if name == "devices" else f" (base {base[name]})"
  return f"{scale.TITLES[name]}{usual}"


def _ticks(limits):
  """1, 2 and 5 times powers of ten: a plain logarithmic axis may show one label or none."""
  low, high = limits
  every = [m * 10**n for n in range(10) for m in (1, 2, 5)]
  return [tick for tick in every if low <= tick <= high]


def _memory(axes, points):
  for kept, style in ((True, {"marker": "o"}), (False, {"marker": "s", "ls": "--"})):
    chosen = [point for point in points if kept == (not point["work"]["remat"])]
    windows = [point["work"]["window"] for point in chosen]
    sizes = [(point["memory_bytes"] or 0) / 2**20 for point in chosen]
    label = "all states kept" if kept else "remat: few kept, the others computed again"
    axes.plot(windows, sizes, ms=4, label=label, color=OWN if kept else "tab:green", **style)
  axes.set(title="memory of long windows", xlabel=AXES["window"], ylabel="peak MiB")
  axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
  axes.legend(fontsize=8)
  _sizes(axes, sorted({point["work"]["window"] for point in points}), log=True)


def _sizes(axes, values, log):
  """Ticks at the sizes that were measured."""
  if log:
    axes.set_xscale("log", base=2)
  axes.set_xticks(values, [str(value) for value in values])
  axes.minorticks_off()
  axes.grid(alpha=0.3)


def _short(x):
  for unit, text in ((1e6, "M"), (1e3, "k")):
    if x >= unit:
      return f"{x / unit:.3g}{text}"
  return f"{x:.3g}"
