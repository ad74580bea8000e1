"""Tests of `charrnn export`."""

import errno
import json

import edits
import numpy as np
import pytest
import safetensors

from charrnn import files
from charrnn.cli import export
from charrnn.data import tokenizers
from charrnn.runs import run as run_lib


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
    ("m.pt", "must end in .safetensors or .npz"),
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
