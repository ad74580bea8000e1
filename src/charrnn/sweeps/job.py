"""A trial as a job of SLURM: runs its command, writes how it ended, and has it go on after a stop.

Nobody need be watching. The job is sent USR2 before its time is up (or when SLURM wants the place
for another): then the run saves, and SLURM queues the job again. At SIGTERM, which scancel sends to
every process, the run saves too and that is the end.
"""

import os
import signal
import subprocess
import sys
import time

from charrnn.sweeps import attached, local
from charrnn.sweeps import trials as trials_lib

SAVE = signal.SIGUSR2  # what asks a job to save and to be queued again


def run(trial: trials_lib.Trial, limit: float | None = None):
  """Exits as the trial's process does; submitit calls it in each process of the job.

  `limit`: the seconds that the trial may take, with those before it was queued again.
  """
  began, first = time.monotonic(), os.environ.get("SLURM_PROCID", "0") == "0"
  before = trials_lib.outcome(trial.folder)
  spent = before.seconds if before else 0.0
  if first:
    trials_lib.begin(trial)
  trial.folder.mkdir(parents=True, exist_ok=True)
  with trial.log.open("ab") as log:
    process = subprocess.Popen(
      attached.command(trial.command),  # not every SLURM finds what a killed process has left
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
    )
  asked = []

  def stop(*_):
    if not asked:  # a second SIGTERM would end it before it has saved
      process.terminate()
    asked.append(True)

  signal.signal(SAVE, stop)
  code, late = _wait(process, None if limit is None or not first else limit - spent, stop)
  if first:
    reason = trials_lib.TIMEOUT if late else trials_lib.STOPPED if asked else ""
    ended = trials_lib.conclude(trial, code, spent + time.monotonic() - began, reason)
    if asked and ended.state == trials_lib.STOPPED:
      _queue_again()
  sys.exit(code if code >= 0 else 128 - code)  # as a shell tells a signal


def _wait(process, seconds, stop) -> tuple[int, bool]:
  """The exit code, and whether it was ended for taking longer than that."""
  try:
    return process.wait(None if seconds is None else max(0.0, seconds)), False
  except subprocess.TimeoutExpired:
    stop()
  try:
    return process.wait(local.GRACE), True
  except subprocess.TimeoutExpired:
    process.kill()
    return process.wait(), True


def _queue_again():
  import submitit

  # Not by SLURM_JOB_ID: the last of an array has that of the whole array.
  subprocess.run(["scontrol", "requeue", submitit.JobEnvironment().job_id], check=True)
