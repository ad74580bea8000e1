"""Trial 15: training for a long time, with kills; memory and file handles stay flat.

  python -m pytest tests/battery/test_endurance.py -m long --battery-minutes=60

One run is never killed, and its memory and handles are watched. Another run is killed at random.
Both train at the same time, and are then completed to the same step.
"""

import random
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import programs
import psutil
import pytest

from charrnn.runs import checkpoints, metrics

pytestmark = pytest.mark.trial(15)

FIELDS = (
  *("epochs=1e9", "model.hidden=32", "optimizer.learning_rate=1e-3", "window=32"),
  *("log_every=50", "eval_every=5000", "checkpoint_every=500"),
)
MAX_GROWTH = 4 << 20  # bytes


class Usage(NamedTuple):
  """The memory and the handles of a process at one time."""

  memory: int  # resident bytes
  handles: int
  threads: int


def start(folder, name, steps=10**9):
  """Start a run; its output goes to a file, because nobody reads a pipe for an hour."""
  fields = [f"--config.{field}" for field in (*FIELDS, f"max_steps={steps}")]
  command = [sys.executable, programs.ROOT / "launch.py", "--config=tiny.py", f"--workdir={name}"]
  with (folder / f"{name}.err").open("a") as err:
    return subprocess.Popen([*command, *fields], cwd=folder, stderr=err, stdout=err)


def usage(process):
  with process.oneshot():
    return Usage(process.memory_info().rss, process.num_fds(), process.num_threads())


def growth(values):
  """Return the difference of the medians of the last and of the second quarter."""
  quarter = len(values) // 4
  return statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter])


def test_many_saves_leave_no_handles(tmp_path):
  """Save in this process, and wait for each save: one in progress holds handles and threads."""
  writer, samples = checkpoints.Writer(tmp_path, keep=2), []
  for step in range(12):
    writer.save(step, {"w": np.full(9, step)}, {"valid_loss": None})
    writer.wait()
    samples.append(usage(psutil.Process()))
  writer.close()
  _, handles, threads = zip(*samples)
  # There are 6 saves between the medians. A pool of threads may still be growing.
  assert growth(handles) < 4 and growth(threads) < 6


@pytest.mark.long
def test_memory_and_handles_stay_flat_and_kills_change_nothing(folder, minutes, record_property):
  rng, samples, kills = random.Random(0), [], 0
  quiet, killed = start(folder, "quiet"), start(folder, "killed")
  programs.wait_for_step(quiet, folder / "quiet", 1000)
  watched, now = psutil.Process(quiet.pid), time.monotonic()
  end, kill_at = now + 60 * minutes, now + rng.uniform(4, 30)
  while (now := time.monotonic()) < end:
    assert quiet.poll() is None and killed.poll() is None
    samples.append(usage(watched))
    if now > kill_at:
      killed.kill()
      killed.wait()
      kills, kill_at = kills + 1, now + rng.uniform(4, 30)
      killed = start(folder, "killed")
    time.sleep(0.5)
  for process in (quiet, killed):
    process.terminate()
    process.wait(timeout=120)

  names = ("quiet", "killed")
  steps = max(checkpoints.steps(folder / name / "checkpoints")[-1] for name in names) + 100
  for name in names:
    process = start(folder, name, steps)
    assert process.wait(timeout=60 * (minutes + 5)) == 0, (folder / f"{name}.err").read_text()
  assert programs.result(folder / "killed") == programs.result(folder / "quiet")
  assert metrics.read(folder / "quiet")[-1]["step"] == steps

  memory, handles, threads = zip(*samples)
  record_property(
    "note",
    f"{minutes:g} min, {kills} kills, {steps:,} steps; resident memory of the watched run grew "
    f"by {growth(memory) / 1e6:+.1f} MB from {memory[len(memory) // 4] / 1e6:.0f} MB, file handles "
    f"by {growth(handles):+g} from {handles[len(handles) // 4]}",
  )
  assert growth(memory) < MAX_GROWTH
  assert growth(handles) <= 0 and growth(threads) <= 0
