"""What the timings were taken on.

  python -m charrnn.benchmarks.machine

prints what JAX finds, as JSON: asked for in a process that ends, since JAX holds what it finds.
"""

import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys

from charrnn import errors, runtime
from charrnn.runs import provenance

PACKAGES = ("charrnn", "jax", "jaxlib", "flax", "torch", "numpy")
PATIENCE = 300  # seconds in which JAX has found its devices


def facts():
  """For a report: processor, cores, versions, and the devices that JAX finds."""
  try:
    # -P: what lies about in this directory is no module.
    done = subprocess.run(
      [sys.executable, "-P", "-m", __name__],
      capture_output=True,
      text=True,
      timeout=PATIENCE,
      check=False,
    )
  except subprocess.TimeoutExpired as error:
    raise errors.UserError(f"JAX found no devices in {PATIENCE} seconds: try again") from error
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise errors.UserError(f"JAX does not start here: {last}")
  return {
    "processor": provenance.processor(),
    "cores": len(runtime.cores()),
    "system": platform.platform(),
    "python": platform.python_version(),
    "packages": {name: version(name) for name in PACKAGES if version(name)},
    **json.loads(done.stdout.splitlines()[-1]),
  }


def installed(name):
  return importlib.util.find_spec(name) is not None


def version(name):
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def text(found):
  """`facts` in one line."""
  device = "" if found["platform"] == "cpu" else f", {found['devices']} x {found['device']}"
  jax = found["packages"]["jax"]
  return (
    f"{found['processor']}, {found['cores']} cores{device}; Python {found['python']}, jax {jax}"
  )


def _devices():
  from charrnn import runtime

  runtime.start()
  from charrnn.training import steps

  device = steps.device()
  return {
    "platform": device.platform,
    "device": device.device_kind,
    "devices": steps.all_devices().total,  # a CPU is one until it is told to pose as more
  }


if __name__ == "__main__":
  print(json.dumps(_devices()))
