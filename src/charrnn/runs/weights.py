"""Weights files: the exports of charrnn, and the weights of PyTorch's recurrent modules.

Both are .safetensors or .npz files. An export has the arrays of a run, its config and its
vocabulary. A file of PyTorch has the arrays `lstm.weight_ih_l0`, `head.weight` and so on, see
`from_torch`, and perhaps a vocabulary. Neither can contain code, and nothing in them is trusted.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import config_dict

from charrnn import config as config_lib
from charrnn import errors, files, models, runtime
from charrnn.data import tokenizers
from charrnn.runs import checkpoints
from charrnn.runs import run as run_lib

SUFFIXES = (".safetensors", ".npz")
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".npy", ".t7")  # could contain code
META = "__meta__"  # the name of the metadata in an .npz file
MAX_META = 4 * files.MAX_JSON  # bytes of the metadata, whose characters take four bytes in NumPy
MAX_HEADER = 10_000  # characters of the header of an array in an .npz file
# The modules of PyTorch that correspond to cells, and their numbers of gates.
TORCH = {"lstm": 4, "gru": 3, "rnn": 1}
_TORCH_NAME = re.compile(r"(lstm|gru|rnn)\.(weight_ih|weight_hh|bias_ih|bias_hh)_l(0|[1-9]\d{,3})")
# The types in the metadata of an export that its readers rely on.
_META = {"config": dict, "tokenizer": dict, "step": int}


class Weights:
  """A weights file, with the properties of `runs.run.Run` that new runs use.

  A damaged file raises UserError.
  """

  metrics = ()  # A file has no learning rates.

  def __init__(self, path: str | pathlib.Path):
    """Read a file; raise UserError if it is not a weights file."""
    self.path = pathlib.Path(path)
    arrays, self._meta = read(self.path)
    if "config" in self._meta:
      if not files.has_types(self._meta, _META):
        raise self._damaged("the metadata")
      self.config = config_lib.from_stored(self._meta["config"], str(path))
      self.params = self._nest(arrays)
    else:
      fields, self.params = from_torch(str(path), arrays)
      config = config_lib.from_json({"model": fields})
      self.config = config_dict.FrozenConfigDict(config)

  @functools.cached_property
  def tokenizer(self) -> tokenizers.Tokenizer | None:
    """The vocabulary; None if the file has none."""
    value = self._meta.get("tokenizer")
    try:
      return None if value is None else tokenizers.Tokenizer.from_json(value, str(self.path))
    except errors.UserError as error:
      if "config" in self._meta:
        raise
      raise errors.UserError(
        f"{self.path}: the metadata tokenizer is not a vocabulary of charrnn: remove it, or use "
        "the content of alphabet.json (docs/python.md)"
      ) from error

  @property
  def step(self) -> int | None:
    """The training step of an export."""
    return self._meta.get("step")

  @property
  def weights(self) -> dict[str, Any]:
    """The step and a digest of the parameters, the same as of the run that was exported."""
    digests = checkpoints.digests({"params": self.params})
    text = json.dumps({name: digests[name] for name in sorted(digests)})
    return {"step": self.step, "sha256": hashlib.sha256(text.encode()).hexdigest()}

  def load(self) -> "Weights":
    """Check the arrays against the config; return these weights. JAX must have been started."""
    fields = {**self.config.model.to_dict(), "unroll": "scan", "compute_dtype": "float32"}
    vocab_size = self.tokenizer.vocab_size if self.tokenizer else len(self.params["head"]["b_y"])
    shapes = models.shapes(vocab_size, fields)["params"]
    expected = checkpoints.Expected.of({"params": shapes})
    try:
      expected.check(checkpoints.flatten({"params": self.params}))
    except ValueError as error:
      raise self._damaged(str(error).replace("params/", "")) from error
    return self

  def _nest(self, arrays: Mapping[str, np.ndarray]) -> checkpoints.Tree:
    """Return arrays by name (for example layer_0/W_xh) as nested dicts."""
    tree: checkpoints.Tree = {}
    for name, array in arrays.items():
      *folders, last = name.split("/")
      node = tree
      for folder in folders:
        node = node.setdefault(folder, {})
        if not isinstance(node, dict):
          raise self._damaged(f"the array {name} is below another array")
      node[last] = array
    return tree

  def _damaged(self, part: str) -> errors.UserError:
    return errors.UserError(f"{self.path} is damaged ({part}): export it again")


def open_source(path: str) -> run_lib.Run | Weights:
  """Return the run or the weights file that `init_from` names; raise UserError if it is none."""
  suffix = pathlib.Path(path).suffix
  if os.path.isdir(path) or suffix not in SUFFIXES + PICKLES:
    return run_lib.Run.open(path)
  if suffix in PICKLES:
    raise errors.UserError(
      f"{path}: files of this type can contain code, so they are not read: save the arrays as "
      f"{' or '.join(SUFFIXES)} (docs/python.md shows how)"
    )
  return Weights(path)


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]):
  """Write arrays and JSON metadata to a .safetensors or .npz file."""
  arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  with files.replace_file(path) as file:
    if path.suffix == ".npz":
      np.savez(file, **{META: np.array(json.dumps(meta))}, **arrays)
    else:
      text = {name: json.dumps(value) for name, value in meta.items()}
      file.write(safetensors.numpy.save(arrays, text))


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Return the arrays and the metadata of a .safetensors or .npz file.

  The arrays are float32 and finite. Their sizes are checked before they are read.
  """
  if not path.is_file():
    problem = "is not a file" if path.exists() else "does not exist"
    raise errors.UserError(f"{path} {problem}: use a run directory or a weights file")
  open_file = _open_npz if path.suffix == ".npz" else _open_safetensors
  try:
    with contextlib.ExitStack() as stack:
      names, meta = open_file(path, stack)
      _check_headers(path, names)
      arrays = {name: np.asarray(header.read()) for name, header in names.items()}
  except OSError as error:
    raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error
  except (errors.UserError, MemoryError):
    raise
  except Exception as error:  # Damaged files cause many types of errors: zlib, NumPy, safetensors.
    raise errors.UserError(f"{path} is damaged: export it again") from error
  for name, array in arrays.items():
    if not np.isfinite(array).all():
      raise errors.UserError(f"{path}: {name} has values that are not finite: use other weights")
  return arrays, meta


