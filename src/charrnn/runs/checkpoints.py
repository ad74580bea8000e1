"""Orbax checkpoints of NumPy arrays, with a SHA-256 of every array.

Orbax does not notice a flipped bit. Each step therefore has, beside its arrays, a JSON item with
their digests and a digest of itself, which are checked on reading. Reading takes no lock and
writes nothing, so it works while the run is training. JAX and Orbax are imported where arrays are
read or written: they take seconds, and a list of steps does not need them.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from charrnn import errors

# System errors of a missing file. Every other system error may be temporary.
MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
MAX_NAMES = 3  # damaged arrays in a message

Tree = dict[str, Any]  # nested dicts of arrays


class Arrays(NamedTuple):
  """The arrays of a step by name, such as params/layer_0/W_xh."""

  whole: dict[str, np.ndarray]  # they match their digests
  damaged: dict[str, Any]  # shape and dtype, or None if these are lost as well


class DamagedError(errors.UserError):
  """A checkpoint is incomplete or does not match its digests."""

  def __init__(self, folder: pathlib.Path, step: int, parts: str):
    self.finding = f"checkpoint {step} in {folder} is incomplete or damaged ({parts})"
    super().__init__(f"{self.finding}: choose another --step")


class Writer:
  """Writes checkpoints and keeps the newest `keep` and the best one by validation loss."""

  def __init__(self, folder: pathlib.Path, keep: int):
    from orbax.checkpoint import checkpoint_managers as managers

    # The losses are read from our own metadata: Orbax's have no digest.
    self._losses = losses(folder)
    self._keep = keep
    options = managers.CheckpointManagerOptions(
      save_decision_policy=managers.FixedIntervalPolicy(1), preservation_policy=self
    )
    self._manager = managers.CheckpointManager(pathlib.Path(folder).absolute(), options=options)

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    """Return for each step, oldest first, whether Orbax should keep it."""
    del context
    kept = {info.step for info in checkpoints[-self._keep :]} | {best(self._losses)}
    return [info.step in kept for info in checkpoints]

  def save(self, step: int, state: Any, meta: dict):
    """Start to write a step; it is complete when the next `save` or `close` returns.

    `state`: a tree of NumPy arrays. `meta`: JSON values that a restart needs;
    meta["valid_loss"] (or None) ranks the step.
    """
    import jax
    import orbax.checkpoint as ocp
    from flax import serialization

    tree = serialization.to_state_dict(jax.tree.map(np.asarray, state))
    meta = _seal({**meta, "step": step, "arrays": digests(tree)})
    self._losses[step] = meta["valid_loss"]
    self._manager.save(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta)),
      force=True,
    )

  def close(self):
    """Wait until all steps are written."""
    self._manager.wait_until_finished()
    self._manager.close()


def steps(folder: pathlib.Path) -> list[int]:
  """Return the steps in a folder, oldest first. They may be incomplete."""
  try:
    paths = [path for path in pathlib.Path(folder).iterdir() if path.is_dir()]
  except OSError as error:
    if error.errno in MISSING:
      return []
    raise errors.UserError(f"cannot read {folder}: {error.strerror}") from error
  return sorted(int(path.name) for path in paths if re.fullmatch(r"0|[1-9][0-9]*", path.name))


def read_meta(folder: pathlib.Path, step: int) -> dict[str, Any]:
  """Return the verified JSON item of a step."""
  path = pathlib.Path(folder) / str(step) / "meta" / "metadata"
  with _classify_errors(folder, step, "its meta data"):
    meta = json.loads(path.read_bytes())
    if meta != _seal({k: v for k, v in meta.items() if k != "sha256"}):
      raise ValueError("the digest differs")
  return meta


def read(folder: pathlib.Path, step: int, prefix: str = "") -> tuple[Tree, dict[str, Any]]:
  """Return the verified arrays of a step as nested dicts of NumPy arrays, and its metadata.

  `prefix`: read only the arrays at or below this name, such as params or params/layer_0/W_xh.
  Raise DamagedError, or a plain UserError for errors that may be temporary, such as missing
  permissions or memory.
  """
  import jax
  import orbax.checkpoint as ocp

  meta = read_meta(folder, step)
  shapes = metadata(folder, step, prefix)
  with _classify_errors(folder, step, "its arrays"):
    # A target of NumPy arrays: the checkpoint of any device is read without a device.
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    with ocp.PyTreeCheckpointer() as checkpointer:
      args = ocp.args.PyTreeRestore(like, partial_restore=True)
      tree = jax.tree.map(np.asarray, checkpointer.restore(_state_folder(folder, step), args))
    actual = digests(tree)
  expected = {k: digest for k, digest in meta["arrays"].items() if is_below(k, prefix)}
  names = expected.keys() | actual.keys()
  if wrong := sorted(name for name in names if expected.get(name) != actual.get(name)):
    more = f" and {len(wrong) - MAX_NAMES} more" if len(wrong) > MAX_NAMES else ""
    raise DamagedError(folder, step, ", ".join(wrong[:MAX_NAMES]) + more)
  return tree, meta


def read_arrays(folder: pathlib.Path, step: int, prefix: str = "") -> Arrays:
  """Return the arrays of a step, each verified by itself; DamagedError if the digests are lost."""
  try:
    return Arrays(flatten(read(folder, step, prefix)[0]), {})
  except DamagedError:
    known = shapes(folder, step)
  names = known.keys() | read_meta(folder, step)["arrays"].keys()
  whole, damaged = {}, {}
  for name in sorted((name for name in names if is_below(name, prefix)), key=natural_key):
    try:
      whole |= flatten(read(folder, step, name)[0])
    except DamagedError:
      damaged[name] = known.get(name)
  return Arrays(whole, damaged)


def metadata(folder: pathlib.Path, step: int, prefix: str = "") -> Tree:
  """Return shapes and dtypes of a step's arrays as nested dicts, without loading an array."""
  import orbax.checkpoint as ocp
  from flax import traverse_util

  with _classify_errors(folder, step, "its arrays"):
    # A PyTreeCheckpointer would hide the reason of a failure.
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
      tree = handler.metadata(_state_folder(folder, step)).tree
    flat = traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep="/")
    flat = {name: leaf for name, leaf in flat.items() if is_below(name, prefix)}
    return traverse_util.unflatten_dict(flat, sep="/")


