"""`charrnn ngrams`: compare the losses of runs and n-grams that have the same training text."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from charrnn import console, errors, files, plotting
from charrnn.cli import arguments
from charrnn.data import batches, encoded
from charrnn.evaluation import score
from charrnn.models import ngram
from charrnn.runs import run as run_lib

HELP = """\
compare the losses of runs and n-grams that have the same training text

Count the n-grams of the training split (modified Kneser-Ney smoothing). Score the n-grams of
order 1 to --order, and the runs, on the same characters, as in table 2 of arXiv 1506.02078. All
runs must have the same corpus and the same splits. Write ngrams.json and ngrams.png."""
LABEL_DISTANCE = 0.045  # minimum distance between two labels, as a fraction of the axes' height
MAX_NAME = 28  # maximum length of a run's name in the picture
RUN_LABEL = "runs (at the right: loss, cell, layers x units, name)"
UNITS = ("nats", "bits", "bits/byte")  # the columns of a loss
SPLITS = {"valid": "validation split", "test": "test split"}


def add_arguments(parser):
  add = parser.add_argument
  add("runs", metavar="RUN", nargs="+", help="run directories with the same corpus and splits")
  add(
    "--order", metavar="N", type=int, default=10, help="maximum order of the n-grams (default: 10)"
  )
  text = "split to score (default: valid)"
  add("--split", choices=("valid", "test"), default="valid", help=text)
  arguments.add_corpus(parser)
  arguments.add_out(parser, "output folder (default: ngrams/ in the first RUN)")
  arguments.add_json(parser, "print ngrams.json to stdout instead of the table")


def run(args):
  runs = [run_lib.Run.open(path, None, args.corpus, args.fetch) for path in args.runs]
  splits = run_lib.common_splits(runs)
  if (documents := runs[0].config.text.documents) != "none":
    raise errors.UserError(
      f"{runs[0].path} was trained on documents (text.documents={documents}), which n-grams do not "
      "support: use runs with text.documents=none"
    )
  spans = getattr(splits, args.split)
  if not spans:
    raise errors.UserError(f"--split={args.split}: {runs[0].path} has no such split: use another")
  ngram.check_order("--order", args.order, splits.train)
  out = files.output_folder(args.out, runs[0].path / "ngrams")
  run_lib.use_devices(runs[0], runs[0].config.eval_streams)
  corpus = runs[0].corpus()
  size = corpus.size(batches.scorable_spans(spans))
  runs = [run.load() for run in runs]
  with console.Progress() as progress:
    grams = _score_ngrams(corpus, splits.train, spans, args.order, size, progress)
    scored = []
    for run in runs:
      progress(f"scoring {run.path}")
      scored.append(_score(run, corpus, spans, size))
  result = {
    "text": corpus.name,
    "part": args.split,
    # The first character of the corpus is not scored, because it has no context.
    "characters": size.tokens,
    "unit": corpus.tokenizer.unit,
    "ngrams": grams,
    "runs": scored,
  }
  with files.replace_in_folder(out) as new:
    files.write_json(new / "ngrams.json", result)
    plot(result, new / "ngrams.png")
  arguments.show(args, result, _report(result, out))


def _score_ngrams(corpus, training, spans, order: int, size, progress) -> list[dict[str, Any]]:
  """Return the number of n-grams in the training spans and their loss on `spans`, by order."""
  update, counts = progress(f"counting n-grams up to order {order}"), []

  def on_order(n, strings):
    counts.append(strings)
    update(n, order)

  model = ngram.fit(corpus.ids, order, corpus.tokenizer.vocab_size, training, on_order)
  progress("scoring the n-grams")
  rows = enumerate(zip(counts, model.losses(corpus.ids, spans)), 1)
  return [{"n": n, "strings": strings, **_loss(nats, size)} for n, (strings, nats) in rows]


def _score(run, corpus, spans, total) -> dict[str, Any]:
  """Return the size of a run and its loss on spans of a corpus, computed as in `charrnn eval`."""
  config = run.config
  m, reading = config.model, {"streams": config.eval_streams, "burn_in": config.eval_burn_in}
  nats = score.loss(run.model, run.params, corpus.ids, spans, window=config.window, **reading)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params))
  size = {"layers": m.layers, "hidden": m.hidden, "parameters": parameters}
  if not run.model.has_gradient:
    size = dict.fromkeys(size) | {"n": run.model.order}
  return {"run": str(run.path), "step": run.step, "cell": m.cell, **size, **_loss(nats, total)}


def _loss(nats: float, size: encoded.Size) -> dict[str, float | None]:
  """Return a loss in nats and bits for JSON, with None in place of NaN."""
  if not math.isfinite(nats):
    return dict.fromkeys(("nats", "bits", "bits_per_byte"))
  nats = float(nats)
  return {"nats": nats, "bits": nats / math.log(2), "bits_per_byte": size.bits_per_byte(nats)}


def _kind(run: dict[str, Any]) -> str:
  """Return a short description of the model of a run."""
  return f"{run['n']}-gram" if "n" in run else f"{run['cell']} {run['layers']} x {run['hidden']}"


def plot(result: dict[str, Any], path):
  """Plot the loss of the n-grams against n, and a horizontal line for each run."""
  grams, runs = result["ngrams"], [run for run in result["runs"] if run["nats"] is not None]
  runs.sort(key=lambda run: run["nats"])
  scored = f"{SPLITS[result['part']]}, {result['characters']:,} {result['unit']}s"
  title = f"Loss of n-grams and runs on {result['text']} ({scored})"
  with plotting.figure(path, title, figsize=(9.5, 5.2)) as figure:
    axes = figure.subplots()
    n, nats = zip(*((gram["n"], gram["nats"]) for gram in grams))
    best = f"lowest loss {min(nats):.3f} at n = {n[np.argmin(nats)]}"
    label = f"n-grams (modified Kneser-Ney smoothing); {best}"
    axes.plot(n, nats, "o-", color=plotting.REAL, lw=1.4, ms=4.5, label=label)
    axes.plot([], [], color=plotting.GRAY, lw=1.4, label=RUN_LABEL)
    losses = [*nats, *(run["nats"] for run in runs)]
    edge = 0.05 * (max(losses) - min(losses)) or 0.1
    low, high = min(losses) - edge, max(losses) + edge
    heights = [(run["nats"] - low) / (high - low) for run in runs]
    places = plotting.spread_labels(heights, LABEL_DISTANCE)
    for number, (run, *place) in enumerate(zip(runs, heights, places)):
      color = plotting.color(number)
      axes.axhline(run["nats"], ls=("-", "--")[number // 6 % 2], color=color, lw=1.4)
      _label(axes, run, color, *place)
    axes.set(xlabel="order n of the n-gram", ylabel=f"loss, nats per {result['unit']}")
    axes.set(ylim=(low, high))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid()
    axes.legend(loc="upper right")


def _label(axes, run, color, height: float, y: float):
  """Write a run's loss, model and name to the right of the axes, with a connector to its line."""
  name = run["run"].rstrip("/").rpartition("/")[2]
  if len(name) > MAX_NAME:
    name = f"…{name[1 - MAX_NAME :]}"  # the names of the runs of a sweep differ at the end
  axes.annotate(
    plotting.plain(f"{run['nats']:.3f}  {_kind(run)}  {name}"),
    xy=(1, height),
    xytext=(1.04, y),
    xycoords="axes fraction",
    color=color,
    va="center",
    arrowprops={"arrowstyle": "-", "color": color, "lw": 0.8, "relpos": (0, 0.5)},
  )


