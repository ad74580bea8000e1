"""The process of one implementation: prepares a workload and runs it on request.

  python -m charrnn.benchmarks.worker IMPLEMENTATION KIND WORKLOAD
  python -m charrnn.benchmarks.worker machine

WORKLOAD is JSON. The process writes facts about itself to stdout, as a line of JSON. Each line that
it reads from stdin is a number of runs, and it answers with another line of JSON. The first run
includes compilation. It exits at the end of stdin. With `machine`, it writes only the facts.
"""

import json
import os
import sys
import time

import charrnn
from charrnn import errors, runtime
from charrnn.benchmarks import implementations, workloads


def main(name, kind="", values=""):
  """Time one implementation: read numbers of runs from stdin, write lines of JSON to stdout."""
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)  # output of libraries must not mix with the answers
  if name == "machine":
    about, _ = _jax(name, kind, None)
    print(json.dumps(about | {"native": _native(about["platform"])}), file=answers)
    return
  workload = workloads.KINDS[kind](**json.loads(values))
  runtime.keep_memory()  # the same malloc settings for all implementations
  about, device_peak = _torch() if name == "torch" else _jax(name, kind, workload)
  about["base_bytes"] = runtime.peak_memory()  # memory of the imports, not of the workload
  run = implementations.ALL[name, kind](workload)
  print(json.dumps(about), file=answers)
  for line in sys.stdin:
    start = time.perf_counter()
    run(int(line))
    answer = {"seconds": time.perf_counter() - start, "peak_bytes": runtime.peak_memory()}
    print(json.dumps(answer | {"device_peak_bytes": device_peak()}), file=answers)


def _torch():
  """Return facts about PyTorch and its device, and a function that returns peak device memory."""
  import torch  # an optional extra

  about = {"version": torch.__version__, "devices": 1}
  if torch.cuda.is_available():
    device = {"platform": "gpu", "device": torch.cuda.get_device_name()}
    return about | device, torch.cuda.max_memory_allocated
  return about | {"platform": "cpu", "device": "cpu"}, lambda: None


def _jax(name, kind, workload):
  """Start JAX; return the same facts and function as `_torch`."""
  jax = runtime.start()
  import flax  # imported here, because PyTorch's process does not need it

  jax.config.update("jax_enable_compilation_cache", False)  # because compilation is timed as well
  if name in implementations.UNROLL and kind == "train":
    implementations.set_devices(workload, implementations.UNROLL[name])
  from charrnn.training import steps

  device, devices = steps.device(), steps.all_devices().total
  if workload and device.platform != "cpu":
    devices = getattr(workload, "devices", 0) or 1
  about = {"version": jax.__version__, "platform": device.platform, "device": device.device_kind}
  if name == "flax":
    about["version"] = flax.__version__
  if name in implementations.UNROLL:
    about |= {"version": charrnn.__version__, "path": implementations.path(name, kind, workload)}
  peak = lambda: (device.memory_stats() or {}).get("peak_bytes_in_use")  # noqa: E731
  return about | {"devices": devices}, peak


def _native(platform):
  """Return facts about the native library, or why it is unavailable."""
  from charrnn.models import native_library

  if platform != "cpu":
    return {"unavailable": f"JAX uses the platform {platform}, not a CPU"}
  try:
    return native_library.load()._asdict() | {"unmeasured": native_library.unmeasured()}
  except native_library.UnavailableError as error:
    return {"unavailable": str(error)}


if __name__ == "__main__":
  try:
    main(*sys.argv[1:])
  except Exception as error:
    # Print only the first line of the message, because the benchmark shows stderr's last line.
    sys.exit(f"{type(error).__name__}: {errors.first_line(error)}".removesuffix(": "))
