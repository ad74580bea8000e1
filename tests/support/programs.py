"""Runs of the real launch.py on a small text."""

import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time

from charrnn.runs import checkpoints, metrics

# What C++ collectives say, threads in each other's lines.
GLOO = re.compile(
  r"\[Gloo\] Rank |is connected to|peer ranks\.|Expected number of connected peer ranks is :|\d|\s"
)
ROOT = pathlib.Path(__file__).parents[2]
STEPS = 240
EXPERIMENT = f"""
from charrnn import config as config_lib, errors

def get_config(variant=""):
  if variant not in ("", "small"):
    raise errors.UserError(f"no variant {{variant}}: use small")
  c = config_lib.default()
  c.text.source = "text.txt"
  c.model.layers, c.model.hidden, c.model.dropout = 1, 8, 0.2
  c.batch_size = c.window = 8
  c.epochs, c.max_steps = 100.0, {STEPS}
  c.schedule.name = "constant"
  c.optimizer.learning_rate = 1e-2
  c.log_every, c.eval_every, c.checkpoint_every = 5, 40, 7
  c.eval_burn_in, c.sample.length = 8, 20
  return c
"""


def prepare(folder):
  """A folder to work in, with a text and an experiment."""
  rng = random.Random(0)
  words = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler"]
  text = " ".join(rng.choice(words) for _ in range(3000))
  (folder / "text.txt").write_text(text)
  (folder / "tiny.py").write_text(EXPERIMENT)
  return folder


def start(folder, *arguments, environment=None):
  return subprocess.Popen(
    [sys.executable, str(ROOT / "launch.py"), *arguments],
    cwd=folder,
    env=os.environ | (environment or {}),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process, timeout=120):
  """(exit code, stderr); kills what takes too long, since a hung process heeds no less."""
  try:
    out, err = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    process.kill()
    out, err = process.communicate()
    raise AssertionError(f"took more than {timeout} s:\n{err}") from None
  assert not GLOO.sub("", out), out
  return process.returncode, err


def wait_for_step(process, workdir, step):
  """Until metrics.jsonl has come to a step, or the process has ended."""
  while process.poll() is None:
    lines = metrics.read(workdir)
    if lines and lines[-1]["step"] >= step:
      return
    time.sleep(0.005)


def wait_for_log(process, workdir, words):
  """Until a run's log says something, or the process has ended."""
  while process.poll() is None and words not in (workdir / "log.txt").read_text():
    time.sleep(0.02)


def result(workdir):
  """All that a run computes, and nothing that a clock decides."""
  newest = checkpoints.steps(workdir / "checkpoints")[-1]
  meta = checkpoints.read_meta(workdir / "checkpoints", newest)
  names = ("step", "epoch", "train/loss", "grad_norm", "learning_rate", "valid/loss")
  return {
    "arrays": (newest, meta["arrays"]),
    "memory": meta["memory"] | {"seconds": None},
    "metrics": [[line.get(name) for name in names] for line in metrics.read(workdir)],
    "samples": {p.name: p.read_bytes() for p in (workdir / "samples").iterdir()},
    "config": json.loads((workdir / "config.json").read_text()),
    "alphabet": (workdir / "alphabet.json").read_bytes(),
  }


def contents(workdir):
  """Every file's bytes."""
  return {p: p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file()}