def _report(result, out) -> Iterator[str]:
  grams, runs = result["ngrams"], result["runs"]
  best = min(grams, key=lambda gram: gram["nats"])
  scored = f"{SPLITS[result['part']]}, {result['characters']:,} {result['unit']}s"
  yield f"loss on {result['text']} ({scored}), in nats and bits per {result['unit']}"
  yield ""
  rows = [
    (str(gram["n"]), f"{gram['strings']:,}", *_numbers(gram), "best" if gram is best else "")
    for gram in grams
  ]
  yield from console.table(("n", "distinct n-grams", *UNITS, ""), rows, names=0)
  yield ""
  header = ("run", "model", "step", "parameters", *UNITS, f"nats minus {best['n']}-gram")
  yield from console.table(header, [_row(run, best) for run in runs], names=2)
  yield ""
  yield f"picture: {out / 'ngrams.png'}    data: {out / 'ngrams.json'}"


def _row(run, best) -> tuple[str, ...]:
  parameters = console.number(run["parameters"], ",")
  difference = "-" if run["nats"] is None else f"{round(run['nats'] - best['nats'], 4) + 0.0:+.4f}"
  return run["run"], _kind(run), f"{run['step']:,}", parameters, *_numbers(run), difference


def _numbers(losses) -> list[str]:
  return [console.number(losses[key], ".4f") for key in ("nats", "bits", "bits_per_byte")]
