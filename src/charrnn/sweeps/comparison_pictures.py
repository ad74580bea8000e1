"""Pictures of a comparison: loss curves, settings from the best down, a grid, and loss by size."""

import math

import numpy as np
from matplotlib import ticker

from charrnn import config as config_lib
from charrnn import plotting
from charrnn.runs.status import RunStatus
from charrnn.sweeps import comparison

BLUE, INK, FAINT, OTHERS = plotting.BLUE, plotting.REAL, plotting.GRAY, plotting.EDGE
COLORS = plotting.MORE_COLORS
NGRAM = {"color": INK, "ls": "--", "lw": 1}
MAX_SETTINGS = 40  # in a picture
MAX_TICKS = 6  # up to so many values, each has a tick
MAX_VALUE = 20  # characters of a value
MAX_FIELD = 24  # characters of a field's name
NATS = "best validation loss, nats a character"
DIFFERENT_TEXTS = "different texts: losses are not comparable"
CURVES = {
  "step": "steps",
  "characters": "characters of training",
  "seconds": "seconds of training, evaluation and saving",
  "flops": "floating point operations, 6 x weights x characters (Kaplan et al. 2020)",
}
ESTIMATED = "seconds (of some runs estimated from characters/s: steps alone)"


def curves(result: comparison.Comparison, path):
  """Plot losses against steps, characters, seconds and operations, a panel each.

  Validation loss is solid, training loss faint. Over seeds, the mean is shown, and the interval of
  the validation loss.
  """
  title = "validation loss (solid) and training loss (faint)"
  title += "" if result.compares else f"; {DIFFERENT_TEXTS}"
  trained = [setting for setting in result.settings if _has_curve(setting)]
  ngrams = [s for s in result.settings if not _has_curve(s) and s.so_far is not None]
  with plotting.figure(path, title, figsize=(13, 8)) as figure:
    styles = _styles(result, trained)
    estimated = any(run.estimates_seconds for setting in trained for run in setting.runs)
    labels = CURVES | ({"seconds": ESTIMATED} if estimated else {})
    for axes, (key, label) in zip(figure.subplots(2, 2, sharey=True).flat, labels.items()):
      for setting in ngrams:
        axes.axhline(setting.so_far, **NGRAM, label=plotting.plain(setting.label))
      for setting, style in reversed(list(zip(trained, styles))):  # the best one on top
        _curve(axes, setting, key, *style)
      _scale(axes, label, trained, ngrams)
    if any(len(line.get_xdata()) for line in axes.lines):
      axes.set_xscale("log")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
      thin = "thick: best of its colour; thin: other settings, validation only"
      title = thin if any(label is None for _, label in styles) else None
      columns = min(3, 150 // max(map(len, labels)))  # MAX_LABEL makes it at least 2
      place = {"loc": "outside lower center", "ncols": columns, "title": title}
      figure.legend(handles[::-1], labels[::-1], **place)


def _has_curve(setting) -> bool:
  return any(point.characters for run in setting.runs for point in run.points)


def _styles(result, settings) -> list[tuple[str, str | None]]:
  """Return the colours of curves and their labels in the key; no label: the curve is thin.

  Each of few settings has a colour, or each value of the first field with few values.
  """
  best = [(color, setting.label) for color, setting in zip(COLORS, settings)]
  if len(settings) <= len(COLORS):
    return best
  field = next((axis for axis in result.axes if len(axis.values) <= len(COLORS)), None)
  if field is None:
    return best + [(OTHERS, None)] * (len(settings) - len(best))
  colors, styles = dict(zip(map(repr, field.values), COLORS)), []
  for setting in settings:
    color = colors[repr(setting.place[field.field])]
    is_best = color not in dict(styles)
    styles.append((color, setting.label if is_best else None))
  return styles


def mean_curve(setting: comparison.Setting, key: str, loss: str) -> np.ndarray:
  """Return rows (x, mean loss, half the interval or NaN) at the steps that all seeds have."""
  by_seed = {}
  for run in setting.runs:  # best first
    if run.status in comparison.UNUSABLE and len(setting.runs) > 1:
      continue
    points = {point.step: (getattr(point, key), getattr(point, loss)) for point in run.points}
    if points := {step: point for step, point in points.items() if None not in point}:
      by_seed.setdefault(run.fields.get("seed"), points)
  curves, rows = list(by_seed.values()), []
  for step in sorted(set.intersection(*map(set, curves))) if curves else []:
    places, losses = zip(*(curve[step] for curve in curves))
    low, high = comparison.interval(losses) or (math.nan, math.nan)
    rows.append((np.mean(places), np.mean(losses), (high - low) / 2))
  return np.array(rows).reshape(-1, 3)


def _curve(axes, setting, key, color, label):
  x, mean, half = mean_curve(setting, key, "valid").T
  if label is None:
    axes.plot(x, mean, color=color, lw=0.8, alpha=0.7)
    return
  axes.plot(x, mean, color=color, lw=2, marker="o", ms=3, label=plotting.plain(label))
  axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, lw=0)
  x, mean, _ = mean_curve(setting, key, "train").T
  axes.plot(x, mean, color=color, lw=0.7, alpha=0.4)


