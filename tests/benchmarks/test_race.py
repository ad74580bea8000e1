import os
import sys

import pytest

from charrnn.benchmarks import comparison, race, work

TINY = work.Product(4, 4, 4, 1, "float32")


def contestant(task=TINY, name="ceiling", kind="product"):
  return race.Contestant(name, kind, task, 0.01)


@pytest.fixture
def worker(monkeypatch, tmp_path):
  """worker(source): a program in the place of every contestant's."""

  def use(source):
    (tmp_path / "worker").write_text(f"#!{sys.executable}\n{source}\n")
    (tmp_path / "worker").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "worker"))

  return use


def test_one_that_fails_is_named_with_its_error_and_the_others_go_on():
  broken = contestant(work.Training(cell="no such cell", hidden=4, batch=2), "charrnn", "train")
  rows, out = race.race({"broken": broken, "well": contestant()}, rounds=2)
  assert "no such cell" in out["broken"] and out["broken"].startswith("UserError: ")
  assert len(rows["well"]["rates"]) == 2 and min(rows["well"]["rates"]) > 0
  assert list(rows) == ["well"]


def test_one_that_never_answers_is_given_up_and_ended(worker, monkeypatch):
  worker("import time; time.sleep(600)")
  monkeypatch.setattr(race, "PATIENCE", 0.5)
  silent = contestant()
  rows, out = race.race({"silent": silent}, rounds=1)
  assert not rows and "no answer" in out["silent"]
  assert silent._process.poll() is not None


def test_what_it_says_does_not_stop_it_and_its_last_line_is_shown(worker):
  worker("import sys; sys.stderr.write('words\\n' * 100_000); sys.exit('the end')")
  _, out = race.race({"talker": contestant()}, rounds=1)
  assert out == {"talker": "the end"}


def test_one_that_dies_in_its_turn(worker):
  worker("import os\nprint('{}', flush=True)\ninput()\nos.kill(os.getpid(), 9)")
  _, out = race.race({"dies": contestant()}, rounds=1)
  assert out == {"dies": "ended by signal 9"}


def test_nobody_is_left_when_it_is_interrupted(worker, monkeypatch):
  worker("import time; time.sleep(600)")
  started = {"a": contestant(), "b": contestant()}

  def interrupt(text):
    if text.startswith("b"):
      raise KeyboardInterrupt

  monkeypatch.setattr(race, "PATIENCE", 0.5)
  with pytest.raises(KeyboardInterrupt):
    race.race(started, rounds=1, say=interrupt)
  with pytest.raises(ProcessLookupError):
    os.kill(started["a"]._process.pid, 0)


def test_the_lower_ceiling_counts():
  task = work.Sampling(hidden=8)
  own = {"median": 50.0, "platform": "cpu", "devices": 2}
  reading = str(work.Reading(task.bytes // task.block))
  best = {"product x": {"median": 2.0 * task.flops}, reading: {"median": 100 * task.bytes / 256}}
  found = comparison.reached(task, own, best)
  assert found["limits"] == {"products": 512.0, "memory": 100.0}
  assert (found["limit"], found["share"]) == ("memory", 0.5)
