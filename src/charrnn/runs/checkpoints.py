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
import math
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from charrnn import config as config_lib
from charrnn import console, errors, files, runtime

# System errors that mean a missing file. All other system errors may be temporary.
MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
MAX_COPIES = 5  # maximum size of a checkpoint, as a multiple of its parameters and carry
SLACK = 1 << 20  # bytes of arrays that are always allowed
UNKNOWN = 1 << 30  # maximum bytes of the arrays of a step whose config is unreadable
MAX_NAMES = 3  # maximum number of damaged arrays that a message names

# The fields that are the same in all steps of a run. The text is compared by its digest.
FIXED = {
  name: field
  for name, field in config_lib.BY_NAME.items()
  if field.resume == config_lib.FIXED and name != "text.source"
}
# The types in the metadata that its readers rely on.
_META = {
  "arrays": dict,
  "valid_loss": float | int | None,
  "valid_bits_per_byte": float | int | None | files.Absent,
}
_PARTS = {  # may be missing or null
  "memory": {"seconds": float | int | files.Absent},
  "run": {"config": dict, "vocabulary": str, "corpus": str},
  "metrics": {"bytes": int, "sha256": str},
}

DELETED = ".deleted-"  # prefix of the names of steps that are being deleted
UNFINISHED = ("*.orbax-checkpoint-tmp*", f"{DELETED}*")  # leftovers of killed processes

Tree = dict[str, Any]  # nested dicts of arrays


class Arrays(NamedTuple):
  """The arrays of a step. The keys are names such as params/layer_0/W_xh."""

  whole: dict[str, np.ndarray]  # arrays that match their digests
  damaged: dict[str, Any]  # shape and dtype of each damaged array; None if these are lost too


class Expected(NamedTuple):
  """The arrays that a config needs, so that nothing larger is read into memory."""

  arrays: dict[str, Any]  # shapes and dtypes by name
  total: int  # maximum number of bytes of all arrays, which include Adam's moments and the like

  @classmethod
  def of(cls, tree: Tree) -> "Expected":
    """Return the expectation of a tree of shapes that contains at least all parameters."""
    arrays = flatten(tree)
    return cls(arrays, MAX_COPIES * _total(arrays) + SLACK)

  def check(self, arrays: dict[str, Any], prefix: str = ""):
    """Raise ValueError if the stored arrays at or below a prefix are not as expected."""
    stored, needed = (
      {name for name in names if is_below(name, "params") and is_below(name, prefix)}
      for names in (arrays, self.arrays)
    )
    # The arrays of an n-gram depend on its text.
    if self.arrays and (different := stored ^ needed):
      name = min(different, key=natural_key)
      raise ValueError(f"the config needs {'no ' if name in stored else ''}{name}")
    for name, leaf in arrays.items():
      expected = self.arrays.get(name)
      if expected is not None and (leaf.shape, leaf.dtype) != (expected.shape, expected.dtype):
        raise ValueError(f"{name} is {_describe(leaf)}; the config needs {_describe(expected)}")
      chunk = leaf.storage.chunk_shape if getattr(leaf, "storage", None) else ()
      if any(part > max(1, size) for part, size in zip(chunk or (), leaf.shape)):
        raise ValueError(f"{name} has parts that are larger than the array")
    if (total := _total(arrays)) > self.total:
      raise ValueError(f"{total / 1e6:,.0f} MB of arrays; the config needs less")


def _total(arrays: dict[str, Any]) -> int:
  return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in arrays.values())


def _describe(array) -> str:
  return f"{' x '.join(map(str, array.shape)) or 'a scalar'} {np.dtype(array.dtype).name}"


class DamagedError(errors.UserError):
  """A checkpoint is incomplete or does not match its digests."""

  def __init__(self, folder: pathlib.Path, step: int, parts: str):
    self.finding = f"checkpoint {step} in {folder} is incomplete or damaged ({parts})"
    super().__init__(f"{self.finding}: use another --step")


