"""Tests of all commands on the run of an n-gram: they work, or raise an error in one line."""

import json
import shutil

import edits
import numpy as np
import pytest

from charrnn import runtime
from charrnn.models import ngram
from charrnn.runs import run as run_lib


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_eval_matches_the_loss_from_counts(charrnn, counted, split):
  run = run_lib.Run.open(counted)
  corpus, parts = run.corpus(), run.splits()
  model = ngram.fit(corpus.ids, 5, corpus.tokenizer.vocab_size, parts.train)
  (result,) = charrnn("eval", counted, "--split", split, "--json").json["results"]
  order = run_lib.Run.open(counted).step
  expected = model.losses(corpus.ids, getattr(parts, split))[order - 1]
  assert result["nats"] == pytest.approx(expected, rel=1e-5)


def test_eval_of_files(charrnn, counted, tmp_path):
  (tmp_path / "own.txt").write_text("42 green bottles\n" * 9)
  (result,) = charrnn("eval", counted, tmp_path / "own.txt", "--json").json["results"]
  assert 0 < result["nats"] < 1


def test_sample_accepts_all_options_except_clamps(charrnn, counted):
  options = ("--length", 30, "--prime", "7 green", "--temperature", 0.5, "--top-k", 3)
  options += ("--top-p", 0.9, "--num", 2, "--seed", 1, "--quiet", "--json")
  first, again = (charrnn("sample", counted, *options) for _ in range(2))
  assert first.code == 0 and first.out == again.out
  texts = [json.loads(line)["text"] for line in first.out.splitlines()]
  assert [len(text) for text in texts] == [30, 30] and all("bottle" in text for text in texts)
  stopped = charrnn("sample", counted, "--seed", 1, "--stop", "\n", "--prime", "7 g", "--quiet")
  assert "\n" not in stopped.out
  result = charrnn("sample", counted, "--clamp", "0:1=2")
  assert (result.code, result.out) == (2, "")
  problem = "--clamp 0:1: the model has no units to clamp; omit the option"
  assert result.err == f"charrnn: error: {problem}\n"


def test_inspect(charrnn, counted):
  result = charrnn("inspect", counted)
  step = run_lib.Run.open(counted).step
  assert result.code == 0
  assert "status       finished" in result.out and "steps are orders" in result.out
  assert f"level_{step}/own" in result.out
  facts = charrnn("inspect", counted, "--json").json
  assert facts["problems"] == [] and facts["progress"]["steps"] == 5
  assert [point["step"] for point in facts["history"]["valid"]] == [1, 2, 3, 4, 5]


def test_inspect_without_a_checkpoint(charrnn, counted, tmp_path):
  killed = shutil.copytree(counted, tmp_path / "killed")
  shutil.rmtree(killed / "checkpoints")
  assert charrnn("inspect", killed, "--json").json["progress"]["state"] == "stopped"


def test_verify_detects_damage(charrnn, counted, tmp_path):
  assert charrnn("verify", counted).code == 0
  broken = shutil.copytree(counted, tmp_path / "broken")
  blob = max((broken / "checkpoints").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size)
  blob.write_bytes(blob.read_bytes()[:-100] + bytes(100))
  result = charrnn("verify", broken)
  assert result.code == 1 and "DAMAGED" in result.out


def test_diff(charrnn, counted, trained):
  assert charrnn("diff", counted, counted).code == 0
  result = charrnn("diff", counted, trained["a"])
  assert result.code == 1
  assert "model.cell: 'ngram' | 'lstm'" in result.out and "level_1/own" in result.out


def test_export(charrnn, counted, tmp_path):
  assert charrnn("export", counted, tmp_path / "out.npz").code == 0
  loaded = run_lib.Run.open(counted)
  with np.load(tmp_path / "out.npz") as file:
    assert json.loads(str(file["__meta__"]))["config"]["model"]["cell"] == "ngram"
    np.testing.assert_array_equal(file["level_2/own"], loaded.params["level_2"]["own"])


def test_cells_raises_an_error(charrnn, counted):
  result = charrnn("cells", counted)
  assert result.code == 2
  assert result.err == (
    f"charrnn: error: {counted}: has no units to study: use a run of a recurrent network or a "
    "transformer\n"
  )
  assert not (counted / "cells").exists()


def test_config_without_model_order_loads(charrnn, a):
  edits.change(a, "config.json", lambda config: config["model"].pop("order"))
  assert run_lib.Run.open(a).config.model.order is None
  assert charrnn("eval", a).code == 0
