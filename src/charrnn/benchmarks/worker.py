"""The process of one contestant: makes its work ready, then does it as often as it is told to.

  python -m charrnn.benchmarks.worker CONTESTANT KIND WORK

WORK is JSON. Each line of stdin is a count; the answer is a line of JSON on stdout. The process
ends when its stdin does.
"""

import json
import os
import pathlib
import re
import resource
import sys
import time

from charrnn import runtime
from charrnn.benchmarks import contestants, work


def main(name, kind, values):
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)  # whatever a library prints is no answer
  task = work.KINDS[kind](**json.loads(values))
  runtime.keep_memory()  # for all alike
  about, device_peak = _torch() if name == "torch" else _jax(name, kind, task)
  about["base_bytes"] = _peak()  # of the imports: not what the work needs
  run = contestants.ALL[name, kind](task)

  def timed(count):
    start = time.perf_counter()
    run(count)
    return time.perf_counter() - start

  print(json.dumps(about | {"first_seconds": timed(1)}), file=answers)
  for line in sys.stdin:
    answer = {"seconds": timed(int(line)), "peak_bytes": _peak()}
    print(json.dumps(answer | {"device_peak_bytes": device_peak()}), file=answers)


def _torch():
  import torch

  about = {"version": torch.__version__, "devices": 1}
  if torch.cuda.is_available():
    device = {"platform": "gpu", "device": torch.cuda.get_device_name()}
    return about | device, torch.cuda.max_memory_allocated
  return about | {"platform": "cpu", "device": "cpu"}, lambda: None


def _jax(name, kind, task):
  jax = runtime.start()
  jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed too
  if (name, kind) == ("charrnn", "train"):
    runtime.set_cpu_devices(task.devices, task.batch, 1, task.hidden)
  from charrnn.training import steps

  device = steps.device()
  on_cpu = device.platform == "cpu"
  about = {"version": _version(name), "platform": device.platform, "device": device.device_kind}
  about["devices"] = steps.all_devices().total if on_cpu else getattr(task, "devices", 0) or 1
  return about, lambda: (device.memory_stats() or {}).get("peak_bytes_in_use")


def _version(name):
  import flax
  import jax

  import charrnn

  modules = {"charrnn": charrnn, "flax": flax, "ceiling": jax}
  return modules[name].__version__


def _peak():
  """The most memory that this process has held, in bytes."""
  status = pathlib.Path("/proc/self/status")
  if status.exists():  # where ru_maxrss begins with what the parent held
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
  try:
    main(*sys.argv[1:])
  except Exception as error:
    # Its first line alone, since the last line is what is shown.
    why = (str(error).strip().splitlines() or [""])[0]
    sys.exit(f"{type(error).__name__}: {why}".removesuffix(": "))
