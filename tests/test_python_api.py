"""Tests of the Python interface, of the code in docs/python.md, and of the notebook."""

import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import charrnn
from charrnn import cli, errors
from charrnn.models import layers

ROOT = pathlib.Path(__file__).parents[1]
TEXT = "to be or not to be that is the question"


@pytest.fixture(scope="module")
def run(whole):
  return charrnn.load(whole)


def test_import_does_not_import_jax():
  program = "import sys, charrnn; print({'jax', 'numpy', 'absl'} & {*sys.modules}, dir(charrnn))"
  result = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert result.stdout.startswith("set()") and "'load'" in result.stdout
  with pytest.raises(AttributeError, match="no attribute 'laod'"):
    _ = charrnn.laod


def test_log_p_of_samples_matches_their_score(run):
  samples = run.sample("to be", length=30, num=3, temperature=0.7, seed=5)
  assert len({sample.text for sample in samples}) == 3
  for sample in samples:
    nats = run.score("to be" + sample.text).nats[len("to be") :]
    assert sample.log_p == pytest.approx(-nats.sum(), abs=1e-2)
  assert run.sample("to be", length=30, num=3, temperature=0.7, seed=5) == samples
  (sample,) = run.sample("to be", length=40, require="que", seed=5)
  assert "que" in sample.text
  for values in ({"num": 0}, {"length": -1}, {"seed": -1}, {"temperature": -1.0}):
    with pytest.raises(errors.UserError):
      run.sample("to be", **values)


def test_sample_matches_the_command(run, whole, capsys):
  arguments = ["--prime=to be", "--length=40", "--seed=3", "--quiet"]
  assert cli.main(["sample", str(whole), *arguments]) == 0
  (sample,) = run.sample("to be", length=40, seed=3)
  assert capsys.readouterr().out.rstrip("\n") == f"to be{sample.text}".rstrip("\n")


def test_distinct_and_novel_samples(run):
  texts = [sample.text for sample in run.sample("t", length=2, num=20, seed=5)]
  training = run.corpus().text(*run.splits().train[0])
  novel = [text for text in texts if "t" + text not in training]
  options = {"length": 2, "seed": 5, "draws": 20}
  selected = run.sample("t", num=20, distinct=True, novel=True, **options)
  assert [sample.text for sample in selected] == list(dict.fromkeys(novel))
  selected = run.sample("t", num=2, distinct=True, **options)
  assert [sample.text for sample in selected] == list(dict.fromkeys(texts))[:2]
  with pytest.raises(errors.UserError, match="all texts are the same"):
    run.sample("t", distinct=True, temperature=0)


def test_scores_match_a_single_forward_pass(run):
  ids_N = np.asarray(run.tokenizer.encode(TEXT), np.int32)
  x_TxB, y_TxB = ids_N[:-1, None], ids_N[1:, None]
  logits, _, _ = run.model.apply(run.params, x_TxB, run.model.initial_carry(1))
  scores = run.score(TEXT)
  np.testing.assert_allclose(scores.nats[1:], layers.cross_entropy(logits, y_TxB)[:, 0], atol=2e-2)
  assert np.isnan(scores.nats[0]) and scores.mean == pytest.approx(scores.nats[1:].mean())


def test_states_and_clamps(run):
  states = run.states(TEXT)
  assert list(states) == ["layer_0"] and set(states["layer_0"]) == set("hcifgo")
  c_TxH, o_TxH = states["layer_0"]["c"], states["layer_0"]["o"]
  assert c_TxH.shape == (len(TEXT), 8)
  np.testing.assert_allclose(states["layer_0"]["h"], o_TxH * np.tanh(c_TxH), atol=2e-2)
  clamped = run.states(TEXT, clamp={"0:3": 2.0})["layer_0"]["c"]
  np.testing.assert_array_equal(clamped[:, 3], 2.0)
  assert not np.allclose(clamped, c_TxH)
  with pytest.raises(errors.UserError, match="no unit 8"):
    run.sample(length=5, clamp={"0:8": 1.0})


@pytest.mark.parametrize("method", ["sample", "score", "states", "load", "train"])
def test_an_argument_of_another_type_is_an_error_that_names_it(run, whole, tmp_path, method):
  functions = {
    **{name: getattr(run, name) for name in ("sample", "score", "states")},
    "load": charrnn.load,
    "train": charrnn.train,
  }
  valid = {"path": whole, "text": "to", "config": run.config, "workdir": tmp_path / "new"}
  parameters = inspect.signature(functions[method]).parameters
  valid = {name: valid[name] for name in parameters if name in valid}
  for name in parameters:
    for value in (object(), b"to", [3], 1.5j, True):
      if not (name in ("fetch", "distinct", "novel") and value is True):
        with pytest.raises(errors.UserError, match=f"^{name} is of type .*: use "):
          functions[method](**valid | {name: value})
  assert not (tmp_path / "new").exists()


def test_numbers_of_numpy_are_accepted(run):
  sample = run.sample("to", length=np.int64(3), temperature=np.float32(1), top_k=np.int32(4))
  assert sample == run.sample("to", length=3, temperature=1, top_k=4)


def test_load_of_another_step_and_of_a_missing_run(run, whole, tmp_path):
  older = charrnn.load(whole, step=run.steps[0])
  assert older.step == run.steps[0] != run.step
  assert not np.array_equal(older.params["head"]["b_y"], run.params["head"]["b_y"])
  with pytest.raises(errors.UserError, match="does not exist"):
    charrnn.load(tmp_path / "none")


@pytest.fixture
def page_folder(folder, whole, tmp_path, monkeypatch):
  """Prepare and enter a folder in which the code of docs/python.md runs."""
  (tmp_path / "runs").mkdir()
  shutil.copytree(whole, tmp_path / "runs" / "shakespeare")
  shutil.copy(folder / "text.txt", tmp_path)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_all_blocks_of_the_page_run(page_folder, monkeypatch):
  page = (ROOT / "docs" / "python.md").read_text()
  blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
  assert len(blocks) == page.count("```python")
  namespace = {}
  for block in blocks:
    if "import torch" in block:
      pytest.importorskip("torch")
    if "import onnxruntime" in block:
      pytest.importorskip("onnxruntime")
      assert cli.main(["export", "runs/shakespeare", "shakespeare.onnx"]) == 0
    exec(compile(block, "docs/python.md", "exec"), namespace)
  assert (page_folder / "runs" / "mine" / "loss.png").exists()
  # The same call resumes the finished run and changes nothing.
  before = (page_folder / "runs" / "mine" / "metrics.jsonl").read_bytes()
  charrnn.train(namespace["config"], "runs/mine")
  assert (page_folder / "runs" / "mine" / "metrics.jsonl").read_bytes() == before
  leaves = jax.tree.leaves(namespace["params"])
  assert all(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.long
def test_notebook_runs_and_is_stored_without_outputs(tmp_path):
  nbclient = pytest.importorskip("nbclient")
  nbformat = pytest.importorskip("nbformat")
  path = ROOT / "docs" / "tour.ipynb"
  notebook = nbformat.read(path, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
  )
  client.execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
  outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
  assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
  stored = json.loads(path.read_text())
  assert not any(cell.get("outputs") for cell in stored["cells"])
