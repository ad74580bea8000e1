"""`charrnn memorization`: what a model writes that stands in its training text already."""

import json

from charrnn import console, errors, files, runtime
from charrnn.scorecards import columns

HELP = """\
find what a model copies from its training text, beside held-out text

At every character of what each RUN writes, of each FILE and of held-out text (real): how long does
the text go on as it does somewhere in the training text? Prints the median, the 95th percentile and
the longest of these matches, the share of sequences of n characters that are new, and the longest
copies with their places. Writes memorization.json, memorization.png and the samples."""
FOLDER = "memorization"
COPIES = 10  # kept of each column


def add_arguments(parser):
  columns.add_arguments(parser.add_argument, FOLDER)
  parser.add_argument(
    "--copies",
    metavar="N",
    type=int,
    default=3,
    help="to print of each column (default 3, at most 10)",
  )
  parser.add_argument(
    "--tsv", action="store_true", help="matches.tsv too: a line for each character"
  )
  parser.add_argument("--json", action="store_true", help="memorization.json instead of the table")


def run(args):
  if not 0 <= args.copies <= COPIES:
    raise errors.UserError(f"--copies={args.copies}: must be from 0 to {COPIES}")
  judge = columns.load_judge()
  asked = columns.check(args, FOLDER, judge.ANY.source)
  runtime.start()
  from charrnn.scorecards import novelty

  progress = console.Progress()
  try:
    gathered = columns.gather(args, asked, judge.ANY, progress)
    progress("matches")
    told, matches = novelty.measure(gathered.texts, gathered.training, COPIES)
  finally:
    progress.end()
  found = {
    "training": gathered.training.name,
    "settings": columns.settings(args),
    "steps": gathered.steps,
    "columns": told,
  }
  _write(args, asked.out, found, gathered, matches)
  print(json.dumps(found) if args.json else "\n".join(_report(args, found, asked.out)))


def _write(args, out, found, gathered, matches):
  from charrnn.scorecards import novelty

  with files.replace_in_folder(out) as new:
    files.write_json(new / "memorization.json", found)
    novelty.draw(
      found["columns"],
      columns.REAL,
      new / "memorization.png",
      f"sequences that are not in {found['training']}",
    )
    columns.write(new / f"{FOLDER}-samples", gathered.texts)
    if args.tsv:
      with (new / "matches.tsv").open("w", encoding="utf-8", errors="replace", newline="") as file:
        lines = novelty.rows(gathered.texts, matches, gathered.training)
        file.writelines(f"{line}\n" for line in lines)


def _report(args, found, out):
  from charrnn.scorecards import novelty, table

  yield f"longest match with {found['training']} from each character on; share of new sequences"
  yield from columns.told(found["steps"])
  yield ""
  yield from novelty.lines(found["columns"])
  yield ""
  copies = {name: column["copies"] for name, column in found["columns"].items()}
  yield from table.copies(copies, args.copies)
  yield ""
  yield f"picture: {out / 'memorization.png'}    data: {out / 'memorization.json'}"
