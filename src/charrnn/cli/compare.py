"""`charrnn compare`: tables and pictures that compare runs and sweeps by validation loss."""

import pathlib

from charrnn import console, files
from charrnn.sweeps import comparison, comparison_pictures, comparison_report

HELP = """\
compare runs and sweeps by validation loss

Runs with different tokenizers are compared in bits per byte. For a directory, all runs in it are
compared, including runs that are unfinished, failed or not started yet. The table shows the config
fields that differ. Runs that differ only in their seed form one setting, with the mean loss of the
finished runs and its 95% interval (Student's t). Seconds include training, evaluation and saving.
FLOPs are 6 per token and multiplication in a matrix product: one for each weight, and in a
transformer 2 * layers * hidden * context for attention. Embedding look-ups do not count (Kaplan et
al. 2020, arXiv 2001.08361). The command writes compare.md, compare.csv, compare.json, curves.png,
settings.png, grid.png and sizes.png."""


def add_arguments(parser):
  add = parser.add_argument
  add(
    "targets",
    metavar="RUN|SWEEP",
    nargs="+",
    help="a run directory, or a directory that contains runs",
  )
  text = "output folder (default: compare/ in the target; for several targets, nothing is written)"
  add("--out", metavar="DIR", help=text)
  only = parser.add_mutually_exclusive_group()
  for name, file in (("markdown", "compare.md"), ("csv", "compare.csv"), ("json", "compare.json")):
    text = f"print {file} to stdout instead of the table"
    only.add_argument(f"--{name}", dest="to_stdout", action="store_const", const=file, help=text)


def run(args):
  paths = comparison.find_runs(args.targets)
  result = comparison.compare(comparison.read_runs(paths))
  out = None  # Nothing is written into the current folder unless asked.
  if args.out or len(args.targets) == 1:
    out = files.output_folder(args.out, pathlib.Path(args.targets[0]) / "compare")
  texts = {
    "compare.md": comparison_report.markdown(result),
    "compare.csv": comparison_report.csv_text(result),
    "compare.json": comparison_report.json_text(result),
  }
  if out:
    with files.replace_in_folder(out) as new:
      for name, text in texts.items():
        (new / name).write_text(text, encoding="utf-8")
      comparison_pictures.curves(result, new / "curves.png")
      comparison_pictures.settings(result, new / "settings.png")
      comparison_pictures.grid(result, new / "grid.png")
      comparison_pictures.sizes(result, new / "sizes.png")
  if args.to_stdout:
    print(texts[args.to_stdout], end="")
  else:
    console.show(comparison_report.terminal(result))
  files_are = f"are in {out}" if out else "are written if you add --out=DIR"
  console.say(f"\ntables, curves.png, settings.png, grid.png and sizes.png {files_are}")
