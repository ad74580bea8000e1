"""Orbax checkpoints of NumPy arrays, with a SHA-256 digest of every array.

Orbax does not detect flipped bits. Each checkpoint therefore has a JSON item, the metadata, with
the digests of all arrays and a digest of the metadata itself. Readers verify these digests. They
take no lock and write nothing, so a checkpoint can be read while the run is training. JAX and Orbax
take seconds to import, so only the functions that read or write arrays import them.
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

from charrnn import errors, runtime

# System errors that mean a missing file. All other system errors may be temporary.
MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
MAX_NAMES = 3  # maximum number of damaged arrays that a message names

Tree = dict[str, Any]  # nested dicts of arrays


class Arrays(NamedTuple):
  """The arrays of a step. The keys are names such as params/layer_0/W_xh."""

  whole: dict[str, np.ndarray]  # arrays that match their digests
  damaged: dict[str, Any]  # shape and dtype of each damaged array; None if these are lost too


class DamagedError(errors.UserError):
  """A checkpoint is incomplete or does not match its digests."""

  def __init__(self, folder: pathlib.Path, step: int, parts: str):
    self.finding = f"checkpoint {step} in {folder} is incomplete or damaged ({parts})"
    super().__init__(f"{self.finding}: use another --step")


class Writer:
  """A writer of checkpoints. It keeps the `keep` newest ones, and the best by validation loss."""

  def __init__(self, folder: pathlib.Path, keep: int):
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as managers

    # Read the losses from our own metadata, because Orbax's metadata has no digest.
    self._losses = losses(folder)
    self._keep = keep
    self._folder, self._step = pathlib.Path(folder), None
    options = managers.CheckpointManagerOptions(
      save_decision_policy=managers.FixedIntervalPolicy(1),
      preservation_policy=self,
      # Otherwise threads would wait forever for a folder that cannot be created.
      async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
    )
    with self._report_unwritable():
      self._manager = managers.CheckpointManager(self._folder.absolute(), options=options)

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    """Tell Orbax which steps to keep: return one bool per step, oldest first."""
    del context
    preserved = {info.step for info in checkpoints[-self._keep :]} | {best(self._losses)}
    return [info.step in preserved for info in checkpoints]

  def save(self, step: int, state: Any, meta: dict):
    """Start writing a step. The step is complete when the next `save` or `close` returns.

    `state` is a tree of NumPy arrays. `meta` has the JSON values that are needed to resume.
    meta["valid_loss"] is the validation loss that ranks the step, or None.
    """
    import jax
    import orbax.checkpoint as ocp
    from flax import serialization

    tree = serialization.to_state_dict(jax.tree.map(np.asarray, state))
    meta = _seal({**meta, "step": step, "arrays": digests(tree)})
    args = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
    with self._report_unwritable():
      self._manager.wait_until_finished()
      # The previous save has deleted steps by their losses, without the loss of this step.
      self._step, self._losses[step] = step, meta["valid_loss"]
      self._manager.save(step, args=args, force=True)

  def wait(self):
    """Wait until all steps are written."""
    with self._report_unwritable():
      self._manager.wait_until_finished()

  def delete_after(self, step: int):
    """Delete all later steps, the newest first."""
    self.wait()
    for later in sorted(self._manager.all_steps(), reverse=True):
      if later > step:
        with self._report_unwritable():
          self._step = later
          self._manager.delete(later)
        self._losses.pop(later, None)

  def close(self):
    """Wait until all steps are written, and release the writer."""
    with self._report_unwritable():
      try:
        self._manager.wait_until_finished()
      finally:
        self._manager.close()

  @contextlib.contextmanager
  def _report_unwritable(self) -> Iterator[None]:
    """Raise UserError with the step, the reason and the remedy if it cannot be written."""
    try:
      yield
    except Exception as error:  # Orbax and TensorStore raise many types of errors.
      if (code := _error_code(error)) is None:
        raise
      path = self._folder if self._step is None else self._folder / str(self._step)
      reason = OSError(code, os.strerror(code))
      raise errors.UserError(
        errors.describe(reason, path, f"check {self._folder}, and run the same command again")
      ) from error


def steps(folder: pathlib.Path) -> list[int]:
  """Return the steps in a folder, oldest first, including incomplete ones."""
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
  with _classify_errors(folder, step, "metadata"):
    meta = json.loads(path.read_bytes())
    if meta != _seal({k: v for k, v in meta.items() if k != "sha256"}):
      raise ValueError("the digest does not match")
  return meta


def read(folder: pathlib.Path, step: int, prefix: str = "") -> tuple[Tree, dict[str, Any]]:
  """Return (tree, meta): the verified NumPy arrays of a step as nested dicts, and its metadata.

  `prefix`: read only the arrays at or below this name, for example params or params/layer_0/W_xh.
  Raises DamagedError if a digest does not match. Raises a plain UserError for errors that may be
  temporary, such as a lack of permissions or memory.
  """
  import jax
  import orbax.checkpoint as ocp

  meta = read_meta(folder, step)
  shapes = metadata(folder, step, prefix)
  with _classify_errors(folder, step, "arrays"):
    # The target is NumPy arrays, so that a checkpoint can be read without the device it is from.
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
  """Return the arrays of a step, verified individually.

  Raises DamagedError if the digests are lost.
  """
  try:
    return Arrays(flatten(read(folder, step, prefix)[0]), {})
  except DamagedError:
    shapes_by_name = shapes(folder, step)
  names = shapes_by_name.keys() | read_meta(folder, step)["arrays"].keys()
  whole, damaged = {}, {}
  for name in sorted((name for name in names if is_below(name, prefix)), key=natural_key):
    try:
      whole |= flatten(read(folder, step, name)[0])
    except DamagedError:
      damaged[name] = shapes_by_name.get(name)
  return Arrays(whole, damaged)


def metadata(folder: pathlib.Path, step: int, prefix: str = "") -> Tree:
  """Return the shapes and dtypes of a step's arrays as nested dicts, without loading the arrays."""
  import orbax.checkpoint as ocp
  from flax import traverse_util

  runtime.check_devices()  # Orbax asks JAX for its devices, and their lack is not damage.
  with _classify_errors(folder, step, "arrays"):
    # Use the handler directly: PyTreeCheckpointer would hide the cause of a failure.
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
      tree = handler.metadata(_state_folder(folder, step)).tree
    flat = traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep="/")
    flat = {name: leaf for name, leaf in flat.items() if is_below(name, prefix)}
    return traverse_util.unflatten_dict(flat, sep="/")


