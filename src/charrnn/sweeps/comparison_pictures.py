"""Pictures of a comparison: loss curves, settings sorted by loss, a grid, and loss by size."""

import math

import numpy as np
from matplotlib import ticker

from charrnn import config as config_lib
from charrnn import plotting
from charrnn.runs.status import RunStatus
from charrnn.sweeps import comparison, outcomes

BLUE, INK, FAINT, OTHERS = plotting.BLUE, plotting.REAL, plotting.GRAY, plotting.EDGE
COLORS = plotting.MORE_COLORS
NGRAM = {"color": INK, "ls": "--", "lw": 1}
MAX_SETTINGS = 40  # maximum number of rows in the settings picture
MAX_TICKS = 6  # maximum number of numeric values that get a tick each
MAX_VALUE = 20  # maximum length of a value in a tick label, in characters
MAX_FIELD = 24  # maximum length of a field's name in a label, in characters
TITLE_INCHES = 0.09  # approximate width of a character of a title
BEST = "best validation loss ({})"  # with the unit
DIFFERENT_TEXTS = "The runs use different texts or splits: losses are not comparable."
CURVES = {
  "step": "training steps",
  "characters": "training characters",
  "seconds": "seconds (training, evaluation and saving)",
  "flops": "training FLOPs (6 \u00d7 multiplied weights \u00d7 tokens, Kaplan et al. 2020)",
}
ESTIMATED = "seconds (some runs: training steps only, estimated from tokens/s)"
THIN = "Thick line: best setting of its color. Thin line: another setting, validation loss only."
MEAN = "Lines: mean over seeds, up to the last step that all seeds have. Shading: 95% interval."


