"""Where the time of a train step goes, by XLA's own record of every operation it ran."""

import collections
import glob
import re
import tempfile
import time

from charrnn import runtime
from charrnn.benchmarks import contestants

# By what an operation is called; the first that fits counts.
PARTS = (
  ("products of the forward scan", r"(?<!transpose\()jvp\(.*layer_.*while.*dot_general"),
  ("products of the backward scan", r"transpose\(jvp.*layer_.*while.*dot_general"),
  ("gates and their stacks, forward", r"(?<!transpose\()jvp\(.*layer_.*while"),
  ("gates and their stacks, backward", r"transpose\(jvp.*layer_.*while"),
  ("weight gradients, products outside of scans", r"layer_"),
  ("head and loss", r"head|softmax|jvp"),
  ("sum over devices, and waiting for them", r"psum"),
)
REST = "clipping, optimiser, the rest"
STEPS = 5


def measure(task):
  """{part: seconds of a step, on one of the devices} and the seconds of a whole step.

  Operations of a device that run at a time count both: the parts may add up to more than a step.
  """
  jax = runtime.start()
  runtime.set_cpu_devices(task.devices, task.batch, 1, task.hidden)
  step, state, batches = contestants.train_step(task)
  program = step.compile(state, *batches[0])
  parts, devices = _parts(program.as_text()), step.devices.total
  run = contestants.train_loop(step, state, batches)
  run(2)
  start = time.perf_counter()
  run(STEPS)
  seconds = (time.perf_counter() - start) / STEPS
  spent = collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run(STEPS)
    (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
    for event in _events(jax.profiler.ProfileData.from_file(path)):
      if event.name in parts:
        spent[parts[event.name]] += event.duration_ns / 1e9 / STEPS / devices
  names = [*(name for name, _ in PARTS), REST]
  found = {"parts": {name: spent[name] for name in names}, "seconds": seconds}
  # Products that XLA hands to other threads in float32 leave only their start in the record.
  found["unrecorded"] = max(0.0, seconds - sum(found["parts"].values()))
  return {"kind": "split", "work": task._asdict(), **found}


def _parts(program):
  """{instruction: part} of a compiled program's text. A loop's own time is that of its body."""
  found = {}
  for name, kind, of in re.findall(
    r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?\b(while|[\w\-]+)\(.*?op_name="([^"]*)"',
    program,
    re.MULTILINE,
  ):
    if kind not in ("while", "call"):
      found[name] = next((part for part, pattern in PARTS if re.search(pattern, of)), REST)
  return found


def _events(profile):
  for plane in profile.planes:
    for line in plane.lines:
      yield from line.events
