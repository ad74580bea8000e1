"""Tests of `charrnn inspect`."""

import json
import shutil
import subprocess
import sys

import bits
import numpy as np
import pytest

from charrnn import errors, files
from charrnn.cli import inspect
from charrnn.runs import checkpoints

HOLD_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_diverged_run_is_not_resumed_by_the_same_command(charrnn, a):
  (a / "diverged.txt").write_text("training diverged\n")
  out = charrnn("inspect", a).out
  assert "diverged: step 20 of 20" in out and "--rollback" in out
  assert "run the same command" not in out


def test_statistics_match_numpy(charrnn, trained):
  facts = charrnn("inspect", trained["a"], "--step=10", "--json").json
  tree, _ = checkpoints.read(trained["a"] / "checkpoints", 10)
  rows = {row["name"]: row for row in facts["parameters"]["arrays"]}
  arrays = {
    f"{layer}/{name}": array
    for layer, params in tree["params"].items()
    for name, array in params.items()
  }
  assert rows.keys() == arrays.keys()
  for name, array in arrays.items():
    row, exact = rows[name], array.astype(np.float64)
    assert (row["shape"], row["dtype"], row["size"]) == (list(array.shape), "float32", array.size)
    assert row["norm"] == pytest.approx(np.sqrt((exact**2).sum()), rel=1e-12)
    assert [row["min"], row["max"]] == [exact.min(), exact.max()]
    assert [row["mean"], row["std"]] == pytest.approx([exact.mean(), exact.std()])
  assert facts["parameters"]["total"] == sum(array.size for array in arrays.values())
  assert facts["parameters"]["bytes"] == sum(array.nbytes for array in arrays.values())


def test_json_describes_the_run(charrnn, trained):
  facts = charrnn("inspect", trained["a"], "--json").json
  assert facts["problems"] == []
  stored = files.read_sealed(trained["a"] / "config.json")
  assert facts["config"] == files.with_aliases(stored, inspect.ALIASES)
  assert facts["corpus"]["characters"] == sum(facts["tokenizer"]["counts"])
  assert facts["alphabet"]["symbols"] == facts["tokenizer"]["tokens"]  # old names of the keys
  assert len(facts["launches"]) == 1
  assert facts["progress"]["status"] == "finished"
  assert facts["progress"]["step"] == facts["progress"]["steps"] == 20
  lines = [json.loads(line) for line in (trained["a"] / "metrics.jsonl").read_text().splitlines()]
  assert facts["progress"]["epochs"] == pytest.approx(lines[-1]["epoch"])
  losses = {line["step"]: line["valid/loss"] for line in lines if "valid/loss" in line}
  listing = facts["checkpoints"]
  assert {entry["step"]: entry["valid_loss"] for entry in listing["steps"]} == losses
  assert listing["best"] == facts["parameters"]["step"] == min(losses, key=losses.get)
  assert listing["newest"] == 20


def test_report_fits_the_width_and_is_complete(charrnn, trained):
  out = charrnn("inspect", trained["a"]).out
  assert max(map(len, out.splitlines())) <= inspect.WIDTH
  for text in ("finished: step 20 of 20", "hidden=8", "\\n space 0-9 b e g l n o r s t", "best"):
    assert text in out


def test_damaged_array_is_marked(charrnn, a):
  paths = sorted((a / "checkpoints/20/state/ocdbt.process_0/d").iterdir())
  for file in paths:
    content = file.read_bytes()
    for offset in range(100, len(content), 300):
      bits.flip(file, offset)
      rows = charrnn("inspect", a, "--step=20", "--json").json["parameters"]["arrays"]
      if not all(row["whole"] for row in rows):
        assert 0 < sum("norm" in row for row in rows) < len(rows) == 8
        assert charrnn("inspect", a, "--step=20").out.count("DAMAGED") == 1
        return
      file.write_bytes(content)
  pytest.fail("no flip hit a parameter")


def test_falls_back_to_another_step_if_the_best_is_deleted(charrnn, a, monkeypatch):
  best = charrnn("inspect", a, "--json").json["checkpoints"]["best"]
  (other,) = {10, 20} - {best}
  read_meta, calls = checkpoints.read_meta, []

  def vanish(folder, step):
    calls.append(step)
    if step == best and calls.count(best) == 2:  # The first call lists the steps.
      shutil.rmtree(folder / str(step))
    return read_meta(folder, step)

  monkeypatch.setattr(checkpoints, "read_meta", vanish)
  facts = charrnn("inspect", a, "--json").json
  assert facts["problems"] == []
  assert facts["parameters"]["step"] == other


@pytest.mark.parametrize("name", ["read_meta", "shapes", "steps"])
def test_an_error_of_the_system_is_a_problem(charrnn, a, monkeypatch, name):
  """Root may read everything, so the error is simulated."""

  def fail(folder, step=10):
    if step == 10:
      raise errors.UserError(f"{folder}/{step}: Permission denied")
    return read(folder, step)

  read = getattr(checkpoints, name)
  monkeypatch.setattr(checkpoints, name, fail)
  facts = charrnn("inspect", a, "--json").json
  (problem,) = facts["problems"]
  assert problem.endswith("Permission denied")
  if name == "steps":
    assert facts["checkpoints"]["steps"] == []
  else:
    assert [entry["whole"] for entry in facts["checkpoints"]["steps"]] == [False, True]
    assert facts["parameters"]["step"] == 20
  assert "Permission denied" in charrnn("inspect", a).out


def test_run_without_checkpoints(charrnn, a):
  shutil.rmtree(a / "checkpoints")
  (a / "metrics.jsonl").unlink()
  (a / "lock").unlink()
  facts = charrnn("inspect", a, "--json").json
  assert facts["problems"] == []
  assert facts["parameters"] is None
  assert facts["progress"]["status"] == facts["progress"]["state"] == "stopped"
  assert [facts["progress"][name] for name in ("step", "steps", "epochs")] == [0, 20, 0]
  assert "none yet" in charrnn("inspect", a).out
  assert not (a / "lock").exists()
  assert "it has no checkpoints yet" in charrnn("inspect", a, "--step=10").err


def test_locked_run_is_running(charrnn, a):
  command = [sys.executable, "-c", HOLD_LOCK, a / "lock"]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
    assert holder.stdout.readline() == b"held\n"
    assert charrnn("inspect", a, "--json").json["progress"]["status"] == "running"
    assert "running: step" in charrnn("inspect", a).out
    holder.stdin.close()
  assert charrnn("inspect", a, "--json").json["progress"]["status"] == "finished"


def test_errors_for_paths_that_are_not_runs(charrnn, a, tmp_path):
  (tmp_path / "empty").mkdir()
  for command in ("inspect", "verify"):
    for path in (tmp_path / "missing", tmp_path / "empty", tmp_path, a / "config.json"):
      result = charrnn(command, path)
      assert (result.code, result.out) == (2, "")
      assert str(path) in result.err
  assert "use one of 10, 20" in charrnn("inspect", a, "--step=3").err


def test_ranges_of_tokens():
  ranges = list(inspect._ranges("\n\x1b !01239ABCDabdeé€"))
  assert ranges == ["\\n", "\\x1b", "space", "!", "0-3", "9", "A-D", "a", "b", "d", "e", "é", "€"]
