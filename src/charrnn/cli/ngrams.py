"""`charrnn ngrams`: runs beside n-grams of the text that they were trained on."""

import json
from collections.abc import Iterator

from charrnn import console, errors, files, runtime
from charrnn.cli import arguments
from charrnn.evaluation import ngrams
from charrnn.models import ngram
from charrnn.runs import run as run_lib

HELP = """\
compare runs with n-grams of their training text

Counts the training part of the text that all the runs have, and scores n-grams of n = 1 to --order
(modified Kneser-Ney) and the runs on the same characters, as table 2 of arXiv 1506.02078 does.
Writes ngrams.json and ngrams.png."""


def add_arguments(parser):
  add = parser.add_argument
  add("runs", metavar="RUN", nargs="+", help="run directories, of one text and split")
  add("--order", metavar="N", type=int, default=10, help="the longest n-grams (default 10)")
  add("--split", choices=("valid", "test"), default="valid", help="what to score (default valid)")
  arguments.add_out(parser, "where to write (default: ngrams in the first RUN)")
  arguments.add_json(parser, "ngrams.json to stdout instead of the table")


def run(args):
  runs = [run_lib.Run.open(path) for path in args.runs]
  splits = run_lib.common_splits(runs)
  spans = getattr(splits, args.split)
  if not spans:
    raise errors.UserError(f"--split={args.split}: the split of {runs[0].path} has no such part")
  ngram.check_order("--order", args.order, splits.train)
  out = files.output_folder(args.out, runs[0].path / "ngrams")
  runtime.start()
  runtime.set_cpu_devices(0, runs[0].config.eval_streams, 1)
  corpus = runs[0].corpus()
  runs = [run.load() for run in runs]
  with console.Progress() as progress:
    grams, scored = ngrams.compare(runs, corpus, splits.train, spans, args.order, progress)
  result = {
    "text": corpus.name,
    "part": args.split,
    # Without the first character of the whole text, which has no context.
    "characters": sum(max(0, stop - max(start, 1)) for start, stop in spans),
    "ngrams": grams,
    "runs": scored,
  }
  with files.replace_in_folder(out) as new:
    files.write_json(new / "ngrams.json", result)
    ngrams.plot(result, new / "ngrams.png")
  print(json.dumps(result) if args.json else "\n".join(_report(result, out)))


def _report(result, out) -> Iterator[str]:
  grams, runs = result["ngrams"], result["runs"]
  best = min(grams, key=lambda gram: gram["nats"])
  yield f"{result['text']}, {result['part']} part: {result['characters']:,} characters"
  yield ""
  rows = [
    (str(gram["n"]), f"{gram['strings']:,}", *_numbers(gram), "best" if gram is best else "")
    for gram in grams
  ]
  yield from console.table(("n", "strings", "nats", "bits", ""), rows, names=0)
  yield ""
  header = ("run", "model", "step", "parameters", "nats", "bits", f"against the {best['n']}-gram")
  yield from console.table(header, [_row(run, best) for run in runs], names=2)
  yield ""
  yield f"data: {out / 'ngrams.json'}    picture: {out / 'ngrams.png'}"


def _row(run, best) -> tuple[str, ...]:
  parameters = "-" if run["parameters"] is None else f"{run['parameters']:,}"
  difference = "-" if run["nats"] is None else f"{round(run['nats'] - best['nats'], 4) + 0.0:+.4f}"
  numbers = _numbers(run)
  return run["run"], ngrams.kind(run), f"{run['step']:,}", parameters, *numbers, difference


def _numbers(losses) -> list[str]:
  return ["-" if losses[key] is None else format(losses[key], ".4f") for key in ("nats", "bits")]
