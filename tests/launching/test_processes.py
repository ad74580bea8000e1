"""Several processes train one run together, as on several machines."""

import signal
import socket

import jax
import numpy as np
import programs
import pytest

from charrnn.training import checkpoint, metrics, runs

STEPS = 44
# Rounding alone would part the runs: bfloat16's, and tiny gradients that Adam blows up.
FIELDS = (f"max_steps={STEPS}", "model.compute_dtype=float32", "optimizer.eps=1e-3")
ARGUMENTS = ("--config=tiny.py", *(f"--config.{field}" for field in FIELDS))


def start_two(folder, name, devices):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  environment = {"CHARRNN_COORDINATOR": f"127.0.0.1:{port}", "CHARRNN_PROCESSES": "2"}
  return [
    programs.start(
      folder,
      *ARGUMENTS,
      f"--workdir={name}",
      f"--config.cpu_devices={devices}",
      "--distributed",
      environment=environment | {"CHARRNN_PROCESS": str(process)},
    )
    for process in range(2)
  ]


@pytest.fixture(scope="module")
def alone(folder):
  """The same run by one process."""
  code, err = programs.finish(programs.start(folder, *ARGUMENTS, "--workdir=alone"))
  assert code == 0, err
  return folder / "alone"


def assert_same(workdir, alone):
  ours, meta = checkpoint.read(workdir / "checkpoints", STEPS)
  theirs, _ = checkpoint.read(alone / "checkpoints", STEPS)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), ours, theirs)
  assert meta["memory"]["best_step"] == STEPS
  steps = [line["step"] for line in metrics.read(workdir)]
  assert steps == [line["step"] for line in metrics.read(alone)]
  assert sorted(p.name for p in (workdir / "samples").iterdir()) == ["40.txt", "44.txt"]


def test_two_processes_of_two_devices_come_to_the_same(folder, alone):
  (code, err), (other_code, other_err) = map(programs.finish, start_two(folder, "two", devices=2))
  assert code == other_code == 0, err + other_err
  assert_same(folder / "two", alone)
  assert len(runs.read_json(folder / "two" / "run.json")["launches"]) == 1
  assert len(list((folder / "two").glob("events.out.*"))) == 1
  assert "4 x cpu in 2 processes" in err and "step" not in other_err


def test_a_signal_to_one_stops_both_and_both_go_on(folder, alone):
  processes = start_two(folder, "stopped-two", devices=1)
  programs.wait_for_step(processes[0], folder / "stopped-two", 5)
  processes[1].send_signal(signal.SIGTERM)
  results = [programs.finish(process) for process in processes]
  assert [code for code, _ in results] == [75, 75], results
  step = checkpoint.steps(folder / "stopped-two" / "checkpoints")[-1]
  assert step < STEPS
  results = [programs.finish(p) for p in start_two(folder, "stopped-two", devices=1)]
  assert [code for code, _ in results] == [0, 0], results
  assert f"resumes after step {step}" in results[0][1]
  assert_same(folder / "stopped-two", alone)
