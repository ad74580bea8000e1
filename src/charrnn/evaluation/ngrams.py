"""Networks beside n-grams of their training text, as in table 2 of arXiv 1506.02078."""

import math
from collections.abc import Sequence

import numpy as np

from charrnn import plotting
from charrnn.models import ngram

APART = 0.045  # of labels, in heights of the axes


def count(corpus, training, scored, order: int, progress) -> list[dict]:
  """The n-grams of the orders 1 to `order`: counted in segments of a corpus, scored on others."""
  strings = []

  def counted(n, found):
    strings.append(found)
    update(n, order)

  update = progress(f"counting {order} orders")
  model = ngram.fit(corpus.ids, order, corpus.tokenizer.vocab_size, training, counted)
  progress("scoring them")
  losses = model.losses(corpus.ids, scored)
  return [
    {"n": n, "strings": found, **_loss(nats)}
    for n, (found, nats) in enumerate(zip(strings, losses), 1)
  ]


def score(run, corpus, scored) -> dict:
  """What a run is, and its loss on segments of a corpus, as `charrnn eval` computes it."""
  import jax

  from charrnn.evaluation import evaluate
  from charrnn.training import steps

  m, config = run.config.model, run.config
  nats = evaluate.evaluate(
    steps.LossStep(run.model),
    run.params,
    corpus.ids,
    scored,
    readers=config.eval_streams,
    window=config.window,
    burn_in=config.eval_burn_in,
  )
  size = {
    "layers": m.layers,
    "hidden": m.hidden,
    "parameters": sum(a.size for a in jax.tree.leaves(run.params)),
  }
  if m.cell == "ngram":
    size = dict.fromkeys(size) | {"n": run.model.order}
  return {"run": str(run.path), "step": run.step, "cell": m.cell, **size, **_loss(nats)}


def _loss(nats) -> dict:
  """As JSON can say it: without NaN."""
  nats = float(nats) if math.isfinite(nats) else None
  return {"nats": nats, "bits": nats and nats / math.log(2)}


def characters(segments) -> int:
  """How many are scored: not the first of the whole text, which has nothing before it."""
  return sum(max(0, stop - max(start, 1)) for start, stop in segments)


def kind(run: dict) -> str:
  """What a run is, in a word or two."""
  return f"{run['n']}-gram" if "n" in run else f"{run['cell']} {run['layers']} x {run['hidden']}"


def draw(found: dict, path):
  """Loss against n, and each run as a line across."""
  grams, runs = found["ngrams"], [run for run in found["runs"] if run["nats"] is not None]
  runs.sort(key=lambda run: run["nats"])
  title = f"{found['text']}: {found['part']} part, {found['characters']:,} characters"
  with plotting.figure(path, title, figsize=(9.5, 5.2)) as figure:
    axes = figure.subplots()
    n, nats = zip(*((gram["n"], gram["nats"]) for gram in grams))
    label = f"n-grams, modified Kneser-Ney: best {min(nats):.3f} at n = {n[np.argmin(nats)]}"
    axes.plot(n, nats, "o-", color=plotting.REAL, lw=1.4, ms=4.5, label=label)
    for place, run in enumerate(runs):
      axes.axhline(
        run["nats"],
        color=plotting.COLORS[place % len(plotting.COLORS)],
        lw=1.4,
        ls=("-", "--")[place // 6 % 2],
      )
    losses = [*nats, *(run["nats"] for run in runs)]
    edge = 0.05 * (max(losses) - min(losses)) or 0.1
    axes.set(xlabel="n: characters of the longest strings", ylabel="nats per character")
    axes.set(ylim=(min(losses) - edge, max(losses) + edge))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid()
    axes.legend(loc="upper right")
    _label(axes, runs)


def _label(axes, runs):
  """The runs' names right of the axes, apart from each other, each led to its line."""
  low, high = axes.get_ylim()
  heights = [(run["nats"] - low) / (high - low) for run in runs]
  for place, (run, height, at) in enumerate(zip(runs, heights, spread(heights, APART))):
    color = plotting.COLORS[place % len(plotting.COLORS)]
    name = run["run"].rstrip("/").rpartition("/")[2]
    axes.annotate(
      plotting.plain(f"{run['nats']:.3f}  {kind(run)}  {_short(name)}"),
      xy=(1, height),
      xytext=(1.04, at),
      xycoords="axes fraction",
      color=color,
      va="center",
      arrowprops={"arrowstyle": "-", "color": color, "lw": 0.8, "relpos": (0, 0.5)},
    )


def _short(name: str, most: int = 28) -> str:
  """Its end: there the runs of a sweep differ."""
  return name if len(name) <= most else f"…{name[1 - most :]}"


def spread(heights: Sequence[float], apart: float) -> np.ndarray:
  """Rising heights from 0 to 1, moved as little as it takes to be so far apart.

  Heights less `apart` times their rank must not fall: that is an isotonic fit.
  """
  from scipy import optimize

  if not len(heights):
    return np.zeros(0)
  ranks = apart * np.arange(len(heights))
  fitted = optimize.isotonic_regression(np.asarray(heights) - ranks).x
  return np.clip(fitted, 0, max(0, 1 - ranks[-1])) + ranks
