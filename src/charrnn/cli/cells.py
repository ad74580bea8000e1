"""`charrnn cells`: find units that follow structure in the text, and write an interactive page."""

import argparse
import os
import pathlib
import re
import statistics
import tempfile

from charrnn import console, errors, files, runtime
from charrnn.analysis import (
  ablation,
  explanation,
  explanation_report,
  explorer,
  hypotheses,
  interchange,
  pictures,
  probes,
  rates,
  recording,
  state_files,
  study,
)
from charrnn.cli import arguments
from charrnn.data import corpora
from charrnn.runs import run as run_lib

HELP = """\
find units that follow structure in the text, and write an interactive page

Score every quantity of every unit (an LSTM's h, c, i, f, g, o; a transformer's residual stream h
and MLP activations m) for every hypothesis on one half of a text, and score the best quantity again
on the other half. A finding is significant if its score exceeds the scores of circularly shifted
labels and of untrained networks. Then clamp the unit of each finding, and measure how the loss and
the samples change. Replace its state by its state at a character with another label, and measure
how the predictions change. Compare linear probes of 1 to 16 feature columns with probes of as many
other directions of the state. Write cells.json, explorer.html and four pictures.

With --states, study the states of any model on a text, from a file that `charrnn states` or another
program has written. What needs the network is left out: untrained networks, clamps, and earlier
checkpoints.

With --explain, explain a single unit of an LSTM or a GRU from its weights: which characters reset,
switch or advance it, where its gates come from, and what reads it. If line ends reset or change the
unit, predict how an edit of the weights changes the lengths of lines, and sample from the edited
network. Write explain-LAYER-UNIT.json and explain-LAYER-UNIT.png, and add the explanation to
explorer.html if it exists."""
CHARACTERS = 200_000
UNTRAINED = 99
SHIFTS = 199
ENCODINGS = ("utf-8", "utf-8-sig", "latin-1")
HEADER = (
  *("hypothesis", "column", "lag", "discovery", "confirmation", "shifted", "untrained", "last 6"),
  *("inside", "outside", "p", "result"),
)
OF_NETWORK = ("untrained", "inside", "outside", "p")  # columns of the table that need the network
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
p                probability that clamping a control unit, a unit of the same layer with similar
                 variance, increases the difference of inside and outside at least as much;
                 corrected for the number of hypotheses
confounded       not significant when controlling for the confounds"""

INTERCHANGES_LEGEND = f"""\
unit             the unit whose state is replaced by its state at a character with the other label
                 (for graded labels: in the opposite quarter of its values)
moved            how far the next {interchange.READ} predictions move toward the characters that
                 follow the other label: the change of their log odds, in nats
same             the same with the state at a character with the same label
full             difference of the predictions between both labels
share            moved / full: 1 if the network acts as if the label were the other one
p                probability that a control unit, changed by as many standard deviations, moves the
                 predictions at least as far; corrected for the number of hypotheses"""

PROBES = ("units", "rotated", "components", "selectivity")  # rows of the table of the probes
PROBES_LEGEND = f"""\
state            the quantities of all layers whose feature columns are probed
k                number of features of a linear probe, which is fitted on the discovery half and
                 scored on the confirmation half
