"""`charrnn compare`: tables and pictures that compare runs and sweeps by validation loss."""

import argparse
import json
import pathlib

from charrnn import console, files
from charrnn.sweeps import comparison, comparison_pictures, comparison_reference, comparison_report

HELP = """\
compare runs and sweeps by validation loss

Runs with different tokenizers are compared in bits per byte. For a directory, all runs in it are
compared, including runs that are unfinished, failed or not started yet. The table shows the config
fields that differ. Runs that differ only in their seed form one setting, with the mean loss of the
finished runs and its 95% interval (Student's t). Seconds include training, evaluation and saving.
FLOPs are 6 per token and multiplication in a matrix product: one for each weight, and in a
transformer 2 * layers * hidden * context for attention. Embedding look-ups do not count (Kaplan et
al. 2020, arXiv 2001.08361). The command writes compare.md, compare.csv, compare.json, curves.png,
settings.png, grid.png and sizes.png. With --reference, it also prints a table of the closest
reference runs on each text, and writes reference.png, which shows the loss curves in front of those
of all reference runs."""


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
  text = (
    "also show the runs in a compare.json (default: charrnn's reference runs, see docs/loss.md). "
    "Put this option after the runs"
  )
  add(
    "--reference",
    metavar="COMPARE.JSON",
    nargs="?",
    type=_file,
    const=comparison_reference.FILE,
    help=text,
  )
  only = parser.add_mutually_exclusive_group()
  for name, file in (("markdown", "compare.md"), ("csv", "compare.csv"), ("json", "compare.json")):
    text = f"print {file} to stdout instead of the table"
    only.add_argument(f"--{name}", dest="to_stdout", action="store_const", const=file, help=text)


def _file(text):
  if (path := pathlib.Path(text)).is_dir():
    message = f"{text} is a folder: use its compare.json, or put --reference last"
    raise argparse.ArgumentTypeError(message)
  return path


def run(args):
  references = comparison_reference.read(args.reference) if args.reference else []
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
  own = comparison_reference.curves(json.loads(texts["compare.json"])) if references else []
  if out:
    with files.replace_in_folder(out) as new:
      for name, text in texts.items():
        (new / name).write_text(text, encoding="utf-8")
      comparison_pictures.curves(result, new / "curves.png")
      comparison_pictures.settings(result, new / "settings.png")
      comparison_pictures.grid(result, new / "grid.png")
      comparison_pictures.sizes(result, new / "sizes.png")
      if references:
        comparison_reference.plot(own, references, new / "reference.png")
  if args.to_stdout:
    print(texts[args.to_stdout], end="")
  else:
    console.show(comparison_report.terminal(result))
    if references:
      console.show(["", *comparison_reference.table(own, references)])
  files_are = f"are in {out}" if out else "are written if you add --out=DIR"
  console.say(f"\ntables and pictures {files_are}")