class _Header(NamedTuple):
  """The shape and the data type of an array in a file, and a function that reads it."""

  shape: tuple[int, ...]
  dtype: str
  bytes: int
  read: Callable[[], np.ndarray]


def _check_headers(path, names: Mapping[str, _Header]):
  """Raise UserError for arrays of another type than float32, or if they do not fit in memory."""
  if not names:
    raise errors.UserError(f"{path} has no arrays: use another file")
  for name, header in names.items():
    if header.dtype != "float32":
      raise errors.UserError(f"{path}: {name} is {header.dtype}: convert it to float32")
  total = sum(header.bytes for header in names.values())
  if total > (free := runtime.free_memory()):
    raise errors.UserError(
      f"{path} needs {total / 1e9:.1f} GB of memory, but only {free / 1e9:.1f} GB are free: "
      "free memory, or use a smaller network"
    )


def _open_safetensors(path, stack):
  file = stack.enter_context(safetensors.safe_open(path, "numpy"))
  names = {}
  for name in file.keys():  # noqa: SIM118 (not a dict)
    part = file.get_slice(name)
    shape, dtype = tuple(part.get_shape()), part.get_dtype()
    dtype = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}.get(
      dtype, dtype
    )
    size = 4 * int(np.prod(shape, dtype=object))
    names[name] = _Header(shape, dtype, size, functools.partial(file.get_tensor, name))
  meta = _known_meta(file.metadata() or {})
  for name, text in meta.items():
    # Other programs may store anything under these names, for example text that is not JSON.
    with contextlib.suppress(*(() if "config" in meta else (ValueError, RecursionError))):
      meta[name] = files.parse_json(text.encode())
  return names, meta


def _open_npz(path, stack):
  archive = stack.enter_context(zipfile.ZipFile(path))
  names = {}
  for info in archive.infolist():
    if info.filename.removesuffix(".npy") in names:
      raise ValueError("a name occurs twice")
    with archive.open(info) as file:
      shape, dtype = _read_header(file)
    size = dtype.itemsize * int(np.prod(shape, dtype=object))
    if size > info.file_size:
      raise ValueError("an array is incomplete")
    read = functools.partial(_read_member, archive, info)
    names[info.filename.removesuffix(".npy")] = _Header(shape, dtype.name, size, read)
  header, meta = names.pop(META, None), {}
  if header:
    if not header.dtype.startswith("str") or header.shape or header.bytes > MAX_META:
      raise ValueError("the metadata is not text")
    meta = files.parse_json(str(header.read()).encode())
    if not isinstance(meta, dict):
      raise ValueError("the metadata is not an object")
  return names, _known_meta(meta)


