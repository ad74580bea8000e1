"""Provenance of a run, stored in run.json: machine, packages, settings, code and launches."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from charrnn import config as config_lib
from charrnn import console, files, process, runtime
from charrnn.data import corpora

PACKAGES = (
  *("charrnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml_collections"),
  *("numpy", "ml_dtypes", "tensorstore", "tokenizers", "libtpu"),
  *(f"jax-cuda{n}-{part}" for n in (12, 13) for part in ("plugin", "pjrt")),
  *("nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-cuda-nvcc-cu12"),
  *("nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-nvcc"),
)
# Environment variables that change JAX's results. NPROC is the number of its CPU threads.
SETTINGS = re.compile(r"JAX_.*|XLA_FLAGS|NPROC|LIBTPU_INIT_ARGS|NVIDIA_TF32_OVERRIDE")
PACKAGE = pathlib.Path(__file__).parents[1]
# Arguments for a diff that does not depend on the user's git settings.
DIFF = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative")
DIFF += ("--src-prefix=a/", "--dst-prefix=b/")
GIT_SECONDS = 60.0  # maximum time of one git command
MAX_DIFF = 1_000_000  # maximum number of bytes of uncommitted changes that are stored
# The types in run.json that its readers rely on.
RECORD = {
  "experiment": str,
  "variant": str,
  "corpus": {
    **{"source": str, "sha256": str, "alphabet": {"size": int}},
    **dict.fromkeys(("characters", "bytes", "files"), int),
    "tokens": int | files.Absent,
  },
  "launches": list,
  "rollbacks": list | files.Absent,
}
LAUNCH = {
  **dict.fromkeys(("time", "command", "devices", "python"), str),
  **dict.fromkeys(("git", "uncommitted"), str | None),
  **dict.fromkeys(("layers", "directory"), str | files.Absent),
  **{"overrides": dict, "packages": dict, "settings": dict | files.Absent},
  "cores": int | files.Absent,
}


class Original(NamedTuple):
  """The run that a rerun repeats, and the launch that created it."""

  path: pathlib.Path
  launch: dict[str, Any]


def record_launch(
  line,
  workdir: pathlib.Path,
  corpus,
  devices: str,
  layers: str | None = None,
  weights_of: Callable | None = None,
) -> dict[str, Any]:
  """Write config.json and the vocabulary, and add a launch to run.json; return its content.

  `line` is a command_line.CommandLine. `devices` is the number and kind of the devices, `layers`
  the implementation of the layers, and `weights_of` opens the source of the initial weights.
  """
  corpus.tokenizer.save(workdir / "alphabet.json")
  launch = {
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": shlex.join(sys.argv),
    "overrides": line.overrides,
    "devices": devices,
    **({"layers": layers} if layers else {}),
    **facts(workdir),
  }
  path = workdir / "run.json"
  stored = read(path) if path.exists() else {}
  record = {"experiment": line.experiment, "variant": line.variant, "corpus": corpus.provenance}
  record |= {name: stored[name] for name in ("weights", "rerun_of", "rollbacks") if name in stored}
  if weights_of and not stored:
    record["weights"] = weights_of().weights
  if line.original:
    record["rerun_of"] = str(line.original.path)
    same = "no difference from the original: machine, packages and code are the same"
    changes = [
      f"different from the original: {each}" for each in differences(line.original.launch, launch)
    ]
    for text in changes or [same]:
      console.say(text)
  launches = stored.get("launches", [])
  for each in differences(launches[-1], launch) if launches else ():
    console.say(f"different from the last launch: {each}")
  record["launches"] = [*launches, launch]
  files.write_json(path, files.seal(record))
  # config.json is written last, because it turns a directory into a run directory.
  files.write_json(workdir / "config.json", files.seal(config_lib.to_json(line.config)))
  return record


def read(path: pathlib.Path, needs_digest: bool = False) -> dict[str, Any]:
  """Return the content of a run.json; raise UserError if it is damaged."""
  value = files.read_sealed(path, needs_digest)
  is_valid = files.has_types(value, RECORD) and value["corpus"]["characters"] > 0
  is_valid = is_valid and corpora.is_valid_layout(value["corpus"])
  is_valid = is_valid and all(files.has_types(each, LAUNCH) for each in value["launches"])
  if not is_valid or not value["launches"]:
    raise files.damaged(path)
  return value


def identity(config, tokenizer, corpus: dict[str, Any]) -> dict[str, Any]:
  """Return the identity of a run, which its checkpoints repeat: config and digests of its inputs.

  `corpus` is the provenance of the corpus.
  """
  return {
    "config": config_lib.to_json(config),
    "vocabulary": files.digest(tokenizer.to_json()),
    "corpus": corpus["sha256"],
  }


def record_startup(workdir: pathlib.Path, record: dict[str, Any], seconds: dict[str, float]) -> str:
  """Add the startup times of the last launch to run.json; return a line that reports them.

  `seconds` maps phases to seconds, and "total" to their sum.
  """
  record["launches"][-1]["startup_seconds"] = seconds
  files.write_json(workdir / "run.json", files.seal(record))
  phases = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total")
  return f"startup   {seconds['total']:.1f} s until the end of the first step ({phases})"


def record_rollback(
  workdir: pathlib.Path, record: dict[str, Any], rollback: dict[str, Any], number: int
):
  """Store a rollback in run.json. A run that was killed after a rollback may repeat it."""
  record["rollbacks"] = [*record.get("rollbacks", [])[: number - 1], rollback]
  files.write_json(workdir / "run.json", files.seal(record))


def differences(then: dict, now: dict) -> Iterator[str]:
  """Yield a line for each difference between two launches; fields that `then` lacks are skipped."""
  names = ("devices", "layers", "processor", "cores", "driver", "platform", "python", "git")
  names += ("uncommitted",)
  pairs = {name: (then.get(name), now.get(name)) for name in names if name in then}
  pairs |= {name: (old, now["packages"].get(name)) for name, old in then["packages"].items()}
  if "settings" in then:
    old, new = then["settings"], now["settings"]
    pairs |= {name: (old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())}
  for name, (old, new) in pairs.items():
    if old != new:
      yield f"{name}: {old or 'none'}, now {new or 'none'}"


def facts(workdir: pathlib.Path) -> dict[str, Any]:
  """Return everything that affects results, except config and corpus; store uncommitted code."""
  commit, changes = code(PACKAGE)
  return {
    "directory": os.getcwd(),
    "python": platform.python_version(),
    "platform": platform.platform(),
    "processor": processor(),
    "cores": len(runtime.cores()),
    "driver": runtime.gpu_driver(),
    "packages": {name: version for name in PACKAGES if (version := _version(name))},
    "settings": {k: v for k, v in sorted(os.environ.items()) if SETTINGS.fullmatch(k)},
    "git": commit and commit + ("+" if changes else ""),
    "uncommitted": _store_changes(workdir, changes) if changes else None,
  }


def use_cores(count: int):
  """Restrict this process to `count` cores if it has more, because their number affects rounding.

  Call this before importing SciPy: its LAPACK reads the number of cores on import.
  """
  cores = runtime.cores()
  if 0 < count < len(cores):
    process.use_cores(cores[:count])


def processor() -> str:
  """Return the processor's name."""
  return runtime.cpu_info().get("model name") or platform.processor() or platform.machine()


