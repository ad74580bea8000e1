"""`charrnn states`: a file with all states and gates of a network on a text."""

import pathlib

import numpy as np

from charrnn import console, errors
from charrnn.cli import arguments
from charrnn.evaluation import arrays, score
from charrnn.runs import checkpoints
from charrnn.runs import run as run_lib

HELP = """\
write all states and gates of a network on a text to a .npz file

The file contains an array [N, H] for each layer and quantity, for N tokens of the text and H units,
for example layer_1/c, the cell state of an LSTM after each token. The network starts without
context and reads the whole text in order. These arrays describe the tokens:

  ids      [N], the id of each token
  tokens   [N], the text of each token

A recurrent layer has its state h, its cell state c (LSTM) and its gates. A block of a transformer
has its output h and the activations m of its MLP. An n-gram has no states. This Python program
reads the file:

  states = numpy.load("x.npz")
  c_NxH = states["layer_0/c"]"""


def add_arguments(parser):
  arguments.add_run(parser)
  add = parser.add_argument
  add("--file", metavar="FILE", required=True, help="the text, of at least one token")
  add("--out", metavar="F", required=True, help="output file, *.npz")
  arguments.add_step(parser)
  text = "read only the first N characters (tokens, if they are not characters) of FILE"
  add("--characters", metavar="N", type=int, help=text)
  arguments.add_force(parser, "F")


def run(args):
  out, count = pathlib.Path(args.out), args.characters
  arrays.check_output(out, "--out")
  errors.check("--characters", count, count is None or count >= 1, "must be at least 1")
  arguments.check_new(out, args.force)
  if out.resolve() == pathlib.Path(args.file).resolve():
    raise errors.UserError(f"--out={out}: is also the text to read: use another name")
  opened = run_lib.Run.open(args.run, args.step)
  ids_N = opened.encode_file(args.file, minimum=1).first(count).ids
  run_lib.use_devices(opened, 1)
  model, N = opened.load().model, len(ids_N)
  score.check_units(model, opened.path)
  units, start = checkpoints.flatten(model.units), 0
  shapes = {name: (N, H) for name, H in units.items()}
  whole = arrays.describe(opened.tokenizer, ids_N)
  with console.Progress() as progress, arrays.replace_npz(out, shapes, **whole) as put:
    update = progress("recording")
    for recorded in score.record(model, opened.params, ids_N):
      values = checkpoints.flatten(recorded)
      stop = start + len(next(iter(values.values())))
      for name, rows_TxH in values.items():
        put(name, np.arange(start, stop), rows_TxH)
      update(start := stop, N)
  tokens = errors.plural(N, opened.tokenizer.unit)
  console.say(f"{out}: {tokens}, {sum(units.values()):,} values for each, step {opened.step}")
