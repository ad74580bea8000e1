"""Trials as processes: those that end well, raise, are killed or hang, and their launchers."""

import os
import signal
import subprocess
import sys
import time

import pytest

from charrnn import errors
from charrnn.runs import status as status_lib
from charrnn.sweeps import local, outcomes

SLEEP = "import time; print('begun', flush=True); time.sleep(600)"
SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *a: sys.exit(75))
print("begun", flush=True)
time.sleep(600)
"""
PROGRAMS = {
  "good": "print('fine')",
  "raises": "raise ValueError('it broke')",
  "diverges": "import sys; open(f'{sys.argv[1]}/diverged.txt', 'w').close(); sys.exit(2)",
  "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
  "hangs": SLEEP,
  "stopped": "import sys; sys.exit(75)",
}


def _trial(folder, name, program=None):
  command = [sys.executable, "-c", program or PROGRAMS[name], str(folder / name)]
  return outcomes.Trial(name, {"seed": 1}, folder / name, command)


def _wait(condition, seconds=30):
  until = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < until, "it did not happen"
    time.sleep(0.02)


def _begun(trial):
  return outcomes.tail(trial.log, 1) == ["begun"]


@pytest.fixture
def ended(tmp_path):
  trials = [_trial(tmp_path, name) for name in PROGRAMS]
  pool = local.Pool(trials, 2, limit=6)
  most = []
  pool.run(lambda pool: most.append(len(pool.running)))
  assert max(most) == 2
  return tmp_path, trials


def test_none_stops_the_others(ended):
  folder, trials = ended
  states = {trial.name: status_lib.read_outcome(trial.folder).status for trial in trials}
  assert states == {
    "good": "finished",
    "raises": "failed",
    "diverges": "diverged",
    "killed": "killed",
    "hangs": "timeout",
    "stopped": "stopped",
  }
  assert status_lib.read_outcome(folder / "killed").code == -signal.SIGKILL
  assert "it broke" in outcomes.tail(folder / "raises" / "log.txt", 1)[0]
  lines = outcomes.summary(trials).splitlines()
  assert len(lines) == 7 and lines[1].startswith("good,finished,0,")
  states_of = outcomes.counts(states)
  assert "6 trials: 1 finished" in states_of and "1 timeout" in states_of


def test_what_takes_too_long_has_time_to_save(tmp_path):
  slow = """
import signal, sys, time
def save(number, frame):
  signal.signal(number, signal.SIG_DFL)  # as a run does: a second one would end it at once
  time.sleep(1.5)
  print("saved", flush=True)
  sys.exit(75)
signal.signal(signal.SIGTERM, save)
time.sleep(600)
"""
  trial = _trial(tmp_path, "slow", slow)
  local.Pool([trial], 1, limit=4).run(lambda pool: None)
  ended = status_lib.read_outcome(trial.folder)
  assert (ended.status, ended.code) == ("timeout", 75)
  assert outcomes.tail(trial.log, 1) == ["saved"]


def test_stopping_lets_them_save(tmp_path):
  trials = [_trial(tmp_path, name, SAVES) for name in ("a", "b", "later")]
  pool = local.Pool(trials, 2, limit=None)

  def watch(pool):
    if not pool.stopping and all(map(_begun, trials[:2])):
      pool.stop()

  pool.run(watch)
  states = [status_lib.read_outcome(trial.folder) for trial in trials]
  assert [each and each.status for each in states] == ["stopped", "stopped", None]


def test_stopping_twice_does_not_wait(tmp_path):
  deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP
  trial = _trial(tmp_path, "deaf", deaf)
  pool, since = local.Pool([trial], 1, limit=None), []

  def watch(pool):
    if _begun(trial) and len(since) < 2:
      since.append(time.monotonic())
      pool.stop()

  pool.run(watch)
  assert status_lib.read_outcome(trial.folder).status == "killed"
  assert time.monotonic() - since[0] < 60


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_launcher_killed_has_its_trials_save(tmp_path):
  """Each of its threads sends them a signal as it dies; and under nohup they hear of it too."""
  saves = """
import time
from charrnn.training import loop
stop = loop.StopRequest().__enter__()
print("begun", flush=True)
while not stop.is_requested():
  time.sleep(0.01)
time.sleep(0.3)
print("saved", flush=True)
"""
  program = f"""
import pathlib, signal, sys, threading, time
from charrnn.sweeps import local, outcomes
signal.signal(signal.SIGHUP, signal.SIG_IGN)
for _ in range(20):
  threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
command = [sys.executable, "-c", {saves!r}]
trial = outcomes.Trial("t", {{}}, pathlib.Path({str(tmp_path)!r}), command)
local.Pool([trial], 1, None).run(lambda pool: None)
"""
  launcher = subprocess.Popen([sys.executable, "-c", program])
  _wait(lambda: outcomes.tail(tmp_path / "log.txt", 1) == ["begun"])
  launcher.kill()
  launcher.communicate()
  _wait(lambda: outcomes.tail(tmp_path / "log.txt", 1) == ["saved"])
  assert status_lib.read_outcome(tmp_path) is None  # nobody saw it: it will run again


@pytest.mark.parametrize("parallel", [1, 2, 3, 7])
def test_cores_are_shared_out(parallel):
  cores = os.sched_getaffinity(0)
  shares = local.shares(parallel)
  assert len(shares) == parallel and all(set(share.cores) <= cores for share in shares)
  if parallel <= len(cores):
    every = [core for share in shares for core in share.cores]
    assert len(every) == len(set(every)) >= parallel * (len(cores) // parallel)


def test_gpus_are_shared_out(monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,4,5")
  seen = lambda n: [share.environment for share in local.shares(n)]  # noqa: E731
  assert [each["CUDA_VISIBLE_DEVICES"] for each in seen(2)] == ["0,1", "4,5"]
  assert [each["CUDA_VISIBLE_DEVICES"] for each in seen(4)] == ["0", "1", "4", "5"]
  assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in seen(4)[0]
  crowded = seen(8)
  assert [each["CUDA_VISIBLE_DEVICES"] for each in crowded] == ["0", "1", "4", "5"] * 2
  assert all(float(each["XLA_PYTHON_CLIENT_MEM_FRACTION"]) <= 0.45 for each in crowded)
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
  assert seen(2) == [{}, {}]


def test_tpu_chips_are_shared_out(monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
  monkeypatch.setenv("TPU_VISIBLE_CHIPS", "0,1,2,3")
  shares = local.shares(4)
  assert [share.environment["TPU_VISIBLE_CHIPS"] for share in shares] == ["0", "1", "2", "3"]
  assert local.shares(1)[0].environment == {}
  halves = [share.environment for share in local.shares(2)]
  assert [each["TPU_VISIBLE_CHIPS"] for each in halves] == ["0,1", "2,3"]
  assert {each["TPU_CHIPS_PER_PROCESS_BOUNDS"] for each in halves} == {"1,2,1"}
  with pytest.raises(errors.UserError, match="takes one process and there are 4"):
    local.shares(5)


def test_a_log_tells_its_launches_apart(tmp_path):
  diverges = _trial(tmp_path, "t", PROGRAMS["diverges"])
  for trial, state in (
    (diverges, "diverged"),
    (_trial(tmp_path, "t", "raise SystemExit(2)"), "failed"),
  ):
    local.Pool([trial], 1, None).run(lambda pool: None)
    assert status_lib.read_outcome(trial.folder).status == state
  assert outcomes.tail(trial.log, 3) == []
  assert trial.log.read_text().count(outcomes.LAUNCH) == 2
