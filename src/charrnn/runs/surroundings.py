"""What else decides a result than config and text: machine, packages, settings, and the code."""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Iterator

from charrnn import startup

PACKAGES = (
  *("charrnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml_collections"),
  *("numpy", "ml_dtypes", "tensorstore", "libtpu"),
  *(f"jax-cuda{n}-{part}" for n in (12, 13) for part in ("plugin", "pjrt")),
  *("nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-cuda-nvcc-cu12"),
  *("nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-nvcc"),
)
# Variables of the environment that JAX computes otherwise with. NPROC: its threads on a CPU.
SETTINGS = re.compile(r"JAX_.*|XLA_FLAGS|NPROC|LIBTPU_INIT_ARGS|NVIDIA_TF32_OVERRIDE")
PACKAGE = pathlib.Path(__file__).parents[1]
DIFF = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative")
DIFF += ("--src-prefix=a/", "--dst-prefix=b/")  # whatever the user's own settings are
MOST = 1_000_000  # bytes of uncommitted changes that are kept


def facts(workdir: pathlib.Path) -> dict:
  """For run.json; code that is not committed goes to a file of its own in `workdir`."""
  commit, changes = code(PACKAGE)
  return {
    "directory": os.getcwd(),
    "python": platform.python_version(),
    "platform": platform.platform(),
    "processor": processor(),
    "cores": len(startup.cores()),
    "driver": _driver(),
    "packages": {name: version for name in PACKAGES if (version := _version(name))},
    "settings": {k: v for k, v in sorted(os.environ.items()) if SETTINGS.fullmatch(k)},
    "git": commit and commit + ("+" if changes else ""),
    "uncommitted": _keep(workdir, changes) if changes else None,
  }


def differences(then: dict, now: dict) -> Iterator[str]:
  """What is different between two launches, a line each; what `then` lacks is passed over."""
  names = ("devices", "processor", "cores", "driver", "platform", "python", "git", "uncommitted")
  pairs = {name: (then.get(name), now[name]) for name in names if name in then}
  pairs |= {name: (old, now["packages"].get(name)) for name, old in then["packages"].items()}
  if "settings" in then:
    for name in sorted(then["settings"].keys() | now["settings"].keys()):
      pairs[name] = then["settings"].get(name), now["settings"].get(name)
  for name, (old, new) in pairs.items():
    if old != new:
      yield f"{name}: {old or 'none'}, now {new or 'none'}"


def use_cores(count: int):
  """Keeps this process to so many cores, if it has more: with others float32 is rounded otherwise.

  Before SciPy is loaded, whose LAPACK rounds by the cores there are then.
  """
  cores = startup.cores()
  if hasattr(os, "sched_setaffinity") and 0 < count < len(cores):
    os.sched_setaffinity(0, cores[:count])


def processor() -> str:
  """What the processor calls itself."""
  path = pathlib.Path("/proc/cpuinfo")
  lines = path.read_text().splitlines() if path.exists() else []
  names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
  return names[0] if names else platform.processor() or platform.machine()


def _driver() -> str | None:
  """NVIDIA's, where there is one."""
  with contextlib.suppress(OSError):
    return pathlib.Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
  return None


def _version(name: str) -> str | None:
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    return importlib.metadata.version(name)
  return None


def code(folder: pathlib.Path) -> tuple[str | None, bytes]:
  """The commit of the code in a folder of a checkout, and what is not committed as a diff.

  That is all that has changed in the checkout's Python, and files in the folder that git does not
  know. (None, b"") outside of git.
  """
  try:
    # A package that is installed may lie in a checkout of something else.
    if not _git(folder, "ls-files", "--", "."):
      return None, b""
    root = os.fsdecode(_git(folder, "rev-parse", "--show-toplevel")).rstrip("\n")
    changes = [_git(root, *DIFF, "HEAD", "--", "*.py")]
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", str(folder))
    for path in map(os.fsdecode, new.split(b"\0")):
      if path.endswith(".py"):
        changes.append(_git(root, *DIFF, "--no-index", "--", os.devnull, path, codes=(1,)))
    return _git(root, "rev-parse", "HEAD").decode().strip(), b"".join(changes)
  except (OSError, subprocess.CalledProcessError):
    return None, b""


def _git(folder, *arguments, codes=(0,)) -> bytes:
  command = ["git", "-C", str(folder), *arguments]
  # No lock on the index: several trials start at once.
  environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
  done = subprocess.run(command, capture_output=True, env=environment, check=False)
  if done.returncode not in codes:
    raise subprocess.CalledProcessError(done.returncode, command)
  return done.stdout


def _keep(workdir: pathlib.Path, changes: bytes) -> str:
  """Writes changes to a file that is named by their digest; returns its name."""
  name = f"uncommitted-{hashlib.sha256(changes).hexdigest()[:8]}.diff"
  if len(changes) > MOST:
    changes = changes[:MOST] + f"\n(cut here: {len(changes)} bytes in all)\n".encode()
  (workdir / name).write_bytes(changes)
  return name
