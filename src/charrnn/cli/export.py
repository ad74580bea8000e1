"""`charrnn export`: a file with the parameters of a run, for other programs or for a browser."""

import json
import pathlib
from typing import Any

from charrnn import config as config_lib
from charrnn import console, errors, files
from charrnn.analysis import writer
from charrnn.cli import arguments
from charrnn.runs import checkpoints, weights
from charrnn.runs import run as run_lib

HELP = """write a run to one file: its weights, its network, or a page that writes text

An .html file is a page in which the network writes text in a browser, without a network connection:
docs/sampling.md explains it. The page supports the cells rnn, gru and lstm.

An .onnx file has the network itself, for programs that run ONNX: docs/python.md explains it.

A .safetensors or .npz file has the weights, the config and the vocabulary.
--config.init_from=OUT of launch.py starts a new run from the weights in it. The arrays have the
same names as in charrnn inspect, for example layer_0/W_xh with the shape [inputs, gates * hidden].
The module charrnn/models/ngram.py explains the arrays of an n-gram.
These Python programs read the file:

  file = safetensors.safe_open("OUT.safetensors", "numpy")
  params = {name: file.get_tensor(name) for name in file.keys()}
  meta = {name: json.loads(value) for name, value in file.metadata().items()}

  file = numpy.load("OUT.npz")
  params = {name: file[name] for name in file.files if name != "__meta__"}
  meta = json.loads(str(file["__meta__"]))

meta has the keys config, tokenizer (the vocabulary), step and valid_loss."""
ALIASES = {"tokenizer": "alphabet", "tokens": "symbols"}


def add_arguments(parser):
  arguments.add_run(parser)
  parser.add_argument(
    "out", metavar="OUT", help="output file, *.safetensors, *.npz, *.onnx or *.html"
  )
  arguments.add_step(parser)
  arguments.add_force(parser, "OUT")


def run(args):
  out = pathlib.Path(args.out)
  if out.suffix not in WRITERS:
    raise errors.UserError(f"{out}: the name must end in {' or '.join(WRITERS)}")
  files.check_output(out)
  arguments.check_new(out, args.force)
  opened = run_lib.Run.open(args.run, args.step)
  if out.suffix == ".onnx" and opened.config.text.documents != "none":
    raise errors.UserError(
      f"{out}: {args.run} was trained on documents, and .onnx files do not reset the state between "
      "them: use .html, .npz or .safetensors"
    )
  run_lib.use_cpu()
  WRITERS[out.suffix](opened, out)
  size = sum(array.size for array in checkpoints.flatten(opened.params).values())
  console.say(f"{out}: {size:,} parameters of step {opened.step}")


def _write_weights(opened: run_lib.Run, out: pathlib.Path):
  weights.write(out, checkpoints.flatten(opened.params), _meta(opened))


def _write_onnx(opened: run_lib.Run, out: pathlib.Path):
  from charrnn.models import onnx_graph  # It imports JAX.

  text = {name: json.dumps(value) for name, value in _meta(opened).items()}
  _write(out, onnx_graph.make(opened.config.model, opened.params, text).SerializeToString())


def _write_page(opened: run_lib.Run, out: pathlib.Path):
  _write(out, writer.page(opened).encode())


def _write(out: pathlib.Path, content: bytes):
  with files.replace_file(out) as file:
    file.write(content)


def _meta(opened: run_lib.Run) -> dict[str, Any]:
  meta = {
    "config": config_lib.to_json(opened.config),
    "tokenizer": opened.tokenizer.to_json(),
    "step": opened.step,
    "valid_loss": opened.meta["valid_loss"],
  }
  return files.with_aliases(meta, ALIASES)


WRITERS = {
  **dict.fromkeys(weights.SUFFIXES, _write_weights),
  **{".onnx": _write_onnx, ".html": _write_page},
}
