"""The local backend: trials as processes in parallel, each with its share of the machine.

A trial saves and exits with code 75 on SIGTERM or SIGHUP. The launcher sends SIGTERM when it stops;
Linux sends SIGHUP when the launcher is killed.
"""

import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from charrnn import errors, files, process, runtime
from charrnn.runs.status import RunStatus
from charrnn.sweeps import attached, outcomes

POLL = 0.2  # seconds between two checks of the processes
TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}  # topology by number of chips
GRACE = 120.0  # seconds between SIGTERM and SIGKILL, in which a trial can save


class Share(NamedTuple):
  """The part of the machine that one of several processes uses."""

  cores: tuple[int, ...]  # CPU cores
  environment: dict[str, str]  # variables that restrict JAX to the accelerators of the share


def shares(parallel: int) -> list[Share]:
  """Divide the machine into equal shares; they overlap if there are fewer devices than shares."""
  cores = _divide(runtime.cores(), parallel)
  gpus, tpus = gpu_names(), _tpu_chips()
  environments: list[dict[str, str]] = [{}] * parallel
  if gpus:
    per_gpu = -(-parallel // len(gpus))  # processes per GPU
    fraction = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / per_gpu:.2f}"} if per_gpu > 1 else {}
    parts = _divide(gpus, parallel)
    environments = [{"CUDA_VISIBLE_DEVICES": ",".join(part)} | fraction for part in parts]
  elif tpus and parallel > 1:
    if parallel > len(tpus):
      raise errors.UserError(
        f"--parallel={parallel}: must be at most {len(tpus)}, because a TPU chip runs one process"
      )
    environments = [_tpu_environment(part) for part in _divide(tpus, parallel)]
  return [Share(tuple(part), each) for part, each in zip(cores, environments)]


def _divide(devices: Sequence, count: int) -> list[list]:
  """Return `count` equal parts, without the remainder; if devices are few, parts share them."""
  size = max(1, len(devices) // count)
  return [[devices[(i * size + n) % len(devices)] for n in range(size)] for i in range(count)]


def gpu_names() -> list[str]:
  """Return the names of the usable NVIDIA GPUs, as in CUDA_VISIBLE_DEVICES, without using JAX."""
  if (names := _visible("CUDA_VISIBLE_DEVICES")) is not None:
    return names
  try:
    result = process.call(["nvidia-smi", "-L"], 30)
  except OSError:
    return []
  lines = [] if result.returncode else result.stdout.splitlines()
  return [str(n) for n in range(sum(line[:3] == b"GPU" for line in lines))]


def _tpu_chips() -> list[str]:
  if (names := _visible("TPU_VISIBLE_CHIPS")) is not None:
    return names
  return [str(n) for n in range(len(list(pathlib.Path("/dev").glob("accel[0-9]*"))))]


def _visible(variable: str) -> list[str] | None:
  value = os.environ.get(variable)
  return None if value is None else [name for name in value.split(",") if name.strip()]


def _tpu_environment(chips: list[str]) -> dict[str, str]:
  """Return variables that restrict JAX to the largest number of the chips that form a rectangle."""
  count = max(n for n in TPU_BOUNDS if n <= len(chips))
  return {
    "TPU_VISIBLE_CHIPS": ",".join(chips[:count]),
    "TPU_CHIPS_PER_PROCESS_BOUNDS": TPU_BOUNDS[count],
    "TPU_PROCESS_BOUNDS": "1,1,1",
  }


class _Running(NamedTuple):
  trial: outcomes.Trial
  process: subprocess.Popen
  share: int
  start: float  # monotonic time
  spent: float  # seconds of earlier launches

  @property
  def seconds(self) -> float:
    return self.spent + time.monotonic() - self.start


class Pool:
  """Runs up to `parallel` trials at the same time.

  `limit` is the maximum seconds of all launches of a trial together. A trial that has reached it is
  not launched again.
  `trials` is advanced only when a share is free, so it may choose a trial from earlier results.
  """

  def __init__(self, trials: Iterable[outcomes.Trial], parallel: int, limit: float | None):
    self._waiting, self._exhausted = iter(trials), False
    self._shares = shares(parallel)
    self._limit = limit
    self.running: list[_Running] = []
    self._ending: dict[str, tuple[RunStatus, float]] = {}  # name -> (reason, time of SIGTERM)
    self.stopping = 0  # number of calls of `stop`

  def run(self, watch: Callable[["Pool"], None]):
    """Run trials until all have ended or `stop` is called; call `watch` after each check."""
    try:
      while self.running or not (self._exhausted or self.stopping):
        self._start()
        self._reap()
        self._enforce()
        watch(self)
        time.sleep(POLL)
    finally:
      while self.running:  # Only after an exception: end the remaining trials.
        self.stopping = max(1, self.stopping)
        self._enforce()
        time.sleep(POLL)
        self._reap()

  def stop(self):
    """Ask the running trials to save and exit; a second call kills them.

    It may be called from a signal handler.
    """
    self.stopping += 1

  def end(self, name: str, reason: RunStatus):
    """Ask a trial to save and exit, with `reason` as its status."""
    for running in self.running:
      if running.trial.name == name:
        self._terminate(running, reason)

  def _terminate(self, running: _Running, reason: RunStatus = RunStatus.STOPPED):
    """Send SIGTERM, but only once: a second one would end a run before it has saved."""
    if running.trial.name not in self._ending:
      self._ending[running.trial.name] = reason, time.monotonic()
      running.process.terminate()

  def _start(self):
    free = set(range(len(self._shares))) - {running.share for running in self.running}
    while free and not (self._exhausted or self.stopping):
      if (trial := next(self._waiting, None)) is None:
        self._exhausted = True
        return
      if outcomes.is_out_of_time(trial, self._limit):
        continue
      share, spent = free.pop(), outcomes.last(trial).seconds
      outcomes.begin(trial)
      cores, limits = self._shares[share]
      environment = {**os.environ, **limits}
      # A new session keeps Ctrl-C away from the trial. The launcher sends it SIGTERM instead.
      child = launch(trial, cores, env=environment, start_new_session=True)
      self.running.append(_Running(trial, child, share, time.monotonic(), spent))

  def _reap(self):
    for running in list(self.running):
      if (code := running.process.poll()) is not None:
        self.running.remove(running)
        reason, _ = self._ending.get(running.trial.name, (None, 0.0))
        outcomes.conclude(running.trial, code, running.seconds, reason)

  def _enforce(self):
    """Send SIGTERM to trials that must stop or take too long, and SIGKILL after GRACE seconds."""
    for running in self.running:
      now = time.monotonic()
      _, since = self._ending.get(running.trial.name, (None, now))
      if self.stopping > 1 or now - since > GRACE:
        running.process.kill()
      elif self.stopping:
        self._terminate(running)
      elif self._limit is not None and running.seconds > self._limit:
        self._terminate(running, RunStatus.TIMEOUT)


def launch(trial: outcomes.Trial, cores: Sequence[int] = (), **options) -> subprocess.Popen:
  """Start a trial's process, with its output in the trial's log; it ends when this process dies."""
  # Not every version of SLURM ends the children of a dead process.
  command = attached.command(trial.command, cores)
  streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
  with files.append(trial.log) as log:
    return subprocess.Popen(command, stdout=log, **streams, **options)
