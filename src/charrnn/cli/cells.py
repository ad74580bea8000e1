"""`charrnn cells`: find units that follow structure in the text, and write an interactive page."""

import argparse
import os
import pathlib
import tempfile

from charrnn import console, errors, files, runtime
from charrnn.analysis import ablation, explorer, hypotheses, pictures, recording, study
from charrnn.cli import arguments
from charrnn.runs import run as run_lib

HELP = """\
find units that follow structure in the text, and write an interactive page

Score every quantity of every unit (an LSTM's h, c, i, f, g, o; a transformer's residual stream h
and MLP activations m) for every hypothesis on one half of a text, and score the best quantity again
on the other half. A finding is significant if its score exceeds the scores of circularly shifted
labels and of untrained networks. Then clamp the unit of each finding, and measure how the loss and
the samples change. Write cells.json, explorer.html and three pictures."""
CHARACTERS = 200_000
HEADER = (
  *("hypothesis", "column", "lag", "discovery", "confirmation", "shifted", "untrained", "last 6"),
  *("inside", "outside", "p", "result"),
)
LEGEND = """\
A | B            hypothesis A, controlling for the hypotheses B
column           the feature column with the best score: layer, quantity, unit
lag              +1: the column follows the label one character late; -1: one character early
discovery        score on the half of the text that the column was selected on
confirmation     score on the other half: AUROC if the label is binary; rank correlation if it is
                 graded, and for A | B
shifted          threshold from circularly shifted labels (5% error probability)
untrained        threshold from untrained networks (5% error probability)
last 6           score of a predictor that sees only the last 6 characters
inside, outside  increase of the loss, in nats per character, with the unit clamped ({ablation}):
                 where the label is true or in its top quarter, and elsewhere
p                share of control units, this unit included, that are at least as selective:
                 their difference of inside and outside is at least as large
confounded       not significant when controlling for the confounds"""


