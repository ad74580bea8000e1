"""Compile native.cc at first use, load it, and decide where it computes the layers.

The library is compiled for the CPU of this machine and the installed jaxlib, whose headers it
needs, and stored in the cache folder. CXX selects the compiler. CHARRNN_CXXFLAGS replaces the
option for the instruction set, -march=native.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shlex
import shutil
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
STALE = 3600.0  # age in seconds after which a temporary folder belongs to a dead process
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

  On a machine with a plugin for an accelerator, assume that it is not.
  """
  if unroll != "auto":
    return unroll == "native"
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  has_accelerator = bool(plugins) and os.environ.get("JAX_PLATFORMS") != "cpu"
  return not has_accelerator and _is_chosen()


def unmeasured() -> str | None:
  """Return why "auto" does not use the library on this machine, or None if it does.

  The library was measured to be faster than the scan on x86-64 with AVX2 and with AVX-512. Where
  there is AMX, XLA may be faster in bfloat16. Use `model.unroll=native` to measure other machines.
  """
  if platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux":
    return f"it was not measured on {sys.platform} on {platform.machine()}"
  flags = _cpu_flags()
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
  command, compiler = _compiler()
  folder = runtime.cache_folder() / "native"
  architecture = shlex.split(os.environ.get("CHARRNN_CXXFLAGS", "-march=native"))
  options = [*OPTIONS, *architecture]
  key = SOURCE.read_bytes(), compiler, options, sorted(_cpu_flags()), jaxlib.__version__
  path = folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.so"
  try:
    if not _is_whole(path):
      console.say(f"compiling the recurrent layers with {compiler} (once, about 15 seconds)")
      _compile([*command, *options, "-isystem", jax.ffi.include_dir()], path)
    handle = ctypes.CDLL(str(path))
    handlers = [getattr(handle, target) for target in TARGETS]
  except OSError as error:
    raise UnavailableError(
      f"{error}: set CHARRNN_CACHE to a folder that can be written and may contain programs"
    ) from error
  for target, handler in zip(TARGETS, handlers):
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")
  handle.charrnn_instructions.restype = ctypes.c_char_p
  return Library(compiler, handle.charrnn_instructions().decode())


def _compiler() -> tuple[list[str], str]:
  """Return the command of the compiler, and its name with its version."""
  names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
  for name in names:
    command = shlex.split(name)
    if not shutil.which(command[0]):
      continue
    # -dumpfullversion is GCC's; Clang ignores it.
    version = _run([*command, "-dumpfullversion", "-dumpversion"]).strip()
    return command, f"{pathlib.Path(command[-1]).name} {version}"
  raise UnavailableError(
    f"no C++ compiler found ({', '.join(names)}): install g++ or clang++, or set CXX"
  )


def _run(command) -> str:
  """Run a compiler and return its stdout; raise UnavailableError with its first error."""
  try:
    # In the C locale, errors contain the word "error".
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
      command,
      capture_output=True,
      timeout=TIMEOUT,
      check=False,
      stdin=subprocess.DEVNULL,
      env=environment,
    )
  except subprocess.TimeoutExpired as error:
    raise UnavailableError(
      f"{command[0]} took more than {TIMEOUT:g} s: set CXX to another compiler"
    ) from error
  if done.returncode:
    lines = done.stderr.decode(errors="replace").splitlines() or ["no message"]
    reason = next((line for line in lines if "error" in line), lines[-1])
    raise UnavailableError(
      f"{command[0]} ended with exit code {done.returncode} ({reason.strip()}): set CXX to another "
      "compiler"
    )
  return done.stdout.decode(errors="replace")


def _compile(command, path):
  """Compile native.cc to `path`. A library that another process compiles is replaced as a whole."""
  path.parent.mkdir(parents=True, exist_ok=True)
  for leftover in path.parent.glob("compiling-*"):
    if time.time() - leftover.stat().st_mtime > STALE:
      shutil.rmtree(leftover, ignore_errors=True)
  with tempfile.TemporaryDirectory(dir=path.parent, prefix="compiling-") as folder:
    output = pathlib.Path(folder) / "native.so"
    _run([*command, "-o", str(output), str(SOURCE)])
    data = output.read_bytes()
    # The loader ignores what follows the library.
    output.write_bytes(data + hashlib.sha256(data).digest())
    output.replace(path)


def _is_whole(path) -> bool:
  """Return whether a library exists and is undamaged."""
  data = path.read_bytes() if path.exists() else b""
  return hashlib.sha256(data[:-DIGEST]).digest() == data[-DIGEST:]


@functools.cache
def _cpu_flags() -> frozenset[str]:
  """Return the names of the instruction sets of the CPU; an empty set if they are unknown."""
  path = pathlib.Path("/proc/cpuinfo")
  lines = path.read_text().splitlines() if path.exists() else []
  flags = next((line for line in lines if line.startswith("flags")), "")
  return frozenset(flags.partition(":")[2].split())