def _known_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
  """Return the metadata of an export, which are complete, or the vocabulary in another file."""
  names = _META if _META.keys() <= meta.keys() else ("tokenizer",)
  return {name: meta[name] for name in names if name in meta}


def _read_header(file) -> tuple[tuple[int, ...], np.dtype]:
  """Return the shape and the dtype of an array in NumPy's format."""
  version = np.lib.format.read_magic(file)
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  shape, _, dtype = readers[version](file, max_header_size=MAX_HEADER)
  return shape, dtype


def _read_member(archive, info) -> np.ndarray:
  with archive.open(info) as file:
    return np.lib.format.read_array(file, allow_pickle=False, max_header_size=MAX_HEADER)


def from_torch(
  path: str, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], checkpoints.Tree]:
  """Return the fields of config.model and the parameters for arrays of PyTorch modules.

  The names are `lstm.` (or `gru.`, `rnn.`), `head.` and, if there is one, `embed.`, followed by the
  names in the state dicts of torch.nn.LSTM (or GRU, RNN), Linear and Embedding. The matrices of
  PyTorch are transposed, and a layer has two biases, which charrnn adds.
  """
  matches = [match for name in arrays if (match := _TORCH_NAME.fullmatch(name))]
  kinds = sorted({match[1] for match in matches})
  if len(kinds) != 1:
    raise errors.UserError(
      f"{path} has neither the metadata of charrnn export nor the weights of one recurrent module "
      "of PyTorch, such as lstm.weight_ih_l0: docs/python.md explains the names"
    )
  (cell,) = kinds
  layers = max(int(match[3]) for match in matches) + 1
  head = _take(path, arrays, "head.weight", (None, None))
  V, H = head.shape
  E = _take(path, arrays, "embed.weight", (V, None)).shape[1] if "embed.weight" in arrays else 0
  G, params, used = TORCH[cell] * H, {}, {"head.weight", "head.bias"}
  if E:
    params["embed"], used = {"W_e": arrays["embed.weight"]}, used | {"embed.weight"}
  for n in range(min(layers, len(matches))):
    names = {
      part: f"{cell}.{part}_l{n}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    D = H if n else E or V
    shapes = {"weight_ih": (G, D), "weight_hh": (G, H), "bias_ih": (G,), "bias_hh": (G,)}
    parts = {part: _take(path, arrays, name, shapes[part]) for part, name in names.items()}
    params[f"layer_{n}"] = _layer(cell, H, **parts)
    used |= set(names.values())
  if unknown := sorted(arrays.keys() - used):
    raise errors.UserError(
      f"{path} has {unknown[0]}, which charrnn does not know: remove it (a bidirectional or "
      "projected network cannot be used)"
    )
  params["head"] = {"W_hy": head.T, "b_y": _take(path, arrays, "head.bias", (V,))}
  return {"cell": cell, "layers": layers, "hidden": H, "embed": E, "residual": False}, params


def _layer(cell, H, weight_ih, weight_hh, bias_ih, bias_hh) -> dict[str, np.ndarray]:
  """Return the parameters of a layer from those of PyTorch."""
  layer = {"W_xh": weight_ih.T, "W_hh": weight_hh.T}
  if cell != "gru":
    return layer | {"b_h": bias_ih + bias_hh}
  # The reset gate multiplies one of the biases of the candidate n, so that one stays separate.
  inner = np.where(np.arange(3 * H) < 2 * H, bias_hh, 0)
  return layer | {"b_h": bias_ih + inner.astype(np.float32), "b_hn": bias_hh[2 * H :]}


def _take(path, arrays, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
  """Return an array; raise UserError if it is missing or has another shape. None fits any size."""
  if name not in arrays:
    raise errors.UserError(f"{path} has no {name}: docs/python.md lists the arrays")
  array = arrays[name]
  fits = array.ndim == len(shape) and all(
    size > 0 and wanted in (None, size) for size, wanted in zip(array.shape, shape)
  )
  if not fits:
    actual, expected = (
      " x ".join("any" if size is None else str(size) for size in sizes) or "a scalar"
      for sizes in (array.shape, shape)
    )
    raise errors.UserError(f"{path}: {name} is {actual}, but must be {expected}")
  return array
