"""Check the correctness and the speed of charrnn on a machine with a GPU, in at most 21 minutes.

  python tests/gpu_check.py                          on a GPU, with the extras test and bench
  python tests/gpu_check.py --small                  on a CPU in two minutes, to test this script
  python tests/gpu_check.py --sections speed,profile

Each section runs in its own process, within a time limit. DIR/SECTION.log contains its output, and
DIR/SECTION.jsonl its results. If a section fails or takes too long, its results so far are kept,
and the other sections still run. A table of all results is printed last; it is also in
DIR/summary.txt. Exit code 1: a section failed.
"""

import argparse
import functools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from charrnn import console, errors, files, process  # noqa: E402
from charrnn.benchmarks import rounds, workloads  # noqa: E402
from charrnn.runs import metrics, provenance  # noqa: E402
from charrnn.sweeps import local  # noqa: E402

STEPS = 20  # steps in the profile
CPU_FACTOR = 5  # how many times longer a section with small sizes may take on a busy CPU
REPEATS = 20  # calls of a layer that are timed
# Names of CUDA and XLA functions that wait for a GPU, as they appear in a profile.
WAITS = re.compile(r"cu(da)?(Stream|Event|Ctx|Device)Synchronize|BlockHostUntilDone")
LAUNCHES = re.compile(r"cu(da)?(LaunchKernel|GraphLaunch)")


class Size(NamedTuple):
  """The sizes of a network and of a batch."""

  layers: int
  hidden: int
  batch: int
  window: int

  def __str__(self):
    return f"{self.layers} x {self.hidden}, B {self.batch}, T {self.window}"


class Check(NamedTuple):
  """The settings of all sections."""

  sizes: list[Size]  # sections with a single size use the first
  dtypes: list[str]
  folder: pathlib.Path  # of the results
  text: list[str]  # options of launch.py for the text to train on
  is_small: bool
  has_gpu: bool


Rows = Iterator[tuple[str, str]]  # (name, result)


def environment(check: Check) -> Rows:
  """Report the GPU, the versions of the driver and of packages, and the devices that JAX finds."""
  if check.has_gpu:
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    yield from (("GPU", line.partition(" (UUID")[0]) for line in listing.stdout.splitlines())
  facts = provenance.facts(check.folder)
  machine = rounds.machine()
  print(json.dumps({"facts": facts, "machine": machine}, indent=1))
  yield "device", f"{machine['devices']} x {machine['device']}, {machine['platform']}"
  yield "processor", f"{machine['processor']}, {machine['cores']} cores"
  packages = facts["packages"] | machine["packages"]
  names = [name for name in packages if re.match(r"jax|torch|nvidia-cud|flax|orbax", name)]
  yield "packages", ", ".join(f"{name} {packages[name]}" for name in names)
  yield "driver", facts["driver"] or "none"
  if check.has_gpu and machine["platform"] != "gpu":
    raise errors.UserError("JAX does not find the GPU: install jax[cuda12] or jax[cuda13]")


