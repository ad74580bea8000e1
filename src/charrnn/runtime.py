"""Everything that must happen before JAX starts: cache, memory, devices, processes.

And a stopwatch for the phases of a start.
"""

import contextlib
import ctypes
import functools
import logging
import os
import pathlib
import sys
import threading
import time
import types
from collections.abc import Iterator

import platformdirs
import psutil

from charrnn import console, errors

_IMPORTED = time.monotonic()
MIN_SHARED = 512  # units of a layer from which all cores share one device
MAX_WAIT = 120.0  # seconds for all processes of a run to start


def cache_folder() -> pathlib.Path:
  """Return the folder for downloads, prepared corpora and compiled programs.

  CHARRNN_CACHE names another one.
  """
  if own := os.environ.get("CHARRNN_CACHE"):
    return pathlib.Path(own).expanduser()
  return platformdirs.user_cache_path("charrnn", appauthor=False)


def start() -> types.ModuleType:
  """Prepare memory, logging and the compilation cache; return the module `jax`.

  Devices do not start yet: their number can still be set.
  """
  keep_memory()
  import jax
  from absl import logging as absl_logging

  absl_logging.set_verbosity(absl_logging.ERROR)
  for name in ("jax", "orbax"):
    logging.getLogger(name).setLevel(logging.ERROR)
  # At a damaged file Orbax closes an event loop to which TensorStore's threads still send. Both
  # then print a traceback for each message; the damage itself is reported elsewhere.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  sys.unraisablehook = functools.partial(_report_unraisable, sys.unraisablehook)
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  return jax


def _report_unraisable(report, unraisable):
  if str(unraisable.exc_value) != "Event loop is closed":
    report(unraisable)


def keep_memory():
  """Make malloc keep freed memory. Fresh pages from the kernel make a CPU's train step 30% slower.

  glibc's mallopt(3): never map single blocks, never trim, one arena for all threads.
  """
  if sys.platform != "linux":
    return
  M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
  if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # not in every C library
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 << 20)
    mallopt(M_ARENA_MAX, 1)


def free_memory() -> int:
  """Return the bytes that can still be allocated, within the limit of a container."""
  free, group = psutil.virtual_memory().available, pathlib.Path("/sys/fs/cgroup")
  with contextlib.suppress(OSError, ValueError):  # no container, or the limit "max"
    names = ("memory.max", "memory.current", "memory.stat")
    limit, used, stat = ((group / name).read_text() for name in names)
    numbers = dict(line.split() for line in stat.splitlines())
    cached = int(numbers.get("active_file", 0)) + int(numbers.get("inactive_file", 0))
    free = min(free, int(limit) - int(used) + cached)
  return free


def cores() -> list[int]:
  """Return the numbers of the cores that this process may use."""
  affinity = getattr(os, "sched_getaffinity", None)  # not on every system
  return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def set_cpu_devices(count: int, batch: int, parts: int, hidden: int = 0):
  """Set the number of devices that the CPU is divided into; 0: choose it by measured speed.

  One device per core, if the batch divides into `parts` equal parts on each: small matrix products
  are faster on one core than shared by all. From MIN_SHARED hidden units on, one device.
  """
  import jax

  if not count:
    fits = [n for n in range(1, len(cores()) + 1) if batch % (n * parts) == 0]
    count = 1 if hidden >= MIN_SHARED else max(fits, default=1)
  jax.config.update("jax_num_cpu_devices", count)


def join_processes() -> int:
  """Make this process one of several, by SLURM, a TPU pod or the environment; return their number.

  By hand: CHARRNN_COORDINATOR=host:port, CHARRNN_PROCESSES=n, CHARRNN_PROCESS=i in each.
  """
  import jax

  environment, arguments = os.environ, ()
  timer = threading.Timer(MAX_WAIT, _exit_after_wait)
  timer.daemon = True
  timer.start()
  try:
    if coordinator := environment.get("CHARRNN_COORDINATOR"):
      numbers = environment["CHARRNN_PROCESSES"], environment["CHARRNN_PROCESS"]
      arguments = coordinator, *map(int, numbers)
    # At JAX's own timeout the process aborts with a stack trace.
    jax.distributed.initialize(*arguments, initialization_timeout=2 * int(MAX_WAIT))
  except (KeyError, ValueError, RuntimeError) as error:
    raise errors.UserError(
      f"--distributed: no other processes found ({error}): start it under srun, or set "
      "CHARRNN_COORDINATOR=host:port, CHARRNN_PROCESSES and CHARRNN_PROCESS"
    ) from error
  finally:
    timer.cancel()
  # jax.process_count() would start the devices, whose number is not set yet. The count is needed
  # for CPUs alone, whose processes are started by SLURM or by hand.
  return int(environment.get("CHARRNN_PROCESSES") or environment.get("SLURM_NTASKS") or 1)


def _exit_after_wait():
  """End this process while JAX waits for others in it."""
  console.say(
    "launch.py: error: --distributed: other processes of this run did not come in "
    f"{MAX_WAIT:g} s: see their messages, and whether they reach the first one's host and port"
  )
  os._exit(2)


@contextlib.contextmanager
def together(newest: int) -> Iterator[None]:
  """Raise a UserError of one process in all processes, which would wait for it forever.

  `newest`: the newest checkpoint that this process sees. All must see the same.
  """
  own_error = None
  try:
    yield
  except errors.UserError as error:
    own_error = error
  import jax

  if jax.process_count() > 1:
    import numpy as np
    from jax.experimental import multihost_utils

    own = np.array([own_error is not None, newest], np.int32)
    failed, checkpoints = multihost_utils.process_allgather(own).T
    if failed.any():
      text = f"process {failed.argmax()} of this run has failed: see its message"
      own_error = own_error or errors.UserError(text)
    elif len({*checkpoints.tolist()}) > 1:
      own_error = errors.UserError(
        "the processes of this run see different checkpoints: give a --workdir that all share"
      )
  if own_error:
    raise own_error


class Stopwatch:
  """The seconds of each phase of a start, from the creation of the process on."""

  def __init__(self):
    self._start = self._last = _process_start()
    self._seconds: dict[str, float] = {}

  def mark(self, phase: str):
    """End a phase."""
    now = time.monotonic()
    self._seconds[phase] = now - self._last
    self._last = now

  def seconds(self) -> dict[str, float]:
    """Return the seconds by phase, and last their total."""
    phases = self._seconds | {"total": self._last - self._start}
    return {phase: round(seconds, 3) for phase, seconds in phases.items()}


def _process_start() -> float:
  """Return when this process was created, by time.monotonic and to 10 ms.

  Where the system does not tell, when this module was imported: Python's own start is left out.
  """
  try:
    # proc(5): field 22 is in clock ticks since the boot; the name before it may hold spaces.
    # psutil counts from the boot in whole seconds, which is too coarse.
    fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    since_boot = int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot
  except (OSError, ValueError, IndexError, AttributeError):
    return _IMPORTED
  return min(time.monotonic() - age, _IMPORTED)
