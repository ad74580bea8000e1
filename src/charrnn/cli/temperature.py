"""`charrnn temperature`: what a model writes, from always the likeliest to pure chance."""

import functools
import json
import math
import textwrap

import numpy as np

from charrnn import console, errors, files, runtime
from charrnn.data import splits
from charrnn.sampling import options, stream
from charrnn.scorecards import card, diversity

HELP = """\
write at a range of temperatures, and measure how diverse and how real each text is

Texts are those of `charrnn sample` with the same --seed and --num. Each is read again by the
model; held-out text, in pieces of the same length, is read likewise as what to compare with.
Writes temperature.png and temperature.json."""
TEMPERATURES = (0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, math.inf)
HOTTEST = 1e30  # that the sampler takes: no difference of logits is left of any size
REAL = "held-out"
PIECES = 100  # of the held-out text, or four times as many as the texts
EXCERPT = 160
SETTINGS = ("num", "length", "prime", "top_k", "top_p", "seed")
_SHOWN = stream.VISIBLE | {ord("\n"): "\u21b5", ord("\t"): "\u21e5"}


def add_arguments(parser):
  add = parser.add_argument
  add("run", metavar="RUN", help="a run directory")
  add(
    "--temperatures",
    metavar="T",
    type=float,
    nargs="+",
    default=TEMPERATURES,
    help="0 is always the likeliest, inf pure chance (default: 16 from 0 to inf)",
  )
  add("--num", metavar="N", type=int, default=16, help="texts of each (default 16)")
  add("--length", metavar="N", type=int, default=2000, help="symbols of each (default 2000)")
  add("--prime", metavar="TEXT", default="", help="a prompt for all (default: a line end)")
  add("--top-k", metavar="K", type=int, help="as in charrnn sample, at all temperatures")
  add("--top-p", metavar="P", type=float, help="as in charrnn sample, at all temperatures")
  add("--step", metavar="N", type=int, help="a kept step (default: the best by validation loss)")
  add("--seed", metavar="S", type=int, default=0)
  add("--out", metavar="DIR", help="where to write (default: RUN/temperature)")
  add("--json", action="store_true", help="temperature.json to stdout instead of the table")


def run(args):
  settings = _settings(args)
  runtime.start()
  from charrnn.runs import held_out
  from charrnn.runs import run as run_lib
  from charrnn.scorecards import temperature_picture

  loaded = run_lib.Run.open(args.run, args.step).load()
  parts = held_out.load(loaded)
  real_BxN = _pieces(parts, args.length, max(PIECES, 4 * args.num))
  prompt_ids = (
    loaded.tokenizer.encode(args.prime) if args.prime else [loaded.tokenizer.default_id()]
  )
  out = files.output_folder(args.out, loaded.path / "temperature")
  scored, excerpts = _score(loaded, prompt_ids, settings, parts.training.text, real_BxN, args)
  found = {
    "run": str(args.run),
    "step": loaded.step,
    "text": parts.held_out.name,
    "settings": {name: getattr(args, name) for name in SETTINGS},
    "temperatures": list(settings),
    **scored,
    "excerpts": excerpts,
  }
  with files.replace_in_folder(out) as new:
    files.write_json(new / "temperature.json", found)
    temperature_picture.draw(found, new / "temperature.png")
  print(json.dumps(found) if args.json else "\n".join(_report(found, out)))


def _settings(args) -> dict[str, options.Settings]:
  """By the name of the temperature, from cold to hot."""
  options.check(length=args.length, num=args.num, seed=args.seed)
  if args.length < diversity.SHORTEST_LOOP:
    raise errors.UserError(
      f"--length={args.length}: must be at least {diversity.SHORTEST_LOOP}, the shortest loop"
    )
  for T in args.temperatures:
    if not T >= 0:  # NaN too
      raise errors.UserError(f"--temperatures={T:g}: must be 0, a positive number or inf")
  return {
    f"{T!r}".removesuffix(".0"): options.Settings(
      HOTTEST if math.inf == T else T, args.top_k, args.top_p
    )
    for T in sorted({T + 0.0 for T in args.temperatures})  # -0.0 is 0
  }


