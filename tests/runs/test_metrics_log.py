"""Tests of metrics.jsonl, the copy for TensorBoard, and the plot of the losses."""

import math
import struct
import subprocess
import sys

from charrnn.runs import metrics, tensorboard


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


# The fields of Event in TensorBoard's event.proto, without the time: the version, the start of a
# session at step 2, and the values of steps 300 and 301.
RECORDS = [
  b"\x1a\x0dbrain.Event:2",
  b"\x10\x02" + b"\x3a\x02\x08\x01",
  b"\x10\xac\x02" + b"\x2a\x0a" + b"\x0a\x08\x0a\x01a\x15" + struct.pack("<f", 2.5),
  b"\x10\xad\x02" + b"\x2a\x0a" + b"\x0a\x08\x0a\x01a\x15" + struct.pack("<f", math.inf),
]


def records(data):
  """Yield the records of an event file without their times, with verified checksums."""
  while data:
    (length,) = struct.unpack("<Q", data[:8])
    event = data[12 : 12 + length]
    assert data[8:12] == tensorboard.masked_crc(data[:8])
    assert data[12 + length : 16 + length] == tensorboard.masked_crc(event)
    assert event[:1] == b"\x09"
    yield event[9:]
    data = data[16 + length :]


def test_tensorboard_gets_the_finite_values(tmp_path):
  log = metrics.MetricsLog(tmp_path, 1)
  log.write(300, {"a": 2.5, "b": math.nan})
  log.write(301, {"a": 1e300})
  log.close()
  (path,) = tmp_path.glob("events.out.tfevents.*")
  assert list(records(path.read_bytes())) == RECORDS
  assert tensorboard.masked_crc(b"123456789").hex() == "e5b08ac7"  # CRC-32C is 0xE3069283


def test_a_tensorboard_file_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch, capsys):
  def write(self, fields):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(tensorboard.EventFile, "_write", write)
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
