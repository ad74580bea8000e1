"""A run directory: what is in it, and a trained model out of it."""

import pathlib
from typing import Any, NamedTuple

from charrnn import config as config_lib
from charrnn import errors, files, models
from charrnn.data import corpora, splits, tokenizers


class Run(NamedTuple):
  path: pathlib.Path
  config: Any  # ConfigDict, as resolved
  tokenizer: tokenizers.Tokenizer
  model: models.Model
  params: Any
  step: int
  meta: dict  # of the checkpoint


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
    config = config_lib.from_json(files.read_json(path))
    if config.model.cell != "ngram" and None in (config.model.layers, config.model.hidden):
      raise ValueError("it was not resolved")
    return config
  except (TypeError, AttributeError, ValueError, KeyError) as error:
    raise errors.UserError(f"{path} is damaged: take it from a copy of the same run") from error


def load_corpus(config):
  """The corpus that `config.text` names."""
  text = config.text
  return corpora.load(
    text.source,
    tokenizer=text.alphabet,
    encoding=text.encoding,
    newlines=text.newlines,
    limit=text.limit,
  )


def load_same_corpus(path, config):
  """The corpus that the run at `path` was made with; a UserError where it is gone or changed."""
  try:
    corpus = load_corpus(config)
  except errors.UserError as error:
    raise errors.UserError(
      f"the text that {path} was made with is not to be had: {error}"
    ) from error
  check_same_text(path, corpus)
  return corpus


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


def common_split(paths):
  """The split of the text that all of some runs have; a UserError where text or split differ."""
  first, *others = [_text(path) for path in paths]
  for path, other in zip(paths[1:], others):
    for what, a, b in zip(("text", "split"), first, other):
      if a != b:
        raise errors.UserError(f"{paths[0]} and {path} have different {what}s: compare them apart")
  return first[1]


def _text(path):
  """What decides the ids of a run's text, and the parts that it is split into."""
  text = provenance(path)
  parts = split(read_config(path), text["characters"])
  return [text.get(name) for name in ("sha256", "characters", "alphabet")], parts


def provenance(path):
  """What run.json says of the corpus that a run was made with."""
  found = files.read_json(path / "run.json").get("corpus")
  known = isinstance(found, dict) and {"sha256", "characters"} <= found.keys()
  if not known or not isinstance(found["characters"], int):
    raise errors.UserError(f"{path / 'run.json'} is damaged: take it from a copy of the same run")
  return found


def origin(path):
  """run.json: the corpus of a run and its launches."""
  value = files.read_json(path / "run.json") | {"corpus": provenance(path)}
  if not isinstance(value.get("launches"), list) or not value["launches"]:
    raise errors.UserError(f"{path / 'run.json'} is damaged: take it from a copy of the same run")
  return value


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
  alphabet = tokenizers.Tokenizer.load(path / "alphabet.json")
  from charrnn.runs import checkpoint

  folder = path / "checkpoints"
  kept = checkpoint.steps(folder)
  if not kept:
    raise errors.UserError(
      f"{path} has no checkpoint yet: the first is written after step {config.eval_every}"
    )
  if step is not None and step not in kept:
    raise errors.UserError(f"{path} has no step {step}: kept are {', '.join(map(str, kept))}")
  arrays, meta = checkpoint.read(folder, step, "params") if step is not None else _read_best(folder)
  model = models.restore(alphabet.vocab_size, config.model, arrays["params"])
  return Run(path, config, alphabet, model, arrays["params"], meta["step"], meta)


def _read_best(folder):
  from charrnn.runs import checkpoint

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