def add_arguments(parser):
  add = parser.add_argument
  add("run", metavar="RUN", help="a run directory of a recurrent network or a transformer")
  text = (
    "texts to study, one document per file (default: the validation and test splits of the run)"
  )
  add("--text", metavar="FILE", nargs="+", help=text)
  arguments.add_out(parser, "output folder (default: RUN/cells)")
  arguments.add_step(parser)
  arguments.add_corpus(parser)
  text = f"number of characters to study (default: {CHARACTERS:,})"
  add("--characters", metavar="N", type=int, default=CHARACTERS, help=text)
  text = "add a hypothesis that is true inside each match of a regular expression (repeatable)"
  add("--regex", metavar="NAME=PATTERN", action="append", default=[], help=text)
  text = "language of the hypotheses (default: c for .c and .h files, prose for others)"
  add("--language", choices=hypotheses.LANGUAGES, help=text)
  text = "number of untrained networks; significance needs at least 19 (default: 19)"
  add("--untrained", metavar="N", type=int, default=19, help=text)
  # The former name still works for one release.
  add("--twins", dest="untrained", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
  text = "number of circular shifts of the labels, at least 19 (default: 199)"
  add("--shifts", metavar="N", type=int, default=199, help=text)
  text = (
    "clamp units to 0, to their mean, or to their last unclamped value (default: zero, but mean "
    "for a transformer, whose units have no state to hold)"
  )
  add("--ablation", choices=ablation.ABLATIONS, help=text)
  arguments.add_seed(parser)
  text = f"keep {study.RECORDING} (float32, characters x feature columns) in the output folder"
  add("--keep-recording", action="store_true", help=text)
  arguments.add_json(parser, "print cells.json to stdout instead of the table")


def run(args):
  extra = hypotheses.parse_regexes(args.regex)
  errors.check("--seed", args.seed, args.seed < 2**32, "must be from 0 to 2^32 - 1")
  minima = {"characters": recording.MIN_CHARACTERS, "untrained": 0, "shifts": 19, "seed": 0}
  for name, minimum in minima.items():
    value = getattr(args, name)
    errors.check(f"--{name}", value, value >= minimum, f"must be at least {minimum}")
  runtime.start()
  loaded = run_lib.Run.open(args.run, args.step, args.corpus, args.fetch)
  if not loaded.tokenizer.has_characters:
    raise errors.UserError(
      f"{args.run}: {loaded.tokenizer.other_tokens}, but the hypotheses are about characters: use "
      "a run with the tokenizer char or byte, without documents and min_count"
    )
  if not loaded.model.units:
    raise errors.UserError(
      f"{args.run}: has no units to study: use a run of a recurrent network or a transformer"
    )
  clamped = args.ablation or ablation.neutral(loaded.model)
  if clamped == "hold" and not loaded.model.can_hold:
    raise errors.UserError(
      f"--ablation=hold: the units of {args.run} have no state that could be held: use mean or zero"
    )
  documents = [(path, loaded.encode_file(path).ids) for path in args.text or []]
  out = files.make_folder(args.out, pathlib.Path(args.run) / "cells")
  if documents:
    text = recording.text_of_files(loaded, documents, args.characters)
  else:
    text = recording.held_out_text(loaded, args.characters)
  text = text._replace(language=args.language or text.language)
  settings = recording.Settings(args.untrained, args.shifts, clamped, args.seed, extra)
  with files.replace_in_folder(out) as new, tempfile.TemporaryDirectory(prefix=".", dir=out) as tmp:
    with console.Progress() as progress:
      results, excerpt = study.study(loaded, text, settings, pathlib.Path(tmp), progress)
    explorer.write(new / "explorer.html", results, excerpt)
    for picture in (pictures.findings, pictures.saturation, pictures.emergence):
      picture(results, new / f"{picture.__name__}.png")
    results = files.with_aliases(results, study.ALIASES)
    files.write_json(new / "cells.json", results)
    if args.keep_recording:
      os.replace(pathlib.Path(tmp) / study.RECORDING, new / study.RECORDING)
  arguments.show(args, results, _report(results, out))


def _report(results, out):
  model, text = results["model"], results["text"]
  size = f"{model['layers']} x {model['hidden']} {model['cell']}"
  yield f"{results['run']}, step {results['step']}: {size}"
  yield (
    f"{text['name']}: {text['characters']:,} characters, "
    f"{errors.plural(text['documents'], 'document')}, {text['nats']:.4f} nats per character"
  )
  yield ""
  ablations = {each["hypothesis"]: each for each in results["ablations"]}
  scored = [each for each in results["findings"] if each["scored"]]
  rows = [_row(each, ablations[each["hypothesis"]]) for each in scored]
  yield from console.table(HEADER, rows)
  yield ""
  yield from LEGEND.format(ablation=results["settings"]["ablation"]).splitlines()
  yield ""
  yield from results["notes"]
  if share := results["interpretable"]:
    yield (
      "units that follow a hypothesis that does not look ahead: "
      f"{share['count']} of {share['of']} ({share['share']:.1%}, "
      f"95% interval {share['low']:.1%} to {share['high']:.1%})"
    )
  yield f"explorer: {out / 'explorer.html'} (open it in a browser)"
  yield f"data: {out / 'cells.json'}    pictures: {out}/*.png"


def _row(finding, ablation):
  confirmed = finding["confirmation"]
  last_6 = next((each["score"] for each in finding["last_k"] if each["k"] == 6), None)
  scores = finding["discovery"]["score"], confirmed["score"], confirmed["family_to_beat"]
  verdict = "significant" if finding["significant"] else ""
  return (
    finding["hypothesis"],
    finding["name"],
    format(finding["lag"], "+d") if finding["lag"] else "0",
    *map(console.number, (*scores, finding["untrained"], last_6)),
    console.number(ablation["inside"], "+.3f"),
    console.number(ablation["outside"], "+.3f"),
    console.number(ablation["p"], ".2f"),
    "confounded" if finding["confounded"] else verdict,
  )
