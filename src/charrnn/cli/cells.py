"""`charrnn cells`: what the cells of a trained network follow, tested, and a page to explore it."""

import json
import os
import pathlib
import tempfile

from charrnn import console, errors, files, runtime
from charrnn.analysis import hypotheses, material
from charrnn.evaluation import texts

HELP = """\
find the cells that track structure, and open the network in a page

Every quantity of every cell (an LSTM's h, c, i, f, g, o) is scored for every hypothesis on one half
of a text and scored again on the other. A finding survives if it beats what shifted labels reach
and what untrained networks reach. Its cell is then set from outside: what does that cost, and what
changes in the text that the network writes? Writes cells.json, explorer.html and pictures."""
CHARACTERS = 200_000
RECORDING = "recording.f32"


def add_arguments(parser):
  add = parser.add_argument
  add("run", metavar="RUN", help="a run directory of an rnn, gru or lstm")
  add(
    "--text",
    metavar="FILE",
    nargs="+",
    help="texts to study it on, each a document (default: the run's validation and test parts)",
  )
  add("--out", metavar="DIR", help="where to write (default: RUN/cells)")
  add("--step", metavar="N", type=int, help="a kept step (default: the best by validation loss)")
  add(
    "--characters",
    metavar="N",
    type=int,
    default=CHARACTERS,
    help=f"how much of the text to study (default {CHARACTERS:,})",
  )
  add(
    "--regex",
    metavar="NAME=PATTERN",
    action="append",
    default=[],
    help="a hypothesis of your own: inside a match of PATTERN (may be given more than once)",
  )
  add("--language", choices=hypotheses.LANGUAGES, help="default: c for .c and .h, else prose")
  add(
    "--twins",
    metavar="N",
    type=int,
    default=19,
    help="untrained networks to compare with; 19 are the fewest for 5%% (default 19)",
  )
  add(
    "--shifts", metavar="N", type=int, default=199, help="of the labels, at least 19 (default 199)"
  )
  add(
    "--ablation",
    choices=("zero", "mean", "hold"),
    default="zero",
    help="what cells are set to: 0, their mean, or what they were (default zero)",
  )
  add("--seed", metavar="S", type=int, default=0)
  add("--keep-recording", action="store_true", help="leave recording.f32 in DIR, N x C float32")
  add("--json", action="store_true", help="cells.json to stdout instead of the table")


def run(args):
  extra = _hypotheses(args.regex)
  _check(args)
  runtime.start()
  from charrnn.runs import run as run_lib

  config = run_lib.Run.open(args.run).config
  if config.model.cell == "ngram":
    raise errors.UserError(f"{args.run} is an ngram: it has no cells")
  sources = [(path, texts.read(path, config.text)) for path in args.text or []]
  out = files.make_folder(args.out, pathlib.Path(args.run) / "cells")
  loaded = run_lib.Run.open(args.run, args.step).load()
  from charrnn.analysis import explorer, pictures, study

  if sources:
    ids = [(path, texts.encode(loaded.tokenizer, path, text)) for path, text in sources]
    text = material.of_files(loaded, ids, args.characters)
  else:
    text = material.held_out(loaded, args.characters)
  text = text._replace(language=args.language or text.language)
  options = study.Settings(
    twins=args.twins, shifts=args.shifts, ablation=args.ablation, seed=args.seed, extra=extra
  )
  progress = console.Progress()
  with (
    files.replace_in_folder(out) as new,
    tempfile.TemporaryDirectory(prefix=".", dir=out) as scratch,
  ):
    recording = pathlib.Path(scratch) / RECORDING
    try:
      found, excerpt = study.Study(loaded, text, options, scratch, progress).run_all(recording)
    finally:
      progress.end()
    files.write_json(new / "cells.json", found)
    explorer.write(new / "explorer.html", found, excerpt)
    for picture in (pictures.findings, pictures.saturation, pictures.births):
      picture(found, new / f"{picture.__name__}.png")
    if args.keep_recording:
      os.replace(recording, new / RECORDING)
  if args.json:
    print(json.dumps(found))
  else:
    print("\n".join(_report(found, out)))


