"""Interleaved benchmark rounds, so that machine noise affects all implementations alike."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from charrnn import errors, runtime
from charrnn.benchmarks import implementations, workloads
from charrnn.models import cells, native_library
from charrnn.runs import provenance

PACKAGES = ("charrnn", "jax", "jaxlib", "flax", "torch", "numpy")
TIMEOUT = 900  # maximum seconds to wait for an implementation, in addition to its turn
DEVICES_TIMEOUT = 300  # maximum seconds for JAX to find its devices
# The instruction sets that matter for speed, and their flags in /proc/cpuinfo.
INSTRUCTIONS = {
  "AVX2": "avx2",
  "FMA": "fma",
  "AVX512": "avx512f",
  "AVX512-BF16": "avx512_bf16",
  "AMX-BF16": "amx_bf16",
}
# Duration of a turn of a roofline measurement, as a fraction of an implementation's turn.
ROOFLINE_SHARE = 0.25


class FailedError(Exception):
  """The failure of an implementation. The message is one line with the reason."""


@dataclasses.dataclass
class Worker:
  """The process of an implementation, with turns of about `seconds`; a context manager."""

  name: str
  kind: str
  workload: Any
  seconds: float

  def __enter__(self):
    # stderr is a file, because a full pipe would block the process.
    self._stderr = tempfile.TemporaryFile("w+", errors="replace")
    command = _command(self.name, self.kind, json.dumps(dataclasses.asdict(self.workload)))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._stderr}
    self._process = subprocess.Popen(command, text=True, **pipes)
    return self

  def __exit__(self, *_):
    self._process.kill()
    self._process.communicate()
    self._stderr.close()

  def answer(self) -> dict:
    """Return the next answer of the process; raise FailedError if it ends or takes too long."""
    timeout = TIMEOUT + 10 * self.seconds
    if not select.select([self._process.stdout], [], [], timeout)[0]:
      raise FailedError(f"no answer in {timeout:.0f} seconds")
    if line := self._process.stdout.readline():
      return json.loads(line)
    code = self._process.wait()
    self._stderr.seek(0)
    lines = [line.strip() for line in self._stderr if line.strip()]
    ended = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise FailedError(lines[-1] if lines and code > 0 else ended)

  def turn(self, count: int) -> dict:
    """Let the process run its workload `count` times; return its answer."""
    with contextlib.suppress(BrokenPipeError):  # if the process has ended, `answer` reports why
      print(count, file=self._process.stdin, flush=True)
    return self.answer()


def _command(*arguments):
  # -P keeps the working directory out of sys.path.
  return [sys.executable, "-P", "-m", "charrnn.benchmarks.worker", *arguments]


def output(name: str, command, timeout: float = TIMEOUT) -> str:
  """Run a program and return its stdout; if it fails, raise UserError with stderr's last line."""
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
  except subprocess.TimeoutExpired as error:
    raise errors.UserError(f"{name} took more than {timeout} seconds: try again") from error
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise errors.UserError(f"{name} ended with exit code {done.returncode}: {last}")
  return done.stdout


def run(workers: dict, *, rounds: int, update=lambda done, total, note: None):
  """Time the workers {label: Worker}; return {label: measurements} and {label: reason of failure}.

  Measurements are facts about the process, its memory, and the rate of every round: the amount of
  its workload per second. All workers start and compile one after the other, and then run
  one after the other in each round. A worker that takes the same path through charrnn as the
  worker "charrnn" is left out.
  """
  rows, failed = {}, {}
  total = len(workers) + rounds
  with contextlib.ExitStack() as stack:

    def attempt(action, label):
      try:
        action(label, workers[label])
      except FailedError as error:
        failed[label] = str(error)
        rows.pop(label, None)

    def start(label, worker):
      facts = worker.answer()
      if "path" not in facts or facts["path"] != rows.get("charrnn", {}).get("path"):
        rows[label] = facts

    def compile_once(label, worker):
      first, once = (worker.turn(1)["seconds"] for _ in range(2))
      count = max(1, round(worker.seconds / once))
      rows[label] |= {"first_seconds": first, "count": count, "rates": []}

    def turn(label, worker):
      row = rows[label]
      answer = worker.turn(row["count"])
      row["rates"].append(worker.workload.amount * row["count"] / answer.pop("seconds"))
      row.update(answer)

    for worker in workers.values():
      stack.enter_context(worker)
    for label in workers:
      update(0, total, f"starting {label}")
      attempt(start, label)
    for n, label in enumerate(list(rows)):
      update(n, total, f"compiling {label}")
      attempt(compile_once, label)
    for n in range(rounds):
      update(len(workers) + n, total, f"round {n + 1} of {rounds}")
      # The order alternates, so that no worker is always first.
      for label in list(rows)[:: -1 if n % 2 else 1]:
        attempt(turn, label)
  for label, row in rows.items():
    row["median"] = statistics.median(row["rates"])
    once = workers[label].workload.amount / row["median"]
    row["compile_seconds"] = max(0.0, row["first_seconds"] - once)
    in_process = row["peak_bytes"] - row["base_bytes"]
    row["memory_bytes"] = in_process if row["platform"] == "cpu" else row["device_peak_bytes"]
  return rows, failed


