"""Tests of metrics.jsonl, and of the plot of the losses."""

import math
import subprocess
import sys

import pytest

from charrnn.runs import metrics


def test_resume_removes_the_lines_that_it_writes_again(tmp_path):
  log = metrics.MetricsLog(tmp_path)
  log.start(1)
  for step in (1, 2, 3):
    log.log(step, {"train/loss": step / 3, "grad_norm": math.nan})
  log.finish()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "train/lo')  # an incomplete line, as after SIGKILL
  log.start(3)
  log.finish()
  assert metrics.read(tmp_path) == [
    {"step": step, "train/loss": step / 3, "grad_norm": None} for step in (1, 2)
  ]


def test_plot_without_losses_and_with_an_unusual_title(tmp_path):
  metrics.plot(tmp_path, "a$^$ \udcff")
  assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
  (tmp_path / "metrics.jsonl").write_text('{"step": 1, "valid/loss": 2.0}\n{"step": 2}\n[]\n')
  metrics.plot(tmp_path, "one point", "order")
  assert metrics.curve(metrics.read(tmp_path), "valid/loss") == [(1, 2.0)]


def test_a_missing_file_has_no_lines(tmp_path):
  """A run whose metrics.jsonl was deleted can be resumed and accepted like a changed one."""
  empty, log = metrics.prefix(tmp_path, 5), metrics.MetricsLog(tmp_path)
  assert metrics.read(tmp_path) == [] and metrics.matches(tmp_path, empty)
  log.start(1)
  log.log(1, {"train/loss": 1.0})
  stored = log.sync()
  log.finish()
  assert metrics.matches(tmp_path, stored)
  (tmp_path / "metrics.jsonl").unlink()
  assert not metrics.matches(tmp_path, stored) and metrics.matches(tmp_path, empty)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_value_that_is_not_finite_is_read_like_null(tmp_path, text):
  (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "valid/loss": {text}}}\n')
  assert metrics.read(tmp_path) == [{"step": 1, "valid/loss": None}]


@pytest.mark.parametrize("text", ["true", "9" * 400, "9" * 5000, '"1"', "[1]", "{}"])
@pytest.mark.parametrize("name", ["step", "valid/loss"])
def test_a_line_with_a_wrong_value_is_skipped(tmp_path, name, text):
  line = {"step": "1", "valid/loss": "2.0"} | {name: text}
  content = ", ".join(f'"{name}": {value}' for name, value in line.items())
  (tmp_path / "metrics.jsonl").write_text(f'{{{content}}}\n{{"step": 2}}\n')
  assert metrics.read(tmp_path) == [{"step": 2}]


def test_logging_imports_no_other_framework(tmp_path):
  for name in ("torch", "tensorflow"):
    (tmp_path / f"{name}.py").write_text("raise RuntimeError")
  program = f"""import pathlib, sys
sys.path.insert(0, {str(tmp_path)!r})
from charrnn.runs import metrics, tracking
run = tracking.TrackedRun(pathlib.Path({str(tmp_path)!r}), {{}}, "id")
with tracking.Log(run.workdir, tracking.make("none", run)) as log:
  log.start(1)
  log.log(1, {{"train/loss": 1.0}})
metrics.plot(pathlib.Path({str(tmp_path)!r}), "title")"""
  subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
