"""A run directory: what is in it, and a trained model out of it."""

import json
import os
import pathlib
from typing import Any, NamedTuple

from charrnn import config as config_lib
from charrnn import errors
from charrnn.text import alphabet as alphabet_lib
from charrnn.text import corpora, splits


class Run(NamedTuple):
  path: pathlib.Path
  config: Any  # ConfigDict, as resolved
  alphabet: alphabet_lib.Alphabet
  model: Any  # models.network.Model
  params: Any
  step: int
  meta: dict  # of the checkpoint


def write_json(path, value):
  """Whole or not at all, so that a reader or a kill never meets half a file."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  temporary.write_text(json.dumps(value, indent=1) + "\n")
  os.replace(temporary, path)


def read_json(path):
  """The object in a JSON file of a run."""
  try:
    value = json.loads(path.read_bytes())
  except OSError as error:
    raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
  except ValueError:
    value = None
  if not isinstance(value, dict):
    raise errors.UserError(f"{path} is damaged: take it from a copy of the same run")
  return value


def check(path):
  """The run directory as a Path; a UserError says what it is instead."""
  path = pathlib.Path(path)
  if not path.exists():
    raise errors.UserError(f"no run directory {path}: `ls runs` shows those of launch.py")
  if not path.is_dir():
    raise errors.UserError(f"{path} is a file: a run directory is wanted, such as runs/shakespeare")
  if not (path / "config.json").exists():
    inside = "is empty" if not any(path.iterdir()) else "is not a run directory (no config.json)"
    raise errors.UserError(f"{path} {inside}: make one with python launch.py --config=...")
  return path


def read_config(path):
  """The resolved config of a run."""
  path = check(path) / "config.json"
  try:
    return config_lib.from_json(read_json(path))
  except (TypeError, AttributeError, ValueError, KeyError) as error:
    raise errors.UserError(f"{path} is damaged: take it from a copy of the same run") from error


def load_corpus(config):
  """The corpus that `config.text` names."""
  text = config.text
  return corpora.load(
    text.source, alphabet=text.alphabet, encoding=text.encoding, newlines=text.newlines
  )


def split(config, length):
  """The parts of a corpus of `length` characters."""
  text = config.text
  return splits.split(
    length,
    text.split,
    text.valid_fraction,
    text.test_fraction,
    streams=config.batch_size,
    window=config.window,
  )


def provenance(path):
  """What run.json says of the corpus that a run was made with."""
  found = read_json(path / "run.json").get("corpus")
  if not isinstance(found, dict) or not {"sha256", "characters"} <= found.keys():
    raise errors.UserError(f"{path / 'run.json'} is damaged: take it from a copy of the same run")
  return found


def check_same_text(path, corpus):
  """Raises UserError when a corpus has changed since the run at `path` was made with it."""
  if provenance(path)["sha256"] != corpus.provenance["sha256"]:
    raise errors.UserError(
      f"{corpus.name} is not the text any more that {path} was made with: bring the old one "
      f"back, or start anew in another --workdir (with --config.init_from={path} from its weights)"
    )


def load(path, step=None):
  """The model of a run with its verified parameters at `step`; None: the best, else the newest."""
  path = check(path)
  config = read_config(path)
  alphabet = alphabet_lib.Alphabet.load(path / "alphabet.json")
  from charrnn.models import network
  from charrnn.training import checkpoint

  folder = path / "checkpoints"
  kept = checkpoint.steps(folder)
  if not kept:
    raise errors.UserError(
      f"{path} has no checkpoint yet: the first is written after step {config.eval_every}"
    )
  if step is not None and step not in kept:
    raise errors.UserError(f"{path} has no step {step}: kept are {', '.join(map(str, kept))}")
  arrays, meta = checkpoint.read(folder, step, "params") if step is not None else _read_best(folder)
  # A run goes on from any machine: cuDNN, if it was asked for, may not be on this one.
  model = network.make(alphabet.size, **config.model.to_dict() | {"unroll": "auto"})
  return Run(path, config, alphabet, model, arrays["params"], meta["step"], meta)


def _read_best(folder):
  from charrnn.training import checkpoint

  for _ in range(3):  # a run that trains may drop its former best while it is read
    chosen = checkpoint.best_step(folder)
    if chosen is None:
      raise errors.UserError(f"every checkpoint in {folder} is damaged: restore one from a copy")
    try:
      return checkpoint.read(folder, chosen, "params")
    except checkpoint.DamagedError:
      if chosen in checkpoint.steps(folder):
        raise
  raise errors.UserError(f"the checkpoints in {folder} change too fast to be read: try again")
