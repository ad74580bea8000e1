"""Studies of charrnn alone: cost by size, startup time, profile of a step, matching of units."""

import dataclasses
import itertools
import math
import pathlib
import re
import statistics
import sys
import tempfile
import time

import numpy as np

from charrnn import errors, files, runtime
from charrnn.analysis import effects, labels, matching, recording
from charrnn.benchmarks import implementations, rounds, workloads

# Study `scale`: cost by size.
BASE = workloads.Training(hidden=256, batch=64, window=64)
FACTORS = (0.25, 0.5, 1, 2, 4)  # multiples of the base's width, batch and window
LAYERS = (1, 2, 3, 4)
LONG = (1, 2, 4, 8, 16)  # multiples of the base's window, to measure memory
# The sizes that are varied: (title, axis label).
TITLES = {
  "hidden": ("width", "units in a layer"),
  "layers": ("depth", "layers"),
  "batch": ("batch", "parallel streams"),
  "window": ("window", "characters between updates"),
  "devices": ("devices", "devices"),
}

# Study `startup`.
PROGRAM = pathlib.Path("launch.py")
EXPERIMENT = "experiments/shakespeare.py:smoke"

# Study `profile`: parts of a step, by the name of the operation. The first match counts. The name
# of a call of native.cc ends with that of the function.
PARTS = (
  ("native forward pass", r"charrnn_forward"),
  ("native backward pass", r"charrnn_backward"),
  ("native weight gradients", r"charrnn_weight_gradient"),
  ("native layout of weights", r"layer_.*charrnn_pack"),
  ("products of the forward scan", r"(?<!transpose\()jvp\(.*layer_.*while.*dot_general"),
  ("products of the backward scan", r"transpose\(jvp.*layer_.*while.*dot_general"),
  ("gates and their stacks, forward", r"(?<!transpose\()jvp\(.*layer_.*while"),
  ("gates and their stacks, backward", r"transpose\(jvp.*layer_.*while"),
  ("weight gradients and the rest of the layers", r"layer_"),
  ("head and loss", r"head|softmax|jvp"),
  ("sum over devices, and waiting for them", r"psum"),
)
# A line of a compiled program: name = type kind(operands), attributes.
INSTRUCTION = r"\s*(?:ROOT )?%?([\w.\-]+) = .*?\b([\w\-]+)\((.*)"
REST = "clipping, optimizer, the rest"
STEPS = 5  # steps that are timed and recorded

# Study `cells`: matching feature columns with hypotheses.
CHARACTERS = 500_000
COLUMNS = 4096  # 1,024 units x 4 quantities
HYPOTHESES = 16
SHIFTS = 199


def scale(base, machine: dict, *, count: int, seconds: float, progress) -> dict:
  """Time training with one size of `base` varied at a time; measure the memory of long windows."""
  sweeps, memory, failed = {}, [], {}
  limits = rounds.rooflines(base, machine, 2 * seconds)
  for name, tasks in plan(base, device_counts(base, machine)).items():
    values = ", ".join(str(getattr(task, name)) for task in tasks)
    update = progress(f"scale, {TITLES[name][0]} {values}")
    sweeps[name] = _measure(tasks, limits, count, seconds, update, failed)
  for task in memory_plan(base):
    update = progress(f"scale, memory at window {task.window}, remat {task.remat or 'off'}")
    memory += _measure([task], {}, count, seconds, update, failed)
  return {
    "kind": "scale",
    "title": f"{base}; one size varied at a time",
    "base": dataclasses.asdict(base),
    "sweeps": sweeps,
    "memory": memory,
    "failed": failed,
  }


def plan(base, devices) -> dict[str, list]:
  """Return {size: workloads}. Each workload is `base` with another value of that size."""
  values = {"layers": LAYERS, "devices": devices}
  for name in ("hidden", "batch", "window"):
    values[name] = sorted({max(1, round(getattr(base, name) * factor)) for factor in FACTORS})
  return {
    name: [dataclasses.replace(base, **{name: value}) for value in values[name]] for name in TITLES
  }


def memory_plan(base) -> list:
  """Return two workloads per window: all states stored, and about the square root of them."""
  tasks = []
  for window in (base.window * factor for factor in LONG):
    # The largest divisor up to the square root needs the least memory.
    root = next(n for n in range(math.isqrt(window), 0, -1) if window % n == 0)
    tasks += [dataclasses.replace(base, window=window, remat=remat) for remat in (0, root)]
  return tasks


def device_counts(base, machine: dict) -> list[int]:
  """Return powers of two up to the number of devices, and that number, if they divide the batch.

  A CPU can act as one device per core.
  """
  limit = machine["cores"] if machine["platform"] == "cpu" else machine["devices"]
  counts = {2**n for n in range(limit.bit_length())} | {limit}
  return [n for n in sorted(counts) if base.batch % n == 0]


def _measure(tasks, rooflines, count, seconds, update, failed):
  """Time the tasks; return a point for each success, and add the failures to `failed`."""
  workers = {str(n): rounds.Worker("charrnn", "train", t, seconds) for n, t in enumerate(tasks)}
  rows, reasons = rounds.run(workers | rooflines, rounds=count, update=update)
  for label, reason in reasons.items():
    failed[str(tasks[int(label)]) if label in workers else label] = reason
  best = {label: row for label, row in rows.items() if label not in workers}
  first, points = rows.get("0", {}).get("median"), []
  for label, task in zip(workers, tasks):
    if row := rows.get(label):
      point = {"workload": dataclasses.asdict(task)} | row | rounds.utilization(task, row, best)
      points.append(point | {"against_first": row["median"] / first if first else None})
  return points


