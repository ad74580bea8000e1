"""Compile native.cc at first use, load it, and decide where it computes the layers.

The library is compiled for the CPU of this machine and the installed jaxlib, whose headers it
needs, and stored in the cache folder. CXX selects the compiler. CHARRNN_CXXFLAGS replaces the
option for the instruction set, -march=native.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import jaxlib

from charrnn import console, runtime

SOURCE = pathlib.Path(__file__).with_name("native.cc")
TARGETS = (
  "charrnn_pack",
  "charrnn_forward",
  "charrnn_backward",
  "charrnn_weight_gradient",
  "charrnn_linear",
  "charrnn_linear_gradient",
  "charrnn_registers",
)
COMPILERS = ("g++", "clang++", "c++")
# Without fp-contract, -std=c++17 would not let the compiler use fused multiply-adds.
OPTIONS = ("-std=c++17", "-O2", "-ffp-contract=fast", "-shared", "-fPIC", "-fvisibility=hidden")
TIMEOUT = 300.0  # maximum seconds for a run of the compiler
MAX_WAIT = 120.0  # maximum seconds to wait for another process that is compiling
STALE = 3600.0  # age in seconds after which a temporary folder belongs to a dead process
HEADER = "xla/ffi/api/ffi.h"
DIGEST = hashlib.sha256().digest_size  # bytes after the library in its file


class UnavailableError(Exception):
  """The library cannot be used. The message is the reason and the remedy, in one line."""


class Library(NamedTuple):
  """The loaded library."""

  compiler: str  # for example "g++ 12.2.0"
  instructions: str  # "AVX512-BF16", "AVX512", "AVX2" or "baseline"

  def __str__(self):
    return f"native ({self.instructions}, {self.compiler})"


def load() -> Library:
  """Return the library, compiled if necessary and registered with JAX; raise UnavailableError."""
  library, reason = _attempt()
  if library is None:
    raise UnavailableError(reason)
  return library


def is_used(unroll: str) -> bool:
  """Return whether the library computes the layers of a model with this `unroll` field.

  The first call with "auto" on a CPU compiles the library, or reports why it is not used.
  """
  if unroll == "native":
    load()
    return True
  return unroll == "auto" and jax.default_backend() == "cpu" and _is_chosen()


def is_expected(unroll: str) -> bool:
  """Return whether `is_used` will be true, without starting JAX.

  On a machine with JAX's package for an accelerator, assume that it is not.
  """
  if unroll != "auto":
    return unroll == "native"
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  accelerators = bool(plugins) or importlib.util.find_spec("libtpu") is not None
  return (jax.config.jax_platforms == "cpu" or not accelerators) and _is_chosen()


def unmeasured() -> str | None:
  """Return why "auto" does not use the library on this machine, or None if it does.

  The library was measured to be faster than the scan on x86-64 with AVX2 and with AVX-512. Where
  there is AMX, XLA may be faster in bfloat16. Use `model.unroll=native` to measure other machines.
  """
  if platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux":
    return f"it was not measured on {sys.platform} on {platform.machine()}"
  flags = cpu_flags()
  if not {"avx2", "fma"} <= flags:
    return "it was not measured on CPUs without AVX2 and FMA"
  if "amx_tile" in flags:
    return "it was not measured on CPUs with AMX"
  return None


@functools.cache
def _is_chosen():
  if text := unmeasured() or _attempt()[1]:
    console.say(f"the layers are computed by the slower scan: {text}")
  return not text


def reason() -> str | None:
  """Return why "auto" does not use the library on a CPU, or None if it does or was not asked."""
  return None if not _is_chosen.cache_info().currsize else unmeasured() or _attempt()[1]


@functools.cache
def _attempt() -> tuple[Library | None, str | None]:
  """Return the library, or the reason why there is none."""
  try:
    return _load(), None
  except UnavailableError as error:
    return None, str(error)


def _load():
  if os.name != "posix":
    raise UnavailableError(f"it does not run on {sys.platform}: use Linux or macOS")
  include = jax.ffi.include_dir()
  if not (pathlib.Path(include) / HEADER).exists():
    raise UnavailableError(f"jaxlib has no file {HEADER} in {include}: reinstall jaxlib")
  command, compiler, version = _compiler()
  options = [*OPTIONS, *_words("CHARRNN_CXXFLAGS", "-march=native")]
  machine = platform.machine(), sorted(cpu_flags())
  key = SOURCE.read_bytes(), command, version, options, machine, jaxlib.__version__
  folder = runtime.cache_folder() / "native"
  path = folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.so"
  try:
    if not _is_whole(path):
      _compile_once([*command, *options, "-isystem", include], compiler, path)
  except OSError as error:
    raise UnavailableError(
      f"cannot store the compiled layers in {folder} ({error.strerror}): correct this, or set "
      "CHARRNN_CACHE to another folder"
    ) from error
  handle = _open(path)
  for target in TARGETS:
    capsule = jax.ffi.pycapsule(getattr(handle, target))
    jax.ffi.register_ffi_target(target, capsule, platform="cpu")
  handle.charrnn_instructions.restype = ctypes.c_char_p
  return Library(compiler, handle.charrnn_instructions().decode())


def _compiler() -> tuple[list[str], str, str]:
  """Return the command of the compiler, its name with its version, and all that it reports."""
  choices = [_words("CXX", "")] if os.environ.get("CXX", "").strip() else [[c] for c in COMPILERS]
  for command in choices:
    if shutil.which(command[0]):
      report = _run([*command, "--version"])
      # CXX may contain a launcher and options, for example "ccache g++ -m64".
      name = [word for word in command if not word.startswith("-")][-1]
      # Packages add their own version in parentheses.
      line = re.sub(r"\(.*?\)", "", report.partition("\n")[0])
      versions = re.findall(r"\d+\.\d+[.\d]*", line)
      return command, " ".join([pathlib.Path(name).name, *versions[:1]]), report
  names = ", ".join(command[0] for command in choices)
  raise UnavailableError(f"no C++ compiler found ({names}): install g++ or clang++, or set CXX")


def _words(variable, default) -> list[str]:
  """Split an environment variable as a shell does."""
  value = os.environ.get(variable, default)
  try:
    return shlex.split(value)
  except ValueError as error:
    raise UnavailableError(f"{variable}={value}: {error}: correct the variable") from error


def _run(command, folder: str | None = None) -> str:
  """Run a compiler, with temporary files in a folder; return stdout.

  Raise UnavailableError with its first error, or OSError if the folder is full.
  """
  # In the C locale, errors contain the word "error".
  environment = os.environ | {"LC_ALL": "C"} | ({"TMPDIR": folder} if folder else {})
  pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
  try:
    process = subprocess.Popen(command, **pipes, env=environment, process_group=0)
  except OSError as error:
    raise UnavailableError(
      f"cannot run {command[0]} ({error.strerror}): set CXX to another compiler"
    ) from error
  with process:
    try:
      out, err = process.communicate(timeout=TIMEOUT)
    except BaseException as error:
      # A compiler has subprocesses, which would go on.
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      if isinstance(error, subprocess.TimeoutExpired):
        raise UnavailableError(
          f"{command[0]} took more than {TIMEOUT:g} s: set CXX to another compiler"
        ) from error
      raise
  if process.returncode:
    full = os.strerror(errno.ENOSPC)
    lines = err.decode(errors="replace").splitlines() or ["no message"]
    if folder and any(full in line for line in lines):
      raise OSError(errno.ENOSPC, full)
    text = next((line for line in lines if "error" in line), lines[-1])
    raise UnavailableError(
      f"{command[0]} ended with exit code {process.returncode} ({text.strip()}): correct this, or "
      "set CXX to another compiler"
    )
  return out.decode(errors="replace")


def _compile_once(command, compiler, path):
  """Compile native.cc to `path`, unless another process that is compiling now does that.

  The kernel unlocks the folder when the other process ends. If it does not end, compile as well.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  descriptor = os.open(path.parent, os.O_RDONLY)
  try:
    end = time.monotonic() + MAX_WAIT
    while not _lock(descriptor) and time.monotonic() < end:
      time.sleep(0.1)
    if not _is_whole(path):
      _compile(command, compiler, path)
  finally:
    os.close(descriptor)