def correctness(check: Check) -> Rows:
  """Compare the values and gradients of the layers with a scan of `lstm_step`.

  "Exact" cases use JAX's highest precision of products, and "as trained" cases the default.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np
  import small_layers

  from charrnn.models import cells, layers, rnn

  cell, size = cells.CELLS["lstm"], check.sizes[0]
  model = rnn.make(65, cell="lstm", layers=2, hidden=size.hidden)
  params = jax.jit(model.init)(jax.random.key(0))
  keys = jax.random.split(jax.random.key(1), 4)
  shape = size.batch, size.hidden
  state = cells.LSTMState(*(jax.random.normal(key, shape) * 0.5 for key in keys[:2]))
  dense = jax.random.normal(keys[2], (size.window, *shape))
  ids = jax.random.randint(keys[3], (size.window, size.batch), 0, 65)
  cudnn = cudnn_layer()

  def reference(params, state, x):
    x = jax.nn.one_hot(x, len(params["W_xh"])) if x.dtype == jnp.int32 else x
    return jax.lax.scan(functools.partial(cells.lstm_step, params), state, x)

  def fast(dtype):
    return functools.partial(layers.fast_layer, cell, jnp.dtype(dtype))

  cases = [
    ("cuDNN, exact", cudnn, "highest", 1e-5),
    ("cuDNN, as trained", cudnn, "default", 1e-2),
    ("scan float32, exact", fast("float32"), "highest", 1e-5),
    ("scan float32, as trained", fast("float32"), "default", 1e-2),
    ("scan bfloat16", fast("bfloat16"), "default", 3e-2),
  ]
  failed = []
  for kind, name, x in (("one-hot input", "layer_0", ids), ("dense input", "layer_1", dense)):

    def run(layer, precision, name=name, x=x):
      with jax.default_matmul_precision(precision):
        output = jax.jit(layer)(params[name], state, x)
        grads = jax.jit(functools.partial(small_layers.gradients, layer))(params[name], state, x)
      return jax.device_get((output, grads[1]))

    expected = run(reference, "highest")
    for label, layer, precision, tolerance in cases:
      errors_of = []
      for part, exact in zip(run(layer, precision), expected):
        pairs = zip(*map(jax.tree.leaves, (part, exact)), strict=True)
        norm = np.linalg.norm
        errors_of.append(max(norm(np.float64(a) - e) / norm(e) for a, e in pairs))
      values, grads = errors_of
      is_ok = max(errors_of) <= tolerance  # False for NaN
      failed += [] if is_ok else [f"{label}, {kind}"]
      verdict = "" if is_ok else f": ABOVE {tolerance:g}"
      yield f"{label}, {kind}", f"error of values {values:.1e}, gradients {grads:.1e}{verdict}"
  if failed:
    raise errors.UserError(f"results differ from lstm_step: {'; '.join(failed)}")


def cudnn_layer():
  """Return `layers.cudnn_layer`. Without an NVIDIA GPU, it runs JAX's reference, not cuDNN."""
  from jax.experimental import rnn as jax_rnn

  from charrnn.models import layers

  if not layers.has_cudnn():
    print("no NVIDIA GPU: JAX's reference implementation replaces cuDNN")

    def reference(x, h, c, weights, lengths, D, H, count, dropout, bidirectional):
      parts = jax_rnn.unpack_lstm_weights(weights, D, H, count, bidirectional)
      options = lengths, D, H, count, dropout, bidirectional
      return jax_rnn.lstm_ref(x, h, c, *parts, *options)

    jax_rnn.lstm = reference
  return layers.cudnn_layer


def tests(check: Check) -> Rows:
  """Run the tests of models, training and sampling."""
  folders = ["models/test_layers.py"] if check.is_small else ["models", "training", "sampling"]
  report = check.folder / "tests.xml"
  paths = [str(ROOT / "tests" / name) for name in folders]
  command = [sys.executable, "-m", "pytest", "-n0", "-q", f"--junitxml={report}", *paths]
  command += ["-k", "cudnn"] if check.is_small else []
  done = subprocess.run(command, cwd=ROOT, check=False)
  totals = ElementTree.parse(report).getroot().find("testsuite").attrib
  names = ("tests", "failures", "errors", "skipped")
  yield "pytest " + " ".join(folders), ", ".join(f"{totals[name]} {name}" for name in names)
  for case in ElementTree.parse(report).iter("testcase"):
    if case.find("failure") is not None or case.find("error") is not None:
      yield "failed", f"{case.get('classname')}::{case.get('name')}"
  if done.returncode:
    raise errors.UserError(f"pytest ended with exit code {done.returncode}")


def speed(check: Check) -> Rows:
  """Run `charrnn bench`: model.unroll auto, scan and cudnn, compared with PyTorch."""
  baselines = "scan,cudnn,torch" if check.has_gpu else "scan"
  first, *others = check.sizes
  yield from bench(check, "train", first._asdict(), baselines)
  for batch in (64,) if check.is_small else (1, 64):
    sizes = {"layers": first.layers, "hidden": first.hidden, "batch": batch}
    yield from bench(check, "sample", sizes, baselines)
  for size in others:
    yield from bench(check, "train", size._asdict(), baselines)


