"""`charrnn temperature`: measure generated text at several sampling temperatures."""

import math

from charrnn import console, errors, files, runtime
from charrnn.cli import arguments
from charrnn.runs import held_out
from charrnn.runs import run as run_lib
from charrnn.sampling import sampler
from charrnn.scorecards import diversity, metrics, systems, temperature

HELP = """\
measure generated text at several sampling temperatures

Sample the same texts as `charrnn sample` with the same options. Measure the loss under the
model, the diversity and the distance from held-out text, for these texts and for held-out text of
the same length. Print a table. Write temperature.png and temperature.json."""
TEMPERATURES = (0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, math.inf)
HELD_OUT = 100  # minimum number of held-out samples; four times --num if that is more
SETTINGS = ("num", "length", "prime", "top_k", "top_p", "seed")
_GLYPHS = {ord("\n"): "\u21b5", ord("\t"): "\u21e5"}
LEGEND = (
  ("entropy", "mean entropy of the sampling distribution, nats per token (held-out text: T = 1)"),
  ("loss", "mean loss under the model at temperature 1, nats per token"),
  ("distinct-n", "share of distinct sequences among all sequences of n words in a text"),
  ("known", "share of words that the training text contains"),
  ("loops", f"texts that end in a loop: at least two periods and {diversity.MIN_LOOP} characters"),
  ("start, period", "median start and period of the loops, in characters"),
  (
    f"{diversity.GRAM}-grams, words",
    f"distance of {diversity.GRAM}-character and word frequencies from held-out text:",
  ),
  ("", "0 if equal, 1 if disjoint; the row of held-out text shows the noise floor"),
)
# Title of the column, metric, key of the metric value, and format.
COLUMNS = (
  ("entropy", "entropy", "value", ".3f"),
  ("loss", "loss", "value", ".3f"),
  *((f"distinct-{n}", f"distinct-{n}", "value", ".1%") for n in diversity.SIZES),
  ("known", "known words", "value", ".1%"),
  ("loops", "loops", "value", ".0%"),
  ("start", "loop start", "median", ",.0f"),
  ("period", "loop period", "median", ",.0f"),
  (f"{diversity.GRAM}-grams", f"{diversity.GRAM}-grams", "distance", ".3f"),
  ("words", "words", "distance", ".3f"),
)


def add_arguments(parser):
  arguments.add_run(parser)
  add = parser.add_argument
  text = "0 is greedy, inf is uniform (default: 16 values from 0 to inf)"
  add("--temperatures", metavar="T", type=float, nargs="+", default=TEMPERATURES, help=text)
  add("--num", metavar="N", type=int, default=16, help="texts per temperature (default: 16)")
  add("--length", metavar="N", type=int, default=2000, help="tokens per text (default: 2000)")
  text = "prompt (default: a line end if the corpus has one, else its most frequent token)"
  add("--prime", metavar="TEXT", default="", help=text)
  arguments.add_filters(parser)
  arguments.add_step(parser)
  arguments.add_corpus(parser)
  arguments.add_seed(parser)
  arguments.add_out(parser, "output folder (default: RUN/temperature)")
  arguments.add_json(parser, "print temperature.json to stdout instead of the table")


def run(args):
  settings = _settings(args)
  runtime.start()
  loaded = run_lib.Run.open(args.run, args.step, args.corpus, args.fetch).load()
  corpus = held_out.load(loaded)
  samples = temperature.held_out_samples(corpus, args.length, max(HELD_OUT, 4 * args.num))
  prompt_ids = sampler.first_ids(loaded, loaded.tokenizer.encode(args.prime))
  out = files.output_folder(args.out, loaded.path / "temperature")
  size = {name: getattr(args, name) for name in ("num", "length", "seed")}
  report = {
    "run": str(args.run),
    "step": loaded.step,
    "text": corpus.held_out.name,
    "settings": {name: getattr(args, name) for name in SETTINGS},
    "temperatures": list(settings),
  } | temperature.measure(loaded, prompt_ids, settings, samples, corpus.training.text, **size)
  data = files.with_aliases(report, metrics.OLD_KEYS | {"reference": "real"})
  with files.replace_in_folder(out) as new:
    files.write_json(new / "temperature.json", data)
    temperature.plot(report, new / "temperature.png")
  arguments.show(args, data, _lines(report, out))


def _settings(args) -> dict[str, sampler.Settings]:
  """Return the settings of the sampler by the name of the temperature, in ascending order."""
  sampler.check(length=args.length, num=args.num, seed=args.seed)
  rule = f"must be at least {diversity.MIN_LOOP}, the minimum length of a loop"
  errors.check("--length", args.length, args.length >= diversity.MIN_LOOP, rule)
  for T in args.temperatures:
    rule = "must be 0, a positive number or inf"
    errors.check("--temperatures", f"{T:g}", T >= 0, rule)  # NaN is not valid either.
  settings = {}
  for T in sorted({T + 0.0 for T in args.temperatures}):  # -0.0 becomes 0
    finite = temperature.MAX_TEMPERATURE if math.isinf(T) else T
    settings[f"{T!r}".removesuffix(".0")] = sampler.Settings(finite, args.top_k, args.top_p)
  return settings


def _lines(report, out):
  texts = temperature.describe(report["settings"])
  yield f"{report['run']}, step {report['step']}: {texts} per temperature"
  yield f"held-out text: {report['text']}"
  by_metric = {row["name"]: row["systems"] for row in report["metrics"]}
  names = [*report["temperatures"], report["reference"]]
  width = max(map(len, ("temperature", *map(systems.title, names))))
  rows = []
  for name in names:
    cells = [_cell(by_metric[metric], name, *how) for _, metric, *how in COLUMNS]
    rows.append((systems.title(name).rjust(width), *cells))
  yield from ("", *console.table(("temperature", *(title for title, *_ in COLUMNS)), rows), "")
  yield from (*console.table(("column", "meaning"), LEGEND, names=2), "")
  yield f"beginning of the first text at each temperature ({temperature.EXCERPT} characters)"
  yield ""
  for name, text in report["excerpts"].items():
    yield f"{name:>{width}}  {text.translate(_GLYPHS)}"
  yield from ("", f"picture: {out / 'temperature.png'}    data: {out / 'temperature.json'}")


def _cell(by_system, name: str, key: str, form: str) -> str:
  value = by_system[name]
  if key == "median":
    number = value.get("quantiles", {}).get("0.5")
  elif key == "distance" and "distance" not in value:  # the row of held-out text
    number = next(each["noise_floor"] for each in by_system.values() if "noise_floor" in each)
  else:
    number = value[key]
  return console.number(number, form)
