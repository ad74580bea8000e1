"""Runs and sweeps on disk, as what is compared of them. Nothing here waits, writes or needs JAX."""

import os
import pathlib
from collections.abc import Iterator, Sequence

from charrnn import config as config_lib
from charrnn import errors, files, models
from charrnn.data import tokenizers
from charrnn.runs import lock, metrics
from charrnn.runs import run as run_lib
from charrnn.sweeps import comparison, trials

DAMAGED = "damaged"
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError)


def find(targets: Sequence[str]) -> list[pathlib.Path]:
  """The directories of all runs in run directories and sweeps, and of trials that are to come."""
  found: dict[pathlib.Path, None] = {}
  for target in map(pathlib.Path, targets):
    inside = list(_inside(target)) if target.is_dir() else []
    if not inside:
      run_lib.Run.open(target)
      raise errors.UserError(f"{target} cannot be read")
    found |= dict.fromkeys(path.resolve() for path in inside)
  return list(found)


def _inside(target: pathlib.Path) -> Iterator[pathlib.Path]:
  for folder, folders, names in os.walk(target):
    path = pathlib.Path(folder)
    if "config.json" in names:
      folders.clear()
      if path == target or not _is_rerun(path):
        yield path
      continue
    folders.sort()
    if "sweep.json" in names:
      yield from (
        path / name for name in _trials(path) if not (path / name / "config.json").exists()
      )


def _is_rerun(path: pathlib.Path) -> bool:
  """Whether a run is the same as another one, made again to see whether it comes out the same."""
  try:
    return "rerun_of" in files.read_json(path / "run.json")
  except errors.UserError:
    return False


def _trials(path: pathlib.Path) -> list[str]:
  """The names of a sweep's trials; none where it does not say."""
  try:
    names = list(files.read_json(path / "sweep.json")["trials"])
  except (errors.UserError, *_DAMAGE):
    return []
  return [name for name in names if isinstance(name, str) and pathlib.Path(name).name == name]


def read(paths: Sequence[pathlib.Path]) -> list[comparison.Run]:
  common = os.path.commonpath([path.parent for path in paths])
  return [_read(path, os.path.relpath(path, common)) for path in paths]


def _read(path: pathlib.Path, name: str) -> comparison.Run:
  if not (path / "config.json").exists():
    state = _state(path) or trials.WAITING
    missing = f"it has no config.json: {path / 'log.txt'} may say why"
    at_rest = state not in (trials.WAITING, trials.RUNNING)
    return comparison.Run(name, str(path), state, (missing,) if at_rest else ())
  problems: list[str] = []

  def attempt(read, *arguments):
    try:
      return read(*arguments)
    except OSError as error:
      problems.append(f"cannot read {error.filename}: {error.strerror}")
    except errors.UserError as error:
      problems.append(str(error))
    except _DAMAGE as error:
      kind = type(error).__name__
      problems.append(f"{path / 'config.json'} is damaged: {kind}: {error}")
    return None

  config = attempt(lambda: run_lib.Run(path).config)
  lines = attempt(metrics.read, path) or []
  if config is None:
    return comparison.Run(name, str(path), DAMAGED, tuple(problems), lines=lines)
  known, count_of = attempt(_fields, config), attempt(_sizes, path, config) or (None, None)
  state = _state(path) or attempt(_reached, path, config, lines) or trials.STOPPED
  text = attempt(_text, path, config)
  return comparison.Run(
    name, str(path), state, tuple(problems), known or {}, text, lines, *count_of
  )


def _state(path: pathlib.Path) -> str | None:
  """As the lock or the launcher has it; None where neither says."""
  if lock.is_held(path):
    return trials.RUNNING
  ended = trials.outcome(path)
  return ended and ended.state


def _reached(path: pathlib.Path, config, lines) -> str | None:
  """Whether a run that no launcher has watched has come to its end."""
  kept = [int(each.name) for each in (path / "checkpoints").glob("*") if each.name.isdecimal()]
  if config.model.cell == "ngram":  # its checkpoint comes last
    return trials.DONE if kept else None
  if not lines or not lines[-1].get("epoch"):
    return None
  losses = [line["valid/loss"] for line in lines if line.get("valid/loss")]
  stale = len(losses) - 1 - losses.index(min(losses)) if losses else 0
  steps = config_lib.total_steps(config, lines[-1]["step"] / lines[-1]["epoch"])
  reached = max([lines[-1]["step"], *kept]) >= steps
  return trials.DONE if reached or (config.patience and stale >= config.patience) else None


def _fields(config) -> dict:
  """All that the model makes use of."""
  used = config_lib.used_fields(config)
  fields = config_lib.flatten(config_lib.to_json(config))
  return {name: value for name, value in fields.items() if value is not None and name in used}


def _text(path: pathlib.Path, config) -> dict:
  """What has to be the same for losses to compare; of the text, its digest and not its name."""
  about = run_lib.Run(path).provenance
  parts = {name: value for name, value in config.text.to_dict().items() if name != "source"}
  if config.text.split == "streams":
    parts |= {"batch_size": config.batch_size, "window": config.window}
  return {"sha256": about["sha256"], "characters": about["characters"], **parts}


def _sizes(path: pathlib.Path, config) -> tuple[int, float] | None:
  """Parameters, and operations to train on a character; None of a count."""
  if config.model.cell == "ngram":
    return None
  vocab, m = tokenizers.Tokenizer.load(path / "alphabet.json").vocab_size, config.model
  shape = vocab, m.cell, m.layers, m.hidden, m.embed
  return models.parameter_count(*shape), 6.0 * models.multiplied_weights(*shape)