def curves(result: comparison.Comparison, path):
  """Plot losses against steps, characters, seconds and FLOPs, in one panel each.

  The validation loss is a solid line, the training loss a faint one. A setting with several seeds
  is shown by its mean, with the 95% interval of the validation loss.
  """
  title = "Validation loss (solid) and training loss (faint) during training"
  title += "" if result.compares else f"\n{DIFFERENT_TEXTS}"
  trained = [setting for setting in result.settings if _has_curve(setting)]
  ngrams = [s for s in result.settings if not _has_curve(s) and s.so_far is not None]
  with plotting.figure(path, title, figsize=(12, 7.5)) as figure:
    styles = _styles(result, trained)
    estimated = any(run.estimates_seconds for setting in trained for run in setting.runs)
    labels = CURVES | ({"seconds": ESTIMATED} if estimated else {})
    for axes, (key, label) in zip(figure.subplots(2, 2, sharey=True).flat, labels.items()):
      for setting in ngrams:
        axes.axhline(setting.so_far, **NGRAM, label=plotting.plain(setting.label))
      for setting, style in reversed(list(zip(trained, styles))):  # The best one is on top.
        _curve(axes, setting, key, *style)
      _scale(axes, label, trained, ngrams)
      axes.set_ylabel(f"loss ({result.loss_unit})")
    if any(len(line.get_xdata()) for line in axes.lines):
      axes.set_xscale("log")  # only the last panel, which shows FLOPs
      every_tick = (math.inf, math.inf)
      plotting.log_ticks(axes.xaxis, ticker.LogFormatterSciNotation(minor_thresholds=every_tick))
      _start_at_visible_points(axes)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
      notes = [THIN] if any(label is None for _, label in styles) else []
      notes += [MEAN] if any(_is_mean(setting) for setting in trained) else []
      columns = min(3, 150 // max(map(len, labels)))  # MAX_LABEL ensures at least 2
      place = {"loc": "outside lower center", "ncols": columns, "title": "\n".join(notes) or None}
      figure.legend(handles[::-1], labels[::-1], **place)


def _has_curve(setting) -> bool:
  return any(point.characters for run in setting.runs for point in run.points)


def _styles(result, settings) -> list[tuple[str, str | None]]:
  """Return the color of each curve and its label in the legend; a thin curve has no label.

  If there are few settings, each has its own color. Otherwise the colors show the values of the
  first field with few values; if there is no such field, only the best settings have a color.
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
  """Return the mean curve over seeds at the steps that all seeds have: float [points, 3].

  A row is (x, mean loss, half of the 95% interval); the last is NaN for a single seed.
  """
  by_seed = {}
  for run in setting.runs:  # The best run of a seed comes first.
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


def _is_mean(setting: comparison.Setting) -> bool:
  """Return whether the curve of a setting is a mean over seeds: only a mean has an interval."""
  return bool(np.isfinite(mean_curve(setting, "step", "valid")[:, 2]).any())


def _start_at_visible_points(axes):
  """Start the x axis at the first point of a line that is below the top of the panel."""
  top = axes.get_ylim()[1]
  lines = [line.get_xydata() for line in axes.lines if line.get_transform() == axes.transData]
  points = np.concatenate([np.empty((0, 2)), *lines])
  if len(visible := points[points[:, 1] <= top, 0]):
    axes.set_xlim(left=0.8 * visible.min())


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
  axes.set_xlabel(label)
  axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
  axes.grid(which="both")
  runs = [run for setting in settings for run in setting.runs]
  points = [p for run in runs if run.status not in comparison.UNUSABLE for p in run.points]
  train = [point.train for point in points if point.train is not None]
  valid = [point.valid for point in points if point.valid is not None]
  valid += [setting.so_far for setting in ngrams]
  if valid or train:
    # Leave out the steep fall at the start of training and runs that diverged.
    low, high = min(train + valid), float(np.quantile(valid or train, 0.9))
    margin = 0.05 * (high - low) + 0.01
    axes.set_ylim(low - margin, max(high, low) + margin)
  axes.yaxis.set_major_locator(ticker.MaxNLocator(8, steps=(1, 2, 5, 10)))


def settings(result: comparison.Comparison, path):
  """Plot the best loss of each run, in one row per setting, with means and intervals over seeds."""
  shown = [setting for setting in result.settings if setting.so_far is not None][:MAX_SETTINGS]
  title = "Best validation loss of each run, by setting"
  title += "" if result.compares else f"\n{DIFFERENT_TEXTS}"
  longest = max((len(setting.label) for setting in shown), default=0)
  size = (6 + 0.08 * longest, 1.6 + 0.3 * max(2, len(shown)))
  with plotting.figure(path, title, figsize=size) as figure:
    axes = figure.subplots()
    if not shown:
      plotting.write(axes, "No run has a usable validation loss yet.")
      return
    for row, setting in enumerate(shown):
      axes.axhline(row, color=plotting.GRID, lw=1, zorder=0)
      for run in setting.usable_runs:
        axes.plot(run.best.valid, row, "o", color=BLUE, mfc=_face(run), ms=6, alpha=0.8)
      if setting.interval:
        axes.plot(setting.interval, [row, row], color=INK, lw=1.4)
        axes.plot(setting.loss, row, "|", color=INK, ms=13, mew=2)
    plotting.label_rows(axes, [setting.label for setting in shown])
    axes.set_xlabel(BEST.format(result.loss_unit))
    axes.set_xlim(_limits(shown))
    if not result.in_bits:
      bits = (lambda nats: nats / math.log(2), lambda bits: bits * math.log(2))
      axes.secondary_xaxis("top", functions=bits).set_xlabel(f"bits per {result.unit}")
    handles = _dots(axes, shown)
    if any(setting.interval for setting in shown):
      label = "mean over seeds, 95% interval (Student's t)"
      handles += axes.plot([], [], color=INK, lw=1.4, marker="|", ms=13, mew=2, label=label)
    without = sum(setting.so_far is None for setting in result.settings)
    counts = {
      "without a usable loss": without,
      "with a higher loss": len(result.settings) - without - len(shown),
    }
    if left_out := ", ".join(f"{count} {reason}" for reason, count in counts.items() if count):
      handles += axes.plot([], [], ls="", label=f"settings not shown: {left_out}")
    _legend(figure, handles)


def _limits(settings) -> tuple[float, float]:
  """Return the limits of the loss axis: all runs, and intervals if they are not much wider."""
  losses = [run.best.valid for setting in settings for run in setting.usable_runs]
  low, high = min(losses), max(losses)
  margin = 0.08 * (high - low) or 0.05
  ends = [end for setting in settings for end in setting.interval or ()]
  reach = high - low  # The interval of two seeds can be much wider: such an interval is clipped.
  low, high = max(min([low, *ends]), low - reach), min(max([high, *ends]), high + reach)
  return low - margin, high + margin


def _face(run) -> str:
  """Return the fill color of a run's dot."""
  return BLUE if run.status == RunStatus.FINISHED else "none"


def _dots(axes, settings) -> list:
  """Return the legend handles of the runs' dots; none if all runs are finished."""
  faces, handles = {_face(run) for setting in settings for run in setting.usable_runs}, []
  if len(faces) == 2:
    handles += axes.plot([], [], "o", color=BLUE, ms=6, label="finished run")
  if "none" in faces:
    handles += axes.plot([], [], "o", color=BLUE, mfc="none", ms=6, label="unfinished run")
  return handles


def _legend(figure, handles):
  if handles:
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def grid(result: comparison.Comparison, path):
  """Plot losses by the fields that differ.

  Two fields that form a grid make a heat map, and a third field a map for each of its values.
  Otherwise each field has a panel with a dot per run.
  """
  if not result.compares or not result.axes:
    same = "The runs do not differ in any field that affects the loss."
    text = same if result.compares else DIFFERENT_TEXTS
    title = "Best validation loss by config field"
    with plotting.figure(path, title, figsize=(6, 2.2)) as figure:
      plotting.write(figure.subplots(), text)
  elif comparison.is_grid(result.axes, result.settings):
    _maps(result, path)
  else:
    _fields(result, path)


def _maps(result, path):
  # Fields of names, then fields of few values, separate maps. The field with the most values goes
  # across.
  pairs = sorted(result.axes, key=lambda axis: (_is_numeric(axis.values), len(axis.values)))
  third = pairs.pop(0) if len(pairs) == 3 else None
  down, across = sorted(pairs, key=lambda axis: len(axis.values))
  values = third.values if third else [None]
  losses = [setting.loss for setting in result.settings if setting.loss is not None]
  ends = {"vmin": min(losses, default=0), "vmax": max(losses, default=1)}
  width = 1.8 + len(values) * max(1.6, 0.75 * len(across.values))
  height = 1.5 + max(1.2, 0.5 * len(down.values))
  names = [_field_name(axis.field) for axis in (across, down, *filter(None, [third]))]
  notes = ["Bold: lowest loss of each map." if third else "Bold: lowest loss."]
  if any(setting.loss is None and setting.so_far is not None for setting in result.settings):
    notes.append("Gray: best loss so far.")
  title = f"Best validation loss by {', '.join(names[:-1])} and {names[-1]}\n{' '.join(notes)}"
  width = max(width, TITLE_INCHES * max(map(len, title.split("\n"))))
  with plotting.figure(path, title, figsize=(width, height + 0.2)) as figure:
    panels = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axes, value in zip(panels, values):
      inside = [s for s in result.settings if not third or s.place.get(third.field) == value]
      image = _map(axes, inside, down, across, ends)
      axes.set_xlabel(_axis_label(across))
      if third:
        axes.set_title(f"{config_lib.short(third.field)} = {_tick(value)}")
    panels[0].set_ylabel(_axis_label(down))
    figure.colorbar(image, ax=panels, shrink=0.9, label=result.loss_unit)


def _map(axes, settings, down, across, ends):
  """Plot a heat map; if several settings share a place, it shows the best one."""
  places = {}
  for setting in settings:  # The best setting of a place comes first.
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
  return plotting.plain(outcomes.shorten(comparison.value_text(value), MAX_VALUE))


def _is_numeric(values) -> bool:
  return all(comparison.number(value) is not None for value in values)


def _axis_label(axis) -> str:
  others = ", ".join(config_lib.short(field) for field in axis.followers)
  text = f"\n(also: {outcomes.shorten(others, MAX_FIELD)})" if others else ""
  return _field_name(axis.field) + text


def _field_name(field: str) -> str:
  return outcomes.shorten(config_lib.short(field), MAX_FIELD)


def _fields(result, path):
  """Plot a panel with a dot per run for each axis and each field that an axis determines."""
  names = [name for axis in result.axes for name in (axis.field, *axis.followers)]
  columns = min(3, len(names))
  rows = math.ceil(len(names) / columns)
  size = (1 + 3.6 * columns, 0.8 + 3 * rows)
  title = "Best validation loss of each run, by config field"
  with plotting.figure(path, title, figsize=size) as figure:
    panels = plotting.panels(figure, len(names), columns, sharey=True)
    for axes, name in zip(panels, names):
      _field(axes, result.settings, name)
    for axes in panels[::columns]:
      axes.set_ylabel(result.loss_unit)
    handles = _dots(panels[0], result.settings)
    if any(not setting.usable_runs for setting in result.settings):
      label = "no usable loss, with the run's status"
      handles += panels[0].plot([], [], "x", color=FAINT, ms=6, label=label)
    _legend(figure, handles)


def _field(axes, settings, name):
  values = comparison.ordered(setting.place.get(name) for setting in settings)
  is_numeric = _is_numeric(values)
  place = {repr(value): value if is_numeric else n for n, value in enumerate(values)}
  for setting in settings:
    x = place[repr(setting.place.get(name))]
    for run in setting.usable_runs:
      axes.plot(x, run.best.valid, "o", color=BLUE, mfc=_face(run), ms=5, alpha=0.8)
    if not setting.usable_runs:
      # The mark is at the top edge and the status above it, so that neither covers a dot.
      style = {"xycoords": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
      axes.plot(x, 1, "x", color=FAINT, ms=6, clip_on=False, transform=style["xycoords"])
      axes.annotate(setting.runs[0].status, (x, 1.04), size=7, color=FAINT, rotation=90, **style)
  if is_numeric and values[0] > 0 and values[-1] > 8 * values[0]:
    axes.set_xscale("log")
  if not is_numeric or len(values) <= MAX_TICKS:
    axes.set_xticks(list(place.values()), [_tick(value) for value in values])
    axes.minorticks_off()
  axes.set_xlabel(config_lib.short(name))
  axes.grid()


def sizes(result: comparison.Comparison, path):
  """Plot loss against parameters, with a dot per setting and power laws through the best ones."""
  by_cell = comparison.losses_by_size(result)
  title = "Best validation loss by number of parameters"
  with plotting.figure(path, title, figsize=(8.5, 6)) as figure:
    axes = figure.subplots()
    if not any(len(curve) > 1 for curve in by_cell.values()):
      needs = "This picture needs finished runs of at least two sizes."
      text = needs if result.compares else DIFFERENT_TEXTS
      plotting.write(axes, text)
      return
    for color, (cell, curve) in zip(COLORS, by_cell.items()):
      own = [s for s in result.settings if s.runs[0].fields["model.cell"] == cell]
      _size(axes, cell, curve, own, color)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.MaxNLocator(7, min_n_ticks=3))
    axes.yaxis.set_major_formatter(ticker.ScalarFormatter(useOffset=False))
    plotting.log_ticks(axes.xaxis, ticker.EngFormatter(sep=""))
    axes.minorticks_off()
    axes.grid()
    axes.set(xlabel="number of parameters", ylabel=BEST.format(result.loss_unit))
    title = (
      "Large dot: best setting of its size. Pale dot: another setting. Line: fitted power law."
    )
    figure.legend(title=title, loc="outside lower center", ncols=2)


def _size(axes, cell, curve, settings, color):
  points = [(s.runs[0].parameters, s.loss) for s in settings if s.loss is not None]
  axes.plot(*zip(*points), "o", color=color, ms=4, alpha=0.35)
  sizes, laws = np.geomspace(min(curve), max(curve), 50), comparison.power_laws(curve)
  for law, style in zip(laws, ("-", ":")):
    floor = f" with floor {law['floor']:.3f}" if law["floor"] else ""
    fit = "all losses are equal" if law["r2"] is None else f"R\u00b2 {law['r2']:.3f}"
    label = f"{cell}{floor}: exponent {law['exponent']:.3f}, {fit}"
    axes.plot(sizes, comparison.law_loss(law, sizes), style, color=color, lw=1.4, label=label)
    axes.plot(*zip(*curve.items()), "o", color=color, ms=6)
  if not laws:
    label = f"{cell}: a fit needs at least {comparison.MIN_SIZES} sizes"
    axes.plot(*zip(*curve.items()), "o--", color=color, ms=6, lw=0.8, label=label)
