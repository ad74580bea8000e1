"""Settings that must be made before JAX starts, and a stopwatch for the phases of startup.

The settings concern the caches, memory allocation, CPU devices, and the processes of a run.
"""

import contextlib
import ctypes
import errno
import functools
import importlib.metadata
import logging
import os
import pathlib
import re
import sys
import threading
import time
import types
from collections.abc import Iterator

import platformdirs
import psutil

from charrnn import console, errors

try:
  import resource
except ImportError:  # Windows
  resource = None

_IMPORTED = time.monotonic()
# From this version of jaxlib on, XLA computes some sums of products wrongly on CPUs if it fuses the
# products with the sums. The flag excludes sums from such fusions. The range ends with the versions
# that pyproject.toml allows (0.12 needs the flag), because an unknown flag ends the process.
SUMS_FLAG, SUMS_VERSION, SUMS_END = "--xla_cpu_experimental_ynn_fusion_type", (0, 10, 2), (0, 13)
# The settings of JAX that change results, or forbid what charrnn does. `start` sets them to JAX's
# defaults, so that neither the environment nor a notebook affects a run. Settings for debugging,
# such as JAX_DEBUG_NANS, keep their values. A version of JAX may lack some of these.
JAX_SETTINGS = {
  "jax_enable_x64": False,
  "jax_numpy_rank_promotion": "allow",
  "jax_numpy_dtype_promotion": "standard",
  "jax_default_prng_impl": "threefry2x32",
  "jax_threefry_partitionable": True,
  "jax_random_seed_offset": 0,
  "jax_high_dynamic_range_gumbel": False,
  "jax_legacy_prng_key": "allow",
  "jax_no_tracing": False,
  "jax_transfer_guard": None,
  "jax_transfer_guard_host_to_device": None,
  "jax_transfer_guard_device_to_host": None,
  "jax_transfer_guard_device_to_device": None,
}
DEVICES_FLAG = "--xla_force_host_platform_device_count"
MIN_THREADS = 20  # threads of JAX and Orbax, in addition to one per core
MAX_WAIT = 120.0  # maximum seconds to wait for the other processes of a run


def cache_folder() -> pathlib.Path:
  """Return the folder for downloads, prepared corpora and compiled programs.

  The environment variable CHARRNN_CACHE overrides the user's cache folder. Raises UserError if the
  user has none.
  """
  if override := os.environ.get("CHARRNN_CACHE"):
    return pathlib.Path(os.path.expanduser(override))
  try:
    folder = platformdirs.user_cache_path("charrnn", appauthor=False)
    if folder.parts[0] == "~":  # older versions of platformdirs
      raise RuntimeError
  except RuntimeError as error:  # There is no HOME, and the user id has no name.
    raise errors.UserError(
      "no home directory is known for the cache: set CHARRNN_CACHE to a folder, or set HOME"
    ) from error
  return folder


def start() -> types.ModuleType:
  """Set up memory, JAX's settings, logging and the compilation cache; return the module `jax`.

  This does not initialize the devices, so their number can still be set.
  """
  keep_memory()
  check_threads()
  correct_sums()
  import jax
  from absl import logging as absl_logging

  reset_settings()
  absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs errors that it also raises.
  for name in ("jax", "orbax"):
    logging.getLogger(name).setLevel(logging.ERROR)
  # When a file is damaged, Orbax closes an event loop that threads of TensorStore still use. Both
  # then print tracebacks. They are hidden here, because the damage is reported elsewhere.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  sys.unraisablehook = functools.partial(_report_unraisable, sys.unraisablehook)
  with contextlib.suppress(errors.UserError):  # Commands that only read need no cache.
    if not jax.config.jax_compilation_cache_dir:
      jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
      jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  return jax


def check_threads():
  """Raise UserError unless JAX can start its threads; without them, it would end the process."""
  count, stop = MIN_THREADS + len(cores()), threading.Event()
  threads = [threading.Thread(target=stop.wait, daemon=True) for _ in range(count)]
  started = []
  try:
    for thread in threads:
      thread.start()
      started.append(thread)
  except RuntimeError as error:
    raise errors.UserError(
      f"this user may start only {len(started)} more threads, and JAX needs {count}: "
      f"{errors.REMEDIES[errno.EAGAIN]}"
    ) from error
  finally:
    stop.set()
    for thread in started:
      thread.join()


