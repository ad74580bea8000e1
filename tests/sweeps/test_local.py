"""Trials as processes that finish, raise, are killed or hang, and shares of the machine."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from charrnn import errors
from charrnn.runs import status as status_lib
from charrnn.sweeps import local, outcomes

SLEEP = "import time; print('started', flush=True); time.sleep(600)"
SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *a: sys.exit(75))
print("started", flush=True)
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
    assert time.monotonic() < until, "the condition has not become true in time"
    time.sleep(0.02)


def _has_started(trial):
  return outcomes.tail(trial.log, 1) == ["started"]


@pytest.fixture
def ended(tmp_path):
  trials = [_trial(tmp_path, name) for name in PROGRAMS]
  pool = local.Pool(trials, 2, limit=6)
  counts = []
  pool.run(lambda pool: counts.append(len(pool.running)))
  assert max(counts) == 2
  return tmp_path, trials


def test_failures_do_not_stop_other_trials(ended):
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
  text = outcomes.counts(states)
  assert "6 trials: 1 finished" in text and "1 timeout" in text


def test_trial_beyond_the_time_limit_can_save(tmp_path):
  slow = """
import signal, sys, time
def save(number, frame):
  signal.signal(number, signal.SIG_DFL)  # like a run: a second signal would end it immediately
  time.sleep(1.5)
  print("saved", flush=True)
  sys.exit(75)
signal.signal(signal.SIGTERM, save)
time.sleep(600)
"""
  trial = _trial(tmp_path, "slow", slow)
  local.Pool([trial], 1, limit=4).run(lambda pool: None)
  outcome = status_lib.read_outcome(trial.folder)
  assert (outcome.status, outcome.code) == ("timeout", 75)
  assert outcomes.tail(trial.log, 1) == ["saved"]


def test_all_launches_of_a_trial_share_the_time_limit(tmp_path):
  trial = _trial(tmp_path, "slow", SAVES)
  outcomes.conclude(trial, 75, 100.0)
  for limit, seconds, launches in ((101.0, 101.0, 1), (101.0, 101.0, 1), (103.0, 103.0, 2)):
    local.Pool([trial], 1, limit).run(lambda pool: None)
    outcome = status_lib.read_outcome(trial.folder)
    assert outcome.status == "timeout" and seconds <= outcome.seconds
    assert trial.log.read_text().count(outcomes.LAUNCH) == launches
  good = _trial(tmp_path, "slow", PROGRAMS["good"])
  local.Pool([good], 1, 1000.0).run(lambda pool: None)
  outcome = status_lib.read_outcome(trial.folder)
  assert outcome.status == "finished" and outcome.seconds > 103


def test_stopped_trials_can_save(tmp_path):
  trials = [_trial(tmp_path, name, SAVES) for name in ("a", "b", "later")]
  pool = local.Pool(trials, 2, limit=None)

  def watch(pool):
    if not pool.stopping and all(map(_has_started, trials[:2])):
      pool.stop()

  pool.run(watch)
  states = [status_lib.read_outcome(trial.folder) for trial in trials]
  assert [each and each.status for each in states] == ["stopped", "stopped", None]


def test_second_stop_kills(tmp_path):
  ignores = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP
  trial = _trial(tmp_path, "ignores", ignores)
  pool, since = local.Pool([trial], 1, limit=None), []

  def watch(pool):
    if _has_started(trial) and len(since) < 2:
      since.append(time.monotonic())
      pool.stop()

  pool.run(watch)
  assert status_lib.read_outcome(trial.folder).status == "killed"
  assert time.monotonic() - since[0] < 60


@pytest.mark.skipif(sys.platform != "linux", reason="prctl exists only on Linux")
def test_trials_of_a_killed_launcher_save(tmp_path):
  """Each thread of the launcher causes a signal. The launcher ignores SIGHUP, as under nohup."""
  saves = """
import time
from charrnn import process
stop = process.StopRequest().__enter__()
print("started", flush=True)
while not stop.is_requested:
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
  _wait(lambda: outcomes.tail(tmp_path / "log.txt", 1) == ["started"])
  launcher.kill()
  launcher.communicate()
  _wait(lambda: outcomes.tail(tmp_path / "log.txt", 1) == ["saved"])
  assert (
    status_lib.read_outcome(tmp_path) is None
  )  # No launcher wrote an outcome, so the trial will run again.


@pytest.mark.parametrize("parallel", [1, 2, 3, 7])
def test_cores_are_divided(parallel):
  cores = os.sched_getaffinity(0)
  shares = local.shares(parallel)
  assert len(shares) == parallel and all(set(share.cores) <= cores for share in shares)
  if parallel <= len(cores):
    assigned = [core for share in shares for core in share.cores]
    assert len(assigned) == len(set(assigned)) >= parallel * (len(cores) // parallel)


def test_gpus_are_divided(monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,4,5")
  environments = lambda n: [share.environment for share in local.shares(n)]  # noqa: E731
  assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(2)] == ["0,1", "4,5"]
  assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(4)] == ["0", "1", "4", "5"]
  assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in environments(4)[0]
  crowded = environments(8)
  assert [each["CUDA_VISIBLE_DEVICES"] for each in crowded] == ["0", "1", "4", "5"] * 2
  assert all(float(each["XLA_PYTHON_CLIENT_MEM_FRACTION"]) <= 0.45 for each in crowded)
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
  assert environments(2) == [{}, {}]


def test_tpu_chips_are_divided(monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
  monkeypatch.setenv("TPU_VISIBLE_CHIPS", "0,1,2,3")
  shares = local.shares(4)
  assert [share.environment["TPU_VISIBLE_CHIPS"] for share in shares] == ["0", "1", "2", "3"]
  assert local.shares(1)[0].environment == {}
  halves = [share.environment for share in local.shares(2)]
  assert [each["TPU_VISIBLE_CHIPS"] for each in halves] == ["0,1", "2,3"]
  assert {each["TPU_CHIPS_PER_PROCESS_BOUNDS"] for each in halves} == {"1,2,1"}
  with pytest.raises(errors.UserError, match="must be at most 4"):
    local.shares(5)


def test_log_and_outcome_belong_to_the_last_launch(tmp_path):
  diverges = _trial(tmp_path, "t", PROGRAMS["diverges"])
  for trial, state in (
    (diverges, "diverged"),
    (_trial(tmp_path, "t", "raise SystemExit(2)"), "failed"),
  ):
    local.Pool([trial], 1, None).run(lambda pool: None)
    assert status_lib.read_outcome(trial.folder).status == state
  assert outcomes.tail(trial.log, 3) == []
  assert trial.log.read_text().count(outcomes.LAUNCH) == 2


@pytest.mark.parametrize(
  "create",
  [
    lambda log: log.symlink_to(log.parent.parent / "outside"),
    lambda log: log.symlink_to("/dev/full"),
    os.mkfifo,
    pathlib.Path.mkdir,
  ],
)
def test_a_log_is_a_regular_file(tmp_path, create):
  trial = _trial(tmp_path, "good")
  trial.folder.mkdir()
  (tmp_path / "outside").write_text("precious")
  create(trial.log)
  with pytest.raises(errors.UserError, match=r"log\.txt is a"):
    local.Pool([trial], 1, None).run(lambda pool: None)
  assert outcomes.tail(trial.log, 3) == []
  assert (tmp_path / "outside").read_text() == "precious"
