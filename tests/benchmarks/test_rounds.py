import os
import sys

import pytest

from charrnn.benchmarks import rounds, workloads

TINY = workloads.Product(4, 4, 4, 1, "float32")


def product_worker():
  return rounds.Worker("roofline", "product", TINY, 0.01)


@pytest.fixture
def worker(monkeypatch, tmp_path):
  """Return a function that replaces every worker process by a Python program."""

  def use(source):
    (tmp_path / "worker").write_text(f"#!{sys.executable}\n{source}\n")
    (tmp_path / "worker").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "worker"))

  return use


def test_failure_is_reported_and_others_continue():
  training = workloads.Training(cell="no such cell", hidden=4, batch=2)
  broken = rounds.Worker("charrnn", "train", training, 0.01)
  rows, failed = rounds.run({"broken": broken, "valid": product_worker()}, rounds=2)
  assert "no such cell" in failed["broken"] and failed["broken"].startswith("UserError: ")
  assert len(rows["valid"]["rates"]) == 2 and min(rows["valid"]["rates"]) > 0
  assert list(rows) == ["valid"]


def test_unresponsive_process_is_killed(worker, monkeypatch):
  worker("import time; time.sleep(600)")
  monkeypatch.setattr(rounds, "TIMEOUT", 0.5)
  silent = product_worker()
  rows, failed = rounds.run({"silent": silent}, rounds=1)
  assert not rows and "no answer" in failed["silent"]
  assert silent._process.poll() is not None


def test_long_stderr_does_not_block_and_its_last_line_is_the_reason(worker):
  worker("import sys; sys.stderr.write('words\\n' * 100_000); sys.exit('the end')")
  _, failed = rounds.run({"talker": product_worker()}, rounds=1)
  assert failed == {"talker": "the end"}


def test_signal_during_a_turn_is_reported(worker):
  worker("import os\nprint('{}', flush=True)\ninput()\nos.kill(os.getpid(), 9)")
  _, failed = rounds.run({"dies": product_worker()}, rounds=1)
  assert failed == {"dies": "ended by signal 9"}


def test_interrupt_kills_all_processes(worker, monkeypatch):
  worker("import time; time.sleep(600)")
  started = {"a": product_worker(), "b": product_worker()}

  def interrupt(done, total, note):
    if note == "starting b":
      raise KeyboardInterrupt

  monkeypatch.setattr(rounds, "TIMEOUT", 0.5)
  with pytest.raises(KeyboardInterrupt):
    rounds.run(started, rounds=1, update=interrupt)
  with pytest.raises(ProcessLookupError):
    os.kill(started["a"]._process.pid, 0)


def test_same_path_through_charrnn_is_measured_once(worker):
  worker("""import sys
print('{"path": "scan", "base_bytes": 0, "platform": "cpu"}', flush=True)
for line in sys.stdin:
  print('{"seconds": 0.1, "peak_bytes": 0, "device_peak_bytes": null}', flush=True)""")
  start = {name: product_worker() for name in ("charrnn", "scan")}
  rows, failed = rounds.run(start, rounds=2)
  assert list(rows) == ["charrnn"] and not failed
  others = {name: product_worker() for name in ("0", "1")}  # points of the study scale
  assert list(rounds.run(others, rounds=1)[0]) == ["0", "1"]


READING = workloads.Reading(workloads.Sampling(hidden=8).bytes // 256)


@pytest.mark.parametrize(
  "rates, limits, limit",
  [
    ({"product": 2.0, "read": 100}, {"products": 512, "memory": 100}, "memory"),
    ({"product": 2.0, "read": 900}, {"products": 512, "memory": 900}, "products"),
    ({"registers": 3.0, "product": 2.0}, {"registers": 768, "products": 512}, "registers"),
    ({"registers": 1.0, "product": 2.0}, {"registers": 256, "products": 512}, "products"),
    ({}, {}, None),
  ],
)
def test_limit_is_memory_or_the_faster_of_registers_and_products(rates, limits, limit):
  task = workloads.Sampling(hidden=8)
  own = {"median": 50.0, "platform": "cpu", "devices": 2}
  labels = {"registers": "registers, 2 threads", "product": "product x", "read": str(READING)}
  units = {"registers": task.flops, "product": task.flops, "read": task.bytes / 256}
  best = {
    labels[name]: {"median": rate * units[name], "platform": "cpu"} for name, rate in rates.items()
  }
  best["product on another device"] = {"median": 1e20, "platform": "gpu"}
  result = rounds.utilization(task, own, best)
  assert result["limits"] == limits and result["limit"] == limit
  assert result["utilization"] == (50.0 / limits[limit] if limit else None)