def compare(
  kind: str, workload, baselines, machine: dict, *, rounds: int, seconds: float, update
) -> dict:
  """Time charrnn, the baselines and the rooflines on one workload; return the result.

  `machine` is the result of `machine()`.
  """
  names = [name for name in ("charrnn", *baselines) if (name, kind) in implementations.ALL]
  workers = {name: Worker(name, kind, workload, seconds) for name in names}
  limits = rooflines(workload, machine, seconds)
  rows, failed = run(workers | limits, rounds=rounds, update=update)
  best = {label: rows.pop(label) for label in list(rows) if label not in names}
  result = {
    "kind": kind,
    "title": f"{kind}: {workload}",
    "workload": dataclasses.asdict(workload),
    "implementations": rows,
    "rooflines": best,
  }
  if own := rows.get("charrnn"):
    others = {name: row for name, row in rows.items() if name != "charrnn"}
    result["same_as_charrnn"] = [name for name in names if name not in rows | failed]
    result["ratios"] = {name: own["median"] / row["median"] for name, row in others.items()}
    result |= utilization(workload, own, best)
    for row in rows.values():
      if row["platform"] == own["platform"]:
        shares = {name: row["median"] / limit for name, limit in result["limits"].items()}
        row["utilization_of"] = shares
  return result | {"failed": failed}


def rooflines(workload, machine: dict, seconds: float) -> dict[str, Worker]:
  """Return workers that measure the roofline of a workload.

  They time matrix products of JAX and, if it is installed, of PyTorch; products in registers, if
  the native library is available; and for sampling, reading the weights.
  """
  side, columns = 2048, len(cells.CELLS[workload.cell].gates) * workload.hidden
  whole, scans, readings = [(side, side, side, 1)], [], []
  if isinstance(workload, workloads.Training):
    scans = [(workload.batch, workload.hidden, columns, workload.window)]
    whole.append((workload.amount, workload.hidden, columns, 1))
  else:
    if workload.batch > 1:
      scans = [(workload.batch, workload.hidden, columns, workload.block)]
    readings = [workload.bytes // workload.block, 512 << 20]  # the second exceeds all caches
  turn = seconds * ROOFLINE_SHARE
  workers = {}
  if instructions := machine["native"].get("instructions"):
    pairs = workload.dtype == "bfloat16" and instructions in ("AVX512-BF16", "AMX-BF16")
    task = workloads.Registers(len(runtime.cores()), workload.dtype, pairs)
    workers[str(task)] = Worker("roofline", "registers", task, turn)
  for shape in (*whole, *scans):
    task = workloads.Product(*shape, workload.dtype)
    workers[str(task)] = Worker("roofline", "product", task, turn)
  for shape in whole if implementations.is_installed("torch") else ():
    task = workloads.Product(*shape, workload.dtype)
    workers[f"{task}, PyTorch"] = Worker("torch", "product", task, turn)
  for size in readings:
    task = workloads.Reading(size)
    workers[str(task)] = Worker("roofline", "read", task, turn)
  return workers


def utilization(workload, own: dict, best: dict) -> dict:
  """Return the characters per second that the rooflines allow, and the share that was reached.

  `limits` maps registers, products and memory to characters per second. `limit` is the name of the
  one that applies. The limit of the arithmetic is the higher one of registers and products, because
  a library may use faster instructions than the native layers. Memory applies if it is lower.
  """
  # Rooflines are measured on one device. On a CPU, this device uses all cores.
  devices = 1 if own["platform"] == "cpu" else own["devices"]
  # PyTorch may find a GPU where JAX finds none.
  best = {label: row for label, row in best.items() if row["platform"] == own["platform"]}
  limits = {}
  for name, prefix in (("registers", "registers"), ("products", "product")):
    if rates := [row["median"] for label, row in best.items() if label.startswith(prefix)]:
      limits[name] = max(rates) * devices * workload.amount / workload.flops
  limit = max(limits, key=limits.get, default=None)
  if isinstance(workload, workloads.Sampling):
    reading = str(workloads.Reading(workload.bytes // workload.block))
    if reading in best:
      limits["memory"] = best[reading]["median"] * workload.amount / workload.bytes
      limit = min(limit or "memory", "memory", key=limits.get)
  share = own["median"] / limits[limit] if limits else None
  return {"limits": limits, "limit": limit, "utilization": share}


def machine() -> dict:
  """Return facts about the machine, its load, and what JAX finds in a separate process."""
  load = os.getloadavg() if hasattr(os, "getloadavg") else None  # of the last 1, 5 and 15 minutes
  answer = output("starting JAX", _command("machine"), DEVICES_TIMEOUT)
  facts = json.loads(answer.splitlines()[-1])
  installed = ((name, importlib.metadata.distributions(name=name)) for name in PACKAGES)
  return {
    "processor": provenance.processor(),
    "instructions": instruction_sets(),
    "cores": len(runtime.cores()),
    "load_average": load and list(load),
    "system": platform.platform(),
    "python": platform.python_version(),
    "packages": {name: each.version for name, distributions in installed for each in distributions},
    **{name: facts[name] for name in ("platform", "device", "devices", "native")},
  }


def instruction_sets() -> list[str]:
  """Return the instruction sets of this processor that speed up matrix products."""
  return [name for name, flag in INSTRUCTIONS.items() if flag in native_library.cpu_flags()]
