"""`charrnn compare`: which of many runs is best, by how much, and what it hangs on."""

import pathlib
import sys

HELP = """\
compare runs and sweeps: a table by validation loss, loss curves, grids, seeds and sizes

A directory stands for all runs in it, also those that train, have failed, or are still to come. Of
the config, the table has the fields that differ. Runs that differ in seed alone are one setting,
with the mean of those that are done and its 95% interval by Student's t. Seconds are of training,
evaluation and saving. Floating point operations are 6 for each weight that multiplies and each
character (Kaplan et al. 2020, arXiv 2001.08361), look-ups aside. Writes compare.md, compare.csv,
compare.json, curves.png, settings.png, grid.png and sizes.png."""


def add_arguments(parser):
  add = parser.add_argument
  add("targets", metavar="RUN|SWEEP", nargs="+", help="a run directory, or one with runs in it")
  add("--out", metavar="DIR", help="where to write (default: SWEEP/compare; of several, compare)")
  only = parser.add_mutually_exclusive_group()
  for name, what in (("markdown", "compare.md"), ("csv", "compare.csv"), ("json", "compare.json")):
    text = f"{what} to stdout instead of the table"
    only.add_argument(f"--{name}", dest="to_stdout", action="store_const", const=what, help=text)


def run(args):
  from charrnn import files
  from charrnn.sweeps import (
    compared_runs,
    comparison,
    comparison_pictures,
    comparison_report,
    loss_curves,
  )

  paths = compared_runs.find(args.targets)
  found = comparison.compare(compared_runs.read(paths))
  single = pathlib.Path(args.targets[0]) if len(args.targets) == 1 else pathlib.Path()
  out = files.output_folder(args.out, single / "compare")
  texts = {
    "compare.md": comparison_report.markdown(found),
    "compare.csv": comparison_report.csv_text(found),
    "compare.json": comparison_report.json_text(found),
  }
  with files.replace_in_folder(out) as new:
    for name, text in texts.items():
      (new / name).write_text(text, encoding="utf-8")
    loss_curves.draw(found, new / "curves.png")
    comparison_pictures.settings(found, new / "settings.png")
    comparison_pictures.grid(found, new / "grid.png")
    comparison_pictures.sizes(found, new / "sizes.png")
  sys.stdout.reconfigure(errors="backslashreplace")
  print(texts.get(args.to_stdout) or comparison_report.terminal(found), end="")
  print(f"\ncurves.png, settings.png, grid.png, sizes.png and the tables: {out}", file=sys.stderr)