def _scale(axes, label, settings, ngrams):
  axes.set(xlabel=label, ylabel="nats a character")
  axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
  axes.grid(which="both")
  runs = [run for setting in settings for run in setting.runs]
  points = [p for run in runs if run.status not in comparison.UNUSABLE for p in run.points]
  train = [point.train for point in points if point.train is not None]
  valid = [point.valid for point in points if point.valid is not None]
  valid += [setting.so_far for setting in ngrams]
  if valid or train:
    # Without the first fall of the loss, and without what diverged.
    low, high = min(train + valid), float(np.quantile(valid or train, 0.9))
    margin = 0.05 * (high - low) + 0.01
    axes.set_ylim(low - margin, max(high, low) + margin)
  axes.yaxis.set_major_locator(ticker.MaxNLocator(8))


def settings(result: comparison.Comparison, path):
  """Plot a dot for each run, a row for each setting, and over seeds the mean with its interval."""
  shown = [setting for setting in result.settings if setting.so_far is not None][:MAX_SETTINGS]
  title = "the best validation loss of each setting"
  title += "" if result.compares else f" ({DIFFERENT_TEXTS})"
  longest = max((len(setting.label) for setting in shown), default=0)
  size = (6 + 0.08 * longest, 1.6 + 0.3 * max(2, len(shown)))
  with plotting.figure(path, title, figsize=size) as figure:
    axes = figure.subplots()
    if not shown:
      plotting.write(axes, "no run has a validation loss yet")
      return
    for row, setting in enumerate(shown):
      axes.axhline(row, color=plotting.GRID, lw=1, zorder=0)
      for run in setting.usable_runs:
        axes.plot(run.best.valid, row, "o", color=BLUE, mfc=_face(run), ms=6, alpha=0.8)
      if setting.interval:
        axes.plot(setting.interval, [row, row], color=INK, lw=1.4)
        axes.plot(setting.loss, row, "|", color=INK, ms=13, mew=2)
    plotting.label_rows(axes, [setting.label for setting in shown])
    axes.set_xlabel(NATS)
    # By the runs, since the interval of two can be much wider.
    losses = [run.best.valid for setting in shown for run in setting.usable_runs]
    margin = 0.08 * (max(losses) - min(losses)) or 0.05
    axes.set_xlim(min(losses) - margin, max(losses) + margin)
    bits = (lambda nats: nats / math.log(2), lambda bits: bits * math.log(2))
    axes.secondary_xaxis("top", functions=bits).set_xlabel("bits")
    _key(figure, axes, shown, len(result.settings) - len(shown))


def _face(run) -> str:
  """Return the fill colour of a run's dot."""
  return BLUE if run.status == RunStatus.FINISHED else "none"


