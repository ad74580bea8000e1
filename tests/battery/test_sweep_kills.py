"""Trial 16: a sweep whose trials raise, diverge, are killed or hang, and whose launcher is killed.

The experiment file misbehaves in the processes of some trials, which it recognizes by their seed.
"""

import csv
import random
import time

import programs
import pytest

from charrnn import files
from charrnn.sweeps import outcomes

pytestmark = pytest.mark.trial(16)

GOOD = [f"seed={n}" for n in range(1, 5)]
BAD = {
  "seed=5": "failed",  # raises
  "seed=6,learning_rate=1e+30": "diverged",
  "seed=7": "killed",
  "seed=8": "timeout",  # hangs
}
KILLS = 10
EXPERIMENT = (
  programs.EXPERIMENT
  + """
import os, signal, sys, threading, time
from charrnn.sweeps import trials

if "--config.seed=5" in sys.argv:
  raise RuntimeError("the experiment is broken")
if "--config.seed=7" in sys.argv:
  threading.Timer(3, os.kill, (os.getpid(), signal.SIGKILL)).start()
if "--config.seed=8" in sys.argv:
  time.sleep(3600)

def sweep_good():
  return trials.sweep("seed", range(1, 5))

def sweep_all():
  bad = ({"seed": 6, "optimizer.learning_rate": 1e30}, {"seed": 5}, {"seed": 7}, {"seed": 8})
  return trials.chainit(list(bad), sweep_good())

def sweep_two():
  return trials.sweep("seed", [1, 5])
"""
)


def start(folder, name, *arguments):
  (folder / "eight.py").write_text(EXPERIMENT)
  line = ("--config=eight.py", f"--sweep={name}", f"--workdir={name}", *arguments)
  return programs.start(folder, *line, environment={"PYTHONPATH": str(folder)})


def statuses(folder):
  with (folder / "summary.csv").open() as file:
    return {row["trial"]: row["status"] for row in csv.DictReader(file)}


def finished(folder):
  """Return the logs of the trials that have finished so far."""
  return {
    path.parent.name: (path.parent / "log.txt").read_bytes()
    for path in folder.glob("*/outcome.json")
    if files.read_json(path)["status"] == "finished"
  }


class Sweep:
  """A sweep whose launcher is killed a number of times, and is then launched until it is done."""

  def __init__(self, folder, name, good, kills, *arguments):
    self.folder, self.launches, self.repeated = folder / name, 0, []
    rng, done = random.Random(kills), {}
    while self.launches <= kills or not set(good) <= done.keys():
      assert self.launches < kills + 5, "the good trials do not finish"
      process = start(folder, name, *arguments)
      if self.launches < kills:
        time.sleep(rng.uniform(1, 12))
        process.kill()
      self.code, self.err = programs.finish(process, timeout=900)
      self.launches += 1
      now = finished(self.folder)
      self.repeated += [trial for trial, log in done.items() if now.get(trial) != log]
      done = now


@pytest.fixture(scope="module")
def disturbed(folder):
  return Sweep(folder, "all", GOOD, KILLS, "--parallel=2", "--time_limit=1")


@pytest.fixture(scope="module")
def quiet(folder):
  code, err = programs.finish(start(folder, "good", "--parallel=2"), timeout=600)
  assert code == 0, err
  return folder / "good"


@pytest.mark.long
def test_a_sweep_whose_launcher_is_killed_finishes_the_good_trial(folder):
  sweep = Sweep(folder, "two", ["seed=1"], 1, "--parallel=2")
  assert sweep.code == 1 and not sweep.repeated, sweep.err
  assert statuses(sweep.folder) == {"seed=1": "finished", "seed=5": "failed"}
  assert "the experiment is broken" in sweep.err


@pytest.mark.long
@pytest.mark.parametrize("trial", GOOD)
def test_a_good_trial_finishes_with_the_result_of_an_undisturbed_sweep(disturbed, quiet, trial):
  assert statuses(disturbed.folder)[trial] == "finished", disturbed.err
  assert programs.result(disturbed.folder / trial) == programs.result(quiet / trial)


@pytest.mark.long
@pytest.mark.parametrize("trial", BAD)
def test_a_failure_is_reported(disturbed, trial):
  assert statuses(disturbed.folder)[trial] == BAD[trial]
  assert f"\n{trial}: {BAD[trial]} (" in disturbed.err
  assert disturbed.code == 1


@pytest.mark.long
def test_nothing_runs_twice(disturbed, record_property):
  assert not disturbed.repeated
  for trial in (*GOOD, *BAD):
    log = (disturbed.folder / trial / "log.txt").read_text()
    assert log.count(outcomes.LAUNCH) <= disturbed.launches
    assert "another process is training" not in log
  record_property("note", f"{disturbed.launches} launches, {KILLS} of them killed")
