"""`charrnn scorecard`: what a model writes, in figures, beside real text and an n-gram."""

import json

from charrnn import console, files, runtime
from charrnn.scorecards import columns

HELP = """\
judge what a model writes as plays or as C, beside real text, an n-gram and disorder

Every column is samples of about the same size: held-out text of the corpus (real), what each RUN
writes, each FILE, what an n-gram of the same training text writes, and the real samples with their
words in disorder (shuffled). A sample ends with a speech or a function; those in which none ends
are left out. Writes scorecard.json, scorecard.png and the samples. Where all targets are FILEs,
real text is --corpus, else the corpus shakespeare, or linux: 153 MB to fetch if it is not here."""
FOLDER = "scorecard-{}"  # a kind
SAMPLES = "scorecard-samples"


def add_arguments(parser):
  columns.add_arguments(parser.add_argument, FOLDER.format("KIND"))
  parser.add_argument(
    "--kind", choices=("shakespeare", "c"), required=True, help="what to judge it as"
  )
  parser.add_argument("--json", action="store_true", help="scorecard.json instead of the tables")


def run(args):
  judge = columns.load_judge()
  kind = judge.KINDS[args.kind]
  asked = columns.check(args, FOLDER.format(args.kind), kind.source)
  runtime.start()
  progress = console.Progress()
  try:
    gathered = columns.gather(args, asked, kind, progress)
    progress("figures")
    scored = judge.judge(kind, gathered.read, gathered.training, gathered.texts, args.seed)
  finally:
    progress.end()
  scored |= {
    "kind": args.kind,
    "training": gathered.training.name,
    "settings": columns.settings(args),
    "steps": gathered.steps,
  }
  _write(asked.out, scored, gathered.texts)
  print(json.dumps(scored) if args.json else "\n".join(_report(scored, asked.out)))


def _write(out, scored, texts):
  from charrnn.scorecards import card, picture

  with files.replace_in_folder(out) as new:
    files.write_json(new / "scorecard.json", scored)
    title = (
      f"judged as {scored['kind']} (bars: 95% over samples; band: the real text's, of a distance "
      f"that of real text to itself; hollow: fewer than {card.FEW} items)"
    )
    picture.draw(scored, new / "scorecard.png", title)
    columns.write(new / SAMPLES, texts)


def _report(scored, out):
  from charrnn.scorecards import table

  yield f"{scored['kind']}, beside {scored['training']}; intervals: 95% over samples"
  yield from columns.told(scored["steps"])
  yield ""
  yield from table.values(scored)
  yield ""
  yield "distance from the real text (in parentheses: of as much real text from the rest of it)"
  yield ""
  yield from table.distances(scored)
  yield ""
  yield from table.meanings(scored)
  yield ""
  yield "the longest copies from the training text"
  yield from table.copies(scored["copies"])
  yield ""
  names = {"picture": "scorecard.png", "data": "scorecard.json", "text": SAMPLES}
  yield "    ".join(f"{what}: {out / name}" for what, name in names.items())
