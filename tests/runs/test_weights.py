"""Weights files: exports, weights of PyTorch modules, and files that are not to be trusted."""

import io
import json
import os
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from charrnn import config as config_lib
from charrnn import errors, models
from charrnn.data import tokenizers
from charrnn.runs import checkpoints, weights

V, H, L = 5, 4, 2
FIELDS = {"cell": "lstm", "layers": L, "hidden": H, "embed": 0, "residual": False}
TEXT = "abcde"


def exported(path, **changes):
  """Write the export of a network to a file; return its path."""
  config = {f"model.{name}": value for name, value in (FIELDS | {"dropout": 0.0}).items()}
  config |= {"batch_size": 1, "epochs": 1.0, "optimizer.learning_rate": 0.1, "eval_every": 1}
  config |= {"model.compute_dtype": "float32"}
  meta = {
    "config": config_lib.to_json(config_lib.replace(config_lib.default(), config)),
    "tokenizer": tokenizers.Tokenizer.from_text(TEXT).to_json(),
    "step": 3,
    "valid_loss": 1.0,
  }
  params = checkpoints.flatten(models.make(V, FIELDS).init(jax.random.key(0)))
  arrays = {name: np.asarray(array) for name, array in params.items()}
  arrays |= changes.pop("arrays", {})
  arrays = {name: array for name, array in arrays.items() if array is not None}
  weights.write(path, arrays, meta | changes)
  return path


def torch_arrays(cell, embed=0):
  """Return random arrays with the names and shapes of PyTorch's state dicts."""
  rng, arrays, G = np.random.default_rng(0), {}, weights.TORCH[cell] * H
  for n in range(L):
    D = H if n else embed or V
    shapes = {"weight_ih": (G, D), "weight_hh": (G, H), "bias_ih": (G,), "bias_hh": (G,)}
    arrays |= {f"{cell}.{name}_l{n}": shape for name, shape in shapes.items()}
  arrays |= {"head.weight": (V, H), "head.bias": (V,)}
  arrays |= {"embed.weight": (V, embed)} if embed else {}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def torch_logits(cell, arrays, ids):
  """Return the logits [N, V] of PyTorch's modules, from the equations in its documentation."""
  xs = arrays.get("embed.weight", np.eye(V))[ids]
  for n in range(L):
    h, c, outputs = np.zeros(H), np.zeros(H), []
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    W_i, W_h, b_i, b_h = (arrays[f"{cell}.{name}_l{n}"] for name in names)
    for x in xs:
      inputs, recurrent = W_i @ x + b_i, W_h @ h + b_h
      if cell == "rnn":
        h = np.tanh(inputs + recurrent)
      elif cell == "lstm":
        i, f, g, o = np.split(inputs + recurrent, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
      else:
        (r, z, n_i), (r_h, z_h, n_h) = np.split(inputs, 3), np.split(recurrent, 3)
        r, z = sigmoid(r + r_h), sigmoid(z + z_h)
        h = (1 - z) * np.tanh(n_i + r * n_h) + z * h
      outputs.append(h)
    xs = np.array(outputs)
  return xs @ arrays["head.weight"].T + arrays["head.bias"]


@pytest.mark.parametrize("embed", [0, 3])
@pytest.mark.parametrize("cell", weights.TORCH)
def test_weights_of_pytorch_give_its_logits(tmp_path, cell, embed):
  arrays, path = torch_arrays(cell, embed), tmp_path / "torch.safetensors"
  safetensors.numpy.save_file(arrays, path, {"format": "pt"})
  loaded = weights.open_source(str(path)).load()
  fields = {name: loaded.config.model[name] for name in FIELDS}
  assert fields == FIELDS | {"cell": cell, "embed": embed} and loaded.tokenizer is None
  ids = np.array([0, 3, 1, 4, 4, 2])
  net = models.make(V, {**fields, "unroll": "scan"})
  logits_Nx1xV, _, _ = net.apply(loaded.params, jnp.asarray(ids)[:, None], net.initial_carry(1))
  np.testing.assert_allclose(logits_Nx1xV[:, 0], torch_logits(cell, arrays, ids), atol=1e-5)


def test_pytorch_itself_gives_the_same_logits():
  torch = pytest.importorskip("torch")
  arrays, ids = torch_arrays("lstm"), np.array([0, 3, 1])
  lstm, head = torch.nn.LSTM(V, H, L), torch.nn.Linear(H, V)
  modules = {"lstm": lstm, "head": head}
  for prefix, module in modules.items():
    state = {name: torch.tensor(arrays[f"{prefix}.{name}"]) for name in module.state_dict()}
    module.load_state_dict(state)
  logits = head(lstm(torch.eye(V)[ids])[0]).detach().numpy()
  np.testing.assert_allclose(logits, torch_logits("lstm", arrays, ids), atol=1e-5)


def test_a_vocabulary_can_be_added_to_weights_of_pytorch(tmp_path):
  tokenizer = tokenizers.Tokenizer.from_text(TEXT)
  for suffix in weights.SUFFIXES:
    path = tmp_path / f"torch{suffix}"
    weights.write(path, torch_arrays("gru"), {"tokenizer": tokenizer.to_json()})
    assert weights.open_source(str(path)).load().tokenizer == tokenizer


@pytest.mark.parametrize("suffix", weights.SUFFIXES)
def test_metadata_of_other_programs_are_ignored(tmp_path, suffix):
  path, tokenizer = tmp_path / f"torch{suffix}", tokenizers.Tokenizer.from_text(TEXT)
  meta = {"config": {"hidden_size": 3}, "format": "pt"}
  weights.write(path, torch_arrays("gru"), meta | {"tokenizer": tokenizer.to_json()})
  read = weights.open_source(str(path)).load()
  assert read.tokenizer == tokenizer and read.config.model.cell == "gru" and read.step is None
  if suffix == ".safetensors":
    arrays = {k: np.ascontiguousarray(v) for k, v in torch_arrays("gru").items()}
    safetensors.numpy.save_file(arrays, path, {"config": "x: 1"})  # not JSON
    assert weights.open_source(str(path)).load().tokenizer is None
    safetensors.numpy.save_file(arrays, path, {"tokenizer": "gpt2"})
  else:
    weights.write(path, torch_arrays("gru"), {"tokenizer": {"version": "1.0"}})
  with pytest.raises(errors.UserError, match="metadata tokenizer is not a vocabulary of charrnn"):
    _ = weights.open_source(str(path)).load()


WRONG = {
  "no file": lambda path: path,
  "a folder": lambda path: path.mkdir(),
  "a FIFO": os.mkfifo,
  "an empty file": lambda path: path.write_bytes(b""),
  "garbage": lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 99),
  "another dtype": lambda path: exported(path, arrays={"head/b_y": np.zeros(V)}),
  "NaN": lambda path: exported(path, arrays={"head/b_y": np.full(V, np.nan, np.float32)}),
  "another shape": lambda path: exported(path, arrays={"head/b_y": np.zeros(9, np.float32)}),
  "a missing array": lambda path: exported(path, arrays={"head/b_y": None}),
  "another array": lambda path: exported(path, arrays={"head/b": np.zeros(V, np.float32)}),
  "nested": lambda path: exported(path, arrays={"head/b_y/x": np.zeros(V, np.float32)}),
  "a config that is no object": lambda path: exported(path, config=[1]),
  "an impossible config": lambda path: exported(path, config={"model": {"hidden": -1}}),
  "a wrong vocabulary": lambda path: exported(path, tokenizer={"kind": "char", "tokens": ["a"]}),
  "deep metadata": lambda path: exported(path, step=json.loads("[" * 99 + "]" * 99)),
  "only metadata": lambda path: weights.write(path, {}, {"step": 1}),
  "no names that are known": lambda path: weights.write(path, {"w": np.zeros(3, "f4")}, {}),
  "a bidirectional LSTM": lambda path: weights.write(
    path, torch_arrays("lstm") | {"lstm.weight_ih_l0_reverse": np.zeros(3, "f4")}, {}
  ),
  "two modules": lambda path: weights.write(path, torch_arrays("lstm") | torch_arrays("gru"), {}),
  "no biases": lambda path: weights.write(
    path, {k: v for k, v in torch_arrays("lstm").items() if "bias_hh" not in k}, {}
  ),
  "a number of layers": lambda path: weights.write(
    path, torch_arrays("lstm") | {"lstm.weight_ih_l9999": np.zeros((1, 1), "f4")}, {}
  ),
  "a scalar": lambda path: weights.write(
    path, torch_arrays("lstm") | {"head.weight": np.zeros((), "f4")}, {}
  ),
}


