"""Trials as jobs of SLURM, by submitit: one array, watched from here and going on without us.

SWEEP/slurm.json has the trials' jobs, so that the same command finds those that still run, and
SWEEP/slurm/ what SLURM itself has to say.
"""

import importlib.util
import math
import pathlib
import shlex
import shutil
import signal
import subprocess
import time

from charrnn import console, errors, files
from charrnn.sweeps import board, job, resources
from charrnn.sweeps import trials as trials_lib

ASK = 5.0  # seconds between questions to SLURM
POLL = 0.5  # seconds between looks at the trials
LOST = 15.0  # seconds for an outcome to come over a network's file system, after the job's end
# What SLURM calls a job that is over, and one that has still to begin.
ENDED = "COMPLETED FAILED CANCELLED TIMEOUT OUT_OF_MEMORY NODE_FAIL BOOT_FAIL DEADLINE PREEMPTED"
NOT_YET = "PENDING CONFIGURING REQUEUED REQUEUE_HOLD REQUEUE_FED SPECIAL_EXIT"


def prepared(trial: trials_lib.Trial, wanted: resources.Resources) -> trials_lib.Trial:
  """The trial with the command that each of its processes runs."""
  if wanted.processes == 1:
    return trial
  return trial._replace(command=[*trial.command, "--distributed"])


def described(trials, wanted: resources.Resources, parallel: int) -> str:
  """What would be submitted: the options of sbatch, and the trials' commands."""
  told = {"array": f"0-{len(trials) - 1}%{parallel}"} if len(trials) > 1 else {}
  told |= resources.options(wanted)
  flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in told.items()]
  commands = [shlex.join(prepared(trial, wanted).command) for trial in trials]
  return "\n".join([f"sbatch {shlex.join(flags)}", *commands])


def check():
  """Raises UserError where no job can be submitted."""
  if missing := [name for name in ("sbatch", "srun", "squeue") if not shutil.which(name)]:
    raise errors.UserError(
      f"--backend=slurm: no {missing[0]} here: run it on a login node of the cluster, or use "
      "--backend=local"
    )
  if importlib.util.find_spec("submitit") is None:
    raise errors.UserError("--backend=slurm needs submitit: pip install 'charrnn[cluster]'")
  answer()


def answer() -> dict[str, str]:
  """What `query` gives; a UserError where SLURM says nothing: its jobs would be submitted twice."""
  if (told := query()) is None:
    raise errors.UserError("--backend=slurm: SLURM does not answer: try squeue")
  return told


def holds(folder: pathlib.Path) -> bool:
  """Whether SLURM has a job of a trial in `folder` that waits or runs, as far as one can ask it."""
  jobs = _remembered(folder)
  told = (jobs and query()) or {}
  return any(told.get(number, "COMPLETED") not in ENDED.split() for number in jobs.values())


def run(trials, missing, flags, wanted: resources.Resources) -> bool:
  """Submits what is missing and not in SLURM's hands yet, and watches to the end or to a signal."""
  folder = trials[0].folder.parent
  jobs, told = _remembered(folder), answer()
  waits = [
    each
    for each in missing
    if not _goes_on(trials_lib.outcome(each.folder), told.get(jobs.get(each.name, ""), ""))
  ]
  if kept := len(missing) - len(waits):
    console.say(f"slurm     {kept} trials are in its hands already")
  if waits:
    jobs |= submit(folder, waits, flags, wanted)
    files.write_json(folder / "slurm.json", {"jobs": jobs})
    console.say(
      f"slurm     {len(waits)} trials submitted, {flags.parallel} at a time; Ctrl-C leaves them be"
    )
  watch = Watch(trials, {each.name: jobs[each.name] for each in missing})
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    watch.run()
  except KeyboardInterrupt:
    console.say(
      "\nthe jobs go on: the same command watches them again, and they save and end by\n"
      f"  scancel {' '.join(sorted({each.partition('_')[0] for each in watch.going.values()}))}"
    )
    return True
  finally:
    signal.signal(signal.SIGTERM, before)
  return False


