"""Trial 1: a run that SIGKILL ends at any instant resumes to the result of an uninterrupted one."""

import os
import random
import shutil
import signal
import time

import programs
import pytest

from charrnn.runs import checkpoints

pytestmark = pytest.mark.trial(1)

MAX_RUNS = 5  # runs to try until the kill meets the save or the deletion


def kill_at_start(process, workdir, rng):
  """Kill during imports, compilation or the first steps."""
  time.sleep(rng.uniform(0, 4))
  process.kill()


def kill_at_step(process, workdir, rng):
  """Kill around a random step."""
  programs.wait_for_step(process, workdir, rng.randrange(programs.STEPS))
  time.sleep(rng.uniform(0, 0.05))
  process.kill()


def kill_in_save(process, workdir, rng):
  """Kill while a checkpoint is being written."""
  programs.wait_for_step(process, workdir, rng.randrange(programs.STEPS // 2))
  kill_while(is_saving, process, workdir, delay=rng.uniform(0, 0.02))


def kill_in_deletion(process, workdir, rng):
  """Kill while an old checkpoint is being deleted."""
  programs.wait_for_step(process, workdir, rng.randrange(programs.STEPS // 2))
  kill_while(is_deleting, process, workdir, delay=rng.uniform(0, 0.0005))


KINDS = (kill_in_save, kill_in_deletion, kill_at_step, kill_at_start)


def kill_while(condition, process, workdir, delay):
  """Kill a process `delay` seconds after a condition has become true, but only if it still is."""
  while process.poll() is None:
    if condition(workdir):
      time.sleep(delay)
      process.send_signal(signal.SIGSTOP)
      os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
      if condition(workdir):
        process.kill()
      process.send_signal(signal.SIGCONT)


def is_saving(workdir):
  """Return whether a checkpoint does not have its final name yet."""
  return any("tmp" in name for name in os.listdir(workdir / "checkpoints"))


def is_deleting(workdir):
  """Return whether a checkpoint has the name under which it is deleted."""
  return any(checkpoints.DELETED in name for name in os.listdir(workdir / "checkpoints"))


@pytest.mark.parametrize(
  ("kill", "number"),
  [
    pytest.param(
      KINDS[n % 4], n, marks=pytest.mark.long if n else (), id=f"{n}-{KINDS[n % 4].__name__}"
    )
    for n in range(50)
  ],
)
def test_a_killed_run_resumes_to_the_same_result(folder, whole, kill, number):
  rng, workdir = random.Random(number), folder / f"killed-{number}"
  command = (folder, "--config=tiny.py", f"--workdir={workdir.name}")
  for _ in range(MAX_RUNS):
    process = programs.start(*command)
    kill(process, workdir, rng)
    code, err = programs.finish(process)
    if code == -signal.SIGKILL:
      break
    assert code == 0, err
    shutil.rmtree(workdir)  # The run ended before the save or the deletion could be met.
  else:
    pytest.fail(f"no kill in {MAX_RUNS} runs")
  code, err = programs.finish(programs.start(*command))
  assert code == 0, err
  assert programs.result(workdir) == programs.result(whole)
  for step in checkpoints.steps(workdir / "checkpoints"):
    checkpoints.read(workdir / "checkpoints", step)
  assert not is_saving(workdir) and not is_deleting(workdir)
  shutil.rmtree(workdir)