def shapes(folder: pathlib.Path, step: int) -> dict[str, Any]:
  """Return the shapes and dtypes of all arrays by name, or an empty dict if they are damaged."""
  with contextlib.suppress(DamagedError):
    tree = flatten(metadata(folder, step))
    return {name: leaf for name, leaf in tree.items() if hasattr(leaf, "shape")}
  return {}


def flatten(tree: Tree) -> dict[str, Any]:
  """Return the arrays of nested dicts by name (for example layer_0/W_xh), in natural order."""
  from flax import traverse_util

  flat = {path: leaf for path, leaf in traverse_util.flatten_dict(tree).items() if leaf is not None}
  paths = sorted(flat, key=lambda path: [natural_key(name) for name in path])
  return {"/".join(path): flat[path] for path in paths}


def natural_key(name: str) -> list[int | str]:
  """Return a sort key that puts layer_10 after layer_2."""
  return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def is_below(name: str, prefix: str) -> bool:
  """Return whether `name` is `prefix`, or an array in the group `prefix`. "" contains all."""
  return not prefix or f"{name}/".startswith(f"{prefix}/")


def _state_folder(folder: pathlib.Path, step: int) -> pathlib.Path:
  return (pathlib.Path(folder) / str(step) / "state").absolute()


def _error_code(error: BaseException | None) -> int | None:
  """Return the number of the system error that is, or has caused, an exception."""
  while error:
    # TensorStore reports the code only in its text.
    match = re.search(r"os_error_code='(\d+)'", str(error))
    if code := getattr(error, "errno", None) or (match and int(match[1])):
      return code
    error = error.__cause__ or error.__context__
  return None


@contextlib.contextmanager
def _classify_errors(folder: pathlib.Path, step: int, part: str) -> Iterator[None]:
  """Raise DamagedError if `part` of a step is damaged, UserError if an error may be temporary."""
  try:
    yield
  except Exception as error:  # Damaged files cause many types of errors: Orbax, TensorStore, zstd.
    code = _error_code(error)
    if isinstance(error, ImportError):
      raise
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):
      reason = str(error) or "out of memory"
    elif code and code not in MISSING:
      reason = os.strerror(code)
    else:
      raise DamagedError(folder, step, part) from error
    raise errors.UserError(f"cannot read checkpoint {step} in {folder}: {reason}") from error


def losses(folder: pathlib.Path) -> dict[int, float | None]:
  """Return the validation loss (or None) of every step whose metadata is intact."""
  losses_by_step = {}
  for step in steps(folder):
    with contextlib.suppress(DamagedError):
      losses_by_step[step] = read_meta(folder, step)["valid_loss"]
  return losses_by_step


def best(losses_by_step: dict[int, float | None]) -> int | None:
  """Return the first step with the lowest loss, or the newest step if no step has a loss."""
  pairs = [(loss, step) for step, loss in losses_by_step.items() if loss is not None]
  return min(pairs)[1] if pairs else max(losses_by_step, default=None)


def best_step(folder: pathlib.Path) -> int | None:
  """Return the step with the lowest validation loss, else the newest; None if none is intact."""
  return best(losses(folder))


def read_newest(
  folder: pathlib.Path, say: Callable[[str], None] = lambda text: None
) -> tuple[Tree, dict[str, Any]] | None:
  """Return (tree, meta) of the newest intact step, or None if there are no steps.

  Calls `say` with a message about each damaged step. Raises UserError if all steps are damaged,
  because a restart from step 0 would overwrite checkpoints that could be repaired.
  """
  existing = steps(folder)
  for step in reversed(existing):
    try:
      return read(folder, step)
    except DamagedError as error:
      say(error.finding)
  if existing:
    raise errors.UserError(
      f"every checkpoint in {folder} is damaged: restore one from a copy, or train again in "
      "another --workdir"
    )
  return None


def quarantine(folder: pathlib.Path, after: int):
  """Move the steps above `after`, all of which are damaged, to the run's folder `damaged`."""
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
  """Return a SHA-256 digest of each array's dtype, shape and bytes, by name."""
  digests_by_name = {}
  for name, leaf in flatten(tree).items():
    array = np.asarray(leaf)
    content = f"{array.dtype.name}{array.shape}".encode() + array.tobytes()
    digests_by_name[name] = hashlib.sha256(content).hexdigest()
  return digests_by_name


def _seal(meta: dict[str, Any]) -> dict[str, Any]:
  """Return a copy of JSON metadata with its own SHA-256 digest added."""
  text = json.dumps(meta, sort_keys=True)
  return {**json.loads(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