def _hypotheses(arguments):
  extra = tuple(hypotheses.parse_regex(each) for each in arguments)
  names = [each.name for each in extra]
  for name in names:
    if names.count(name) > 1:
      raise errors.UserError(f"--regex: two hypotheses are named {name}: rename one")
  return extra


def _check(args):
  if args.seed >= 2**32:
    raise errors.UserError(f"--seed={args.seed}: must be from 0 to 2^32 - 1")
  for name, least in (("characters", material.FEWEST), ("twins", 0), ("shifts", 19), ("seed", 0)):
    if getattr(args, name) < least:
      raise errors.UserError(f"--{name}={getattr(args, name)}: must be at least {least}")


def _report(found, out):
  model, text = found["model"], found["text"]
  yield (
    f"{found['run']}, step {found['step']}: {model['layers']} x {model['hidden']} {model['cell']}"
  )
  yield (
    f"{text['name']}: {text['characters']:,} characters, {text['documents']} documents, "
    f"{text['nats']:.4f} nats"
  )
  yield ""
  yield from _table(found)
  yield ""
  yield from found["notes"]
  if share := found["interpretable"]:
    yield (
      "cells that follow a hypothesis which does not look ahead: "
      f"{share['found']} of {share['of']} ({share['share']:.1%}, "
      f"95% interval {share['low']:.1%} to {share['high']:.1%})"
    )
  yield f"explore: {out / 'explorer.html'}    data: {out / 'cells.json'}    pictures: {out}/*.png"


HEAD = (
  *("hypothesis", "cell", "lag", "found", "again", "shifted", "untrained", "last 6"),
  *("set: in", "out", "p", ""),
)
LEGEND = """
cell: layer, quantity, number; lag 1: a character late. found, again: the score on the half that it
was chosen on and on the other, an AUROC where a label is true or false, else (numbers, and what is
given others, NAME | OTHERS) a rank correlation. To beat: what shifted labels and untrained networks
reach in 5% of all cases. last 6: what a table of the last six characters gets. set: the change of
the loss in nats with the cell held ({ablation}), where the label holds and elsewhere; p: of as much
more inside, among other cells of the layer. confounded: does not survive given the others."""


def _table(found):
  """Scores on discovery and confirmation, bars to beat, and the loss change with the cell set."""
  ablations = {each["hypothesis"]: each for each in found["ablations"]}
  rows = [
    _row(each, ablations.get(each["hypothesis"])) for each in found["findings"] if each["scored"]
  ]
  widths = [max(map(len, column)) for column in zip(HEAD, *rows)]
  for row in (HEAD, *rows):
    cells = [row[0].ljust(widths[0]), *(each.rjust(w) for each, w in zip(row[1:-1], widths[1:-1]))]
    yield "  ".join([*cells, row[-1]]).rstrip()
  yield LEGEND.format(ablation=found["settings"]["ablation"])


def _row(finding, ablation):
  ablation = ablation or {}
  return (
    finding["hypothesis"],
    finding["name"],
    format(finding["lag"], "+d") if finding["lag"] else "0",
    _number(finding["discovery"]["score"]),
    _number(finding["confirmation"]["score"]),
    _number(finding["confirmation"]["family_to_beat"]),
    _number(finding["untrained"]),
    _number(next((each["score"] for each in finding["last_k"] if each["k"] == 6), None)),
    _number(ablation.get("inside"), "+.3f"),
    _number(ablation.get("outside"), "+.3f"),
    _number(ablation.get("p"), ".2f"),
    "confounded" if finding["confounded"] else "survives" if finding["survives"] else "",
  )


def _number(value, how=".3f"):
  return "-" if value is None else format(value, how)