def bench(check, study, sizes, baselines):
  """Yield a row for each implementation of a network, in each type of matrix products."""
  timing = ["--rounds=1", "--seconds=0.05"] if check.is_small else ["--rounds=3", "--seconds=0.4"]
  options = [f"--{name}={value}" for name, value in sizes.items()]
  options += [f"--dtype={check.dtypes[0]}"] if check.is_small else []
  command = [sys.executable, "-m", "charrnn.cli", "bench", study, *options, *timing]
  done = subprocess.run(
    [*command, f"--baselines={baselines}", "--json"], stdout=subprocess.PIPE, text=True, check=False
  )
  if not done.stdout:
    raise errors.UserError(f"charrnn bench {study} ended with exit code {done.returncode}")
  print(done.stdout)
  for result in json.loads(done.stdout)["results"]:
    for name, row in result["implementations"].items():
      shares = [f"{share:.0%} of {limit}" for limit, share in row.get("utilization_of", {}).items()]
      memory = f"{(row['memory_bytes'] or 0) / 2**20:,.0f} MiB"
      values = [f"{row['median']:,.0f} characters/s", *shares, memory, f"on {row['platform']}"]
      path = f" ({row['path']})" if "path" in row else ""
      yield f"{result['title']}: {name}{path}", ", ".join(values)
    for name, reason in result["failed"].items():
      yield f"{result['title']}: {name}", f"FAILED: {reason}"


def layer(check: Check) -> Rows:
  """Time jax.experimental.rnn alone, the layer that also packs its weights, and the scan."""
  import jax
  import jax.numpy as jnp
  from jax.experimental import rnn as jax_rnn

  from charrnn.models import cells, layers

  packed_layer = cudnn_layer()
  for size in check.sizes:
    T, B, H = size.window, size.batch, size.hidden
    params = {"W_xh": (H, 4 * H), "W_hh": (H, 4 * H), "b_h": (4 * H,)}
    params = {name: jnp.full(shape, 0.01) for name, shape in params.items()}
    state, x = cells.LSTMState(*jnp.zeros((2, B, H))), jnp.ones((T, B, H))
    weights = jnp.full(8 * H * H + 8 * H, 0.01)
    lengths = jnp.full(B, T, jnp.int32)

    def alone(weights, state, x, lengths=lengths, H=H):
      h, c = state.h[None], state.c[None]
      y, _, _ = jax_rnn.lstm(x.swapaxes(0, 1), h, c, weights, lengths, H, H, 1, 0.0, False)
      return y

    def packed(params, state, x):
      return packed_layer(params, state, x)[1]

    def scan(dtype):
      return lambda *args: layers.fast_layer(cells.CELLS["lstm"], jnp.dtype(dtype), *args)[1]

    cases = [("jax.experimental.rnn", alone, weights), ("cudnn_layer", packed, params)]
    cases += [(f"scan {dtype}", scan(dtype), params) for dtype in check.dtypes]
    for name, run, inputs in cases:

      def both(inputs, state, x, run=run):
        return jax.grad(lambda *args: run(*args).sum(dtype=jnp.float32), (0, 1, 2))(
          inputs, state, x
        )

      forward, total = (milliseconds(jax.jit(f), inputs, state, x) for f in (run, both))
      text = f"forward {forward:.2f} ms, with backward {total:.2f} ms"
      yield f"one layer of {size.hidden}, B {B}, T {T}: {name}", text


def milliseconds(run, *arguments) -> float:
  """Return the median time of a call of a compiled function."""
  import jax

  jax.block_until_ready(run(*arguments))
  seconds = []
  for _ in range(REPEATS):
    start = time.perf_counter()
    jax.block_until_ready(run(*arguments))
    seconds.append(time.perf_counter() - start)
  return 1000 * statistics.median(seconds)


