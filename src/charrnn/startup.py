"""What has to happen before JAX starts: memory, devices, compilation cache, processes.

And a watch on how long all of that takes.
"""

import contextlib
import ctypes
import functools
import logging
import math
import os
import pathlib
import sys
import threading
import time

from charrnn import cache, console, errors

_IMPORTED = time.monotonic()
SHARED = 512  # units of a layer from which on a CPU is one device
PATIENCE = 120.0  # seconds for all processes of a run to come


def keep_memory():
  """Makes malloc keep what is freed. Pages fresh from the kernel cost a train step 30% on a CPU.

  glibc's mallopt(3): never map single blocks, never trim, one arena for all threads.
  """
  if sys.platform != "linux":
    return
  M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
  if mallopt:
    for setting, value in (
      (M_MMAP_MAX, 0),
      (M_TRIM_THRESHOLD, 2**31 - 1),
      (M_TOP_PAD, 64 << 20),
      (M_ARENA_MAX, 1),
    ):
      mallopt(setting, value)


def free_memory():
  """Bytes that may still be taken; infinite where the system does not say."""
  free = math.inf
  with contextlib.suppress(OSError, ValueError, IndexError):
    found = pathlib.Path("/proc/meminfo").read_text().partition("MemAvailable:")[2]
    free = int(found.split()[0]) * 1024
  with contextlib.suppress(OSError, ValueError):  # a container's limit, or "max"
    limit, used, stat = (
      pathlib.Path(f"/sys/fs/cgroup/memory.{name}").read_text()
      for name in ("max", "current", "stat")
    )
    numbers = dict(line.split() for line in stat.splitlines())
    cached = int(numbers.get("active_file", 0)) + int(numbers.get("inactive_file", 0))
    free = min(free, int(limit) - int(used) + cached)
  return free


def import_jax():
  """JAX with a compilation cache in the user's cache folder, and without chatter."""
  import jax
  from absl import logging as absl_logging

  absl_logging.set_verbosity(absl_logging.ERROR)
  for name in ("jax", "orbax"):
    logging.getLogger(name).setLevel(logging.ERROR)
  # At a damaged file Orbax closes an event loop that TensorStore's threads still answer into.
  # What both then say, a traceback for each answer, is beside the point.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  sys.unraisablehook = functools.partial(_report, sys.unraisablehook)
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  return jax


def _report(report, unraisable):
  if str(unraisable.exc_value) != "Event loop is closed":
    report(unraisable)


def cores() -> list[int]:
  """The numbers of those that this process may use."""
  affinity = getattr(os, "sched_getaffinity", None)  # not on every system
  return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def set_cpu_devices(wanted, batch, parts, hidden=0):
  """How many devices a CPU poses as; `wanted`: 0 for a choice by what has been measured.

  One a core, as far as each gets equal `parts` of the batch: small products are faster on a core
  each than shared by all. One in all from `hidden` units on whose products are worth sharing.
  """
  import jax

  if not wanted:
    fits = [n for n in range(1, len(cores()) + 1) if batch % (n * parts) == 0]
    wanted = 1 if hidden >= SHARED else max(fits, default=1)
  jax.config.update("jax_num_cpu_devices", wanted)


def join_processes():
  """Makes this process one of several, by SLURM, a TPU pod or the environment; returns how many.

  By hand: CHARRNN_COORDINATOR=host:port, CHARRNN_PROCESSES=n, CHARRNN_PROCESS=i in each.
  """
  import jax

  coordinator = os.environ.get("CHARRNN_COORDINATOR")
  waited = threading.Timer(PATIENCE, _give_up)
  waited.daemon = True
  waited.start()
  patience = {"initialization_timeout": 2 * int(PATIENCE)}  # then JAX aborts, with a stack trace
  try:
    if coordinator:
      jax.distributed.initialize(
        coordinator,
        int(os.environ["CHARRNN_PROCESSES"]),
        int(os.environ["CHARRNN_PROCESS"]),
        **patience,
      )
    else:
      jax.distributed.initialize(**patience)
  except (KeyError, ValueError, RuntimeError) as error:
    raise errors.UserError(
      f"--distributed: no other processes found ({error}): start it under srun, or set "
      "CHARRNN_COORDINATOR=host:port, CHARRNN_PROCESSES and CHARRNN_PROCESS"
    ) from error
  finally:
    waited.cancel()
  # JAX's own count would start its devices, whose number is not chosen yet. Elsewhere than under
  # SLURM they are not CPUs, and the count is not used.
  return int(os.environ.get("CHARRNN_PROCESSES") or os.environ.get("SLURM_NTASKS") or 1)


def _give_up():
  """Ends this process, which waits inside of JAX for others."""
  console.say(
    f"launch.py: error: --distributed: other processes of this run did not come in {PATIENCE:g} s: "
    "see what they say, and whether they reach the first one's host and port"
  )
  os._exit(2)


@contextlib.contextmanager
def together(newest):
  """A UserError in one process is one in all: the others would wait for it in vain.

  `newest`: the newest checkpoint that this process sees, of which all are to see the same.
  """
  wrong = None
  try:
    yield
  except errors.UserError as error:
    wrong = error
  import jax

  if jax.process_count() > 1:
    import numpy as np
    from jax.experimental import multihost_utils

    own = np.array([wrong is not None, newest], np.int32)
    failed, found = multihost_utils.process_allgather(own).T
    if failed.any():
      said = f"process {failed.argmax()} of this run refuses: see what it says"
      wrong = wrong or errors.UserError(said)
    elif len({*found.tolist()}) > 1:
      wrong = errors.UserError(
        "the processes of this run see different checkpoints: give a --workdir that all share"
      )
  if wrong:
    raise wrong


class Stopwatch:
  """The seconds of each phase of a start, in their order, from when the process was made."""

  def __init__(self):
    self._began = self._last = _process_start()
    self._seconds = {}

  def mark(self, phase):
    """A phase ends here."""
    now = time.monotonic()
    self._seconds[phase] = now - self._last
    self._last = now

  def seconds(self):
    """By phase, and last their total."""
    phases = self._seconds | {"total": self._last - self._began}
    return {phase: round(seconds, 3) for phase, seconds in phases.items()}


def _process_start():
  """When this process was made, by time.monotonic and to 10 ms.

  Where the system does not say, when this module was imported: Python's own start is left out.
  """
  try:
    # proc(5): field 22 is in clock ticks since the boot; the name before may hold spaces.
    fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    since_boot = int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot
  except (OSError, ValueError, IndexError, AttributeError):
    return _IMPORTED
  return min(time.monotonic() - age, _IMPORTED)
