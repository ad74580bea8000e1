"""Several processes train one run together, as on several machines."""

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
PORT = 20_000 + os.getpid() % 10_000  # below those that systems give out
# Rounding alone would part the runs: bfloat16's, and tiny gradients that Adam blows up.
FIELDS = (f"max_steps={STEPS}", "model.compute_dtype=float32", "optimizer.eps=1e-3")
ARGUMENTS = ("--config=tiny.py", *(f"--config.{field}" for field in FIELDS))


def by_hand(process):
  """What tells a process of the others."""
  return {
    "CHARRNN_COORDINATOR": f"127.0.0.1:{PORT}",
    "CHARRNN_PROCESSES": "2",
    "CHARRNN_PROCESS": str(process),
  }


def by_slurm(process):
  """What srun sets for the processes of a step."""
  return {
    "SLURM_JOB_ID": str(PORT),  # JAX takes the port from it
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": str(process),
    "SLURM_LOCALID": str(process),
  }


def start_two(folder, names, devices, environment=by_hand):
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
  """The same run by one process."""
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


def test_two_processes_of_two_devices_come_to_the_same(folder, alone):
  # Each has a directory of its own, which shows that the second writes nothing at all.
  processes = start_two(folder, ["two", "second-of-two"], devices=2, environment=by_slurm)
  (code, err), (other_code, other_err) = map(programs.finish, processes)
  assert code == other_code == 0, err + other_err
  assert_same(folder / "two", alone)
  assert len(files.read_json(folder / "two" / "run.json")["launches"]) == 1
  assert len(list((folder / "two").glob("events.out.*"))) == 1
  assert "4 x cpu in 2 processes" in err and "step" not in other_err
  assert not (folder / "second-of-two").exists()


def test_a_signal_to_one_stops_both_and_both_go_on(folder, alone):
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


def test_an_error_of_one_ends_both(folder):
  with lock.hold(folder / "locked"):
    results = [programs.finish(p) for p in start_two(folder, ["locked"] * 2, devices=1)]
  assert [code for code, _ in results] == [2, 2]
  assert "another process is training in locked" in results[0][1]
  assert "process 0 of this run failed" in results[1][1]
  assert all(err.count("\n") == 1 for _, err in results), results


def test_a_checkpoint_that_not_all_see_ends_both(folder, alone):
  shutil.copytree(alone, folder / "seen")
  results = [programs.finish(p) for p in start_two(folder, ["seen", "unseen"], devices=1)]
  for code, err in results:
    assert code == 2 and "see different checkpoints" in err and err.count("\n") == 1, err


def test_one_whose_others_do_not_come_ends(folder):
  program = "from charrnn import runtime; runtime.MAX_WAIT = 2.0; "
  program += "runtime.start(); runtime.join_processes()"
  for process in (0, 1):
    done = subprocess.run(
      [sys.executable, "-c", program],
      env=os.environ | by_hand(process),
      capture_output=True,
      text=True,
      timeout=60,
      check=False,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "other processes of this run did not start within 2 s" in done.stderr