def shapes(folder: pathlib.Path, step: int) -> dict[str, Any]:
  """Return shapes and dtypes of all arrays by name; an empty dict if they are damaged."""
  with contextlib.suppress(DamagedError):
    tree = flatten(metadata(folder, step))
    return {name: leaf for name, leaf in tree.items() if hasattr(leaf, "shape")}
  return {}


def flatten(tree: Tree) -> dict[str, Any]:
  """Return the arrays of nested dicts by name, such as layer_0/W_xh, in natural order."""
  from flax import traverse_util

  flat = {path: leaf for path, leaf in traverse_util.flatten_dict(tree).items() if leaf is not None}
  paths = sorted(flat, key=lambda path: [natural_key(name) for name in path])
  return {"/".join(path): flat[path] for path in paths}


def natural_key(name: str) -> list[int | str]:
  """Return a sort key that puts layer_10 after layer_2."""
  return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def is_below(name: str, prefix: str) -> bool:
  """Return whether an array has this name, or is in a group of this name."""
  return not prefix or f"{name}/".startswith(f"{prefix}/")


def _state_folder(folder: pathlib.Path, step: int) -> pathlib.Path:
  return (pathlib.Path(folder) / str(step) / "state").absolute()


@contextlib.contextmanager
def _classify_errors(folder: pathlib.Path, step: int, part: str) -> Iterator[None]:
  """Raise DamagedError for a damaged part of a step, a plain UserError for temporary errors."""
  try:
    yield
  except Exception as error:  # Orbax, TensorStore and zstd raise many kinds at a damaged file
    match = re.search(r"os_error_code='(\d+)'", str(error))  # of TensorStore
    code = getattr(error, "errno", None) or (match and int(match[1]))
    if isinstance(error, MemoryError):
      reason = str(error) or "out of memory"
    elif code and code not in MISSING:
      reason = os.strerror(code)
    else:
      raise DamagedError(folder, step, part) from error
    raise errors.UserError(f"cannot read checkpoint {step} in {folder}: {reason}") from error


def losses(folder: pathlib.Path) -> dict[int, float | None]:
  """Return the validation loss (or None) of every step with undamaged metadata."""
  losses_by_step = {}
  for step in steps(folder):
    with contextlib.suppress(DamagedError):
      losses_by_step[step] = read_meta(folder, step)["valid_loss"]
  return losses_by_step


def best(losses_by_step: dict[int, float | None]) -> int | None:
  """Return the first step of the lowest loss, or the newest if no step has one."""
  known = [(loss, step) for step, loss in losses_by_step.items() if loss is not None]
  return min(known)[1] if known else max(losses_by_step, default=None)


def best_step(folder: pathlib.Path) -> int | None:
  """Return the step of the lowest validation loss, else the newest; None if all are damaged."""
  return best(losses(folder))


def read_newest(
  folder: pathlib.Path, say: Callable[[str], None] = lambda text: None
) -> tuple[Tree, dict[str, Any]] | None:
  """Return (arrays, meta) of the newest undamaged step; None if there are no steps.

  Each damaged step is reported with `say`. If all steps are damaged, raise UserError: a new start
  would overwrite checkpoints that may be repaired.
  """
  existing = steps(folder)
  for step in reversed(existing):
    try:
      return read(folder, step)
    except DamagedError as error:
      say(error.finding)
  if existing:
    raise errors.UserError(
      f"every checkpoint in {folder} is damaged: restore one from a copy, or start anew in "
      "another --workdir"
    )
  return None


def quarantine(folder: pathlib.Path, after: int):
  """Move the steps beyond `after`, which are damaged, to the folder `damaged` of the run."""
  folder = pathlib.Path(folder)
  for step in steps(folder):
    if step > after:
      target = folder.parent / "damaged" / str(step)
      target.parent.mkdir(exist_ok=True)
      numbers = itertools.count(1)
      while target.exists():
        target = target.with_name(f"{step}.{next(numbers)}")
      (folder / str(step)).rename(target)


def digests(tree: Tree) -> dict[str, str]:
  """Return the SHA-256 of every array's dtype, shape and bytes by name."""
  digests_by_name = {}
  for name, leaf in flatten(tree).items():
    array = np.asarray(leaf)
    content = f"{array.dtype.name}{array.shape}".encode() + array.tobytes()
    digests_by_name[name] = hashlib.sha256(content).hexdigest()
  return digests_by_name


def _seal(meta: dict[str, Any]) -> dict[str, Any]:
  """Return JSON metadata with a digest of itself."""
  text = json.dumps(meta, sort_keys=True)
  return {**json.loads(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