def check_startup():
  """Raise UserError if launch.py is not in the working directory."""
  if not PROGRAM.exists():
    raise errors.UserError(f"{PROGRAM} not found: run this in a checkout of the repository")


def startup_time(count: int, progress) -> dict:
  """Time `count` launches of launch.py, after one that fills the caches; return the result."""
  update, launches = progress(f"startup, python {PROGRAM} --config={EXPERIMENT}"), []
  with tempfile.TemporaryDirectory(prefix="charrnn-bench-") as folder:
    for n in range(count + 1):
      note = f"launch {n} of {count}" if n else "warm-up launch to fill the caches"
      update(n, count + 1, note)
      launches.append(_launch(pathlib.Path(folder) / str(n)))
  del launches[0]
  medians = {name: statistics.median(x[name] for x in launches) for name in launches[0]}
  return {"kind": "startup", "launches": launches, "medians": medians}


def _launch(workdir):
  """Run two training steps; return {phase: seconds} of their startup, from run.json."""
  options = [f"--config={EXPERIMENT}", "--config.max_steps=2", "--config.sample.length=0"]
  command = [sys.executable, str(PROGRAM), *options, f"--workdir={workdir}"]
  rounds.output(str(PROGRAM), command)
  return files.read_json(workdir / "run.json")["launches"][-1]["startup_seconds"]


def profile(training) -> dict:
  """Profile the train step; return the seconds of its parts on one device, and of a whole step.

  The times come from XLA's profile of operations. Operations that run in parallel are each counted
  in full, so the parts may add up to more than a step.
  """
  jax = runtime.start()
  implementations.set_devices(training)
  step, state, batches = implementations.train_step(training)
  parts = parts_by_operation(step.compile(state, *batches[0]).as_text())
  run = implementations.train_loop(step, state, batches)
  run(2)
  start = time.perf_counter()
  run(STEPS)
  seconds = (time.perf_counter() - start) / STEPS
  names = [*(name for name, _ in PARTS), REST]
  spent = {name: 0.0 for name in names if name in parts.values()}
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run(STEPS)
    (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
    recorded = jax.profiler.ProfileData.from_file(str(path))
    operations = (line.events for plane in recorded.planes for line in plane.lines)
    for event in itertools.chain.from_iterable(operations):
      if event.name in parts:
        spent[parts[event.name]] += event.duration_ns / 1e9 / STEPS / step.devices.total
  return {
    "kind": "profile",
    "title": f"profile: {training}",
    "workload": dataclasses.asdict(training),
    "parts": spent,
    "seconds": seconds,
    # Of float32 products that run on other threads, XLA records only the start.
    "unrecorded": max(0.0, seconds - sum(spent.values())),
  }


def parts_by_operation(program: str) -> dict[str, str]:
  """Return {instruction: part} from the text of a compiled program, without loops and calls."""
  parts = {}
  for line in program.splitlines():
    if not (found := re.match(INSTRUCTION, line)):
      continue
    name, kind, rest = found.groups()
    operation = re.search(r'op_name="([^"]*)"', rest)
    if operation and kind not in ("while", "call"):
      target = re.search(r'custom_call_target="([^"]*)"', rest)
      path = operation[1] + (f"/{target[1]}" if target else "")
      parts[name] = next((part for part, pattern in PARTS if re.search(pattern, path)), REST)
  return parts


def cells(count: int, progress) -> dict:
  """Time matching all feature columns of a recording with all hypotheses."""
  rng = np.random.default_rng(0)
  names = [str(n) for n in range(COLUMNS)]
  seconds = []
  with tempfile.TemporaryDirectory(prefix="charrnn-bench-") as folder:
    update = progress(f"writing a recording, {CHARACTERS} characters x {COLUMNS} feature columns")
    values = _recording(rng, pathlib.Path(folder) / "values", update)
    hypotheses, values_of = [], {}
    for n in range(HYPOTHESES):  # spans of 40 characters; half of the labels are graded
      spans = np.repeat(rng.random(CHARACTERS // 40 + 1), 40)[:CHARACTERS]
      kind, label = ("graded", np.round(9 * spans)) if n % 2 else ("binary", spans < 0.1)
      values_of[f"label {n}"] = labels.everywhere(label)
      hypotheses.append(labels.Hypothesis(f"label {n}", kind, "any", "", labels.everywhere))
    targets, design = effects.prepare(hypotheses, values_of, [(0, CHARACTERS)], shifts=SHIFTS)
    for _ in range(count):
      update = progress(f"matching, {CHARACTERS} characters x {COLUMNS} feature columns")
      start = time.perf_counter()
      matching.match(values, names, targets, design, progress=update)
      seconds.append(time.perf_counter() - start)
  return {
    "kind": "cells",
    "characters": CHARACTERS,
    "columns": COLUMNS,
    "hypotheses": HYPOTHESES,
    "lags": 3,
    "shifts": SHIFTS,
    "seconds": seconds,
    "median": statistics.median(seconds),
    "peak_bytes": runtime.peak_memory(),
  }


def _recording(rng, path, update):
  """Write bounded random walks, which resemble states of units, to a file; return its array."""
  recording.check_disk_space(path, CHARACTERS * COLUMNS * 4)
  values = np.memmap(path, np.float32, mode="w+", shape=(CHARACTERS, COLUMNS))
  for start in range(0, CHARACTERS, 2000):
    block = values[start : start + 2000]
    walks = np.cumsum(rng.standard_normal(block.shape, np.float32), 0)
    np.tanh(walks / 30, out=block)
    update(start, CHARACTERS)
  return values
