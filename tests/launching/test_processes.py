"""Several processes on this machine that train one run together."""

import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import programs
import pytest

from charrnn import files
from charrnn.runs import checkpoints, lock, metrics

STEPS = 44
PORT = 20_000 + os.getpid() % 10_000  # below the ports that systems assign automatically
# Without these values, rounding would separate the runs: that of bfloat16, and that of tiny
# gradients, which Adam amplifies.
FIELDS = (f"max_steps={STEPS}", "model.compute_dtype=float32", "optimizer.eps=1e-3")
ARGUMENTS = ("--config=tiny.py", *(f"--config.{field}" for field in FIELDS))


def manual_environment(process):
  """Return the environment variables for processes that are started manually."""
  return {
    "CHARRNN_COORDINATOR": f"127.0.0.1:{PORT}",
    "CHARRNN_PROCESSES": "2",
    "CHARRNN_PROCESS": str(process),
  }


def slurm_environment(process):
  """Return the environment variables that srun sets for the processes of a job step."""
  return {
    "SLURM_JOB_ID": str(PORT),  # JAX derives the port from the job id.
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": str(process),
    "SLURM_LOCALID": str(process),
  }


def start_two(folder, names, devices, environment=manual_environment):
  return [
    programs.start(
      folder,
      *ARGUMENTS,
      f"--workdir={name}",
      f"--config.cpu_devices={devices}",
      "--distributed",
      environment=environment(process),
    )
    for process, name in enumerate(names)
  ]


@pytest.fixture(scope="module")
def alone(folder):
  """Train the same run with one process."""
  code, err = programs.finish(programs.start(folder, *ARGUMENTS, "--workdir=alone"))
  assert code == 0, err
  return folder / "alone"


def assert_same(workdir, alone):
  ours, meta = checkpoints.read(workdir / "checkpoints", STEPS)
  theirs, _ = checkpoints.read(alone / "checkpoints", STEPS)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), ours, theirs)
  assert meta["memory"]["best_step"] == STEPS
  steps = [line["step"] for line in metrics.read(workdir)]
  assert steps == [line["step"] for line in metrics.read(alone)]
  assert sorted(p.name for p in (workdir / "samples").iterdir()) == ["40.txt", "44.txt"]


def test_two_processes_with_two_devices_each_match_one_process(folder, alone):
  # Each process gets another directory, to show that the second one writes nothing.
  processes = start_two(
    folder, ["processes", "second-process"], devices=2, environment=slurm_environment
  )
  (code, err), (other_code, other_err) = map(programs.finish, processes)
  assert code == other_code == 0, err + other_err
  assert_same(folder / "processes", alone)
  assert len(files.read_json(folder / "processes" / "run.json")["launches"]) == 1
  assert len(list((folder / "processes").glob("events.out.*"))) == 1
  assert "4 x cpu in 2 processes" in err and "step" not in other_err
  assert not (folder / "second-process").exists()


@pytest.mark.long
def test_a_signal_to_one_process_stops_both_and_both_resume(folder, alone):
  processes = start_two(folder, ["stopped-two"] * 2, devices=1)
  programs.wait_for_step(processes[0], folder / "stopped-two", 5)
  processes[1].send_signal(signal.SIGTERM)
  results = [programs.finish(process) for process in processes]
  assert [code for code, _ in results] == [75, 75], results
  step = checkpoints.steps(folder / "stopped-two" / "checkpoints")[-1]
  assert step < STEPS
  results = [programs.finish(p) for p in start_two(folder, ["stopped-two"] * 2, devices=1)]
  assert [code for code, _ in results] == [0, 0], results
  assert f"resuming from step {step}" in results[0][1]
  assert_same(folder / "stopped-two", alone)


def test_an_error_in_one_process_ends_both(folder):
  with lock.hold(folder / "locked"):
    results = [programs.finish(p) for p in start_two(folder, ["locked"] * 2, devices=1)]
  assert [code for code, _ in results] == [2, 2]
  assert "another process is training in locked" in results[0][1]
  assert "process 0 of this run failed" in results[1][1]
  assert all(err.count("\n") == 1 for _, err in results), results


def test_processes_that_see_different_checkpoints_end(folder, alone):
  shutil.copytree(alone, folder / "seen")
  results = [programs.finish(p) for p in start_two(folder, ["seen", "unseen"], devices=1)]
  for code, err in results:
    assert code == 2 and "see different checkpoints" in err and err.count("\n") == 1, err


def test_a_process_without_the_others_ends_after_a_time_limit(folder):
  program = "from charrnn import runtime; runtime.MAX_WAIT = 2.0; "
  program += "runtime.start(); runtime.join_processes()"
  for process in (0, 1):
    done = subprocess.run(
      [sys.executable, "-c", program],
      env=os.environ | manual_environment(process),
      capture_output=True,
      text=True,
      timeout=60,
      check=False,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "other processes of this run did not start within 2 s" in done.stderr