units            the features are feature columns, each a quantity of a unit
rotated          the features are directions of random rotations of the same state (median)
components       the features are principal components of the same state
selectivity      score of units minus their score for a random function of the last 2 characters
k=1: column      the feature column of the probe of units with k=1
every rotation   if units are not special, they score higher than all {probes.ROTATIONS} rotations \
in 1 of {probes.ROTATIONS + 1}
                 probes on average; the probes are not independent"""


def add_arguments(parser):
  add = parser.add_argument
  group = parser.add_mutually_exclusive_group(required=True)
  text = "a run directory of a recurrent network or a transformer"
  group.add_argument("run", metavar="RUN", nargs="?", help=text)
  text = (
    "states of any model on the files of --text: .npz with arrays layer_0/h, layer_1/h, ... as "
    "`charrnn states` writes them, or .h5 with datasets states1, states2, ... [time, units]"
  )
  group.add_argument("--states", metavar="FILE", help=text)
  text = (
    "texts to study, one document per file (default: the validation and test splits of the run)"
  )
  add("--text", metavar="FILE", nargs="+", help=text)
  text = (
    "encoding of the texts of --states; with latin-1, each byte is a character (default: utf-8)"
  )
  add("--encoding", choices=ENCODINGS, help=text)
  text = "explain a unit, for example 1:37, instead of studying all units"
  add("--explain", metavar="LAYER:UNIT", help=text)
  arguments.add_out(parser, "output folder (default: RUN/cells; for x.npz: x-cells)")
  arguments.add_step(parser)
  arguments.add_corpus(parser)
  text = (
    f"number of characters to study (default: {CHARACTERS:,}; with --explain, "
    f"{explanation.CHARACTERS:,})"
  )
  add("--characters", metavar="N", type=int, help=text)
  text = "add a hypothesis that is true inside each match of a regular expression (repeatable)"
  add("--regex", metavar="NAME=PATTERN", action="append", default=[], help=text)
  text = "language of the hypotheses (default: c for .c and .h files, prose for others)"
  add("--language", choices=hypotheses.LANGUAGES, help=text)
  text = f"number of untrained networks; significance needs at least 19 (default: {UNTRAINED})"
  add("--untrained", metavar="N", type=int, help=text)
  # The former name still works for one release.
  add("--twins", dest="untrained", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
  text = f"number of circular shifts of the labels, at least 19 (default: {SHIFTS})"
  add("--shifts", metavar="N", type=int, help=text)
  text = (
    "clamp units to 0, to their mean, or to their last unclamped value (default: zero, but mean "
    "for a transformer, whose units have no state to hold)"
  )
  add("--ablation", choices=ablation.ABLATIONS, help=text)
  arguments.add_seed(parser)
  text = f"keep {study.RECORDING} (float32, characters x feature columns) in the output folder"
  add("--keep-recording", action="store_true", help=text)
  arguments.add_json(parser, "print the JSON file to stdout instead of the table")


def run(args):
  extra = hypotheses.parse_regexes(args.regex)
  errors.check("--seed", args.seed, args.seed < 2**32, "must be from 0 to 2^32 - 1")
  minima = {"characters": recording.MIN_CHARACTERS, "untrained": 0, "shifts": 19, "seed": 0}
  for name, minimum in minima.items():
    value = getattr(args, name)
    is_valid = value is None or value >= minimum
    errors.check(f"--{name}", value, is_valid, f"must be at least {minimum}")
  _check_options(args)
  runtime.start()
  run = None if args.states else _open(args)
  if args.explain is not None:
    _explain(args, run)
    return
  characters = args.characters or CHARACTERS
  clamped = args.ablation or (ablation.neutral(run.model) if run else "zero")
  if run and clamped == "hold" and not run.model.can_hold:
    raise errors.UserError(
      f"--ablation=hold: the units of {args.run} have no state that could be held: use mean or zero"
    )
  untrained = UNTRAINED if args.untrained is None else args.untrained
  settings = recording.Settings(untrained, args.shifts or SHIFTS, clamped, args.seed, extra)
  contents = [(path, _read(run, path, args.encoding)) for path in args.text or []]
  default = pathlib.Path(args.run, explorer.FOLDER) if run else _folder(args.states)
  out = files.make_folder(args.out, default)
  with files.replace_in_folder(out) as new, tempfile.TemporaryDirectory(prefix=".", dir=out) as tmp:
    folder = pathlib.Path(tmp)
    target = folder / study.RECORDING
    with console.Progress() as progress:
      if run:
        text = _text(run, contents, characters)
        update = progress("recording")
        recorded = recording.record(run.model, run.params, text.ids_N, target, update)
      else:
        inputs = args.states, contents, characters
        recorded, text = state_files.read(*inputs, target, progress("reading"))
      text = text._replace(language=args.language or text.language)
      name = args.states or str(run.path)
      subject = study.make_subject(name, recorded, text, settings, folder, progress, run)
      results, excerpt = study.study(subject)
    explained = explanation.stored(out, run.weights).values() if run else ()
    rated = rates.stored(run.path.parent / rates.FOLDER, run.weights) if run else None
    page = new / explorer.PAGE
    explorer.write(page, results, excerpt, explanations=explained, rates=rated)
    for picture in (pictures.findings, pictures.probes, pictures.saturation, pictures.emergence):
      if run or picture is pictures.findings or results[picture.__name__]:
        picture(results, new / f"{picture.__name__}.png")
    results = files.with_aliases(results, study.ALIASES)
    files.write_json(new / "cells.json", results)
    if args.keep_recording:
      os.replace(target, new / study.RECORDING)
  arguments.show(args, results, _report(results, out))


def _check_options(args):
  """Raise UserError for options that do not apply to a run, or to a file of states."""
  if args.states and not args.text:
    raise errors.UserError("--states: add --text with the files that the model read")
  of_run = ("step", "corpus", "fetch", "untrained", "ablation", "explain")
  only = "a run directory, not a file of states" if args.states else "--states"
  excluded = dict.fromkeys(of_run if args.states else ("encoding",), only)
  if args.explain is not None:
    of_study = ("regex", "language", "untrained", "shifts", "ablation", "keep_recording")
    excluded |= dict.fromkeys(of_study, "the study of all units, without --explain")
  for name, only in excluded.items():
    value = getattr(args, name)
    if value is not None and value is not False and value != []:
      option = name.replace("_", "-")
      raise errors.UserError(f"--{option} applies only to {only}: leave it out")


def _open(args) -> run_lib.Run:
  run = run_lib.Run.open(args.run, args.step, args.corpus, args.fetch)
  study.check_run(run)
  return run


def _read(run: run_lib.Run | None, path: str, encoding: str | None):
  """Return the content of a file: ids if it is for a run, otherwise text."""
  if run:
    return run.encode_file(path).ids
  return corpora.read_text(path, encoding=encoding or ENCODINGS[0])


def _explain(args, run: run_lib.Run):
  """Explain the unit of --explain, write the results and a picture, and show them."""
  layer, unit = explanation.parse(args.explain, run)
  contents = [(path, _read(run, path, None)) for path in args.text or []]
  text = _text(run, contents, args.characters or explanation.CHARACTERS)
  out = files.make_folder(args.out, pathlib.Path(args.run, explorer.FOLDER))
  name = explanation.name(layer, unit)
  with files.replace_in_folder(out) as new:
    with console.Progress() as progress:
      results = explanation.explain(run, text, layer, unit, args.seed, progress)
    pictures.explanation(results, new / f"{name}.png")
    files.write_json(new / f"{name}.json", results)
    note = _add_to_page(out, new, results)
  lines = [*_about(results), "", *explanation_report.lines(results), "", *note]
  lines.append(f"picture: {out / name}.png    data: {out / name}.json")
  arguments.show(args, results, lines)


def _add_to_page(out, new, results) -> list[str]:
  """Write the explorer with an explanation to the folder `new`; return a line about it.

  Without an explorer in the folder `out`, do nothing.
  """
  if not (path := out / explorer.PAGE).exists():
    return []
  unit, weights = (results["layer"], results["unit"]), results["weights"]
  explained = explanation.stored(out, weights) | {unit: results}
  page = explorer.with_explanations(explorer.read(path), weights, explained.values())
  if page is None:
    return [
      f"explorer: {path} is of another checkpoint or version and does not show this explanation: "
      "run charrnn cells without --explain to write it again"
    ]
  files.write_text(new / explorer.PAGE, page)
  address = f"{path.resolve().as_uri()}#unit={results['layer']}:{results['unit']}&tab=explanations"
  return [f"explorer: {address} (open it in a browser)"]


def _text(run: run_lib.Run, contents, characters: int) -> recording.Text:
  if contents:
    return recording.text_of_files(run, contents, characters)
  return recording.held_out_text(run, characters)


def _folder(states: str) -> pathlib.Path:
  """Return the default output folder for a file of states."""
  path = pathlib.Path(states)
  return path.with_name(f"{path.stem}-cells")


def _about(results):
  """Yield two lines about what was studied."""
  model, text = results["model"], results["text"]
  about = f"{text['characters']:,} characters, {errors.plural(text['documents'], 'document')}"
  if model:
    size = f"{model['layers']} x {model['hidden']} {model['cell']}"
    unit = f", unit {results['layer']}:{results['unit']}" if "unit" in results else ""
    yield f"{results['run']}, step {results['step']}: {size}{unit}"
    yield f"{text['name']}: {about}, {text['nats']:.4f} nats per character"
  else:
    quantities = ", ".join(results["quantities"])
    yield f"{results['run']}: {errors.plural(len(results['units']), 'unit')}, with {quantities}"
    yield f"{text['name']}: {about}"


def _report(results, out):
  model = results["model"]
  yield from _about(results)
  yield ""
  ablations = {each["hypothesis"]: each for each in results["ablations"]}
  scored = [each for each in results["findings"] if each["scored"]]
  rows = [_row(each, ablations.get(each["hypothesis"])) for each in scored]
  entries = re.split(r"\n(?=\S)", LEGEND.format(ablation=results["settings"]["ablation"]))
  header, legend = HEADER, entries
  if not model:
    header = [name for name in HEADER if name not in OF_NETWORK]
    legend = [each for each in entries if not re.match(rf"({'|'.join(OF_NETWORK)})\b", each)]
  yield from console.table(header, [[row[name] for name in header] for row in rows])
  yield ""
  yield from "\n".join(legend).splitlines()
  yield ""
  yield from _interchanges(results)
  yield from _probes(results)
  yield from results["notes"]
  if share := results["interpretable"]:
    yield (
      "units that follow a hypothesis that does not look ahead: "
      f"{share['count']} of {share['of']} ({share['share']:.1%}, "
      f"95% interval {share['low']:.1%} to {share['high']:.1%})"
      f"{'' if model else ', compared with shifted labels only'}"
    )
  yield f"explorer: {out / explorer.PAGE} (open it in a browser)"
  yield f"data: {out / 'cells.json'}    pictures: {out}/*.png"


def _interchanges(results):
  """Yield the lines about the interchanges: a table, and its legend."""
  if not (entries := results["interchanges"]):
    return
  rows = [
    [
      each["hypothesis"],
      each["cell"],
      *(console.number(each[key], "+.3f") for key in ("moved", "same")),
      *map(console.number, (each["full"], each["share"])),
      console.number(each["p_corrected"], ".2f"),
    ]
    for each in entries
  ]
  yield from console.table(("hypothesis", "unit", "moved", "same", "full", "share", "p"), rows)
  yield ""
  yield from INTERCHANGES_LEGEND.splitlines()
  yield ""


def _probes(results):
  """Yield the lines about the probes: a table, and what it shows."""
  if not (entries := results["probes"]):
    return
  sizes, rows = entries[0]["k"], []
  for entry in entries:
    names = entry["hypothesis"], ", ".join(entry["quantities"])
    for basis in PROBES:
      best = entry["columns"][0] if basis == "units" else []
      rows.append([*names, basis, *map(console.number, entry[basis]), *(best or [""])])
      names = "", ""
  header = "hypothesis", "state", "probe", *(f"k={k}" for k in sizes), "k=1: column"
  yield from console.table(header, rows, names=3)
  yield ""
  yield from PROBES_LEGEND.splitlines()
  yield ""
  for n in (0, -1):
    scores = [[each[key][n] for key in ("units", "rotated", "rotated_high")] for each in entries]
    scores = [each for each in scores if None not in each]
    count = sum(units > high for units, _, high in scores)
    line = f"k={sizes[n]}: units score higher than every rotation in {count} of "
    line += errors.plural(len(scores), "probe")
    if scores:
      difference = statistics.median(units - rotated for units, rotated, _ in scores)
      line += f"; median of units - rotated: {difference:+.3f}"
    yield line
  yield ""


def _row(finding, ablation) -> dict[str, str]:
  """Return the row of a finding, by the name of the column."""
  confirmed = finding["confirmation"]
  ablation = ablation or dict.fromkeys(("inside", "outside", "p_corrected"))
  last_6 = next((each["score"] for each in finding["last_k"] if each["k"] == 6), None)
  scores = finding["discovery"]["score"], confirmed["score"], confirmed["family_to_beat"]
  verdict = "significant" if finding["significant"] else ""
  cells = (
    finding["hypothesis"],
    finding["name"],
    format(finding["lag"], "+d") if finding["lag"] else "0",
    *map(console.number, (*scores, finding["untrained"], last_6)),
    console.number(ablation["inside"], "+.3f"),
    console.number(ablation["outside"], "+.3f"),
    console.number(ablation["p_corrected"], ".2f"),
    "confounded" if finding["confounded"] else verdict,
  )
  return dict(zip(HEADER, cells))
