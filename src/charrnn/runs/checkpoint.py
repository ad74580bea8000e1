"""Orbax checkpoints of NumPy trees, with a SHA-256 for every array.

Orbax does not notice a flipped bit. So each step has, beside its arrays, a JSON item with their
digests and one of itself; whoever reads checks them. Reading takes no lock and changes nothing:
a run can be looked at while it trains.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization, traverse_util
from orbax.checkpoint import checkpoint_managers as managers

from charrnn import errors

# What the system says of a file that is missing; all else it says may pass.
MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
NAMED = 3  # damaged arrays in a message


class DamagedError(errors.UserError):
  """A checkpoint that is incomplete or does not match its digests."""

  def __init__(self, folder, step, parts):
    self.finding = f"checkpoint {step} in {folder} is incomplete or damaged ({parts})"
    super().__init__(f"{self.finding}: choose another --step")


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
    kept = {info.step for info in checkpoints[-self._keep :]} | {best(self._losses)}
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
  try:
    return sorted(int(p.name) for p in pathlib.Path(folder).iterdir() if _is_step(p))
  except OSError as error:
    if error.errno in MISSING:
      return []
    raise errors.UserError(f"cannot read {folder}: {error.strerror}") from error


def _is_step(path):
  return path.name.isdigit() and path.is_dir()


def read_meta(folder, step):
  """The JSON item of a step."""
  path = pathlib.Path(folder) / str(step) / "meta" / "metadata"
  with _reading(folder, step, "its meta data"):
    meta = json.loads(path.read_bytes())
    if meta != _seal({k: v for k, v in meta.items() if k != "sha256"}):
      raise ValueError("another digest")
  return meta


def read(folder, step, prefix=""):
  """The verified arrays of a step as nested dicts of NumPy arrays, and its meta data.

  `prefix`: only those at or below this name, such as params or params/layer_0/W_xh.
  Raises DamagedError, or a plain UserError for what may pass, such as a lack of rights or memory.
  """
  meta = read_meta(folder, step)
  shapes = metadata(folder, step, prefix)
  with _reading(folder, step, "its arrays"):
    # A target of NumPy leaves: wherever it was trained, it is read without a device.
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    with ocp.PyTreeCheckpointer() as checkpointer:
      args = ocp.args.PyTreeRestore(like, partial_restore=True)
      tree = jax.tree.map(np.asarray, checkpointer.restore(_state(folder, step), args))
    found = digests(tree)
  wanted = {k: digest for k, digest in meta["arrays"].items() if is_below(k, prefix)}
  wrong = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
  if wrong:
    more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    raise DamagedError(folder, step, ", ".join(wrong[:NAMED]) + more)
  return tree, meta


def metadata(folder, step, prefix=""):
  """Shapes and dtypes of a step's arrays as nested dicts, without loading an array."""
  with _reading(folder, step, "its arrays"):
    # Not by a checkpointer, which keeps to itself why it finds nothing.
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
      tree = handler.metadata(_state(folder, step)).tree
    flat = traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep="/")
    flat = {name: leaf for name, leaf in flat.items() if is_below(name, prefix)}
    return traverse_util.unflatten_dict(flat, sep="/")


def is_below(name, prefix):
  """Whether an array is the one of this name, or of a group of this name."""
  return not prefix or f"{name}/".startswith(f"{prefix}/")


def _state(folder, step):
  return (pathlib.Path(folder) / str(step) / "state").absolute()


@contextlib.contextmanager
def _reading(folder, step, part):
  """Tells damage to a part of a step from a fault that may pass."""
  try:
    yield
  except Exception as error:  # whatever Orbax, TensorStore and zstd raise at a damaged file
    if reason := _passing(error):
      raise errors.UserError(f"cannot read checkpoint {step} in {folder}: {reason}") from error
    raise DamagedError(folder, step, part) from error


def _passing(error):
  """Why a file could not be read just now, be it whole or not; None if that is not what it is."""
  if isinstance(error, MemoryError):
    return str(error) or "out of memory"
  told = re.search(r"os_error_code='(\d+)'", str(error))  # by TensorStore
  code = getattr(error, "errno", None) or (told and int(told[1]))
  return os.strerror(code) if code and code not in MISSING else None


def best_step(folder):
  """The step of the lowest validation loss, else the newest; None if there is none whole."""
  return best(_losses(folder))


def best(losses):
  """The first step of the lowest loss, else (no step has one) the newest; None of none at all."""
  known = [(loss, step) for step, loss in losses.items() if loss is not None]
  return min(known)[1] if known else max(losses, default=None)


def _losses(folder):
  """The validation loss, or None, of every step with whole meta data."""
  found = {}
  for step in steps(folder):
    with contextlib.suppress(DamagedError):
      found[step] = read_meta(folder, step)["valid_loss"]
  return found


def read_newest(folder, say=lambda text: None):
  """(arrays, meta) of the newest whole step; `say` hears of each step passed over.

  None if there are no steps; if there are and none is whole, that is a UserError: whoever then
  started anew would write over what may be repaired.
  """
  found = steps(folder)
  for step in reversed(found):
    try:
      return read(folder, step)
    except DamagedError as error:
      say(error.finding)
  if found:
    raise errors.UserError(
      f"every checkpoint in {folder} is damaged: restore one from a copy, or start anew in "
      "another --workdir"
    )
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
