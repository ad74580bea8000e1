"""Tests of metrics.jsonl, the copy for TensorBoard, and the plot of the losses."""

import math
import pathlib
import struct
import subprocess
import sys

import pytest
import tensorboardX
from tensorboardX.proto import event_pb2

from charrnn.runs import metrics


def test_resume_removes_the_lines_that_it_writes_again(tmp_path):
  log = metrics.MetricsLog(tmp_path, 0)
  for step in (1, 2, 3):
    log.write(step, {"train/loss": step / 3, "grad_norm": math.nan})
  log.close()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "train/lo')  # an incomplete line, as after SIGKILL
  metrics.MetricsLog(tmp_path, 2).close()
  assert metrics.read(tmp_path) == [
    {"step": step, "train/loss": step / 3, "grad_norm": None} for step in (1, 2)
  ]


def test_plot_without_losses_and_with_an_unusual_title(tmp_path):
  metrics.plot(tmp_path, "a$^$ \udcff")
  assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
  (tmp_path / "metrics.jsonl").write_text('{"step": 1, "valid/loss": 2.0}\n{"step": 2}\n[]\n')
  metrics.plot(tmp_path, "one point", "order")
  assert metrics.curve(metrics.read(tmp_path), "valid/loss") == [(1, 2.0)]


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


def events(path):
  """Return the events of a file, without the checksums of tensorboardX's records."""
  data, result = path.read_bytes(), []
  while data:
    (length,) = struct.unpack("<Q", data[:8])
    result.append(event_pb2.Event.FromString(data[12 : 12 + length]))
    data = data[16 + length :]
  return result


def test_tensorboard_gets_the_finite_values(tmp_path):
  log = metrics.MetricsLog(tmp_path, 1)
  log.write(300, {"a": 2.5, "b": math.nan})
  log.write(301, {"a": 1e300})
  (path,) = tmp_path.glob("events.out.tfevents.*")  # complete before it is closed
  version, start, *steps = events(path)
  log.close()
  assert version.file_version == "brain.Event:2"
  assert start.session_log.status == start.session_log.START and start.step == 2
  values = [{value.tag: value.simple_value for value in event.summary.value} for event in steps]
  assert [event.step for event in steps] == [300, 301]
  assert values == [{"a": 2.5}, {"a": math.inf}]


@pytest.mark.parametrize("name", ["s3:", "gs:x", "s3:/bucket/run"])
def test_the_name_of_a_folder_is_never_a_bucket(tmp_path, monkeypatch, capsys, name):
  """tensorboardX uploads files to a bucket if their path begins like an address."""
  monkeypatch.chdir(tmp_path)
  folder = pathlib.Path(name)
  folder.mkdir(parents=True)
  log = metrics.MetricsLog(folder, 0)
  log.write(1, {"train/loss": 0.5})
  log.close()
  (path,) = folder.glob("events.out.*")
  assert events(path)[-1].step == 1 and not capsys.readouterr().err


def test_a_tensorboard_file_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch, capsys):
  full = open("/dev/full", "wb")  # noqa: SIM115 (MetricsLog closes it)
  monkeypatch.setattr(tensorboardX.record_writer, "open_file", lambda path: full)
  log = metrics.MetricsLog(tmp_path, 0)
  for step in (1, 2):
    log.write(step, {"a": 1.0})
  log.close()
  assert metrics.read(tmp_path) == [{"step": step, "a": 1.0} for step in (1, 2)]
  err = capsys.readouterr().err
  assert err.count("\n") == 1 and "No space left on device" in err


def test_logging_imports_no_other_framework(tmp_path):
  for name in ("torch", "tensorflow"):
    (tmp_path / f"{name}.py").write_text("raise RuntimeError")
  program = f"""import pathlib, sys
sys.path.insert(0, {str(tmp_path)!r})
from charrnn.runs import metrics
log = metrics.MetricsLog(pathlib.Path({str(tmp_path)!r}), 0)
log.write(1, {{"train/loss": 1.0}})
log.close()
metrics.plot(pathlib.Path({str(tmp_path)!r}), "title")"""
  subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
