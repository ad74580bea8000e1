"""`charrnn ladder` on tiny runs: its tables, files and errors."""

import json
import shutil

import pytest

from charrnn import runtime
from charrnn.runs import run as run_lib


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)


def test_tables_and_files(charrnn, trained, counted, tmp_path):
  sweep = tmp_path / "sweep"
  for name, path in {"lstm": trained["a"], "ngram": counted}.items():
    shutil.copytree(path, sweep / name)
  result = charrnn("ladder", sweep, "--length", 40)
  assert result.code == 0, result.err
  assert {path.name for path in (sweep / "ladder").iterdir()} == {
    *("ladder.json", "ladder.md", "ladder.png")
  }
  rows = json.loads((sweep / "ladder" / "ladder.json").read_text())["runs"]
  assert [row["run"] for row in rows] == ["lstm", "ngram"]  # from the highest loss to the lowest
  for row in rows:
    run = run_lib.Run.open(sweep / row["run"])
    for split in ("valid", "test"):
      command = charrnn("eval", run.path, "--split", split, "--json")
      (expected,) = command.json["results"]
      assert row[split] == pytest.approx(expected["bits_per_byte"], rel=1e-5)
    assert row["label"] in result.out and len(row["sample"]) == 40
    # All bytes of the split are in a bucket, except the first of each context.
    scored = sum(place["bytes"] for place in row["positions"])
    assert scored == sum(b - a for a, b in run.splits().valid) - 1
    assert row["train_bytes_per_second"] is None or row["train_bytes_per_second"] > 0
  lstm, grams = rows
  assert lstm["state_bytes"] == 4 * 2 * 2 * 8  # float32, two layers, h and c, 8 units
  assert grams["state_bytes"] == 4 * (grams["step"] - 1) and grams["parameters"] is None
  assert lstm["flops"] > 0 and lstm["parameters"] > 0 and lstm["train_bytes"] == 20 * 4 * 16
  assert f"Sample: {lstm['label']}" in (sweep / "ladder" / "ladder.md").read_text()


def test_errors(charrnn, trained, tmp_path):
  assert charrnn("ladder", tmp_path / "missing").code == 2
  assert charrnn("ladder", trained["a"], "--length", 0).code == 2
  unfinished = shutil.copytree(trained["a"], tmp_path / "unfinished")
  shutil.rmtree(unfinished / "checkpoints")
  (unfinished / "metrics.jsonl").write_text("")
  result = charrnn("ladder", unfinished)
  assert result.code == 2 and result.err.count("\n") == 1
