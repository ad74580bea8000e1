"""Tests of `charrnn export`."""

import errno
import json

import edits
import jax
import numpy as np
import pytest
import safetensors

from charrnn import files, models
from charrnn.cli import export
from charrnn.data import tokenizers
from charrnn.runs import run as run_lib
from charrnn.runs import weights


def read_safetensors(path):
  with safetensors.safe_open(path, "numpy") as file:
    params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return params, {name: json.loads(value) for name, value in file.metadata().items()}


def read_npz(path):
  with np.load(path, allow_pickle=False) as file:
    params = {name: file[name] for name in file.files if name != "__meta__"}
    return params, json.loads(str(file["__meta__"]))


@pytest.mark.parametrize("name, read", [("m.safetensors", read_safetensors), ("m.npz", read_npz)])
def test_exported_file_has_the_content_of_the_run(charrnn, trained, tmp_path, name, read):
  result = charrnn("export", trained["a"], tmp_path / name, "--step=10")
  assert (result.code, result.out) == (0, "")
  loaded = run_lib.Run.open(trained["a"], 10)
  params, meta = read(tmp_path / name)
  expected = {f"{layer}/{k}": v for layer, tree in loaded.params.items() for k, v in tree.items()}
  assert params.keys() == expected.keys()
  for key, array in expected.items():
    np.testing.assert_array_equal(params[key], array, strict=True)
  stored = files.read_sealed(trained["a"] / "config.json")
  assert meta["config"] == files.with_aliases(stored, export.ALIASES)
  assert tokenizers.Tokenizer.from_json(meta["tokenizer"]) == loaded.tokenizer
  assert meta["alphabet"]["symbols"] == list(loaded.tokenizer.tokens)  # old names of the keys
  assert (meta["step"], meta["valid_loss"]) == (10, loaded.meta["valid_loss"])


@pytest.mark.parametrize("suffix", weights.SUFFIXES)
def test_an_export_has_the_parameters_of_the_run(charrnn, trained, tmp_path, suffix):
  path = tmp_path / f"x{suffix}"
  assert charrnn("export", trained["a"], path).code == 0
  run, loaded = run_lib.Run.open(trained["a"]), weights.open_source(str(path)).load()
  jax.tree.map(np.testing.assert_array_equal, loaded.params, run.params)
  assert (loaded.tokenizer, loaded.config) == (run.tokenizer, run.config)
  assert loaded.weights == run.weights
  assert isinstance(weights.open_source(str(trained["a"])), run_lib.Run)


def test_an_onnx_file_predicts_like_the_run(charrnn, trained, counted, tmp_path):
  pytest.importorskip("onnx")
  runtime = pytest.importorskip("onnxruntime")
  result = charrnn("export", trained["a"], tmp_path / "m.onnx", "--step=10")
  assert result.code == 0, result.err
  run = run_lib.Run.open(trained["a"], 10)
  session = runtime.InferenceSession(tmp_path / "m.onnx")
  meta = session.get_modelmeta().custom_metadata_map
  assert tokenizers.Tokenizer.from_json(json.loads(meta["tokenizer"])) == run.tokenizer
  assert json.loads(meta["step"]) == 10
  ids = run.tokenizer.encode("7 green bottles\n").astype(np.int64)
  carry = run.model.initial_carry(1)
  state = {name: np.stack([getattr(each, name) for each in carry]) for name in run.model.states}
  (logits_1xTxV,) = session.run(["logits"], {"ids": ids[None], **state})
  fields = {**run.config.model, "compute_dtype": "float32", "unroll": "scan"}
  model = models.make(run.tokenizer.vocab_size, fields)
  expected_Tx1xV, _, _ = model.apply(run.params, ids[:, None], None)
  np.testing.assert_allclose(logits_1xTxV[0], expected_Tx1xV[:, 0], atol=1e-5)
  result = charrnn("export", counted, tmp_path / "n.onnx")
  assert result.code == 2 and "ngram cannot be exported" in result.err
  assert not (tmp_path / "n.onnx").exists()


def test_a_page_of_a_run_and_a_run_that_a_page_does_not_support(
  charrnn, trained, counted, tmp_path
):
  assert charrnn("export", trained["a"], tmp_path / "a.html").code == 0
  assert "<title>a: charrnn writer</title>" in (tmp_path / "a.html").read_text()
  result = charrnn("export", counted, tmp_path / "b.html")
  assert result.code == 2 and "model.cell=ngram" in result.err
  assert not (tmp_path / "b.html").exists()


def test_existing_file_is_only_replaced_with_force(charrnn, trained, tmp_path):
  out = tmp_path / "m.npz"
  out.write_text("precious")
  result = charrnn("export", trained["a"], out)
  assert result.code == 2
  assert "--force" in result.err
  assert out.read_text() == "precious"
  assert charrnn("export", trained["a"], out, "--force").code == 0
  assert "layer_1/W_xh" in read_npz(out)[0]


def test_errors_for_invalid_output_names(charrnn, trained, tmp_path):
  (tmp_path / "folder.npz").mkdir()
  for name, message in (
    ("m.pt", "must end in .safetensors or .npz or .onnx or .html"),
    ("folder.npz", "is a folder"),
    ("nowhere/m.npz", "there is no folder"),
  ):
    result = charrnn("export", trained["a"], tmp_path / name, "--force")
    assert result.code == 2
    assert message in result.err


def test_full_disk_leaves_only_the_old_file(charrnn, trained, tmp_path, monkeypatch):
  out = tmp_path / "m.npz"
  out.write_text("precious")

  def fill(file, **arrays):
    file.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(np, "savez", fill)
  result = charrnn("export", trained["a"], out, "--force")
  assert result.code == 2
  assert "No space left" in result.err
  assert [file.name for file in tmp_path.iterdir()] == ["m.npz"]
  assert out.read_text() == "precious"


def test_run_trained_with_cudnn_can_be_read_without_it(a, charrnn):
  edits.change(a, "config.json", lambda config: config["model"].update(unroll="cudnn"))
  assert charrnn("sample", a, "--length=5", "--quiet").code == 0