def _version(name: str) -> str | None:
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    return importlib.metadata.version(name)
  return None


def code(folder: pathlib.Path) -> tuple[str | None, bytes]:
  """Return the git commit of the code in a folder, and the uncommitted changes as a diff.

  The diff covers all tracked Python files of the checkout, and untracked ones in the folder. The
  result is (None, b"") if git does not track the folder.
  """
  try:
    # An installed package may be inside a checkout of another project.
    if not _git(folder, "ls-files", "--", "."):
      return None, b""
    root = os.fsdecode(_git(folder, "rev-parse", "--show-toplevel")).rstrip("\n")
    changes = [_git(root, *DIFF, "HEAD", "--", "*.py")]
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", str(folder))
    for path in map(os.fsdecode, new.split(b"\0")):
      if path.endswith(".py"):
        changes.append(_git(root, *DIFF, "--no-index", "--", os.devnull, path, codes=(1,)))
    return _git(root, "rev-parse", "HEAD").decode().strip(), b"".join(changes)
  except (OSError, ValueError):
    return None, b""


def _git(folder, *arguments: str, codes: tuple[int, ...] = (0,)) -> bytes:
  command = ["git", "-C", str(folder), *arguments]
  # Do not lock the index, because several trials may start at the same time.
  environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
  result = process.call(command, GIT_SECONDS, env=environment)
  if result.returncode not in codes:
    raise ValueError(f"git ended with exit code {result.returncode}")
  return result.stdout


def _store_changes(workdir: pathlib.Path, changes: bytes) -> str:
  """Write a diff to a file whose name contains its digest; return the name."""
  name = f"uncommitted-{hashlib.sha256(changes).hexdigest()[:8]}.diff"
  if len(changes) > MAX_DIFF:
    changes = changes[:MAX_DIFF] + f"\n(truncated: {len(changes)} bytes in total)\n".encode()
  files.write_bytes(workdir / name, changes)
  return name