def _key(figure, axes, shown, left_out):
  faces, handles = {_face(run) for setting in shown for run in setting.usable_runs}, []
  if len(faces) == 2:
    handles += axes.plot([], [], "o", color=BLUE, ms=6, label="a finished run")
  if "none" in faces:
    handles += axes.plot([], [], "o", color=BLUE, mfc="none", ms=6, label="an unfinished run")
  if any(setting.interval for setting in shown):
    label = "mean over seeds, 95% interval (t)"
    handles += axes.plot([], [], color=INK, lw=1.4, marker="|", ms=13, mew=2, label=label)
  if left_out:
    handles += axes.plot([], [], ls="", label=f"{left_out} more settings, without a loss or worse")
  if handles:
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def grid(result: comparison.Comparison, path):
  """Plot losses by two fields as a heat map, one for each value of a third; else a dot for each."""
  if not result.compares or not result.axes:
    text = DIFFERENT_TEXTS if result.axes else "the runs differ in no field that affects the loss"
    with plotting.figure(path, "the loss by the fields that differ", figsize=(8, 3)) as figure:
      plotting.write(figure.subplots(), text)
  elif comparison.is_grid(result.axes, result.settings):
    _maps(result, path)
  else:
    _fields(result, path)


def _maps(result, path):
  # Names and fields of few values separate maps; the field with most values goes across.
  pairs = sorted(result.axes, key=lambda axis: (_is_numeric(axis.values), len(axis.values)))
  third = pairs.pop(0) if len(pairs) == 3 else None
  down, across = sorted(pairs, key=lambda axis: len(axis.values))
  values = third.values if third else [None]
  losses = [setting.loss for setting in result.settings if setting.loss is not None]
  ends = {"vmin": min(losses, default=0), "vmax": max(losses, default=1)}
  width = 1.8 + len(values) * max(1.6, 0.75 * len(across.values))
  height = 1.5 + max(1.2, 0.5 * len(down.values))
  title = "the best validation loss, nats a character"
  title += " (bold: the best of each map)" if third else ""
  with plotting.figure(path, title, figsize=(width, height)) as figure:
    panels = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axes, value in zip(panels, values):
      inside = [s for s in result.settings if not third or s.place.get(third.field) == value]
      image = _map(axes, inside, down, across, ends)
      axes.set_xlabel(_axis_label(across))
      if third:
        axes.set_title(f"{config_lib.short(third.field)} = {_tick(value)}")
    panels[0].set_ylabel(_axis_label(down))
    figure.colorbar(image, ax=panels, shrink=0.9)


def _map(axes, settings, down, across, ends):
  """Plot a heat map; where a fourth field puts several settings in a place, the best is shown."""
  places = {}
  for setting in settings:  # best first
    place = tuple(axis.values.index(setting.place.get(axis.field)) for axis in (down, across))
    places.setdefault(place, setting)
  losses_DxA = np.full((len(down.values), len(across.values)), np.nan)
  for place, setting in places.items():
    losses_DxA[place] = np.nan if setting.loss is None else setting.loss
  image = axes.imshow(losses_DxA, cmap="viridis_r", aspect="auto", **ends)
  axes.set_facecolor(plotting.SHADE)
  best = min(places, key=lambda place: places[place].loss or math.inf, default=None)
  for (row, column), setting in places.items():
    color, text = FAINT, setting.runs[0].status
    if setting.loss is not None:
      red, green, blue, _ = image.to_rgba(setting.loss)
      color = "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else INK
      text = f"{setting.loss:.3f}"
    elif setting.so_far is not None:
      text += f"\n{setting.so_far:.3f}"
    style = {"color": color, "weight": "bold" if (row, column) == best else "normal", "size": 8}
    axes.text(column, row, text, ha="center", va="center", **style)
  axes.set_xticks(range(len(across.values)), [_tick(value) for value in across.values])
  axes.set_yticks(range(len(down.values)), [_tick(value) for value in down.values])
  axes.tick_params(length=0)
  return image


def _tick(value) -> str:
  if comparison.number(value) is not None and value >= 10_000:
    return f"{value:,g}" if value < 1e6 else ticker.EngFormatter(sep="")(value)
  return plotting.plain(comparison.shorten(comparison.value_text(value), MAX_VALUE))


def _is_numeric(values) -> bool:
  return all(comparison.number(value) is not None for value in values)


