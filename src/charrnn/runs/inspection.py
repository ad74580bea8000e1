"""What a run is and how it does, seen from the side, also while it trains.

Nothing here writes, waits for the lock, or takes memory of a device.
"""

import contextlib
import math
import re
import statistics
import time
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from charrnn import config as config_lib
from charrnn import errors, files, startup
from charrnn.data import tokenizers
from charrnn.runs import checkpoint, metrics, runs
from charrnn.training import sizing

PARAMS = "params"


class GoneError(errors.UserError):
  """A step that was deleted while it was read, as training does with old ones."""


class Arrays(NamedTuple):
  """A step's arrays by name, such as params/layer_0/W_xh."""

  whole: dict[str, np.ndarray]  # those that match their digests
  damaged: dict[str, Any]  # the others: shape and dtype, or None where these are lost as well


def prepare():
  """JAX on the CPU alone: whoever looks on must not take memory of the GPU that trains."""
  startup.import_jax().config.update("jax_platforms", "cpu")


def read(path, step, prefix=""):
  """The arrays of a step at or below the name `prefix`, each verified for itself.

  Raises DamagedError where not even their digests can be read, and GoneError.
  """
  try:
    arrays = _read(path / "checkpoints", step, prefix)
  except checkpoint.DamagedError:
    _check_still_there(path, step)
    raise
  if arrays.damaged:
    _check_still_there(path, step)
  return arrays


def _read(folder, step, prefix):
  """All together, and if that fails, one by one."""
  with contextlib.suppress(checkpoint.DamagedError):
    return Arrays(flatten(checkpoint.read(folder, step, prefix)[0]), {})
  shapes = _shapes(folder, step)
  # Those with a digest and those without: what is only in one of the two is damage as well.
  names = checkpoint.read_meta(folder, step)["arrays"].keys() | shapes.keys()
  whole, damaged = {}, {}
  for name in sorted(names, key=natural):
    if checkpoint.is_below(name, prefix):
      try:
        whole |= flatten(checkpoint.read(folder, step, name)[0])
      except checkpoint.DamagedError:
        damaged[name] = shapes.get(name)
  return Arrays(whole, damaged)


def _shapes(folder, step):
  """Of all arrays; empty where they cannot be read."""
  try:
    flat = traverse_util.flatten_dict(checkpoint.metadata(folder, step), sep="/")
  except checkpoint.DamagedError:
    return {}
  return {name: leaf for name, leaf in flat.items() if hasattr(leaf, "shape")}


def _check_still_there(path, step):
  """Raises GoneError where what looks like damage is a step in deletion."""
  folder = path / "checkpoints" / str(step)
  if folder.is_dir() and startup.is_locked(path):
    time.sleep(0.5)
  if not folder.is_dir():
    raise GoneError(f"step {step} of {path} was deleted while it was read: try another one")


def flatten(tree):
  """Arrays by name, as layer_0/W_xh; contiguous, as those who take their bytes expect."""
  flat = traverse_util.flatten_dict(tree, sep="/")
  return {name: np.asarray(flat[name], order="C") for name in sorted(flat, key=natural)}


def natural(name):
  """A sort key by which layer_10 comes after layer_2."""
  return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def finite(value):
  """A float as JSON can say it: None for NaN and infinity."""
  value = float(value)
  return value if math.isfinite(value) else None


def facts(path, step=None):
  """All there is to say about a run, as JSON; what cannot be read is among its `problems`."""
  kept, memory = _kept(path)
  _check_kept(path, kept, step)
  problems = []

  def attempt(read, *args):
    try:
      return read(*args)
    except (errors.UserError, OSError) as error:
      problems.append(str(error))
      return None

  about = attempt(runs.origin, path) or {}
  config = attempt(runs.read_config, path)
  alphabet = attempt(tokenizers.Tokenizer.load, path / "alphabet.json")
  lines = attempt(metrics.read, path) or []
  length = attempt(_length, config, about.get("corpus"))
  return {
    "run": str(path),
    **{name: about.get(name) for name in ("experiment", "variant", "corpus", "launches")},
    "progress": _progress(path, config, lines, kept, memory, length),
    "alphabet": alphabet and files.with_aliases(alphabet.to_json(), {"tokens": "symbols"}),
    "config": config and config_lib.to_json(config),
    "history": _history(lines) | {"seconds": memory.get("seconds")},
    "checkpoints": kept,
    "parameters": attempt(_parameters, path, kept, step),
    "problems": problems,
  }