def reset_settings():
  """Reset the settings in JAX_SETTINGS, and warn about those that had another value."""
  import jax

  ignored = []
  for name, value in JAX_SETTINGS.items():
    current = getattr(jax.config, name, value)
    if getattr(current, "value", current) != value:  # Some are members of an Enum.
      ignored.append(f"{name.upper()}={getattr(current, 'value', current)}")
      jax.config.update(name, value)
  if ignored:
    say_ignored(ignored, "charrnn uses JAX's defaults, so that results do not depend on settings")


def say_ignored(settings: list[str], reason: str):
  """Warn that settings of JAX are ignored, and say why."""
  console.say(f"warning: ignoring {', '.join(settings)}: {reason}")


@functools.cache
def correct_sums():
  """Make XLA compute sums of products correctly on CPUs, with the jaxlib versions that do not.

  Without this, `jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))` is wrong from 32,769 rows.
  A setting in XLA_FLAGS is kept. XLA reads the variable when the first device is used; if that was
  a CPU, print a warning instead.
  """
  import jax
  from jax._src import xla_bridge  # no public function tells whether a device has been used

  number = importlib.metadata.version("jaxlib")
  version = tuple(map(int, re.findall(r"\d+", number)[:3]))
  flags = os.environ.get("XLA_FLAGS", "")
  if not SUMS_VERSION <= version < SUMS_END or SUMS_FLAG in flags:
    return
  if not xla_bridge.backends_are_initialized():
    os.environ["XLA_FLAGS"] = f"{flags} {SUMS_FLAG}=-reduce".strip()
  elif jax.default_backend() == "cpu":
    console.say(
      f"warning: JAX was used before charrnn, and jaxlib {number} may compute wrong sums: restart "
      f"and call charrnn.load first, or set XLA_FLAGS={SUMS_FLAG}=-reduce"
    )


def _report_unraisable(report, unraisable):
  if str(unraisable.exc_value) != "Event loop is closed":
    report(unraisable)


def check_devices():
  """Start JAX's devices; raise UserError if the requested platform has none."""
  import jax

  try:
    jax.local_devices()
    jax.device_put(0)  # uses JAX_DEFAULT_DEVICE
  except (RuntimeError, AssertionError) as error:
    reason = (errors.first_line(error) or "it has no device").partition(" (set ")[0]
    platforms = jax.config.jax_platforms or "the devices of this machine"
    raise errors.UserError(
      f"JAX cannot use {platforms}: {reason}: check its driver and its JAX package, or set "
      "JAX_PLATFORMS=cpu"
    ) from error


def keep_memory():
  """Make malloc keep freed memory, because new pages make a training step on a CPU 30% slower.

  The options of glibc's mallopt(3) disable mapping of large blocks and trimming of the heap, and
  make all threads share one arena.
  """
  if sys.platform != "linux":
    return
  M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
  # Not every C library provides mallopt.
  if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 << 20)
    mallopt(M_ARENA_MAX, 1)


def free_memory() -> int:
  """Return the number of bytes that can be allocated, within the memory limit of a container."""
  free, group = psutil.virtual_memory().available, pathlib.Path("/sys/fs/cgroup")
  # There may be no container, or its limit may be "max".
  with contextlib.suppress(OSError, ValueError):
    names = ("memory.max", "memory.current", "memory.stat")
    limit, used, stat = ((group / name).read_text() for name in names)
    numbers = dict(line.split() for line in stat.splitlines())
    cached = int(numbers.get("active_file", 0)) + int(numbers.get("inactive_file", 0))
    free = min(free, int(limit) - int(used) + cached)
  return free


def check_memory(needed: dict[str, int], free: int, remedy: str):
  """Raise UserError if more memory is needed than is free; both are numbers of bytes.

  `needed` maps purposes of memory to lower bounds, so that nothing that may fit is refused.
  """
  total = sum(needed.values())
  if total > free:
    parts = ", ".join(f"{name} {size / 1e9:,.1f} GB" for name, size in needed.items())
    raise errors.UserError(
      f"this configuration needs at least {total / 1e9:,.1f} GB of memory ({parts}), but "
      f"only {free / 1e9:,.1f} GB are free: lower {remedy}"
    )


def cores() -> list[int]:
  """Return the ids of the cores that this process may use, sorted."""
  affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
  return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def cpu_info() -> dict[str, str]:
  """Return what Linux reports about the first core, by name; empty on other systems."""
  path = pathlib.Path("/proc/cpuinfo")
  lines = path.read_text().partition("\n\n")[0].splitlines() if path.exists() else []
  pairs = (line.partition(":") for line in lines)
  return {name.strip(): value.strip() for name, _, value in pairs}


def gpu_driver() -> str | None:
  """Return the version of NVIDIA's driver as Linux reports it, or None if it is unknown."""
  path = pathlib.Path("/proc/driver/nvidia/version")
  return path.read_text().splitlines()[0] if path.exists() else None