def _remembered(folder: pathlib.Path) -> dict[str, str]:
  """The last job of each trial."""
  path = folder / "slurm.json"
  return dict(files.read_json(path).get("jobs", {})) if path.exists() else {}


def _goes_on(ended: trials_lib.Outcome | None, told: str) -> bool:
  """Whether SLURM, by what it says of a job, will do more for a trial than to tidy up after it."""
  is_over = ended is not None and ended.state != trials_lib.STOPPED
  return bool(told) and told not in ENDED.split() and not is_over


def query() -> dict[str, str] | None:
  """What SLURM says of our jobs that run, wait or have ended of late; None without an answer."""
  command = ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i %T"]
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
  except (OSError, subprocess.SubprocessError):
    return None
  return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line.strip())


def submit(folder, trials, flags, wanted: resources.Resources) -> dict[str, str]:
  """Hands trials over as one array; returns their jobs by name."""
  import submitit

  for trial in trials:
    (trial.folder / "outcome.json").unlink(missing_ok=True)
  executor = submitit.SlurmExecutor(folder / "slurm")
  executor.update_parameters(
    job_name=folder.name,
    array_parallelism=flags.parallel,
    additional_parameters=resources.options(wanted),
    srun_args=[f"--cpus-per-task={wanted.cpus}"],  # since 22.05 it asks sbatch no more
    stderr_to_stdout=True,
  )
  limit = flags.time_limit * 60 if flags.time_limit else None
  each = [prepared(trial, wanted) for trial in trials]
  try:
    jobs = executor.map_array(job.run, each, [limit] * len(each))
  except RuntimeError as error:  # sbatch has refused
    said = [line for line in str(error).splitlines() if "error:" in line]
    raise errors.UserError(f"--backend=slurm: {(said or [str(error)])[-1].strip()}") from error
  return {trial.name: str(each.job_id) for trial, each in zip(trials, jobs)}


class Watch:
  """Follows jobs to their ends, by their trials' outcomes and by what SLURM says."""

  def __init__(self, trials, jobs: dict[str, str]):
    self.going = dict(jobs)  # by their trials' names
    self._trials = trials
    self._told: dict[str, str] = {}
    self._asked = -math.inf
    self._missed: dict[str, float] = {}  # since when a job is gone without an outcome

  def run(self):
    table = board.Board(self._trials)
    while self.going:
      self._ask()
      table.update({each.name: self._state(each) for each in self._trials})
      time.sleep(POLL)
    table.update({each.name: self._state(each) for each in self._trials}, final=True)

  def _ask(self):
    if time.monotonic() - self._asked >= ASK:
      told = query()
      self._told = self._told if told is None else told
      self._asked = time.monotonic()

  def _state(self, trial) -> str:
    ended = trials_lib.outcome(trial.folder)
    if trial.name in self.going:
      told = self._told.get(self.going[trial.name], "")
      if _goes_on(ended, told):
        self._missed.pop(trial.name, None)
        return trials_lib.WAITING if told in NOT_YET.split() else trials_lib.RUNNING
      if ended is None and not self._is_lost(trial):
        return trials_lib.WAITING
      ended = ended or _conclude(trial, self.going[trial.name], told)
      del self.going[trial.name]
    return ended.state if ended else trials_lib.WAITING

  def _is_lost(self, trial) -> bool:
    since = self._missed.setdefault(trial.name, time.monotonic())
    return time.monotonic() - since > LOST


def _conclude(trial, number: str, told: str) -> trials_lib.Outcome:
  """For a job that could not say itself how it ended."""
  log = trial.folder.parent / "slurm" / f"{number}_0_log.out"
  trial.folder.mkdir(parents=True, exist_ok=True)  # it may never have begun
  with trial.log.open("a") as file:
    file.write(f"job {number} of SLURM has ended, {told or 'no word why'}; see {log}\n")
  code = trials_lib.INTERRUPTED if told == "CANCELLED" else -signal.SIGKILL
  return trials_lib.conclude(trial, code, 0.0)
