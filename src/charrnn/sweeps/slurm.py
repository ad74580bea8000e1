"""The SLURM backend: trials as one job array, submitted with submitit and watched by the launcher.

SWEEP/slurm.json maps trials to jobs, so that a repeated command finds the jobs that are running.
SWEEP/slurm/ contains the output of the jobs. Jobs do not need the launcher. SLURM sends SIGUSR2 to
a job before its time limit or when another job needs the node: its run saves and the job is
requeued. scancel sends SIGTERM to every process: the run saves and the job ends.

An experiment file defines the resources of its trials:

def slurm():
  return {"partition": "gpu", "gpus": 1, "cpus": 4, "time": 240, "sbatch": {"account": "lab"}}
"""

import importlib.util
import math
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

from charrnn import console, errors, files, process
from charrnn.runs import status as status_lib
from charrnn.runs.status import RunStatus
from charrnn.sweeps import local, outcomes
from charrnn.sweeps import trials as trials_lib

QUERY = 5.0  # seconds between queries of SLURM
POLL = 0.5  # seconds between two readings of the outcomes
LOST = 15.0  # seconds after a job's end in which its outcome may arrive on a network file system
SAVE = process.SIGUSR2  # asks a job to save and requeue
# Job states of SLURM: jobs that have ended, and jobs that have not started.
OVER = {
  "COMPLETED",
  "FAILED",
  "CANCELLED",
  "TIMEOUT",
  "OUT_OF_MEMORY",
  "NODE_FAIL",
  "BOOT_FAIL",
  "DEADLINE",
  "PREEMPTED",
}
PENDING = {
  "PENDING",
  "CONFIGURING",
  "REQUEUED",
  "REQUEUE_HOLD",
  "REQUEUE_FED",
  "SPECIAL_EXIT",
}
# Options of sbatch: those that fields of Resources set, and those that only the launcher sets.
OPTIONS = {
  "partition": "partition",
  "nodes": "nodes",
  "tasks": "ntasks-per-node",
  "cpus": "cpus-per-task",
  "gpus": "gpus-per-node",
  "memory": "mem",
  "time": "time",
}
RESERVED = ("array", "error", "job-name", "open-mode", "output", "requeue", "signal")


