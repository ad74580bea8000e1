"""Sweeps on a real SLURM cluster of one machine; skipped if SLURM cannot be started."""

import contextlib
import os
import pathlib
import signal
import sys

import cluster
import programs
import pytest

from charrnn import files
from charrnn.runs import checkpoints, metrics
from charrnn.runs import status as status_lib

pytestmark = pytest.mark.skipif(bool(cluster.missing()), reason=cluster.missing())
EXPERIMENT = (
  programs.EXPERIMENT
  + """
from charrnn.sweeps import trials as s

get_tiny_config = get_config

def get_config(variant=""):
  c = get_tiny_config()
  c.max_steps, c.eval_every, c.checkpoint_every = 40, 500, 0
  return c

def sweep():
  return s.chainit(
    s.sweep("optimizer.learning_rate", [0.02, 1e30]), s.sweep("max_steps", [800])
  )

def sweep_one():
  return s.sweep("optimizer.learning_rate", [0.02])

def slurm():
  return {"partition": "all", "time": 5}
"""
)
TOGETHER = EXPERIMENT.replace('"time": 5', '"time": 5, "tasks": 2')
GOOD, BAD, LONG = "learning_rate=0.02", "learning_rate=1e+30", "max_steps=800"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  with cluster.started(tmp_path_factory.mktemp("slurm")) as environment:
    yield environment


@pytest.fixture(scope="module")
def work(folder):
  (folder / "swept.py").write_text(EXPERIMENT)
  (folder / "together.py").write_text(TOGETHER)
  return folder


def start(work, environment, *arguments, file="swept.py"):
  arguments = (f"--config={file}", "--backend=slurm", "--parallel=3", *arguments)
  return programs.start(work, *arguments, environment=environment)


def states(folder, names):
  read = (status_lib.read_outcome(folder / name) for name in names)
  return [outcome and outcome.status for outcome in read]


def jobs(folder):
  return files.read_json(folder / "slurm.json")["jobs"]


@pytest.mark.long
def test_sweep_is_requeued_on_a_signal_and_only_failures_run_again(work, environment):
  folder = work / "sweep"
  process = start(work, environment, "--sweep", "--workdir=sweep")
  programs.wait_for_step(process, folder / LONG, 10)
  first = jobs(folder)
  assert list(first) == [GOOD, BAD, LONG]
  assert len({number.partition("_")[0] for number in first.values()}) == 1  # all in one job array
  cluster.command(environment, "scancel", "--signal=USR2", first[LONG])
  code, err = programs.finish(process)
  assert code == 1, err
  assert states(folder, first) == ["finished", "diverged", "finished"], err
  assert BAD in err and "training diverged" in err
  log = (folder / LONG / "log.txt").read_text()
  assert "stopped by a signal, saved after step" in log and "resuming from step" in log
  assert [line["step"] for line in metrics.read(folder / LONG)][-1] == 800
  assert len(files.read_json(folder / LONG / "run.json")["launches"]) == 2
  assert "3 trials" in err and (folder / "summary.csv").read_text().count("\n") == 4

  before = {name: (folder / name / "log.txt").read_bytes() for name in first}
  code, err = programs.finish(start(work, environment, "--sweep", "--workdir=sweep"))
  assert code == 1 and "2 already done" in err and "1 trial submitted" in err, err
  after = {name: (folder / name / "log.txt").read_bytes() for name in first}
  assert [name for name in first if before[name] != after[name]] == [BAD]
  assert [name for name in first if first[name] != jobs(folder)[name]] == [BAD]


def test_repeated_command_watches_the_same_job(work, environment):
  folder, trial = work / "left", "learning_rate=0.02"
  arguments = ("--sweep=one", "--workdir=left", "--config.max_steps=100000")
  process = start(work, environment, *arguments)
  programs.wait_for_step(process, folder / trial, 10)
  process.send_signal(signal.SIGINT)
  code, err = programs.finish(process)
  number = jobs(folder)[trial]
  assert code == 75 and f"scancel {number}" in err
  assert slurm_state(environment, number) == "RUNNING" and states(folder, [trial]) == [None]

  process = start(work, environment, *arguments)
  while "submitted by earlier commands" not in (line := process.stderr.readline()):
    assert line, "the launcher has ended"
  assert jobs(folder)[trial] == number
  cluster.command(environment, "scancel", number)  # The run saves and the job ends.
  code, err = programs.finish(process)
  assert code == 75, err
  assert states(folder, [trial]) == ["stopped"] and slurm_state(environment, number) == "CANCELLED"
  assert checkpoints.steps(folder / trial / "checkpoints")[-1] >= 10


def slurm_state(environment, number):
  output = cluster.command(
    environment, "squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={number}"
  )
  return output.strip()


@pytest.mark.long
def test_two_processes_of_a_job_train_one_run(work, environment):
  folder = work / "together"
  arguments = ("--sweep=one", "--workdir=together", "--config.cpu_devices=1")
  steps = 400
  process = start(work, environment, *arguments, f"--config.max_steps={steps}", file="together.py")
  programs.wait_for_step(process, folder / GOOD, 10)
  cluster.command(environment, "scancel", "--signal=USR2", jobs(folder)[GOOD])
  code, err = programs.finish(process)
  log = (folder / GOOD / "log.txt").read_text()
  assert code == 0, err + log
  assert log.count("2 x cpu in 2 processes") == 2 and log.count("best validation loss") == 1
  assert "saved after step" in log and "resuming from step" in log
  assert len(files.read_json(folder / GOOD / "run.json")["launches"]) == 2
  lines = [line["step"] for line in metrics.read(folder / GOOD)]
  assert lines == sorted(lines) and lines[-1] == steps


def test_error_of_sbatch_is_one_line(work, environment):
  (work / "refused.py").write_text(EXPERIMENT.replace('"all"', '"none-such"'))
  code, err = programs.finish(
    start(work, environment, "--sweep", "--workdir=refused", file="refused.py")
  )
  assert code == 2 and "nvalid partition" in err and "Traceback" not in err, err


@pytest.mark.long
def test_trial_beyond_the_time_limit_saves_and_ends(work, environment):
  folder = work / "limited"
  process = start(
    work,
    environment,
    "--sweep=one",
    "--workdir=limited",
    "--config.max_steps=1000000",
    "--time_limit=0.2",
  )
  code, err = programs.finish(process)
  assert code == 1 and states(folder, [GOOD]) == ["timeout"], err
  assert checkpoints.steps(folder / GOOD / "checkpoints")


@pytest.mark.long
def test_launcher_notices_a_killed_job(work, environment):
  folder = work / "killed"
  arguments = ("--sweep=one", "--workdir=killed", "--config.max_steps=100000")
  process = start(work, environment, *arguments)
  programs.wait_for_step(process, folder / GOOD, 10)
  listed = cluster.command(environment, "scontrol", "listpids", jobs(folder)[GOOD])
  for pid in [int(line.split()[0]) for line in listed.splitlines()[1:]]:
    with contextlib.suppress(OSError):
      line = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
      if line[0] == sys.executable and "submitit.core._submit" in line:
        os.kill(pid, signal.SIGKILL)  # like the kernel when memory runs out
  code, err = programs.finish(process)
  assert code == 1 and states(folder, [GOOD]) == ["killed"], err
  assert "has ended without an outcome (FAILED)" in err
  assert (
    "saved after step" in (folder / GOOD / "log.txt").read_text()
  )  # Its process does not outlive the job.