@pytest.mark.parametrize("suffix", weights.SUFFIXES)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, name, suffix):
  path = tmp_path / f"x{suffix}"
  WRONG[name](path)
  with pytest.raises(errors.UserError) as error:
    _ = weights.open_source(str(path)).load().tokenizer
  assert str(path) in str(error.value) and "\n" not in str(error.value)


def npz(path, members):
  """Write an archive of .npy files, of which each is bytes or an array."""
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, value in members:
      file = io.BytesIO()
      if isinstance(value, bytes):
        file.write(value)
      else:
        np.save(file, value, allow_pickle=True)
      archive.writestr(name, file.getvalue())


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }".ljust(117) + b"\n"
ARRAY = np.zeros(3, np.float32)


@pytest.mark.parametrize(
  "members",
  [
    [("a.npy", np.array([print], object))],  # a pickle
    [("a.npy", b"\x93NUMPY\x01\x00\x76\x00" + HEADER)],  # more than the file has
    [("a.npy", b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 117 + b"\n")],
    [("a.npy", b"\x93NUMPY\x09\x00")],
    [("a.npy", ARRAY), ("a", ARRAY)],
    [("a.npy", ARRAY), ("__meta__.npy", np.array([1.0]))],
    [("a.npy", ARRAY), ("__meta__.npy", np.array("[1]"))],
  ],
)
def test_a_hostile_archive_is_refused(tmp_path, members):
  npz(tmp_path / "x.npz", members)
  with pytest.raises(errors.UserError, match=r"x\.npz (is damaged|has neither)|convert it to"):
    weights.read(tmp_path / "x.npz")
    weights.Weights(tmp_path / "x.npz")


def test_a_part_of_a_file_is_refused(tmp_path):
  for suffix in weights.SUFFIXES:
    data = exported(tmp_path / f"x{suffix}").read_bytes()
    for size in (1, 9, len(data) // 2, len(data) - 1):
      (tmp_path / f"part{suffix}").write_bytes(data[:size])
      with pytest.raises(errors.UserError, match="is damaged"):
        weights.read(tmp_path / f"part{suffix}")


def test_an_array_that_does_not_fit_in_memory_is_not_read(tmp_path, monkeypatch):
  exported(tmp_path / "x.npz")
  monkeypatch.setattr(weights.runtime, "free_memory", lambda: 100)
  with pytest.raises(errors.UserError, match=r"only 0\.0 GB are free"):
    weights.read(tmp_path / "x.npz")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_pickles_are_refused(tmp_path, suffix):
  (tmp_path / f"x{suffix}").write_bytes(b"x")
  with pytest.raises(errors.UserError, match="can contain code"):
    weights.open_source(str(tmp_path / f"x{suffix}"))
