"""From `python launch.py` to the first step of training: where the time goes."""

import pathlib
import statistics
import subprocess
import sys
import tempfile

from charrnn import errors, files
from charrnn.benchmarks import race

PROGRAM = pathlib.Path("launch.py")
EXPERIMENT = "experiments/shakespeare.py:smoke"


def check():
  if not PROGRAM.exists():
    raise errors.UserError(f"no {PROGRAM} here: start this in a checkout of the repository")


def measure(rounds, progress):
  """Launches `rounds` + 1 times; the first fills the caches and does not count."""
  check()
  with tempfile.TemporaryDirectory(prefix="charrnn-bench-") as folder:
    progress.begin(f"startup, python {PROGRAM} --config={EXPERIMENT}")
    progress.say("a first launch fills the caches")
    _launch(pathlib.Path(folder) / "0")
    launches = []
    for n in range(1, rounds + 1):
      progress.say(f"launch {n} of {rounds}")
      launches.append(_launch(pathlib.Path(folder) / str(n)))
  medians = {name: statistics.median(x[name] for x in launches) for name in launches[0]}
  return {"kind": "startup", "launches": launches, "medians": medians}


def _launch(workdir):
  """{phase: seconds} of a run of two steps, as its run.json has it."""
  command = [
    sys.executable,
    str(PROGRAM),
    f"--config={EXPERIMENT}",
    "--config.max_steps=2",
    "--config.sample.length=0",
    f"--workdir={workdir}",
  ]
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, timeout=race.PATIENCE, check=False
    )
  except subprocess.TimeoutExpired as error:
    raise errors.UserError(f"{PROGRAM} took more than {race.PATIENCE} seconds") from error
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise errors.UserError(f"{PROGRAM} ended with exit code {done.returncode}: {last}")
  return files.read_json(workdir / "run.json")["launches"][-1]["startup_seconds"]
