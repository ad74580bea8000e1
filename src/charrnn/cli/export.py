"""`charrnn export`: the parameters of a run in one file that other programs read."""

import json
import pathlib
import sys

from charrnn import errors, files

HELP = """write a run's parameters, config and alphabet to one .safetensors or .npz file

Arrays are named as in charrnn inspect: layer_0/W_xh [inputs, gates * hidden] and so on. To read
them elsewhere (an ngram's are level_1/first and so on, see charrnn/models/ngram.py):

  file = safetensors.safe_open("OUT.safetensors", "numpy")
  params = {name: file.get_tensor(name) for name in file.keys()}
  meta = {name: json.loads(value) for name, value in file.metadata().items()}

  file = numpy.load("OUT.npz")
  params = {name: file[name] for name in file.files if name != "__meta__"}
  meta = json.loads(str(file["__meta__"]))

meta has config, alphabet, step and valid_loss."""


def add_arguments(parser):
  parser.add_argument("run", metavar="RUN", help="a run directory")
  parser.add_argument("out", metavar="OUT", help="a file that ends in .safetensors or .npz")
  parser.add_argument("--step", metavar="N", type=int, help="a kept step; default: the best")
  parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def run(args):
  out = pathlib.Path(args.out)
  write = _writer(out, args.force)
  from charrnn import config as config_lib
  from charrnn.runs import inspection, runs

  inspection.prepare()
  loaded = runs.load(args.run, args.step)
  arrays = inspection.flatten(loaded.params)
  meta = {
    "config": config_lib.to_json(loaded.config),
    "alphabet": files.with_aliases(loaded.tokenizer.to_json(), {"tokens": "symbols"}),
    "step": loaded.step,
    "valid_loss": loaded.meta["valid_loss"],
  }
  with files.replace_file(out) as file:
    write(file, arrays, meta)
  size = sum(array.size for array in arrays.values())
  print(f"{out}: {size:,} parameters of step {loaded.step}", file=sys.stderr)


def _writer(out, force):
  """How to write a file with this name; a UserError where it cannot be."""
  writers = {".safetensors": _write_safetensors, ".npz": _write_npz}
  if out.suffix not in writers:
    raise errors.UserError(f"{out}: the name must end in {' or '.join(writers)}")
  files.check_output(out)
  if out.exists() and not force:
    raise errors.UserError(f"{out} exists: give --force to replace it")
  return writers[out.suffix]


def _write_safetensors(file, arrays, meta):
  import safetensors.numpy

  text = {name: json.dumps(value) for name, value in meta.items()}
  file.write(safetensors.numpy.save(arrays, text))


def _write_npz(file, arrays, meta):
  import numpy as np

  np.savez(file, __meta__=np.array(json.dumps(meta)), **arrays)
