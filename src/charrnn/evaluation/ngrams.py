"""Comparison of runs with n-grams of their training text, as in table 2 of arXiv 1506.02078."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from scipy import optimize

from charrnn import plotting
from charrnn.evaluation import score
from charrnn.models import ngram

LABEL_DISTANCE = 0.045  # in heights of the axes
MAX_NAME = 28


def compare(
  runs, corpus, training, spans, order: int, progress: Callable
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  """Return the losses of n-grams of the orders 1 to `order`, and of runs, on spans of a corpus.

  The n-grams are counted in the spans `training`.
  """
  counts = []

  def on_order(n, strings):
    counts.append(strings)
    update(n, order)

  update = progress(f"counting {order} orders")
  model = ngram.fit(corpus.ids, order, corpus.tokenizer.vocab_size, training, on_order)
  progress("scoring them")
  losses = model.losses(corpus.ids, spans)
  grams = [
    {"n": n, "strings": strings, **_loss(nats)}
    for n, (strings, nats) in enumerate(zip(counts, losses), 1)
  ]
  scored = []
  for run in runs:
    progress(f"scoring {run.path}")
    scored.append(_score(run, corpus, spans))
  return grams, scored


def _score(run, corpus, spans) -> dict[str, Any]:
  """Return the size of a run and its loss on spans of a corpus, as `charrnn eval` computes it."""
  m, config = run.config.model, run.config
  reading = {"streams": config.eval_streams, "window": config.window}
  nats = score.loss(
    run.model, run.params, corpus.ids, spans, burn_in=config.eval_burn_in, **reading
  )
  size = {
    "layers": m.layers,
    "hidden": m.hidden,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.params)),
  }
  if not run.model.has_gradient:
    size = dict.fromkeys(size) | {"n": run.model.order}
  return {"run": str(run.path), "step": run.step, "cell": m.cell, **size, **_loss(nats)}


def _loss(nats: float) -> dict[str, float | None]:
  """Return a loss as JSON, which has no NaN."""
  nats = float(nats) if math.isfinite(nats) else None
  return {"nats": nats, "bits": nats and nats / math.log(2)}


def kind(run: dict[str, Any]) -> str:
  """Return a short name of a run's model."""
  return f"{run['n']}-gram" if "n" in run else f"{run['cell']} {run['layers']} x {run['hidden']}"


def plot(result: dict[str, Any], path):
  """Plot loss against n, and a line for each run."""
  grams, runs = result["ngrams"], [run for run in result["runs"] if run["nats"] is not None]
  runs.sort(key=lambda run: run["nats"])
  title = f"{result['text']}: {result['part']} part, {result['characters']:,} characters"
  with plotting.figure(path, title, figsize=(9.5, 5.2)) as figure:
    axes = figure.subplots()
    n, nats = zip(*((gram["n"], gram["nats"]) for gram in grams))
    label = f"n-grams, modified Kneser-Ney: best {min(nats):.3f} at n = {n[np.argmin(nats)]}"
    axes.plot(n, nats, "o-", color=plotting.REAL, lw=1.4, ms=4.5, label=label)
    for number, run in enumerate(runs):
      style = {"color": plotting.COLORS[number % len(plotting.COLORS)], "lw": 1.4}
      axes.axhline(run["nats"], ls=("-", "--")[number // 6 % 2], **style)
    losses = [*nats, *(run["nats"] for run in runs)]
    edge = 0.05 * (max(losses) - min(losses)) or 0.1
    axes.set(xlabel="n: characters of the longest strings", ylabel="nats per character")
    axes.set(ylim=(min(losses) - edge, max(losses) + edge))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid()
    axes.legend(loc="upper right")
    _label(axes, runs)


def _label(axes, runs):
  """Write the runs' names to the right of the axes, without overlap, each joined to its line."""
  low, high = axes.get_ylim()
  heights = [(run["nats"] - low) / (high - low) for run in runs]
  for number, (run, height, y) in enumerate(zip(runs, heights, spread(heights, LABEL_DISTANCE))):
    color = plotting.COLORS[number % len(plotting.COLORS)]
    name = run["run"].rstrip("/").rpartition("/")[2]
    if len(name) > MAX_NAME:
      name = f"…{name[1 - MAX_NAME :]}"  # the runs of a sweep differ at the end
    axes.annotate(
      plotting.plain(f"{run['nats']:.3f}  {kind(run)}  {name}"),
      xy=(1, height),
      xytext=(1.04, y),
      xycoords="axes fraction",
      color=color,
      va="center",
      arrowprops={"arrowstyle": "-", "color": color, "lw": 0.8, "relpos": (0, 0.5)},
    )


def spread(heights: Sequence[float], distance: float) -> np.ndarray:
  """Return rising heights from 0 to 1, moved as little as possible to be `distance` apart.

  Heights less `distance` times their rank must not fall: that is an isotonic fit.
  """
  if not len(heights):
    return np.zeros(0)
  ranks = distance * np.arange(len(heights))
  fitted = optimize.isotonic_regression(np.asarray(heights) - ranks).x
  return np.clip(fitted, 0, max(0, 1 - ranks[-1])) + ranks
