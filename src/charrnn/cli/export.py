"""`charrnn export`: a file with the parameters of a run, for use in other programs."""

import json
import pathlib

from charrnn import config as config_lib
from charrnn import console, errors, files
from charrnn.cli import arguments
from charrnn.runs import checkpoints, weights
from charrnn.runs import run as run_lib

HELP = """write the weights, config and vocabulary of a run to a .safetensors, .npz or .onnx file

--config.init_from=OUT of launch.py starts a new run from the weights in a .safetensors or .npz
file. An .onnx file has the network itself, for programs that run ONNX: docs/python.md explains it.

The arrays have the same names as in charrnn inspect, for example layer_0/W_xh with the shape
[inputs, gates * hidden]. The module charrnn/models/ngram.py explains the arrays of an n-gram.
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
  parser.add_argument("out", metavar="OUT", help="output file, *.safetensors, *.npz or *.onnx")
  arguments.add_step(parser)
  parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def run(args):
  out = pathlib.Path(args.out)
  suffixes = (*weights.SUFFIXES, ".onnx")
  if out.suffix not in suffixes:
    raise errors.UserError(f"{out}: the name must end in {' or '.join(suffixes)}")
  files.check_output(out)
  if out.exists() and not args.force:
    raise errors.UserError(f"{out} exists: use --force to replace it")
  opened = run_lib.Run.open(args.run, args.step)
  run_lib.use_cpu()
  arrays = checkpoints.flatten(opened.params)
  meta = {
    "config": config_lib.to_json(opened.config),
    "tokenizer": opened.tokenizer.to_json(),
    "step": opened.step,
    "valid_loss": opened.meta["valid_loss"],
  }
  meta = files.with_aliases(meta, ALIASES)
  if out.suffix == ".onnx":
    from charrnn.models import onnx_graph  # It imports JAX.

    text = {name: json.dumps(value) for name, value in meta.items()}
    content = onnx_graph.make(opened.config.model, opened.params, text).SerializeToString()
    with files.replace_file(out) as file:
      file.write(content)
  else:
    weights.write(out, arrays, meta)
  size = sum(array.size for array in arrays.values())
  console.say(f"{out}: {size:,} parameters of step {opened.step}")