def _pieces(parts, length: int, count: int) -> np.ndarray:
  """Held-out text as ids [B, length]: up to `count` pieces, evenly spread, none overlapping."""
  segments = splits.merge([*parts.splits.valid, *parts.splits.test])
  starts = [s for start, stop in segments for s in range(start, stop - length + 1, length)]
  if len(starts) < 2:
    longest = max(stop - start for start, stop in segments) // 2
    raise errors.UserError(
      f"--length={length}: {parts.held_out.name} has room for two texts of {longest} at most"
    )
  chosen = np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(int)
  return np.stack([np.asarray(parts.corpus.ids[starts[i] : starts[i] + length]) for i in chosen])


def _score(loaded, prompt_ids, settings, training: str, real_BxN, args):
  """The card of all temperatures beside held-out text, and how the first text of each begins."""
  progress = console.Progress()
  measure = functools.partial(_measure, loaded, prompt_ids, diversity.known_words(training))
  try:
    progress("held-out text")
    columns, excerpts = {REAL: measure(real_BxN, options.Settings())}, {}
    update = progress("texts")
    for n, (name, each) in enumerate(settings.items()):
      update(n, len(settings))
      ids_BxN = _written(loaded, prompt_ids, each, args)
      columns[name] = measure(ids_BxN, each)
      excerpts[name] = loaded.tokenizer.decode(ids_BxN[0])[:EXCERPT]
    progress("figures")
    return card.card(diversity.FIGURES, columns, real=REAL, seed=args.seed), excerpts
  finally:
    progress.end()


def _written(loaded, prompt_ids, settings: options.Settings, args) -> np.ndarray:
  """Ids [B, N]: of a byte alphabet, text would not do to be read again."""
  from charrnn.sampling import samples

  asked = {"length": args.length, "num": args.num, "seed": args.seed, "settings": settings}
  return np.concatenate(list(samples.ids(loaded, prompt_ids, **asked)))


def _measure(loaded, prompt_ids, known, ids_BxN, settings: options.Settings) -> card.Column:
  from charrnn.sampling import reread

  again = reread.reread(loaded.model, loaded.params, prompt_ids, ids_BxN, settings)
  readings = [
    diversity.read(loaded.tokenizer.decode(ids_N), known, *figures)
    for ids_N, *figures in zip(ids_BxN, *again)
  ]
  return card.measure(diversity.FIGURES, readings)


LEGEND = f"""\
entropy: nats, of what each symbol was drawn from. loss: nats a symbol, of the text by the model at
temperature 1. distinct-n: different among all sequences of n words of a text. known: words that
the training text has. loops: texts that end in a cycle, of two rounds and {diversity.SHORTEST_LOOP}
characters at least; start and period: its medians. {diversity.GRAM}-grams (of characters) and
words: how far their frequencies are from those of held-out text, from 0 to 1; in its own row, how
far as much of it is from the rest. Its entropy is at temperature 1. At 0 all texts are alike."""


def _report(found, out):
  figures = {row["name"]: row["columns"] for row in found["figures"]}
  settings = found["settings"]
  yield (
    f"{found['run']}, step {found['step']}: {settings['num']} texts of {settings['length']:,} "
    f"symbols each, beside {found['text']}"
  )
  yield ""
  head = ("temperature", *(title for title, *_ in COLUMNS))
  names = [*found["temperatures"], found["real"]]
  rows = [(name, *(_shown(figures, name, *column) for _, *column in COLUMNS)) for name in names]
  widths = [max(map(len, column)) for column in zip(head, *rows)]
  for row in (head, *rows):
    yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths))
  yield ""
  yield textwrap.fill(LEGEND, 98)
  yield ""
  for name, text in found["excerpts"].items():
    yield f"{name:>{widths[0]}}  {text.translate(_SHOWN)}"
  yield ""
  yield f"picture: {out / 'temperature.png'}    data: {out / 'temperature.json'}"


# Title, name of the figure, what of it, and how it is shown.
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


def _shown(figures, name, figure, what, how) -> str:
  cell = figures[figure][name]
  if what == "median":
    value = cell.get("quantiles", {}).get("0.5")
  elif what == "distance" and name == REAL:
    value = next(other["floor"] for other in figures[figure].values() if "floor" in other)
  else:
    value = cell[what]
  return "-" if value is None else format(value, how)