def peak_memory() -> int:
  """Return the peak memory of this process in bytes."""
  status = pathlib.Path("/proc/self/status")
  if status.exists():  # on Linux, ru_maxrss starts at the parent's value
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
  if resource is None:
    return psutil.Process().memory_info().peak_wset
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def set_cpu_devices(count: int, batch: int, parts: int, shares_cores: bool = False):
  """Set the number of JAX devices into which the CPU is divided; 0 chooses the fastest number.

  This is one if a device that `shares_cores` is faster (see `models.shares_cores`). Otherwise it is
  the largest number, at most one device per core, for which every device gets `parts` equal parts
  of the batch.
  """
  import jax

  if not count:
    fits = [n for n in range(1, len(cores()) + 1) if batch % (n * parts) == 0]
    count = 1 if shares_cores else max(fits, default=1)
  settings = [f"JAX_NUM_CPU_DEVICES={n}"] if (n := os.environ.get("JAX_NUM_CPU_DEVICES")) else []
  settings += re.findall(rf"{DEVICES_FLAG}=\S+", os.environ.get("XLA_FLAGS", ""))
  if settings := [each for each in settings if not each.endswith(f"={count}")]:
    say_ignored(settings, f"training uses {count}; set --config.cpu_devices to change it")
  jax.config.update("jax_num_cpu_devices", count)


def join_processes() -> int:
  """Connect to the other processes of the run, and return the number of processes.

  SLURM or a TPU pod provides their addresses. Without these, set the environment variables
  CHARRNN_COORDINATOR=host:port, CHARRNN_PROCESSES=n and CHARRNN_PROCESS=i for each process.
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
    # JAX's own timeout would abort the process with a stack trace, so it is longer than ours.
    jax.distributed.initialize(*arguments, initialization_timeout=2 * int(MAX_WAIT))
  except (KeyError, ValueError, RuntimeError) as error:
    raise errors.UserError(
      f"--distributed: no other processes found ({error}): use srun, or set "
      "CHARRNN_COORDINATOR=host:port, CHARRNN_PROCESSES and CHARRNN_PROCESS"
    ) from error
  finally:
    timer.cancel()
  # jax.process_count() would initialize the devices, whose number is not set yet. The number of
  # processes is needed only for CPUs, where it comes from SLURM or from the environment variables.
  return int(environment.get("CHARRNN_PROCESSES") or environment.get("SLURM_NTASKS") or 1)


def _exit_after_wait():
  """End this process while JAX is waiting for the other processes."""
  console.say(
    f"launch.py: error: --distributed: other processes of this run did not start within "
    f"{MAX_WAIT:g} s: read their error messages, and check that they can reach the host and port "
    "of process 0"
  )
  os._exit(2)


@contextlib.contextmanager
def together(newest: int) -> Iterator[None]:
  """Raise a UserError in all processes if one process raises it, so that none waits forever.

  `newest` is the step of the newest checkpoint that this process sees. If the processes see
  different checkpoints, raise UserError.
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
      text = f"process {failed.argmax()} of this run failed: read its error message"
      own_error = own_error or errors.UserError(text)
    elif len({*checkpoints.tolist()}) > 1:
      own_error = errors.UserError(
        "the processes of this run see different checkpoints: use a --workdir on a shared file "
        "system"
      )
  if own_error:
    raise own_error


class Stopwatch:
  """The seconds of each phase of startup, measured from the creation of the process."""

  def __init__(self):
    self.start = self._last = _process_start()  # on the clock of time.monotonic
    self._seconds: dict[str, float] = {}

  def mark(self, phase: str):
    """Mark the end of a phase."""
    now = time.monotonic()
    self._seconds[phase] = now - self._last
    self._last = now

  def seconds(self) -> dict[str, float]:
    """Return the seconds of each phase, followed by their total."""
    phases = self._seconds | {"total": self._last - self.start}
    return {phase: round(seconds, 3) for phase, seconds in phases.items()}


def _process_start() -> float:
  """Return when this process was created, on the clock of time.monotonic, accurate to 10 ms.

  Fall back to the time when this module was imported, which excludes the start of Python.
  """
  try:
    # Field 22 of proc(5) is the start time in clock ticks since the boot. The name before it may
    # contain spaces. psutil is not used, because its boot time has a resolution of one second.
    fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    since_boot = int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot
  except (OSError, ValueError, IndexError, AttributeError):
    return _IMPORTED
  return min(time.monotonic() - age, _IMPORTED)