def _axis_label(axis) -> str:
  name, *others = (config_lib.short(field) for field in (axis.field, *axis.followers))
  text = f"\nand {comparison.shorten(', '.join(others), MAX_FIELD)}" if others else ""
  return comparison.shorten(name, MAX_FIELD) + text


def _fields(result, path):
  """Plot a panel for each field, and for those that depend on it."""
  names = [name for axis in result.axes for name in (axis.field, *axis.followers)]
  columns = min(3, len(names))
  rows = math.ceil(len(names) / columns)
  size = (1 + 3.6 * columns, 0.8 + 3 * rows)
  with plotting.figure(path, "the best validation loss by each field", figsize=size) as figure:
    panels = plotting.panels(figure, len(names), columns, sharey=True)
    for axes, name in zip(panels, names):
      _field(axes, result.settings, name)
    for axes in panels[::columns]:
      axes.set_ylabel("nats a character")


def _field(axes, settings, name):
  values = comparison.ordered(setting.place.get(name) for setting in settings)
  is_numeric = _is_numeric(values)
  place = {repr(value): value if is_numeric else n for n, value in enumerate(values)}
  for setting in settings:
    x = place[repr(setting.place.get(name))]
    for run in setting.usable_runs:
      axes.plot(x, run.best.valid, "o", color=BLUE, mfc=_face(run), ms=5, alpha=0.8)
    if not setting.usable_runs:
      top = {"xycoords": axes.get_xaxis_transform(), "ha": "center", "va": "top", "rotation": 90}
      axes.plot(x, 0.98, "x", color=FAINT, ms=6, transform=top["xycoords"])
      axes.annotate(setting.runs[0].status, (x, 0.96), size=7, color=FAINT, **top)
  if is_numeric and values[0] > 0 and values[-1] > 8 * values[0]:
    axes.set_xscale("log")
  if not is_numeric or len(values) <= MAX_TICKS:
    axes.set_xticks(list(place.values()), [_tick(value) for value in values])
    axes.minorticks_off()
  axes.set_xlabel(config_lib.short(name))
  axes.grid()


def sizes(result: comparison.Comparison, path):
  """Plot loss against parameters: a dot for each setting, and power laws through the best ones."""
  by_cell = comparison.losses_by_size(result)
  with plotting.figure(path, "loss by size", figsize=(8.5, 5.5)) as figure:
    axes = figure.subplots()
    if not any(len(curve) > 1 for curve in by_cell.values()):
      text = "needs finished runs of several sizes" if result.compares else DIFFERENT_TEXTS
      plotting.write(axes, text)
      return
    for color, (cell, curve) in zip(COLORS, by_cell.items()):
      own = [s for s in result.settings if s.runs[0].fields["model.cell"] == cell]
      _size(axes, cell, curve, own, color)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.MaxNLocator(7, min_n_ticks=3))
    axes.yaxis.set_major_formatter("{x:g}")
    plotting.log_ticks(axes.xaxis, ticker.EngFormatter(sep=""))
    axes.minorticks_off()
    axes.grid()
    axes.set(xlabel="parameters", ylabel=NATS)
    axes.legend(title="the best of each size, and a power law through it", loc="best")


def _size(axes, cell, curve, settings, color):
  points = [(s.runs[0].parameters, s.loss) for s in settings if s.loss is not None]
  axes.plot(*zip(*points), "o", color=color, ms=4, alpha=0.35)
  sizes, laws = np.geomspace(min(curve), max(curve), 50), comparison.power_laws(curve)
  for law, style in zip(laws, ("-", ":")):
    floor = f" with a floor of {law['floor']:.3f}" if law["floor"] else ""
    fit = "all losses are the same" if law["r2"] is None else f"R\u00b2 {law['r2']:.3f}"
    label = f"{cell}{floor}: exponent {law['exponent']:.3f}, {fit}"
    axes.plot(sizes, comparison.law_loss(law, sizes), style, color=color, lw=1.4, label=label)
    axes.plot(*zip(*curve.items()), "o", color=color, ms=6)
  if not laws:
    label = f"{cell}: too few sizes for a law"
    axes.plot(*zip(*curve.items()), "o--", color=color, ms=6, lw=0.8, label=label)
