"""Trials on this machine: several at a time, each a process of its own with a share of the devices.

Every process is stopped by SIGTERM, upon which it saves and exits 75, when the launcher ends; by
SIGHUP when it is killed.
"""

import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from charrnn import errors, runtime
from charrnn.sweeps import attached
from charrnn.sweeps import trials as trials_lib

POLL = 0.2  # seconds
TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}  # by the number of chips
GRACE = 120.0  # seconds to save, after SIGTERM and before SIGKILL


class Share(NamedTuple):
  """What one of several processes may use of the machine."""

  cores: tuple[int, ...]  # CPU
  environment: dict[str, str]  # what tells JAX its accelerators


def shares(parallel: int) -> list[Share]:
  """The machine in as many shares; where there are fewer devices than shares, they are shared."""
  cores = _parts(runtime.cores(), parallel)
  gpus, tpus = gpu_names(), tpu_chips()
  if gpus:
    crowd = -(-parallel // len(gpus))  # processes on one GPU
    fraction = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / crowd:.2f}"} if crowd > 1 else {}
    environments = [
      {"CUDA_VISIBLE_DEVICES": ",".join(part)} | fraction for part in _parts(gpus, parallel)
    ]
  elif tpus and parallel > 1:
    environments = [_tpu_share(part) for part in _chips(tpus, parallel)]
  else:
    environments = [{}] * parallel
  return [Share(tuple(part), each) for part, each in zip(cores, environments)]


def _parts(devices: Sequence, count: int) -> list[list]:
  """Devices in `count` equal parts, what is left over unused; if too few, each in several."""
  size = len(devices) // count
  if not size:
    return [[devices[i % len(devices)]] for i in range(count)]
  return [list(devices[i * size : (i + 1) * size]) for i in range(count)]


def gpu_names() -> list[str]:
  """NVIDIA's GPUs that may be used, as CUDA_VISIBLE_DEVICES names them, without starting JAX."""
  if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
    return [name for name in chosen.split(",") if name.strip()]
  try:
    listed = subprocess.run(
      ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
  except (OSError, subprocess.SubprocessError):
    return []
  return [str(n) for n, _ in enumerate(line for line in listed.splitlines() if line[:3] == "GPU")]


def _chips(tpus: list[str], parallel: int) -> list[list[str]]:
  """Equal parts; a chip is one process's alone."""
  if parallel > len(tpus):
    raise errors.UserError(
      f"--parallel={parallel}: a TPU chip takes one process and there are {len(tpus)}"
    )
  return _parts(tpus, parallel)


def _tpu_share(chips: list[str]) -> dict[str, str]:
  """As many of the chips as make a rectangle; JAX is told that they are all there is."""
  count = max(n for n in TPU_BOUNDS if n <= len(chips))
  return {
    "TPU_VISIBLE_CHIPS": ",".join(chips[:count]),
    "TPU_CHIPS_PER_PROCESS_BOUNDS": TPU_BOUNDS[count],
    "TPU_PROCESS_BOUNDS": "1,1,1",
  }


def tpu_chips() -> list[str]:
  if (chosen := os.environ.get("TPU_VISIBLE_CHIPS")) is not None:
    return [name for name in chosen.split(",") if name.strip()]
  return [str(n) for n, _ in enumerate(sorted(pathlib.Path("/dev").glob("accel[0-9]*")))]


class _Running(NamedTuple):
  trial: trials_lib.Trial
  process: subprocess.Popen
  share: int
  since: float


class Pool:
  """Runs trials, `parallel` at a time; `limit` is the seconds that each may take.

  One is taken from `trials` when there is room for it, and not before.
  """

  def __init__(self, trials: Iterable[trials_lib.Trial], parallel: int, limit: float | None):
    self._waiting, self._exhausted = iter(trials), False
    self.shares = shares(parallel)
    self.limit = limit
    self.running: list[_Running] = []
    self._asked: dict[str, tuple[str, float]] = {}  # to save and end: why, and when
    self.stopping = 0  # how often it was asked to

  def run(self, watch: Callable[["Pool"], None]):
    """To the end of all, or of those that run when `stop` was called."""
    try:
      while self.running or not (self._exhausted or self.stopping):
        self._start()
        self._reap()
        self._enforce()
        watch(self)
        time.sleep(POLL)
    finally:
      self._end_all()

  def stop(self):
    """Those that run save and end; a second call does not wait for that. For signal handlers."""
    self.stopping += 1

  def end(self, name: str, reason: str):
    """The trial of this name saves and ends; its outcome will be `reason`."""
    for each in self.running:
      if each.trial.name == name:
        self._ask(each, reason)

  def _ask(self, each: _Running, reason: str = trials_lib.STOPPED):
    """Once: a second SIGTERM would end a run before it has saved."""
    if each.trial.name not in self._asked:
      self._asked[each.trial.name] = reason, time.monotonic()
      each.process.terminate()

  def _start(self):
    free = set(range(len(self.shares))) - {each.share for each in self.running}
    while free and not (self._exhausted or self.stopping):
      if (trial := next(self._waiting, None)) is None:
        self._exhausted = True
        return
      share = free.pop()
      trials_lib.begin(trial)
      process = _launch(trial, self.shares[share])
      self.running.append(_Running(trial, process, share, time.monotonic()))

  def _reap(self):
    for each in list(self.running):
      if (code := each.process.poll()) is None:
        continue
      seconds = time.monotonic() - each.since
      self.running.remove(each)
      reason, _ = self._asked.get(each.trial.name, ("", 0.0))
      trials_lib.conclude(each.trial, code, seconds, reason)

  def _enforce(self):
    """Ends those that are to stop or have taken too long: so that they save, then as they are."""
    for each in self.running:
      now = time.monotonic()
      _, asked = self._asked.get(each.trial.name, ("", now))
      if self.stopping > 1 or now - asked > GRACE:
        each.process.kill()
      elif self.stopping:
        self._ask(each)
      elif self.limit is not None and now - each.since > self.limit:
        self._ask(each, trials_lib.TIMEOUT)

  def _end_all(self):
    for each in self.running:
      self._ask(each)
    until = time.monotonic() + GRACE
    while self.running and time.monotonic() < until:
      self._reap()
      time.sleep(POLL)
    for each in self.running:
      each.process.kill()
      each.process.wait()
    self._reap()


def _launch(trial: trials_lib.Trial, share: Share) -> subprocess.Popen:
  with trial.log.open("ab") as log:
    return subprocess.Popen(
      attached.command(trial.command, share.cores),
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      env={**os.environ, **share.environment},
      start_new_session=True,  # Ctrl-C is for the launcher, which passes it on
    )
