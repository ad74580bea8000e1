"""Run the real launch.py on a small text, in subprocesses."""

import contextlib
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time

import psutil

from charrnn.runs import checkpoints, metrics

# Output of the C++ collectives; the lines of several threads are interleaved.
GLOO = re.compile(
  r"\[Gloo\] Rank |is connected to|peer ranks\.|Expected number of connected peer ranks is :|\d|\s"
)
ROOT = pathlib.Path(__file__).parents[2]
STEPS = 240
STALL, MAX_CPU = 120.0, 600.0  # limits of a process; see `finish`
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
  """Write a text and the experiment tiny.py to a folder; return the folder."""
  rng = random.Random(0)
  words = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler"]
  text = " ".join(rng.choice(words) for _ in range(3000))
  (folder / "text.txt").write_text(text)
  (folder / "tiny.py").write_text(EXPERIMENT)
  return folder


def start(folder, *arguments, environment=None):
  """Start launch.py in a folder; return the process."""
  return subprocess.Popen(
    [sys.executable, str(ROOT / "launch.py"), *arguments],
    cwd=folder,
    env=os.environ | (environment or {}),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process, timeout=None):
  """Wait for a process; return (exit code, stderr).

  After `timeout` seconds, kill it (a hung process may ignore other signals) and fail. The default
  limit depends on progress, because a loaded machine may be slow: the process fails if it uses no
  processor for STALL seconds, or more than MAX_CPU seconds of it.
  """
  used = 0.0
  while True:
    try:
      out, err = process.communicate(timeout=STALL if timeout is None else timeout)
      break
    except subprocess.TimeoutExpired:
      before, used = used, _cpu_seconds(process.pid)
      if timeout is None and before + 1 < used < MAX_CPU:
        continue
      process.kill()
      _, err = process.communicate()
      limit = f"{STALL:g} s without progress" if timeout is None else f"{timeout} s"
      raise AssertionError(f"the process took more than {limit}:\n{err}") from None
  assert not GLOO.sub("", out), out
  return process.returncode, err


def _cpu_seconds(pid):
  """Return the processor time of a process, and of its subprocesses, which may be compilers."""
  total = 0.0
  with contextlib.suppress(psutil.NoSuchProcess):
    for each in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
      total += sum(each.cpu_times()[:4])
  return total


def proc_status(pid, name):
  """Return a value of proc(5)'s status file, for example the signals that a process handles."""
  lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
  return next(line for line in lines if line.startswith(f"{name}:")).split()[1]


def wait_for_step(process, workdir, step):
  """Wait until metrics.jsonl reaches a step, or the process ends."""
  while process.poll() is None:
    lines = metrics.read(workdir)
    if lines and lines[-1]["step"] >= step:
      return
    time.sleep(0.005)


def wait_for_log(process, workdir, words):
  """Wait until the log of a run contains these words, or the process ends."""
  while process.poll() is None and words not in (workdir / "log.txt").read_text():
    time.sleep(0.02)


def result(workdir):
  """Return everything that a run computes, without times."""
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
  """Return the bytes of every file in a run directory."""
  return {p: p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file()}