class ForeignError(DamagedError):
  """A checkpoint belongs to another run."""

  def __init__(self, folder: pathlib.Path, step: int, difference: str):
    self.finding = f"checkpoint {step} in {folder} belongs to another run: {difference}"
    errors.UserError.__init__(self, f"{self.finding}: use another --step")


class Writer:
  """A writer of checkpoints. It keeps the `keep` newest, the best by validation loss, and `pinned`.

  A step is written in a temporary folder, which is renamed when it is complete. Older steps are
  deleted only when the new step would survive a power failure. A step is renamed before it is
  deleted, so that a reader finds all of it or nothing.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    keep: int,
    identity: dict[str, Any] | None = None,
    pinned: float | None = None,
  ):
    """Prepare to write to a folder. Its steps of a run with another `identity` are left alone.

    `pinned` is a step that is never deleted.
    """
    import jax
    import orbax.checkpoint as ocp

    self._folder, self._keep, self._pinned = pathlib.Path(folder).absolute(), keep, pinned
    self._losses = losses(folder, identity=identity)  # of all steps that may be deleted
    # The step that is being written, and the metadata of a step that is not known to be complete.
    self._step: int | None = None
    self._unfinished: dict[str, Any] | None = None
    self._is_main = jax.process_index() == 0
    self._checkpointer = ocp.AsyncCheckpointer(
      ocp.CompositeCheckpointHandler(),
      # Otherwise threads would wait forever for a folder that cannot be created.
      async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
    )
    if self._is_main:
      with self._report_unwritable():
        self._folder.mkdir(parents=True, exist_ok=True)
        files.sync_folder(self._folder.parent)
      remove_unfinished(self._folder)

  def save(self, step: int, state: Any, meta: dict):
    """Start writing a step. The step is complete when the next `save` or `close` returns.

    `state` is a tree of NumPy arrays. `meta` has the JSON values that are needed to resume.
    meta["valid_loss"] is the validation loss that ranks the step, or None.
    """
    import jax
    import orbax.checkpoint as ocp
    from flax import serialization

    tree = serialization.to_state_dict(jax.tree.map(np.asarray, state))
    meta = files.seal({**meta, "step": step, "arrays": digests(tree)})
    args = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
    path = self._folder / str(step)
    with self._report_unwritable():
      self._finish()
      self._step = step
      if self._is_main and os.path.lexists(path):
        raise errors.UserError(f"{path} is in the way of a checkpoint: remove it")
      self._checkpointer.save(path, args=args)
      self._unfinished = meta

  def wait(self):
    """Wait until all steps are written."""
    with self._report_unwritable():
      self._finish()

  def delete_after(self, step: int):
    """Delete all later steps, the newest first."""
    self.wait()
    later = sorted((each for each in self._losses if each > step), reverse=True)
    for each in later:
      self._delete(each)
    if self._is_main:
      quarantine(self._folder, step)

  def close(self):
    """Wait until all steps are written, and release the writer."""
    with self._report_unwritable():
      try:
        self._finish()
      finally:
        self._checkpointer.close()

  def _finish(self):
    """Wait until the last step is on disk, and delete the steps that it makes superfluous."""
    meta, self._unfinished = self._unfinished, None
    self._checkpointer.wait_until_finished()
    if meta is None:
      return
    # The loss decides which steps are deleted, so it must not be known before the step is saved.
    self._losses[meta["step"]] = meta["valid_loss"]
    if self._is_main:
      files.sync_tree(self._folder / str(meta["step"]))
      files.sync_folder(self._folder)
    preserved = {*sorted(self._losses)[-self._keep :], best(self._losses), self._pinned}
    for step in sorted(self._losses.keys() - preserved):
      self._delete(step)

  def _delete(self, step: int):
    """Delete a step; if that is impossible, warn, because training can go on."""
    del self._losses[step]
    if not self._is_main:
      return
    try:
      renamed = self._folder / f"{DELETED}{step}-{secrets.token_hex(4)}"
      os.rename(self._folder / str(step), renamed)
      shutil.rmtree(renamed)
    except FileNotFoundError:  # Another process has deleted it.
      pass
    except OSError as error:
      console.say(
        f"warning: cannot delete checkpoint {step} in {self._folder}: {error.strerror}: delete it "
        "when training has ended"
      )

  @contextlib.contextmanager
  def _report_unwritable(self) -> Iterator[None]:
    """Raise UserError with the path, the reason and a remedy if the step cannot be written."""
    try:
      yield
    except Exception as error:  # Orbax and TensorStore raise many types of errors.
      if (code := _error_code(error)) is None:
        raise
      path = self._folder if self._step is None else self._folder / str(self._step)
      reason = OSError(code, os.strerror(code))
      raise errors.UserError(
        errors.describe(reason, path, "check its permissions, and run the same command again")
      ) from error


def steps(folder: pathlib.Path) -> list[int]:
  """Return the steps in a folder, oldest first, including incomplete ones."""
  try:
    paths = [path for path in pathlib.Path(folder).iterdir() if path.is_dir()]
  except OSError as error:
    if error.errno in MISSING:
      return []
    raise errors.UserError(
      f"cannot read {folder}: {error.strerror}: {errors.CHECK_PATH}"
    ) from error
  return sorted(int(path.name) for path in paths if re.fullmatch(r"0|[1-9][0-9]{,14}", path.name))


def read_meta(folder: pathlib.Path, step: int) -> dict[str, Any]:
  """Return the verified JSON item of a step."""
  path = pathlib.Path(folder) / str(step) / "meta" / "metadata"
  with _classify_errors(folder, step, "meta/metadata"):
    meta = files.read_json(path)
    if meta.pop("sha256") != files.digest(meta) or meta["step"] != step:
      raise ValueError("the digest or the step does not match")
    parts = {name: schema for name, schema in _PARTS.items() if meta.get(name) is not None}
    if not files.has_types(meta, _META | parts):
      raise ValueError("a value has the wrong type")
  return meta


def differences(stored: dict[str, Any] | None, identity: dict[str, Any]) -> list[str]:
  """Return the differences between the identity that a step stores and the identity of a run.

  Fields that may change on resume are not compared. A step of an older run stores no identity:
  `stored` is None, and the result is empty.
  """
  if stored is None:
    return []
  old, new = (config_lib.flatten(each["config"]) for each in (stored, identity))
  pairs = {name: (old.get(name, field.default), new[name]) for name, field in FIXED.items()}
  texts = [f"{name} is {now} but was {then}" for name, (then, now) in pairs.items() if then != now]
  digests = [name for name in ("vocabulary", "corpus") if stored[name] != identity[name]]
  return texts + [f"the {name} has changed" for name in digests]


def check_identity(folder: pathlib.Path, meta: dict[str, Any], identity: dict[str, Any] | None):
  """Raise ForeignError if the step with this metadata belongs to another run."""
  if identity and (texts := differences(meta.get("run"), identity)):
    raise ForeignError(folder, meta["step"], ", ".join(texts))


def read(
  folder: pathlib.Path, step: int, prefix: str = "", expected: Expected | None = None
) -> tuple[Tree, dict[str, Any]]:
  """Return (tree, meta): the verified NumPy arrays of a step as nested dicts, and its metadata.

  `prefix`: read only the arrays at or below this name, for example params or params/layer_0/W_xh.
  `expected`: the arrays that the config needs. Raises DamagedError if a digest does not match, or,
  before any array is read, if the parameters or their shapes are not as expected. Raises a plain
  UserError for errors that may be temporary, such as a lack of permissions or memory.
  """
  import jax
  import orbax.checkpoint as ocp

  meta = read_meta(folder, step)
  shapes = metadata(folder, step, prefix)
  try:
    arrays = {name: leaf for name, leaf in flatten(shapes).items() if hasattr(leaf, "shape")}
    (expected or Expected({}, UNKNOWN)).check(arrays, prefix)
  except ValueError as error:
    raise DamagedError(folder, step, str(error)) from error
  with _classify_errors(folder, step, "state"):
    if (size := _total(arrays)) > (free := runtime.free_memory()):
      raise MemoryError(
        f"it needs {size / 1e9:.1f} GB of memory, but only {free / 1e9:.1f} GB are free"
      )
    # Restore NumPy arrays, so that a checkpoint can be read without the device that wrote it.
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    with ocp.PyTreeCheckpointer() as checkpointer:
      args = ocp.args.PyTreeRestore(like, partial_restore=True)
      tree = jax.tree.map(np.asarray, checkpointer.restore(_state_folder(folder, step), args))
    actual = digests(tree)
  stored = {k: digest for k, digest in meta["arrays"].items() if is_below(k, prefix)}
  names = stored.keys() | actual.keys()
  if wrong := sorted(name for name in names if stored.get(name) != actual.get(name)):
    raise DamagedError(folder, step, errors.some(wrong, MAX_NAMES))
  return tree, meta


def _check_files(folder: pathlib.Path, step: int):
  """Raise DamagedError if a step contains links, devices or huge files.

  Orbax would follow links, wait for FIFOs, and read all of its JSON files.
  """
  path = pathlib.Path(folder) / str(step)
  try:
    if path.is_symlink():
      raise errors.UserError(f"{path} is a link")
    files.check_tree(path)
    with _classify_errors(folder, step, "state"):
      sizes = {each: each.stat().st_size for each in path.rglob("*") if each.is_file()}
    for each, size in sizes.items():
      if size > files.MAX_JSON and each.parent.name != "d":
        raise errors.UserError(f"{each.relative_to(path)} has {size:,} bytes")
  except errors.UserError as error:
    raise DamagedError(folder, step, str(error)) from error


def read_arrays(
  folder: pathlib.Path, step: int, prefix: str = "", expected: Expected | None = None
) -> Arrays:
  """Return the arrays of a step, verified individually.

  Raises DamagedError if the digests are lost.
  """
  try:
    return Arrays(flatten(read(folder, step, prefix, expected)[0]), {})
  except DamagedError:
    shapes_by_name = shapes(folder, step)
  names = shapes_by_name.keys() | read_meta(folder, step)["arrays"].keys()
  if expected:
    names |= {name for name in expected.arrays if is_below(name, "params")}
  whole, damaged = {}, {}
  for name in sorted((name for name in names if is_below(name, prefix)), key=natural_key):
    try:
      whole |= flatten(read(folder, step, name, expected)[0])
    except DamagedError:
      damaged[name] = shapes_by_name.get(name)
  return Arrays(whole, damaged)


def metadata(folder: pathlib.Path, step: int, prefix: str = "") -> Tree:
  """Return the shapes and dtypes of a step's arrays as nested dicts, without loading the arrays."""
  import orbax.checkpoint as ocp
  from flax import traverse_util

  _check_files(folder, step)
  runtime.check_devices()  # Orbax asks JAX for its devices, and their lack is not damage.
  with _classify_errors(folder, step, "state"):
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


