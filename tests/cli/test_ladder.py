"""`charrnn ladder` on tiny runs: its tables, files and errors."""

import dataclasses
import json
import pathlib
import shutil

import programs
import pytest

from charrnn import runtime
from charrnn.data import corpora
from charrnn.runs import run as run_lib

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)


def test_tables_and_files(charrnn, trained, counted, tmp_path, monkeypatch):
  corpus = run_lib.Run.corpus

  def in_two_files(run):
    whole = corpus(run)
    middle = sum(run.splits().valid[0]) // 2
    documents = [corpora.Document("a", 0, middle), corpora.Document("b", middle, len(whole.ids))]
    return dataclasses.replace(whole, documents=documents)

  monkeypatch.setattr(run_lib.Run, "corpus", in_two_files)
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
    (expected,) = charrnn("eval", run.path, "--split", "test", "--json").json["results"]
    assert row["test"] == pytest.approx(expected["bits_per_byte"], rel=1e-5)
    lines = (line for line in run.metrics if line["step"] == run.step)
    (valid,) = (line["valid/bits_per_byte"] for line in lines if "valid/loss" in line)
    assert row["valid"] == pytest.approx(valid, rel=1e-5)
    assert row["label"] in result.out and len(row["sample"]) == 40
    # All bytes of the split are in a bucket, except the first of each context.
    scored = sum(place["bytes"] for place in row["positions"])
    assert scored == sum(b - a for a, b in run.splits().valid) - 2
    assert row["train_bytes_per_second"] is None or row["train_bytes_per_second"] > 0
  lstm, grams = rows
  assert lstm["carry_bytes"] == 4 * 2 * 2 * 8  # float32, two layers, h and c, 8 units
  assert grams["carry_bytes"] == 4 * (grams["step"] - 1) and grams["parameters"] is None
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


@pytest.mark.long
def test_a_small_ladder_with_scorecards(charrnn, tmp_path):
  """A sweep with both tokenizers gives one table, in which the closers and metrics are the same."""
  speech = 'HAMLET:\nI say (to {0} men) that "we [all] are {0}" here.\n\n'
  (tmp_path / "text.txt").write_text("".join(speech.format(n) for n in range(6000)))
  source = f"--config.text.source={tmp_path / 'text.txt'}"
  folder, experiment = tmp_path / "sweep", "--config=experiments/ladder.py:smoke"
  arguments = experiment, "--sweep=flops", source, f"--workdir={folder}"
  code, err = programs.finish(programs.start(ROOT, *arguments), timeout=3000)
  assert code == 0, err
  result = charrnn("ladder", folder, "--domain", "plays", "--num", 2, "--length", 200)
  assert result.code == 0, result.err
  runs = json.loads((folder / "ladder" / "ladder.json").read_text())["runs"]
  assert len({run["label"] for run in runs}) == len(runs) == 14
  for kind in ("char", "bpe"):
    own = [run for run in runs if run["tokenizer"] == kind]
    counts = {str([row["count"] for row in run["closers"]["all"]]) for run in own}
    assert len(own) == 7 and len(counts) == 1
    assert all(run["scorecard"].keys() == runs[0]["scorecard"].keys() != set() for run in own)
  text = (folder / "ladder" / "ladder.md").read_text()
  assert all(f"Closers {closer}:" in text for closer in ("all", ")", "]", '"'))
