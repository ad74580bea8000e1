"""What run.json keeps of each launch."""

import shutil
import sys

import pytest

from charrnn import startup
from charrnn.training import loop, runs

PHASES = ["python and flags", "text", "jax", "parameters", "first step", "total"]


def launches(workdir):
  return runs.read_json(workdir / "run.json")["launches"]


def test_where_the_time_went_until_the_first_step(whole):
  (launch,) = launches(whole)
  *phases, total = launch["startup_seconds"].values()
  assert list(launch["startup_seconds"]) == PHASES
  assert all(seconds >= 0 for seconds in phases)
  assert total == pytest.approx(sum(phases), abs=0.01)


def test_a_launch_without_a_first_step_has_no_such_record(main, whole, tmp_path, monkeypatch):
  finished = shutil.copytree(whole, tmp_path / "finished")
  assert main("--config=tiny.py", f"--workdir={finished}") == 0
  first, second = launches(finished)
  assert "startup_seconds" in first and "startup_seconds" not in second

  def train(*arguments):
    raise KeyboardInterrupt

  monkeypatch.setattr(loop.Trainer, "train", train)
  with pytest.raises(KeyboardInterrupt):
    main("--config=tiny.py", f"--workdir={tmp_path / 'killed'}")
  (launch,) = launches(tmp_path / "killed")
  assert "startup_seconds" not in launch


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_watch_starts_with_the_process(monkeypatch):
  before = startup._IMPORTED
  assert 0 < before - startup._process_start() < 600
  monkeypatch.setattr(startup.pathlib.Path, "read_text", lambda path: "elsewhere")
  assert startup._process_start() == before


def test_the_phases_come_in_their_order_and_last_their_total(monkeypatch):
  seconds = iter([12.0, 12.5, 15.0])
  monkeypatch.setattr(startup, "_process_start", lambda: 10.0)
  monkeypatch.setattr(startup.time, "monotonic", lambda: next(seconds))
  watch = startup.Stopwatch()
  for phase in ("b", "c", "a"):
    watch.mark(phase)
  assert list(watch.seconds().items()) == [("b", 2.0), ("c", 0.5), ("a", 2.5), ("total", 5.0)]