def natural_key(name: str) -> list[tuple[int, str]]:
  """Return a sort key that puts layer_10 after layer_2."""
  # Texts have length 0. The longer of two numbers is the larger one.
  parts = re.split(r"([0-9]+)", name)
  return [(len(part) * (n % 2), part) for n, part in enumerate(parts)]


def is_below(name: str, prefix: str) -> bool:
  """Return whether `name` is `prefix`, or an array in the group `prefix`. The group "" has all."""
  return not prefix or f"{name}/".startswith(f"{prefix}/")


def _state_folder(folder: pathlib.Path, step: int) -> pathlib.Path:
  return (pathlib.Path(folder) / str(step) / "state").absolute()


def _error_code(error: BaseException | None) -> int | None:
  """Return the number of the system error that an exception is or was caused by, else None."""
  while error:
    # TensorStore reports the code only in its text.
    match = re.search(r"os_error_code='(\d+)'", str(error))
    if code := getattr(error, "errno", None) or (match and int(match[1])):
      return code
    error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
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
    if isinstance(error, MemoryError):
      code, reason = errno.ENOMEM, str(error) or "out of memory"
    elif errors.is_lack_of_threads(error):
      code, reason = errno.EAGAIN, str(error)
    elif code and code not in MISSING:
      reason = os.strerror(code)
    else:
      raise DamagedError(folder, step, part) from error
    remedy = errors.REMEDIES.get(code, errors.CHECK_PATH)
    raise errors.UserError(
      f"cannot read checkpoint {step} in {folder}: {reason}: {remedy}"
    ) from error


