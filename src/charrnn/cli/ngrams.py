"""`charrnn ngrams`: runs beside n-grams of the text that they were trained on."""

import json

from charrnn import console, errors, files, runtime

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
  add("--out", metavar="DIR", help="where to write (default: ngrams in the first RUN)")
  add("--json", action="store_true", help="ngrams.json to stdout instead of the table")


def run(args):
  from charrnn.evaluation import ngrams
  from charrnn.models import ngram
  from charrnn.runs import run as run_lib

  runs = [run_lib.Run.open(path) for path in args.runs]
  training, scored = _segments(runs, args.split)
  ngram.check_order("--order", args.order, training)
  out = files.output_folder(args.out, runs[0].path / "ngrams")
  runtime.start()
  runtime.set_cpu_devices(0, runs[0].config.eval_streams, 1)
  corpus = runs[0].corpus()
  loaded = [run.load() for run in runs]
  progress = console.Progress()
  try:
    found = {
      "text": corpus.name,
      "part": args.split,
      "characters": ngrams.characters(scored),
      "ngrams": ngrams.count(corpus, training, scored, args.order, progress),
      "runs": [],
    }
    for each in loaded:
      progress(f"scoring {each.path}")
      found["runs"].append(ngrams.score(each, corpus, scored))
  finally:
    progress.end()
  with files.replace_in_folder(out) as new:
    files.write_json(new / "ngrams.json", found)
    ngrams.draw(found, new / "ngrams.png")
  if args.json:
    print(json.dumps(found))
  else:
    print("\n".join(_report(found, out)))


def _segments(runs, name):
  """What all runs were trained on, and the part to score; a UserError where they differ."""
  from charrnn.runs import run as run_lib

  parts = run_lib.common_splits(runs)
  if not getattr(parts, name):
    raise errors.UserError(f"--split={name}: the split of {runs[0].path} has no such part")
  return parts.train, getattr(parts, name)


def _report(found, out):
  grams, runs = found["ngrams"], found["runs"]
  best = min(grams, key=lambda gram: gram["nats"])
  yield f"{found['text']}, {found['part']} part: {found['characters']:,} characters"
  yield ""
  yield f"{'n':>4}{'strings':>14}{'nats':>10}{'bits':>10}"
  for gram in grams:
    mark = "  best" if gram is best else ""
    yield f"{gram['n']:>4}{gram['strings']:>14,}{_numbers(gram)}{mark}"
  yield ""
  width = max(len("run"), *(len(run["run"]) for run in runs))
  head = f"{'step':>9}{'parameters':>14}{'nats':>10}{'bits':>10}  against the {best['n']}-gram"
  yield f"{'run':<{width}}  {'model':<14}{head}"
  for run in runs:
    yield f"{run['run']:<{width}}  {_row(run, best)}"
  yield ""
  yield f"data: {out / 'ngrams.json'}    picture: {out / 'ngrams.png'}"


def _row(run, best):
  from charrnn.evaluation import ngrams

  parameters = "-" if run["parameters"] is None else f"{run['parameters']:,}"
  difference = "-" if run["nats"] is None else f"{round(run['nats'] - best['nats'], 4) + 0.0:+.4f}"
  return f"{ngrams.kind(run):<14}{run['step']:>9,}{parameters:>14}{_numbers(run)}  {difference}"


def _numbers(losses):
  return "".join(
    f"{'-' if losses[name] is None else format(losses[name], '.4f'):>10}"
    for name in ("nats", "bits")
  )
