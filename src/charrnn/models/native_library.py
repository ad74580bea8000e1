"""The compiled library of native.cc, and the decision whether it computes the layers.

The library is compiled at first use, for the CPU of this machine and against the headers of the
installed jaxlib, and stored in the cache folder. The environment variable CXX selects the compiler.
CHARRNN_CXXFLAGS replaces the option for the instruction set, -march=native.
"""

import contextlib
import ctypes
import errno
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
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import jaxlib

from charrnn import console, files, process, runtime

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
# With -std=c++17, GCC uses fused multiply-adds only if -ffp-contract=fast is set.
OPTIONS = ("-std=c++17", "-O2", "-ffp-contract=fast", "-shared", "-fPIC", "-fvisibility=hidden")
TIMEOUT = 300.0  # maximum seconds that the compiler may take
MAX_WAIT = 120.0  # maximum seconds to wait for another process that is compiling
MAX_ERROR = 300  # maximum characters of a compiler's error; the reason is also stored in run.json
STALE = 3600.0  # age in seconds after which a temporary folder belongs to a dead process
HEADER = "xla/ffi/api/ffi.h"
DIGEST = hashlib.sha256().digest_size  # bytes of the SHA-256 that follows the library in its file


class UnavailableError(Exception):
  """The library cannot be used. The message is one line with the reason and the remedy."""


class Library(NamedTuple):
  """The loaded library."""

  compiler: str  # for example "g++ 12.2.0"
  instructions: str  # "AMX-BF16", "AVX512-BF16", "AVX512", "AVX2" or "baseline"

  def __str__(self):
    return f"native ({self.instructions}, {self.compiler})"


def load() -> Library:
  """Return the library, compiled if necessary and registered with JAX.

  Raise UnavailableError if it cannot be used.
  """
  library, reason = _attempt()
  if library is None:
    raise UnavailableError(reason)
  return library


def is_used(unroll: str) -> bool:
  """Return whether the library computes the layers of a model with this value of `unroll`.

  Raise UnavailableError if this value is "native" and the library cannot be used.
  """
  if unroll == "native":
    load()
    return True
  return unroll == "auto" and jax.default_backend() == "cpu" and fallback_reason() is None


def is_expected(unroll: str) -> bool:
  """Predict the result of `is_used` without initializing JAX's devices.

  If a JAX package for an accelerator is installed, assume that JAX will use the accelerator.
  """
  if unroll != "auto":
    return unroll == "native"
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  accelerators = bool(plugins) or importlib.util.find_spec("libtpu") is not None
  return (jax.config.jax_platforms == "cpu" or not accelerators) and fallback_reason() is None


def unmeasured() -> str | None:
  """Return why "auto" does not try the library on this machine, or None if it does.

  The library was measured on x86-64 with AVX2, AVX-512 and AMX. It trains faster than the scan
  there. To measure other machines, use `model.unroll=native`.
  """
  machine = platform.machine(), sys.platform
  if machine != ("x86_64", "linux"):
    return f"the native layers were not measured on {' with '.join(machine)}"
  flags = cpu_flags()
  if not {"avx2", "fma"} <= flags:
    return "the native layers were not measured on CPUs without AVX2 and FMA"
  return None


@functools.cache
def fallback_reason() -> str | None:
  """Return why "auto" uses the scan on a CPU, or None if it uses the library.

  The first call compiles the library, or reports the reason.
  """
  if reason := unmeasured() or _attempt()[1]:
    console.say(f"the layers are computed by the scan, which is usually slower: {reason}")
  return reason


@functools.cache
def _attempt() -> tuple[Library | None, str | None]:
  """Return the library, or the reason why it cannot be used."""
  try:
    return _load(), None
  except UnavailableError as error:
    return None, str(error)


def _load():
  include = jax.ffi.include_dir()
  if not (pathlib.Path(include) / HEADER).exists():
    raise UnavailableError(f"jaxlib has no file {HEADER} in {include}: reinstall jaxlib")
  command, compiler, version = _compiler()
  options = [*OPTIONS, *_words("CHARRNN_CXXFLAGS", "-march=native")]
  if not ("amx_tile" in cpu_flags() and _request_tiles()):
    options.append("-DNO_TILES")
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