def losses(
  folder: pathlib.Path,
  say: Callable[[str], None] = lambda text: None,
  identity: dict[str, Any] | None = None,
) -> dict[int, float | None]:
  """Return the validation loss (or None) of every step whose metadata is intact.

  Steps of a run with another `identity` count as damaged. Calls `say` with a message about each
  damaged step, unless it was deleted meanwhile.
  """
  losses_by_step = {}
  for step in steps(folder):
    try:
      meta = read_meta(folder, step)
      check_identity(folder, meta, identity)
      losses_by_step[step] = meta["valid_loss"]
    except DamagedError as error:
      if (pathlib.Path(folder) / str(step)).is_dir():
        say(error.finding)
  return losses_by_step


def best(losses_by_step: dict[int, float | None]) -> int | None:
  """Return the first step with the lowest loss, or the newest step if no step has a loss."""
  pairs = [(loss, step) for step, loss in losses_by_step.items() if loss is not None]
  return min(pairs)[1] if pairs else max(losses_by_step, default=None)


def read_newest(
  folder: pathlib.Path,
  say: Callable[[str], None] = lambda text: None,
  identity: dict[str, Any] | None = None,
  expected: Expected | None = None,
  last: float = math.inf,
) -> tuple[Tree, dict[str, Any]] | None:
  """Return (tree, meta) of the newest intact step up to `last`, or None if there are no steps.

  Steps of a run with another `identity` count as damaged. Calls `say` with a message about each
  damaged step. Raises UserError if all steps are damaged, because a restart from step 0 would
  overwrite checkpoints that could be repaired.
  """
  existing = steps(folder)
  for step in reversed([step for step in existing if step <= last]):
    try:
      check_identity(folder, read_meta(folder, step), identity)
      return read(folder, step, expected=expected)
    except DamagedError as error:
      say(error.finding)
  if existing:
    raise errors.UserError(
      f"no checkpoint in {folder} can be used, because all are damaged or belong to another run: "
      "restore one from a copy, or train again in another --workdir"
      if last == math.inf
      else f"{folder} has no checkpoint up to step {last}, after which the learning rates depend "
      "on the length of training: train in another --workdir"
    )
  return None


def newest_meta(folder: pathlib.Path) -> dict[str, Any] | None:
  """Return the metadata of the newest step whose metadata is intact, or None if there is none."""
  for step in reversed(steps(folder)):
    with contextlib.suppress(DamagedError):
      return read_meta(folder, step)
  return None


def write_meta(folder: pathlib.Path, meta: dict[str, Any]):
  """Replace the JSON item of a step."""
  path = pathlib.Path(folder) / str(meta["step"]) / "meta" / "metadata"
  files.write_text(path, json.dumps(files.seal(meta)))


def remove_unfinished(folder: pathlib.Path):
  """Remove the steps that a killed process has not finished writing or deleting."""
  for pattern in UNFINISHED:
    for path in pathlib.Path(folder).glob(pattern):
      shutil.rmtree(path, ignore_errors=True)


def quarantine(folder: pathlib.Path, after: int, name: str = "damaged"):
  """Move the steps above `after`, which are damaged or replaced, to the run's folder `name`."""
  folder = pathlib.Path(folder)
  for step in steps(folder):
    if step > after:
      target = folder.parent / name / str(step)
      files.make_subfolder(target.parent)
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
