"""`charrnn cells`: the units of a network that follow hypotheses, and a page to explore it."""

import argparse
import json
import os
import pathlib
import tempfile

from charrnn import console, errors, files, runtime
from charrnn.analysis import ablation, explorer, hypotheses, pictures, recording, study
from charrnn.cli import arguments
from charrnn.runs import run as run_lib

HELP = """\
find the units that follow structure of the text, and explore the network in a page

Every quantity of every unit (an LSTM's h, c, i, f, g, o) is scored for every hypothesis on one half
of a text and scored again on the other. A finding is significant if it beats the scores of shifted
labels and of untrained networks. Its unit is then clamped: the loss and the samples change.
Writes cells.json, explorer.html and pictures."""
CHARACTERS = 200_000
HEADER = (
  *("hypothesis", "column", "lag", "discovery", "confirm", "shifted", "untrained", "last 6"),
  *("inside", "outside", "p", ""),
)
LEGEND = """
column: layer, quantity, unit. lag +1: the unit follows the label one character later. discovery,
confirm: the scores on the two halves, AUROC for binary labels; for graded ones, and for
NAME | CONFOUNDS (NAME controlling for CONFOUNDS), a rank correlation. shifted, untrained: scores to
beat; circular shifts of the labels and untrained networks exceed them with probability 5%. last 6:
the score of a table of the last six characters. inside, outside: the increase of the loss in nats
with the unit clamped ({ablation}), where the label holds and elsewhere. p: share of control units
whose ablation is at least as selective. confounded: not significant after controlling for the
confounds."""


def add_arguments(parser):
  add = parser.add_argument
  add("run", metavar="RUN", help="a run directory of a recurrent network")
  text = "texts to study, each a document (default: the run's validation and test splits)"
  add("--text", metavar="FILE", nargs="+", help=text)
  arguments.add_out(parser, "output folder (default: RUN/cells)")
  arguments.add_step(parser)
  text = f"length of the studied text (default: {CHARACTERS:,})"
  add("--characters", metavar="N", type=int, default=CHARACTERS, help=text)
  text = "a hypothesis of your own: inside a match of PATTERN (repeatable)"
  add("--regex", metavar="NAME=PATTERN", action="append", default=[], help=text)
  text = "language of the hypotheses (default: c for .c and .h, else prose)"
  add("--language", choices=hypotheses.LANGUAGES, help=text)
  text = "untrained networks to compare with; 5%% needs at least 19 (default: 19)"
  add("--untrained", metavar="N", type=int, default=19, help=text)
  # The former name, for one release.
  add("--twins", dest="untrained", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
  text = "circular shifts of the labels, at least 19 (default: 199)"
  add("--shifts", metavar="N", type=int, default=199, help=text)
  text = "clamp units to 0, to their mean, or to their previous value (default: zero)"
  add("--ablation", choices=ablation.ABLATIONS, default="zero", help=text)
  arguments.add_seed(parser)
  text = f"keep {study.RECORDING} in the output folder (characters x columns, float32)"
  add("--keep-recording", action="store_true", help=text)
  arguments.add_json(parser, "cells.json to stdout instead of the table")


def run(args):
  extra = hypotheses.parse_regexes(args.regex)
  if args.seed >= 2**32:
    raise errors.UserError(f"--seed={args.seed}: must be from 0 to 2^32 - 1")
  minima = {"characters": recording.MIN_CHARACTERS, "untrained": 0, "shifts": 19, "seed": 0}
  for name, minimum in minima.items():
    if getattr(args, name) < minimum:
      raise errors.UserError(f"--{name}={getattr(args, name)}: must be at least {minimum}")
  runtime.start()
  loaded = run_lib.Run.open(args.run, args.step)
  if not loaded.model.units:
    raise errors.UserError(f"{args.run} has no units to study: give a run of a recurrent network")
  documents = [(path, loaded.encode_file(path)) for path in args.text or []]
  out = files.make_folder(args.out, pathlib.Path(args.run) / "cells")
  if documents:
    text = recording.text_of_files(loaded, documents, args.characters)
  else:
    text = recording.held_out_text(loaded, args.characters)
  text = text._replace(language=args.language or text.language)
  settings = recording.Settings(args.untrained, args.shifts, args.ablation, args.seed, extra)
  with files.replace_in_folder(out) as new, tempfile.TemporaryDirectory(prefix=".", dir=out) as tmp:
    with console.Progress() as progress:
      found, excerpt = study.study(loaded, text, settings, pathlib.Path(tmp), progress)
    explorer.write(new / "explorer.html", found, excerpt)
    for picture in (pictures.findings, pictures.saturation, pictures.emergence):
      picture(found, new / f"{picture.__name__}.png")
    found = files.with_aliases(found, study.ALIASES)
    files.write_json(new / "cells.json", found)
    if args.keep_recording:
      os.replace(pathlib.Path(tmp) / study.RECORDING, new / study.RECORDING)
  print(json.dumps(found) if args.json else "\n".join(_report(found, out)))


def _report(found, out):
  model, text = found["model"], found["text"]
  size = f"{model['layers']} x {model['hidden']} {model['cell']}"
  yield f"{found['run']}, step {found['step']}: {size}"
  yield (
    f"{text['name']}: {text['characters']:,} characters, {text['documents']} documents, "
    f"{text['nats']:.4f} nats"
  )
  yield ""
  ablations = {each["hypothesis"]: each for each in found["ablations"]}
  scored = [each for each in found["findings"] if each["scored"]]
  rows = [_row(each, ablations[each["hypothesis"]]) for each in scored]
  yield from console.table(HEADER, rows)
  yield LEGEND.format(ablation=found["settings"]["ablation"])
  yield ""
  yield from found["notes"]
  if share := found["interpretable"]:
    yield (
      "units that follow a hypothesis which does not look ahead: "
      f"{share['count']} of {share['of']} ({share['share']:.1%}, "
      f"95% interval {share['low']:.1%} to {share['high']:.1%})"
    )
  yield f"explore: {out / 'explorer.html'}    data: {out / 'cells.json'}    pictures: {out}/*.png"


def _row(finding, ablation):
  confirmed = finding["confirmation"]
  last_6 = next((each["score"] for each in finding["last_k"] if each["k"] == 6), None)
  scores = finding["discovery"]["score"], confirmed["score"], confirmed["family_to_beat"]
  verdict = "significant" if finding["significant"] else ""
  return (
    finding["hypothesis"],
    finding["name"],
    format(finding["lag"], "+d") if finding["lag"] else "0",
    *map(_number, (*scores, finding["untrained"], last_6)),
    _number(ablation["inside"], "+.3f"),
    _number(ablation["outside"], "+.3f"),
    _number(ablation["p"], ".2f"),
    "confounded" if finding["confounded"] else verdict,
  )


def _number(value, spec=".3f"):
  return "-" if value is None else format(value, spec)