def _request_tiles() -> bool:
  """Ask Linux for permission to use AMX; return whether it was granted."""
  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), see Documentation/arch/x86/xstate.rst
  arguments = map(ctypes.c_long, (158, 0x1023, 18))
  return ctypes.CDLL(None).syscall(*arguments) == 0


def _compiler() -> tuple[list[str], str, str]:
  """Return the command of the compiler, its name and version, and its whole version report."""
  selected = _words("CXX", "")
  choices = [selected] if selected else [[name] for name in COMPILERS]
  for command in choices:
    if shutil.which(command[0]):
      report = _run([*command, "--version"])
      # CXX may contain a launcher and options, for example "ccache g++ -m64".
      name = [word for word in command if not word.startswith("-")][-1]
      # In parentheses is the version of the distribution's package.
      line = re.sub(r"\(.*?\)", "", report.partition("\n")[0])
      versions = re.findall(r"\d+\.\d+[.\d]*", line)
      return command, " ".join([pathlib.Path(name).name, *versions[:1]]), report
  names = ", ".join(command[0] for command in choices)
  raise UnavailableError(f"no C++ compiler found ({names}): install g++ or clang++, or set CXX")


def _words(variable, default) -> list[str]:
  """Split the value of an environment variable as a shell does."""
  value = os.environ.get(variable, default)
  try:
    return shlex.split(value)
  except ValueError as error:
    raise UnavailableError(f"{variable}={value}: {error}: correct the variable") from error


def _run(command, folder: str | None = None) -> str:
  """Run a compiler, which puts its temporary files into `folder`; return its stdout.

  Raise UnavailableError with the compiler's first error, or OSError if the disk is full.
  """
  # In the C locale, messages about errors contain the word "error".
  environment = os.environ | {"LC_ALL": "C"} | ({"TMPDIR": folder} if folder else {})
  try:
    result = process.call(command, TIMEOUT, env=environment)
  except TimeoutError as error:
    raise UnavailableError(f"{error.strerror}: set CXX to another compiler") from error
  except OSError as error:
    raise UnavailableError(
      f"cannot run {command[0]} ({error.strerror}): set CXX to another compiler"
    ) from error
  if result.returncode:
    full = os.strerror(errno.ENOSPC)
    lines = result.stderr.decode(errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()] or ["no message"]
    if folder and any(full in line for line in lines):
      raise OSError(errno.ENOSPC, full)
    text = next((line for line in lines if "error" in line), lines[-1])
    if len(text) > MAX_ERROR:
      text = text[:MAX_ERROR] + "..."
    raise UnavailableError(
      f"{command[0]} ended with exit code {result.returncode} ({text}): correct this, or set CXX "
      "to another compiler"
    )
  return result.stdout.decode(errors="replace")


def _compile_once(command, compiler, path):
  """Compile native.cc to `path`, unless another process is compiling it now; then wait for that.

  The kernel unlocks the folder when the other process ends. After MAX_WAIT, compile as well.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.opened(path.parent, files.DIRECTORY) as folder:
    # Other errors: some file systems have no locks.
    with contextlib.suppress(OSError):
      files.lock(folder, MAX_WAIT)
    if not _is_whole(path):
      _compile(command, compiler, path)


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
    # The loader ignores bytes that follow the library.
    output.write_bytes(data + hashlib.sha256(data).digest())
    _open(output)  # Store only what can be loaded.
    output.replace(path)


def _open(path) -> ctypes.CDLL:
  try:
    return ctypes.CDLL(str(path))
  except OSError as error:
    raise UnavailableError(
      f"the compiled library cannot be loaded ({error}): set CXX to another compiler, or "
      "CHARRNN_CACHE to a folder whose file system allows programs"
    ) from error


def _is_whole(path) -> bool:
  """Return whether the library exists and is undamaged."""
  data = path.read_bytes() if path.exists() else b""
  return hashlib.sha256(data[:-DIGEST]).digest() == data[-DIGEST:]


@functools.cache
def cpu_flags() -> frozenset[str]:
  """Return the feature flags of the CPU in Linux's names; an empty set if they are unknown."""
  info = runtime.cpu_info()
  return frozenset(info.get("flags", info.get("Features", "")).split())
