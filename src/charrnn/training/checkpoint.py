"""Orbax checkpoints of NumPy trees, with a SHA-256 for every array.

Orbax does not notice a flipped bit. So each step has, beside its arrays, a JSON item with their
digests and one of itself; whoever reads checks them. Reading takes no lock and changes nothing:
a run can be looked at while it trains.
"""

import contextlib
import hashlib
import json
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from orbax.checkpoint import checkpoint_managers as managers

from charrnn import errors


class DamagedError(errors.UserError):
  """A checkpoint that is incomplete or does not match its digests."""


class Writer:
  """Keeps the newest `keep` steps of a run and the best one by validation loss."""

  def __init__(self, folder, keep):
    # From our own meta data: Orbax's metrics have no digest, and one damaged file stops it.
    self._losses = _losses(folder)
    self._keep = keep
    options = managers.CheckpointManagerOptions(
      save_decision_policy=managers.FixedIntervalPolicy(1), preservation_policy=self
    )
    self._manager = managers.CheckpointManager(pathlib.Path(folder).absolute(), options=options)

  def should_preserve(self, checkpoints, *, context):
    """Orbax asks it which of the steps there are, oldest first, are to stay."""
    del context
    kept = {info.step for info in checkpoints[-self._keep :]} | {_best(self._losses)}
    return [info.step in kept for info in checkpoints]

  def save(self, step, state, meta):
    """Begins to write a step; it is there for sure once the next `save` or `close` returns.

    `state`: a tree of NumPy arrays. `meta`: what else a restart needs, as JSON;
    meta["valid_loss"] (or None) ranks the step.
    """
    tree = serialization.to_state_dict(jax.tree.map(np.asarray, state))
    meta = _seal({**meta, "step": step, "arrays": digests(tree)})
    self._losses[step] = meta["valid_loss"]
    self._manager.save(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta)),
      force=True,
    )

  def close(self):
    self._manager.wait_until_finished()
    self._manager.close()


def steps(folder):
  """The steps there are, oldest first. Not all need be whole."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdigit())


def read_meta(folder, step):
  """The JSON item of a step; raises DamagedError."""
  path = pathlib.Path(folder) / str(step) / "meta" / "metadata"
  try:
    meta = json.loads(path.read_text())
    whole = meta == _seal({k: v for k, v in meta.items() if k != "sha256"})
  except (OSError, ValueError, TypeError, AttributeError):
    whole = False
  if not whole:
    raise DamagedError(f"checkpoint {step} in {folder} is incomplete or damaged (its meta data)")
  return meta


def read(folder, step):
  """The verified arrays of a step as nested dicts of NumPy arrays, and its meta data."""
  meta = read_meta(folder, step)
  path = (pathlib.Path(folder) / str(step) / "state").absolute()
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      # A target of NumPy leaves: wherever it was trained, it is read without a device.
      like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), metadata(folder, step))
      tree = jax.tree.map(np.asarray, checkpointer.restore(path, like))
  except Exception as error:  # whatever Orbax, TensorStore and zstd raise at a damaged file
    raise DamagedError(f"checkpoint {step} in {folder} cannot be read: it is damaged") from error
  wrong = sorted(k for k, v in digests(tree).items() if meta["arrays"].get(k) != v)
  if wrong or len(meta["arrays"]) != len(jax.tree.leaves(tree)):
    raise DamagedError(f"checkpoint {step} in {folder} is damaged: {', '.join(wrong) or 'arrays'}")
  return tree, meta


def metadata(folder, step):
  """Shapes and dtypes of a step's arrays as nested dicts, without loading an array."""
  path = (pathlib.Path(folder) / str(step) / "state").absolute()
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.metadata(path).item_metadata.tree


def best_step(folder):
  """The step of the lowest validation loss, else the newest; None if there is none whole."""
  losses = _losses(folder)
  return _best(losses) or max(losses, default=None)


def _losses(folder):
  """The validation loss, or None, of every step with whole meta data."""
  found = {}
  for step in steps(folder):
    with contextlib.suppress(DamagedError):
      found[step] = read_meta(folder, step)["valid_loss"]
  return found


def _best(losses):
  """The first step of the lowest loss, as the loop says it; None if no step has one."""
  known = [(loss, step) for step, loss in losses.items() if loss is not None]
  return min(known)[1] if known else None


def read_newest(folder, say=lambda text: None):
  """(arrays, meta) of the newest whole step, or None; `say` hears of each step passed over."""
  for step in reversed(steps(folder)):
    try:
      return read(folder, step)
    except DamagedError as error:
      say(str(error))
  return None


def put_aside(folder, after):
  """Moves steps beyond `after` out of the way, where a damaged one was passed over."""
  folder = pathlib.Path(folder)
  for step in steps(folder):
    if step > after:
      aside = folder.parent / "damaged"
      aside.mkdir(exist_ok=True)
      target = aside / str(step)
      number = 0
      while target.exists():
        number += 1
        target = aside / f"{step}.{number}"
      (folder / str(step)).rename(target)


def digests(tree):
  """SHA-256 of every array's dtype, shape and bytes, by path."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): _digest(a) for path, a in leaves}


def _digest(array):
  array = np.asarray(array)
  head = f"{array.dtype.name}{array.shape}".encode()
  return hashlib.sha256(head + array.tobytes()).hexdigest()


def _seal(meta):
  """JSON meta data with a digest of itself."""
  text = json.dumps(meta, sort_keys=True)
  return {**json.loads(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