class Resources(NamedTuple):
  """Resources of a trial; slurm() of an experiment file may set these fields."""

  partition: str = ""  # empty: SLURM's default partition
  nodes: int = 1
  tasks: int = 1  # processes per node; all processes of a trial train one run
  cpus: int = 1  # cores per process
  gpus: int = 0  # GPUs per node
  memory: float = 0.0  # GB per node; 0: SLURM's default
  time: int = 60  # minutes; a trial that needs more time saves, is requeued and resumes
  sbatch: dict[str, Any] = {}  # noqa: RUF012 (never changed); other options, by their long names

  @property
  def options(self) -> dict[str, Any]:
    """Return the values of the options of sbatch, by their long names."""
    values = {option: getattr(self, name) for name, option in OPTIONS.items()}
    if self.memory:
      values["mem"] = f"{self.memory * 1024:.0f}M"
    notice = min(90, self.time * 60 // 3)  # seconds to save before the time limit
    values |= {"requeue": True, "signal": f"{SAVE.name.removeprefix('SIG')}@{notice}"}
    return {name: value for name, value in values.items() if value} | self.sbatch


def read_resources(module, variant: str = "") -> Resources:
  """Return the resources that an experiment file's slurm() defines; raise UserError if invalid."""
  if not hasattr(module, "slurm"):
    return Resources()
  where = f"{module.__file__}, slurm()"
  values = trials_lib.call(module, "slurm", variant, convert=dict)
  for name, value in values.items():
    _check_field(where, name, value)
  resources = Resources(**values)
  for name, value in resources.sbatch.items():
    _check_option(where, name, value)
  if resources.nodes * resources.tasks > 1 and resources.gpus not in (0, resources.tasks):
    raise errors.UserError(
      f"{where}: each of several processes uses one GPU: set gpus to {resources.tasks}, like tasks"
    )
  return resources


def _check_field(where, name, value):
  defaults = Resources._field_defaults
  if name not in defaults:
    raise errors.UserError(
      f"{where} sets {name!r}: use {', '.join(defaults)} (sbatch: other options of sbatch)"
    )
  kind, minimum = type(defaults[name]), int(bool(defaults[name]))
  if isinstance(value, bool) or not isinstance(value, int | float if kind is float else kind):
    raise errors.UserError(f"{where} sets {name} to {value!r}: use a value of type {kind.__name__}")
  if isinstance(value, int | float) and not minimum <= value < math.inf:
    raise errors.UserError(f"{where} sets {name} to {value}: must be at least {minimum}")


def _check_option(where, name, value):
  plain, problem = str(name).lstrip("-").replace("_", "-"), None
  fields = {option: field for field, option in OPTIONS.items()}
  if plain in RESERVED:
    problem = f"{name!r} is set by launch.py: remove it"
  elif plain in fields:
    problem = f"{name!r}: use the field {fields[plain]!r} of slurm() instead"
  elif plain != name:
    problem = f"{name!r}: write {plain!r}"
  elif value is False or not isinstance(value, str | int | float):
    problem = f"{name} is {value!r}: use text, a number or True"
  if problem:
    raise errors.UserError(f"{where}: sbatch: {problem}")


def describe(trials, resources: Resources, parallel: int) -> str:
  """Return the text of a dry run: the options of sbatch and the commands of the trials."""
  options = {"array": f"0-{len(trials) - 1}%{parallel}"} if len(trials) > 1 else {}
  options |= resources.options
  flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
  commands = [shlex.join(_with_processes(trial, resources).command) for trial in trials]
  return "\n".join([f"sbatch {shlex.join(flags)}", *commands])


def _with_processes(trial: outcomes.Trial, resources: Resources) -> outcomes.Trial:
  flags = ["--distributed"] if resources.nodes * resources.tasks > 1 else []
  return trial._replace(command=[*trial.command, *flags])


def check():
  """Raise UserError if jobs cannot be submitted from this machine."""
  if missing := [name for name in ("sbatch", "srun", "squeue") if not shutil.which(name)]:
    raise errors.UserError(
      f"--backend=slurm: there is no {missing[0]} on this machine: use a login node of the cluster "
      "or --backend=local"
    )
  if importlib.util.find_spec("submitit") is None:
    raise errors.UserError("--backend=slurm needs submitit: pip install 'charrnn[cluster]'")
  _job_states()


def _job_states() -> dict[str, str]:
  """Return `query()`; raise UserError if it fails, because jobs could be submitted twice."""
  if (states := query()) is None:
    raise errors.UserError("--backend=slurm: squeue gets no answer from SLURM: try again later")
  return states


def query() -> dict[str, str] | None:
  """Return the states of the user's current and recent jobs, by number; None on failure."""
  command = ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i %T"]
  try:
    result = process.call(command, 60)
  except OSError:
    return None
  if result.returncode:
    return None
  lines = result.stdout.decode(errors="replace").splitlines()
  return dict(line.split(maxsplit=1) for line in lines if " " in line.strip())


def has_jobs(folder: pathlib.Path) -> bool:
  """Return whether SLURM has a waiting or running job for a trial in `folder`."""
  jobs = _stored_jobs(folder)
  states = (jobs and query()) or {}
  return any(states.get(number, "COMPLETED") not in OVER for number in jobs.values())


def _stored_jobs(folder: pathlib.Path) -> dict[str, str]:
  """Return the number of each trial's last job, by trial name."""
  path = folder / "slurm.json"
  return dict(files.read_json(path).get("jobs", {})) if path.exists() else {}


def run(trials, missing, flags, resources: Resources) -> bool:
  """Submit missing trials that have no job, and watch all; return whether a signal ended that."""
  folder, limit = trials[0].folder.parent, _limit(flags)
  missing = [trial for trial in missing if not outcomes.is_out_of_time(trial, limit)]
  jobs, states = _stored_jobs(folder), _job_states()
  job_states = (states.get(jobs.get(trial.name, ""), "") for trial in missing)
  new = [trial for trial, state in zip(missing, job_states) if not _continues(trial, state)]
  if count := len(missing) - len(new):
    console.say(f"slurm     {errors.plural(count, 'trial')} submitted by earlier commands")
  if new:
    jobs |= submit(folder, new, flags, resources)
    files.write_json(folder / "slurm.json", {"jobs": jobs})
    console.say(
      f"slurm     {errors.plural(len(new), 'trial')} submitted, at most {flags.parallel} in "
      "parallel; Ctrl-C ends only this program"
    )
  watch = Watch(trials, {trial.name: jobs[trial.name] for trial in missing})
  try:
    watch.run()
  except KeyboardInterrupt:
    console.say(
      "\nthe jobs keep running. Repeat the command to watch them; to make them save and end, run\n"
      f"  scancel {' '.join(sorted({job.partition('_')[0] for job in watch.jobs.values()}))}"
    )
    return True
  return False


def _limit(flags) -> float | None:
  """Return the maximum seconds of all launches of a trial together."""
  return flags.time_limit * 60 if flags.time_limit else None


def _continues(trial: outcomes.Trial, job_state: str) -> bool:
  """Return whether a job has not ended its trial yet; afterwards it only cleans up."""
  has_ended = outcomes.last(trial).status not in (RunStatus.WAITING, RunStatus.STOPPED)
  return bool(job_state) and job_state not in OVER and not has_ended


def submit(folder: pathlib.Path, trials, flags, resources: Resources) -> dict[str, str]:
  """Submit trials as one job array; return the number of each trial's job, by trial name."""
  import submitit  # an optional extra

  spent = [outcomes.last(trial).seconds for trial in trials]
  for trial in trials:
    files.remove(trial.folder / "outcome.json")
  executor = submitit.SlurmExecutor(folder / "slurm")
  executor.update_parameters(
    job_name=folder.name,
    array_parallelism=flags.parallel,
    additional_parameters=resources.options,
    srun_args=[f"--cpus-per-task={resources.cpus}"],  # Since 22.05, srun ignores sbatch's value.
    stderr_to_stdout=True,
  )
  commands = [_with_processes(trial, resources) for trial in trials]
  try:
    jobs = executor.map_array(run_job, commands, [_limit(flags)] * len(commands), spent)
  except RuntimeError as error:  # sbatch failed
    lines = [line for line in str(error).splitlines() if "error:" in line] or [str(error)]
    raise errors.UserError(f"--backend=slurm: {lines[-1].strip()}") from error
  return {trial.name: str(job.job_id) for trial, job in zip(trials, jobs)}


class Watch:
  """Watches jobs until they end, from the outcomes of their trials and the job states of SLURM."""

  def __init__(self, trials, jobs: dict[str, str]):
    self.jobs = dict(jobs)  # numbers of the jobs that have not ended, by trial name
    self._trials = trials
    self._job_states: dict[str, str] = {}
    self._query_time = -math.inf
    # The time when a job was first seen ended without an outcome.
    self._lost_since: dict[str, float] = {}

  def run(self):
    with outcomes.StatusTable(self._trials) as table:
      while self.jobs:
        self._query()
        table.update({trial.name: self._status(trial) for trial in self._trials})
        time.sleep(POLL)
      table.update({trial.name: self._status(trial) for trial in self._trials}, final=True)

  def _query(self):
    if time.monotonic() - self._query_time >= QUERY:
      if (states := query()) is not None:
        self._job_states = states
      self._query_time = time.monotonic()

  def _status(self, trial) -> RunStatus:
    if (job := self.jobs.get(trial.name)) is not None:
      job_state = self._job_states.get(job, "")
      if _continues(trial, job_state):
        self._lost_since.pop(trial.name, None)
        return RunStatus.WAITING if job_state in PENDING else RunStatus.RUNNING
      if outcomes.last(trial).status == RunStatus.WAITING:
        since = self._lost_since.setdefault(trial.name, time.monotonic())
        if time.monotonic() - since <= LOST:
          return RunStatus.WAITING
        _conclude(trial, job, job_state)
      del self.jobs[trial.name]
    return outcomes.last(trial).status


def _conclude(trial, job: str, job_state: str):
  """Write the outcome of a trial whose job ended without writing it."""
  log = trial.folder.parent / "slurm" / f"{job}_0_log.out"
  trial.folder.mkdir(parents=True, exist_ok=True)  # The job may never have started.
  with files.append(trial.log) as file:
    state = job_state or "state unknown"
    file.write(f"SLURM job {job} has ended without an outcome ({state}): see {log}\n".encode())
  code = status_lib.STOPPED_CODE if job_state == "CANCELLED" else -signal.SIGKILL
  outcomes.conclude(trial, code, 0.0)


def run_job(trial: outcomes.Trial, limit: float | None = None, spent: float = 0.0):
  """Run a trial in a job and exit with its exit code; submitit calls this in each task of the job.

  `limit` is the maximum number of seconds of the trial, summed over all launches, and `spent` the
  number of those before this job. A job that is requeued finds its own in its outcome. submitit's
  own requeueing is not used: it would have to train in the job's process, without such a limit.
  """
  start, is_first = time.monotonic(), os.environ.get("SLURM_PROCID", "0") == "0"
  spent = max(spent, outcomes.last(trial).seconds)
  if is_first:
    outcomes.begin(trial)
  trial.folder.mkdir(parents=True, exist_ok=True)
  child, signals = local.launch(trial), []

  def stop(*_):
    if not signals:  # A second SIGTERM would end the run before it has saved.
      child.terminate()
    signals.append(True)

  signal.signal(SAVE, stop)
  code, is_late = _wait(child, limit - spent if limit is not None and is_first else None, stop)
  if is_first:
    reason = RunStatus.TIMEOUT if is_late else RunStatus.STOPPED if signals else None
    outcome = outcomes.conclude(trial, code, spent + time.monotonic() - start, reason)
    if signals and outcome.status == RunStatus.STOPPED:
      import submitit  # an optional extra

      # SLURM_JOB_ID is not used: for the last job of an array it is the number of the whole array.
      result = process.call(["scontrol", "requeue", submitit.JobEnvironment().job_id], 60)
      if result.returncode:
        reason = result.stderr.decode(errors="replace").strip()
        console.say(f"warning: SLURM cannot requeue this job ({reason}): repeat the command")
  sys.exit(code if code >= 0 else 128 - code)  # The code of a shell after the signal -code.


def _wait(child: subprocess.Popen, seconds: float | None, stop) -> tuple[int, bool]:
  """Return the exit code, and whether the process was stopped because it exceeded `seconds`."""
  try:
    return child.wait(None if seconds is None else max(0.0, seconds)), False
  except subprocess.TimeoutExpired:
    stop()
  try:
    return child.wait(local.GRACE), True
  except subprocess.TimeoutExpired:
    child.kill()
    return child.wait(), True