def _check_kept(path, kept, step):
  steps = [entry["step"] for entry in kept["steps"]]
  if step is not None and step not in steps:
    known = f"kept are {', '.join(map(str, steps))}" if steps else "it has no checkpoint yet"
    raise errors.UserError(f"{path} has no step {step}: {known}")


def _kept(path):
  """The steps that there are, called whole by all but the bytes of their arrays; the memory of
  the loop at the newest.
  """
  folder = path / "checkpoints"
  steps, memory = [], {}
  for step in checkpoint.steps(folder):
    try:
      meta = checkpoint.read_meta(folder, step)
      whole = _shapes(folder, step).keys() == meta["arrays"].keys()
    except checkpoint.DamagedError:
      meta, whole = {}, False
    if not whole:
      try:
        _check_still_there(path, step)
      except GoneError:
        continue
    memory = meta.get("memory", memory)
    steps.append({"step": step, "valid_loss": meta.get("valid_loss"), "whole": whole})
  whole = {entry["step"]: entry["valid_loss"] for entry in steps if entry["whole"]}
  kept = {
    "steps": steps,
    "best": checkpoint.best(whole),
    "newest": max(whole, default=None),
    "unfinished": _names(folder, "*.orbax-checkpoint-tmp*"),
    "put_aside": _names(path / "damaged", "*"),
  }
  return kept, memory


def _names(folder, pattern):
  return sorted(found.name for found in folder.glob(pattern)) if folder.is_dir() else []


def _history(lines):
  train, valid = (
    [{"step": line["step"], "loss": line[name]} for line in lines if line.get(name) is not None]
    for name in ("train/loss", "valid/loss")
  )
  rates = [rate for line in lines if (rate := line.get("chars_per_second")) is not None]
  return {
    "first_train": train[0] if train else None,
    "last_train": train[-1] if train else None,
    "best_valid": min(valid, key=lambda point: point["loss"], default=None),
    "valid": valid,
    "characters_per_second": statistics.median(rates) if rates else None,
  }


def _length(config, corpus):
  """Steps of the whole training, and steps an epoch; of a count, orders and nothing."""
  if not config or not corpus:
    return None, None
  if config.model.cell == "ngram":
    return config.model.order, None
  parts = runs.split(config, corpus["characters"])
  length = sum(stop - start for start, stop in parts.train)
  per_epoch = length / (config.batch_size * config.window)
  return sizing.fill_length(config, per_epoch), per_epoch


def _progress(path, config, lines, kept, memory, length):
  steps, per_epoch = length or (None, None)
  step = max([kept["newest"] or 0, *(line["step"] for line in lines)])
  # Of a count the checkpoint comes last, and is rarely that of the last order.
  counted = config and config.model.cell == "ngram"
  done = kept["newest"] is not None if counted else steps and step >= steps
  if startup.is_locked(path):
    state = "training"
  elif done:
    state = "finished"
  elif config and config.patience and memory.get("stale", 0) >= config.patience:
    state = "stopped early"
  else:
    state = "stopped"
  epochs = step / per_epoch if per_epoch else None
  return {"state": state, "step": step, "steps": steps, "epochs": epochs}


def _parameters(path, kept, wanted):
  """The arrays of a step; by default, of the best that there is. None: there are no steps."""
  if wanted is not None:
    return {"step": wanted, **_described(read(path, wanted, PARAMS))}
  best = [kept["best"]] if kept["best"] is not None else []
  for step in [*best, *(entry["step"] for entry in reversed(kept["steps"]))]:
    # In training a step may go away while we look: then the next one will do.
    with contextlib.suppress(GoneError):
      return {"step": step, **_described(read(path, step, PARAMS))}
  return None


def _described(arrays):
  rows, both = [], arrays.whole | arrays.damaged
  for name in sorted(both, key=natural):
    array = both[name]
    row = {"name": name.removeprefix(f"{PARAMS}/"), "whole": name in arrays.whole}
    if array is not None:
      shape = list(array.shape)
      row |= {"shape": shape, "dtype": np.dtype(array.dtype).name, "size": math.prod(shape)}
    if row["whole"]:
      row |= _statistics(array.astype(np.float64))
    rows.append(row)
  sizes = [(row["size"], np.dtype(row["dtype"]).itemsize) for row in rows if "size" in row]
  return {
    "arrays": rows,
    "total": sum(size for size, _ in sizes),
    "bytes": sum(size * item for size, item in sizes),
  }


def _statistics(array):
  numbers = {"norm": np.linalg.norm(array.ravel()), "min": array.min(), "max": array.max()}
  numbers |= {"mean": array.mean(), "std": array.std()}
  return {name: finite(number) for name, number in numbers.items()}