def profile(check: Check) -> Rows:
  """Profile 20 train steps: host synchronizations and launches per step, and idle devices."""
  import jax

  from charrnn import runtime
  from charrnn.benchmarks import implementations, studies

  runtime.start()
  for size in check.sizes:
    training = workloads.Training(**size._asdict(), dtype=check.dtypes[-1])
    step, state, batches = implementations.train_step(training)
    names = studies.parts_by_operation(step.compile(state, *batches[0]).as_text())
    run = implementations.train_loop(step, state, batches)
    run(3)
    with tempfile.TemporaryDirectory() as folder:
      with jax.profiler.trace(folder):
        start = time.perf_counter()
        run(STEPS)
        seconds = time.perf_counter() - start
      (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
      planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
      waits, launches, busy = read_profile(planes, names)
    idle = f"{max(0.0, 1 - busy / seconds):.0%} idle" if busy else "no operations recorded"
    text = f"{waits / STEPS:.1f} host synchronizations and {launches / STEPS:.0f} launches per step"
    yield f"profile: {training}", f"{text}, {idle}, {1000 * seconds / STEPS:.2f} ms per step"


def read_profile(planes, names) -> tuple[int, int, float]:
  """Return the number of waits and of launches, and the seconds in which the device was busy.

  Operations of a GPU are in its own plane. Those of a CPU are recognized by their `names`.
  """
  waits = launches = 0
  spans = []
  has_gpu = any(plane.name.startswith("/device:GPU") for plane in planes)
  for plane in planes:
    for line in plane.lines:
      for event in line.events:
        waits += bool(WAITS.search(event.name))
        launches += bool(LAUNCHES.search(event.name))
        on_gpu = plane.name.startswith("/device:GPU") and line.name.startswith("Stream")
        if on_gpu if has_gpu else event.name in names:
          spans.append((event.start_ns, event.start_ns + event.duration_ns))
  busy = end = 0
  for start, stop in sorted(spans):
    busy += max(0, stop - max(start, end))
    end = max(end, stop)
  return waits, launches, busy / 1e9


def run(check: Check) -> Rows:
  """Train Karpathy's network for a limited number of steps."""
  workdir = empty(check.folder / "run")
  sizes = {"max_steps": 20, "model.hidden": 16, "batch_size": 4, "window": 16, "eval_every": 10}
  options = sizes if check.is_small else {"max_steps": 4000, "eval_every": 1000}
  launch(
    "--config=experiments/shakespeare.py:blog", *overrides(options), *check.text,
    f"--workdir={workdir}",
  )  # fmt: skip
  lines = metrics.read(workdir)
  for name in ("train/loss", "valid/loss", "chars_per_second", "idle"):
    values = [line[name] for line in lines if line.get(name) is not None]
    if values:
      yield f"shakespeare.py:blog, step {lines[-1]['step']}: {name}", f"{values[-1]:,.4g}"
  startup = files.read_json(workdir / "run.json")["launches"][-1]["startup_seconds"]
  yield "shakespeare.py:blog: startup", f"{startup['total']:.1f} s until the end of the first step"


def sweep(check: Check) -> Rows:
  """Run small trials one after the other, and in parallel on the same device."""
  count, parallel = (2, 2) if check.is_small else (8, 4)
  sizes = {"max_steps": 10, "model.hidden": 8} if check.is_small else {"max_steps": 500}
  for number in (parallel, 1):
    workdir = empty(check.folder / f"sweep-{number}")
    start = time.perf_counter()
    launch(
      f"--config=experiments/seeds.py:{count}", "--sweep", f"--parallel={number}",
      *overrides(sizes | {"sample.length": 0}), *check.text, f"--workdir={workdir}",
    )  # fmt: skip
    seconds = time.perf_counter() - start
    rate = f"{3600 * count / seconds:,.0f} trials per hour"
    yield f"{count} trials, --parallel={number}", f"{rate} ({seconds:.0f} s)"


def empty(workdir: pathlib.Path) -> pathlib.Path:
  """Delete a run directory, because launch.py would resume a finished run."""
  shutil.rmtree(workdir, ignore_errors=True)
  return workdir


def overrides(values):
  return [f"--config.{name}={value}" for name, value in values.items()]


def launch(*options):
  """Run launch.py; raise UserError if it fails."""
  command = [sys.executable, str(ROOT / "launch.py"), *options]
  if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
    raise errors.UserError(f"launch.py ended with exit code {code}")


class Section(NamedTuple):
  """A part of the check, and the maximum number of seconds that it takes on a GPU."""

  run: Callable[[Check], Rows]
  limit: float


SECTIONS = {
  "environment": Section(environment, 60),
  "correctness": Section(correctness, 90),
  "tests": Section(tests, 180),
  "layer": Section(layer, 60),
  "profile": Section(profile, 60),
  "speed": Section(speed, 360),
  "run": Section(run, 180),
  "sweep": Section(sweep, 240),
}


def main():
  names = ", ".join(SECTIONS)
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--small", action="store_true", help="small sizes, for a CPU")
  text = "folder of the logs and results (default: runs/gpu-check)"
  parser.add_argument("--out", metavar="DIR", type=pathlib.Path, help=text)
  parser.add_argument(
    "--sections", metavar="NAMES", help=f"comma-separated, from: {names} (default: all)"
  )
  text = "text of the run and the sweep (default: Shakespeare, which is downloaded)"
  parser.add_argument("--text", metavar="FILE", type=pathlib.Path, help=text)
  parser.add_argument("--only", choices=SECTIONS, help=argparse.SUPPRESS)  # used by this script
  args = parser.parse_args()
  check = make_check(args)
  if args.only:
    return run_section(args.only, check)
  chosen = args.sections.split(",") if args.sections else list(SECTIONS)
  if unknown := [name for name in chosen if name not in SECTIONS]:
    raise errors.UserError(f"--sections: unknown section {unknown[0]!r}: use {names}")
  return run_all(chosen, check)


def make_check(args) -> Check:
  """Return the sizes and the folder that the options select."""
  folder = (args.out or ROOT / "runs" / "gpu-check").absolute()
  folder.mkdir(parents=True, exist_ok=True)
  path = args.text
  if args.small and not path:
    path = folder / "text.txt"
    words = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler\n"]
    path.write_text(" ".join(random.Random(0).choices(words, k=20_000)))
  text = [f"--config.text.source={path.absolute()}"] if path else []
  if args.small:
    sizes, dtypes = [Size(1, 16, 4, 8)], ["float32"]
  else:
    sizes = [Size(2, 512, 100, 100), Size(2, 128, 50, 50), Size(1, 768, 16, 1024)]
    sizes, dtypes = [*sizes, Size(2, 1024, 128, 256)], list(workloads.BYTES)
  return Check(sizes, dtypes, folder, text, args.small, bool(local.gpu_names()))


def run_section(name: str, check: Check) -> int:
  """Run a section in this process, and write each result at once."""
  with (check.folder / f"{name}.jsonl").open("w") as results:
    for row in SECTIONS[name].run(check):
      print(*row, sep=": ", flush=True)
      print(json.dumps(row), file=results, flush=True)
  return 0


def run_all(names: list[str], check: Check) -> int:
  """Run each section in its own process, one after the other; print the table of results."""
  if not check.is_small and not check.has_gpu:
    raise errors.UserError("no GPU was found: add --small to test this script on a CPU")
  failed, rows = [], []
  for name in names:
    limit = SECTIONS[name].limit * (CPU_FACTOR if check.is_small else 1)
    console.say(f"{name}, at most {limit:.0f} s")
    path = check.folder / f"{name}.jsonl"
    path.unlink(missing_ok=True)
    start = time.perf_counter()
    reason = run_process(name, check, limit)
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    outcome = f"FAILED, {reason}" if reason else "done"
    rows += [(name, f"{outcome} in {time.perf_counter() - start:.0f} s"), *results]
    failed += [name] if reason else []
  table = "\n".join(console.table(("check", "result"), rows, names=2))
  (check.folder / "summary.txt").write_text(table + "\n")
  print(table)
  return 1 if failed else 0


def run_process(name, check, limit) -> str:
  """Run a section within its time limit; return why it failed, or an empty string."""
  log = check.folder / f"{name}.log"
  command = [sys.executable, __file__, *sys.argv[1:], f"--only={name}"]
  with log.open("w") as file:
    process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
      code = process.wait(limit)
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)  # also the processes that the section started
      process.wait()
      return "stopped at its time limit"
  if not code:
    return ""
  lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
  return lines[-1] if lines else f"exit code {code}"


if __name__ == "__main__":
  sys.exit(process.run("gpu_check.py", main))
