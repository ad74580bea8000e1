"""How long it takes to score every column of a recording for every hypothesis."""

import pathlib
import resource
import statistics
import tempfile
import time

import numpy as np

from charrnn.analysis import effects, labels, matching, recording

CHARACTERS = 500_000
COLUMNS = 4096  # 1,024 cells x 4 quantities
HYPOTHESES = 16
SHIFTS = 199


def measure(rounds, progress):
  """Seconds of `matching.match`, three lags, both halves, all shifts; and the peak of memory."""
  rng = np.random.default_rng(0)
  names = [str(n) for n in range(COLUMNS)]
  seconds = []
  with tempfile.TemporaryDirectory(prefix="charrnn-bench-") as folder:
    progress.begin(f"matching, {CHARACTERS} characters x {COLUMNS} columns")
    values = _recording(rng, pathlib.Path(folder) / "values", progress)
    labelled = {f"label {n}": _label(rng, n) for n in range(HYPOTHESES)}
    hypotheses = [
      labels.Hypothesis(name, ("binary", "graded")[n % 2], "any", "", labels.everywhere)
      for n, name in enumerate(labelled)
    ]
    targets, design = effects.prepare(hypotheses, labelled, [(0, CHARACTERS)], shifts=SHIFTS)
    for _ in range(rounds):
      began = time.perf_counter()
      matching.match(
        values,
        names,
        targets,
        design,
        progress=lambda done, total: progress.say(f"{done} of {total} columns"),
      )
      seconds.append(time.perf_counter() - began)
  return {
    "kind": "cells",
    "characters": CHARACTERS,
    "columns": COLUMNS,
    "hypotheses": HYPOTHESES,
    "lags": 3,
    "shifts": SHIFTS,
    "seconds": seconds,
    "median": statistics.median(seconds),
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
  }


def _recording(rng, path, progress):
  """Write autocorrelated columns to disk, as `recording.record` does with those of units."""
  recording.check_disk_space(path, CHARACTERS * COLUMNS * 4)
  values = np.memmap(path, np.float32, mode="w+", shape=(CHARACTERS, COLUMNS))
  block = 2000
  for start in range(0, CHARACTERS, block):
    shape = min(block, CHARACTERS - start), COLUMNS
    values[start : start + shape[0]] = np.tanh(
      np.cumsum(rng.standard_normal(shape, np.float32), 0) / 30
    )
    progress.say(f"writing a recording, {start} of {CHARACTERS} characters")
  return values


def _label(rng, n):
  """Runs of some tens of characters: half of the labels are binary, half are graded."""
  runs = np.repeat(rng.random(CHARACTERS // 40 + 1), 40)[:CHARACTERS]
  if n % 2:
    return labels.everywhere(np.round(9 * runs))
  return labels.everywhere(runs < 0.1)
