"""Measurement and plot of the metrics of text sampled at several temperatures."""

import math
import textwrap
from typing import Any

import numpy as np

from charrnn import console, errors, plotting
from charrnn.data import splits
from charrnn.evaluation import score
from charrnn.runs import held_out
from charrnn.sampling import sampler
from charrnn.scorecards import diversity, metrics, systems

MAX_TEMPERATURE = 1e30  # replaces infinity in the sampler; all logits become equal
EXCERPT = 160  # number of characters in an excerpt
_TICKS = (0, 0.25, 0.5, 1, 2, 4, math.inf)
_DISTINCT = tuple(f"distinct-{n}" for n in diversity.SIZES)
_GRAMS = f"{diversity.GRAM}-grams"
_DISTANCE = "distance from held-out text (0 to 1)"
_MIN_GAP = 0.06  # minimum distance between labels of loop periods, as a fraction of the x axis
# Title, label of the y axis, metrics, and the key of their values. Shares are shown in percent.
_PANELS = (
  ("Entropy of the sampling distribution", "nats per token", ("entropy",), "value"),
  ("Loss under the model at T = 1", "nats per token (log scale)", ("loss",), "value"),
  ("Words that the training text contains", "% of words", ("known words",), "value"),
  ("Distinct sequences of n words", "% of sequences in a text", _DISTINCT, "value"),
  (f"Frequencies of {diversity.GRAM}-character sequences", _DISTANCE, (_GRAMS,), "distance"),
  ("Word frequencies", _DISTANCE, ("words",), "distance"),
  ("Texts that end in a loop", "% of texts", ("loops",), "value"),
)


def held_out_samples(
  corpus: held_out.DividedCorpus, length: int, count: int
) -> tuple[np.ndarray, list[str]]:
  """Return at most `count` evenly spaced, disjoint spans of held-out text.

  They are ids [B, length], and texts.
  """
  spans = splits.merge([*corpus.splits.valid, *corpus.splits.test])
  starts = [s for start, stop in spans for s in range(start, stop - length + 1, length)]
  if len(starts) < 2:
    longest = max(stop - start for start, stop in spans) // 2
    raise errors.UserError(
      f"--length={length}: the held-out text is too short; use at most {longest} tokens"
    )
  indices = np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(int)
  chosen = [(starts[i], starts[i] + length) for i in indices.tolist()]
  ids_BxN = np.stack([np.asarray(corpus.corpus.ids[slice(*span)]) for span in chosen])
  return ids_BxN, [corpus.corpus.text(*span) for span in chosen]


def measure(
  run,
  prompt_ids,
  settings: dict[str, sampler.Settings],
  reference: tuple[np.ndarray, list[str]],
  training: str,
  **size: int,
) -> dict[str, Any]:
  """Return the metrics of samples at each temperature and of held-out text, and excerpts.

  `settings` maps the names of the temperatures to settings of the sampler. `size` contains num,
  length and seed of the samples. `reference` is the result of `held_out_samples`, which is
  scored at temperature 1.
  """
  parse = diversity.parser(training)

  def items(ids_BxN, texts, each: sampler.Settings):
    scores = score.rescore(run.model, run.params, prompt_ids, ids_BxN, each, run.tokenizer.writable)
    return metrics.measure(diversity.METRICS, map(parse, texts, *scores))

  with console.Progress() as progress:
    progress("held-out text")
    by_system, excerpts = {systems.HELD_OUT: items(*reference, sampler.Settings())}, {}
    update = progress("samples")
    for n, (name, each) in enumerate(settings.items()):
      update(n, len(settings))
      # Score the sampled ids, because decoded text of a byte tokenizer cannot be encoded again.
      ids_BxN = sampler.sample_ids(run, prompt_ids, settings=each, **size)
      by_system[name] = items(ids_BxN, map(run.tokenizer.decode, ids_BxN), each)
      excerpts[name] = run.tokenizer.decode(ids_BxN[0])[:EXCERPT]
    progress("metrics")
    report = metrics.compare(diversity.METRICS, by_system, systems.HELD_OUT, size["seed"])
  return report | {"excerpts": excerpts}


def describe(settings: dict[str, Any]) -> str:
  """Return the number and the length of texts, for example "16 texts of 1,000 tokens"."""
  texts, tokens = errors.plural(settings["num"], "text"), errors.plural(settings["length"], "token")
  return f"{texts} of {tokens}"