def _lock(descriptor: int) -> bool:
  """Lock a folder; return whether no other process has locked it."""
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:  # The file system has no locks.
    pass
  return True


def _compile(command, compiler, path):
  """Compile native.cc in a temporary folder, and move the result to `path`."""
  for leftover in path.parent.glob("compiling-*"):
    with contextlib.suppress(FileNotFoundError):  # Another process has removed its folder.
      if time.time() - leftover.stat().st_mtime > STALE:
        shutil.rmtree(leftover, ignore_errors=True)
  with tempfile.TemporaryDirectory(dir=path.parent, prefix="compiling-") as folder:
    console.say(f"compiling the recurrent layers with {compiler} (once, about 15 seconds)")
    output = pathlib.Path(folder) / "native.so"
    _run([*command, "-o", str(output), str(SOURCE)], folder)
    if not output.exists():
      raise UnavailableError(f"{command[0]} wrote no library: set CXX to another compiler")
    data = output.read_bytes()
    # The loader ignores what follows the library.
    output.write_bytes(data + hashlib.sha256(data).digest())
    _open(output)  # Store only what can be loaded.
    output.replace(path)


def _open(path) -> ctypes.CDLL:
  try:
    return ctypes.CDLL(str(path))
  except OSError as error:
    raise UnavailableError(
      f"the compiled library cannot be loaded ({error}): set CXX to another compiler, or "
      "CHARRNN_CACHE to a folder that may contain programs"
    ) from error


def _is_whole(path) -> bool:
  """Return whether a library exists and is undamaged."""
  data = path.read_bytes() if path.exists() else b""
  return hashlib.sha256(data[:-DIGEST]).digest() == data[-DIGEST:]


@functools.cache
def cpu_flags() -> frozenset[str]:
  """Return the names of the instruction sets of the CPU; an empty set if they are unknown."""
  path = pathlib.Path("/proc/cpuinfo")
  lines = path.read_text().splitlines() if path.exists() else []
  flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
  return frozenset(flags.partition(":")[2].split())
