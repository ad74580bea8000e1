"""Tests that all commands read the runs of version 0.1.0, and that training resumes them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from charrnn import runtime
from charrnn.runs import checkpoints
from charrnn.runs import run as run_lib

ROOT = pathlib.Path(__file__).parents[2]
OLD = ROOT / "tests" / "data_files" / "runs_of_0.1.0"
NUMBERS = ("step", "epoch", "train/loss", "grad_norm", "learning_rate", "valid/loss")
COMMANDS = {
  "inspect": ["inspect", "RUN"],
  "verify": ["verify", "RUN"],
  "diff": ["diff", "RUN", "RUN"],
  "export": ["export", "RUN", "out.npz"],
  "sample": ["sample", "RUN", "--length=20", "--seed=1"],
  "eval": ["eval", "RUN", "--errors", "--characters=500"],
  "ngrams": ["ngrams", "RUN", "--order=2"],
  "scorecard": ["scorecard", "RUN", "--kind=shakespeare", "--num=2", "--length=300", "--order=2"],
  "memorization": ["memorization", "RUN", "--num=2", "--length=100", "--order=2"],
  "temperature": ["temperature", "RUN", "--num=2", "--length=100", "--temperatures", "1"],
  "compare": ["compare", "RUN"],
}
# These commands share the code that reads a run, so they are tested with the LSTM run only.
SAME_READER = {"ngrams", "scorecard", "memorization", "temperature"}
CASES = [("lstm", command) for command in COMMANDS]
CASES += [("ngram", command) for command in COMMANDS if command not in SAME_READER]


@pytest.fixture
def old(tmp_path, monkeypatch):
  """Copy the old runs to the current directory, because the path of their text is relative."""
  shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
  monkeypatch.chdir(tmp_path)
  # JAX has already started, so the number of devices cannot change any more.
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)
  return tmp_path


@pytest.mark.parametrize(("name", "command"), CASES)
def test_all_commands_read_old_runs(charrnn, old, name, command):
  result = charrnn(*[argument.replace("RUN", name) for argument in COMMANDS[command]])
  assert result.code == 0 and "PROBLEM" not in result.out and "DAMAGED" not in result.out, result
  if command in ("inspect", "verify"):
    assert run_lib.NO_DIGEST in " ".join(result.out.split()) and "0.1.0 wrote" not in result.out


@pytest.mark.long
def test_cells_reads_old_runs(charrnn, old):
  result = charrnn("cells", "lstm", "--twins=0", "--shifts=19", "--characters=5000", "--json")
  assert result.code == 0 and result.json["step"] == 60
  assert charrnn("cells", "ngram").code == 2


@pytest.mark.parametrize("name", ["lstm", "ngram"])
def test_losses_and_samples_match_the_old_version(charrnn, old, name):
  run = run_lib.Run.open(name)
  best = min(line["valid/loss"] for line in run.metrics if "valid/loss" in line)
  assert run.status == "finished" and run.meta["valid_loss"] == best
  (scored,) = charrnn("eval", name, "--json").json["results"]
  assert scored["nats"] == pytest.approx(best, rel=1e-6)
  text = charrnn("sample", name, "--seed=1", "--temperature=0.8", "--length=50").out
  assert text == (old / name / "samples" / f"{run.step}.txt").read_text()


def launch(name):
  """Launch an old run again, from its stored config."""
  return subprocess.run(
    [sys.executable, ROOT / "launch.py", f"--config={name}/config.json", f"--workdir={name}"],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=True,
  )


def test_resumed_run_agrees_with_the_old_result(old):
  before = run_lib.Run.open("lstm")
  arrays = checkpoints.flatten(before.params)
  lines = [[line.get(name) for name in NUMBERS] for line in before.metrics]
  shutil.rmtree(old / "lstm" / "checkpoints" / "60")
  text = (old / "lstm" / "metrics.jsonl").read_text().splitlines(keepends=True)
  truncated = "".join(line for line in text if json.loads(line)["step"] <= 40)
  (old / "lstm" / "metrics.jsonl").write_text(truncated)
  assert run_lib.Run.open("lstm").status == "stopped"
  assert "resuming from step 40" in launch("lstm").stderr
  after = run_lib.Run.open("lstm")
  # The old version drew other dropout masks and rounded differently.
  for old_line, line in zip(lines, after.metrics, strict=True):
    for expected, name in zip(old_line, NUMBERS):
      tolerance = 0.2 if name == "grad_norm" else 5e-3
      assert line.get(name) == (expected and pytest.approx(expected, rel=tolerance)), name
  for name, array in checkpoints.flatten(after.params).items():
    assert np.corrcoef(array.ravel(), arrays[name].ravel())[0, 1] > 0.99, name


@pytest.mark.parametrize("name", ["lstm", "ngram"])
def test_finished_run_is_not_trained_again(old, name):
  before = checkpoints.digests(run_lib.Run.open(name).params)
  assert "finished" in launch(name).stderr
  run = run_lib.Run.open(name)
  assert checkpoints.digests(run.params) == before
  assert len(run.origin["launches"]) == 2 and run.status == "finished"