def plot(report: dict[str, Any], path):
  """Plot a panel for each group of metrics.

  Dashed lines show the values of held-out text, or noise floors in panels of distances.
  """
  rows = {row["name"]: row["systems"] for row in report["metrics"]}
  kinds = {row["name"]: row["kind"] for row in report["metrics"]}
  settings, temperatures = report["settings"], report["temperatures"]
  xs = [_x(float(temperature)) for temperature in temperatures]
  texts = describe(settings)
  run = f"{report['run']}, step {report['step']}"
  title = f"Effect of the sampling temperature T on samples of {run} ({texts} per temperature)"
  with plotting.figure(path, title, figsize=(13, 6.2)) as figure:
    *panels, last = plotting.panels(figure, len(_PANELS) + 1, 4)
    for axes, (head, unit, names, key) in zip(panels, _PANELS):
      for name, color in zip(names, plotting.COLORS):
        values = [rows[name][temperature] for temperature in temperatures]
        reference = rows[name][report["reference"]]
        reference_color = plotting.REAL if len(names) == 1 else color
        scale = 100 if kinds[name] == "share" else 1
        style = {"label": name.replace("distinct-", "n = "), "colors": (color, reference_color)}
        _curve(axes, xs, values, reference, key, scale, has_intervals=len(names) == 1, **style)
      if len(names) > 1:
        axes.legend(loc="lower right", frameon=True, edgecolor="none")
      # The loss at high temperatures is many times the loss of readable text.
      if names == ("loss",):
        axes.set_yscale("log")
        plotting.log_ticks(axes.yaxis)
      else:
        axes.set_ylim(0, {_DISTANCE: 1.08, "nats per token": None}.get(unit, 108))
      labels = ["\u221e" if math.isinf(tick) else f"{tick:g}" for tick in _TICKS]
      axes.set_xticks([_x(tick) for tick in _TICKS], labels)
      axes.set(ylabel=unit, xlim=(xs[0] - 0.06, xs[-1] + 0.06))
      axes.set_title(head, loc="left")
      axes.grid()
    last_x = -math.inf
    for x, temperature in zip(xs, temperatures):
      if rows["loop period"][temperature]["items"] and x - last_x >= _MIN_GAP:
        period = rows["loop period"][temperature]["quantiles"]["0.5"]
        point = (x, 100 * rows["loops"][temperature]["value"])
        panels[-1].annotate(f"{period:g}", point, (5, 3), textcoords="offset points", size=8)
        last_x = x
    _legend(last, report["text"])
    label = "sampling temperature T (axis scaled as T / (1 + T))"
    figure.supxlabel(label, size=9, color=plotting.TEXT)


def _x(temperature: float) -> float:
  return 1.0 if math.isinf(temperature) else temperature / (1 + temperature)


def _curve(axes, xs, values, reference, key, scale, *, label, colors, has_intervals):
  color, reference_color = colors
  level = reference["value"] if key == "value" else values[0]["noise_floor"]
  if level is not None:
    axes.axhline(scale * level, color=reference_color, lw=1, ls="--", zorder=1)
  # A value of None becomes NaN, which leaves a gap in the curve.
  ys = scale * np.array([value[key] for value in values], float)
  axes.plot(xs, ys, "o-", color=color, ms=3.5, lw=1.4, label=label)
  if key == "value" and has_intervals:  # the intervals of several curves would hide each other
    ends = scale * np.array([value["interval"] or (None, None) for value in values], float)
    ends[np.array(xs) == 0] = np.nan  # At T = 0 all texts are the same: they have no interval.
    axes.fill_between(xs, *ends.T, color=color, alpha=0.2, lw=0)
    if reference["interval"]:
      ends = (scale * end for end in reference["interval"])
      axes.axhspan(*ends, color=reference_color, alpha=0.12, lw=0, zorder=0)


def _legend(axes, text: str):
  axes.plot([], [], "o-", color=plotting.COLORS[0], ms=3.5, lw=1.4, label="samples of the model")
  axes.plot([], [], color=plotting.REAL, lw=1, ls="--", label="held-out text")
  axes.fill_between([], [], color=plotting.REAL, alpha=0.2, lw=0, label="95% interval over texts")
  axes.legend(loc="upper left")
  note = (
    f"{textwrap.fill(plotting.plain(f'Held-out text: {text}.'), 46)}\n\n"
    "Distance: total variation between frequencies.\n"
    "Dashed: noise floor (held-out text against\nother held-out text).\n\n"
    "Numbers in the panel of loops: median period\nof the loops, in characters."
  )
  axes.text(0.03, 0.62, note, va="top", size=8, color=plotting.TEXT, transform=axes.transAxes)
  axes.set_axis_off()
