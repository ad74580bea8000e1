"""`charrnn bench`: speed compared with other implementations and with the machine's roofline."""

import argparse
import dataclasses
import json
import math
import pathlib

from charrnn import console, errors, files
from charrnn.benchmarks import implementations, report, rounds, studies, workloads
from charrnn.cli import arguments
from charrnn.models import cells

HELP = """\
measure the speed of training and sampling on this machine

Studies (default: train and sample):

train    training three standard networks, compared with the scan, PyTorch, Flax and the roofline
sample   sampling one text, and 64 texts in parallel, compared with the scan, PyTorch and the
         roofline
profile  time of each part of a training step
scale    cost of training by width, depth, batch, window and devices
startup  seconds from `python launch.py` to the first training step
cells    seconds to match 4,096 feature columns of 500,000 characters with 16 hypotheses

Examples:

  charrnn bench
  charrnn bench train --hidden 256 --batch 64 --dtype float32
  charrnn bench sample --baselines scan --rounds 3 --seconds 1
  charrnn bench scale --out bench
"""
DETAILS = """\
Each implementation runs in its own process. After compilation, the processes run one after another
in each round, so that machine noise affects all of them alike; the median of the rounds is
compared. `charrnn` is what launch.py would run. The baselines scan, native and cudnn are charrnn
with model.unroll set to their name; a baseline is left out if charrnn takes the same path. The
roofline, measured in the same rounds, is the best rate of products in registers, of matrix products
(JAX's and PyTorch's) and of memory reads. Memory is the peak memory of a process without its
imports or, on a GPU, the peak memory of the device. Exit code 1: an implementation failed.
"""
ROUNDS = {"train": 5, "sample": 5, "scale": 3, "startup": 3, "cells": 1}
SECONDS = {"train": 2.0, "sample": 2.0, "scale": 0.5}
SIZES = ("cell", "layers", "hidden", "batch", "window")
OPTIONS = {
  "train": {*SIZES, "dtype", "seconds", "baselines", "out", "rounds"},
  "sample": {*SIZES, "dtype", "seconds", "baselines", "out", "rounds"} - {"window"},
  "profile": {*SIZES, "dtype"},
  "scale": {*SIZES, "dtype", "seconds", "out", "rounds"},
  "startup": {"rounds"},
  "cells": {"rounds"},
}
# Names of the previous release: {new JSON key: old key}, and {old study: new study}.
KEYS = {
  "workload": "work",
  "implementations": "contestants",
  "rooflines": "ceilings",
  "utilization": "share",
  "vocab_size": "alphabet",
}
OLD_STUDIES = {"split": "profile"}


def add_arguments(parser):
  parser.epilog = DETAILS
  add = parser.add_argument
  add("study", nargs="?", type=lambda name: OLD_STUDIES.get(name, name), choices=OPTIONS,
      metavar="STUDY", help="one of the studies above (default: train and sample)")  # fmt: skip

  text = "network (instead of the standard networks; for scale, the base that is varied)"
  size = parser.add_argument_group(text)
  names = [name for name, cell in cells.CELLS.items() if cell.native]
  size.add_argument("--cell", choices=names, help="recurrent cell (default: lstm)")
  size.add_argument(
    "--layers", metavar="N", type=int, help="number of recurrent layers (default: 2)"
  )
  text = "number of units per layer (default: 512; for scale: 256)"
  size.add_argument("--hidden", metavar="N", type=int, help=text)
  text = "number of parallel streams or texts (default: 100; for sample: 1; for scale: 64)"
  size.add_argument("--batch", metavar="N", type=int, help=text)
  text = "number of characters per stream between updates (default: 100; for scale: 64)"
  size.add_argument("--window", metavar="N", type=int, help=text)
  text = "type of matrix products (default: both; for scale: float32)"
  size.add_argument("--dtype", choices=workloads.BYTES, help=text)

  timing = parser.add_argument_group("measurement")
  choices = ", ".join(implementations.ALL_BASELINES)
  text = f'comma-separated baselines: {choices} (default: the first three; "" for none)'
  timing.add_argument("--baselines", metavar="NAMES", help=text)
  timing.add_argument("--peers", dest="baselines", help=argparse.SUPPRESS)
  text = "number of rounds (default: 5; for scale and startup: 3; for cells: 1)"
  timing.add_argument("--rounds", metavar="N", type=int, help=text)
  text = "approximate seconds of each implementation in a round (default: 2; for scale: 0.5)"
  timing.add_argument("--seconds", metavar="S", type=float, help=text)

  output = parser.add_argument_group("output")
  text = "write a plot and a JSON file to DIR (for scale, default: bench)"
  arguments.add_out(output, text)
  arguments.add_json(output)


def run(args):
  names = [args.study] if args.study else ["train", "sample"]
  for name in names:
    _check(args, name)
  has_folder = args.out is not None or args.study == "scale"
  folder = files.output_folder(args.out, pathlib.Path("bench")) if has_folder else None
  baselines = _baselines(args) if "baselines" in OPTIONS[names[0]] else []
  machine = rounds.machine()
  if not args.json:
    console.show(report.machine(machine))
  results = []
  with console.Progress() as progress:
    for name in names:
      for result in _results(name, args, baselines, machine, progress):
        progress.end(report=False)
        results.append(result)
        if not args.json:
          console.show(["", *report.lines(result)])
  measured = {"machine": machine, "results": results}
  values = files.with_aliases(measured, KEYS)
  if args.json:
    print(json.dumps(values))
  if folder:
    title = args.study or "bench"
    with files.replace_in_folder(folder) as new:
      files.write_json(new / f"{title}.json", values)
      report.plot(measured, new / f"{title}.png")
    console.say(f"\nwrote {folder / title}.png and {folder / title}.json")
  return 1 if any(result.get("failed") for result in results) else 0


def _results(name, args, baselines, machine, progress):
  """Yield each result as soon as it is complete."""
  sizes = {size: getattr(args, size) for size in SIZES if getattr(args, size) is not None}
  dtypes = [args.dtype] if args.dtype else list(workloads.BYTES)
  if name == "profile":
    yield from (studies.profile(workloads.Training(**sizes, dtype=dtype)) for dtype in dtypes)
    return
  count, seconds = args.rounds or ROUNDS[name], args.seconds or SECONDS.get(name)
  if name == "startup":
    yield studies.startup_time(count, progress)
  elif name == "cells":
    yield studies.cells(count, progress)
  elif name == "scale":
    base = dataclasses.replace(studies.BASE, **sizes, dtype=args.dtype or "float32")
    yield studies.scale(base, machine, count=count, seconds=seconds, progress=progress)
  else:
    kind, options = workloads.KINDS[name], [sizes] if sizes else workloads.STANDARD[name]
    tasks = [kind(**values, dtype=dtype) for values in options for dtype in dtypes]
    timing = {"rounds": count, "seconds": seconds}
    for n, task in enumerate(tasks, 1):
      update = progress(f"{name} {n} of {len(tasks)}, {task}")
      yield rounds.compare(name, task, baselines, machine, **timing, update=update)


def _check(args, study):
  """Raise UserError for a wrong option, before anything starts."""
  for name in (*SIZES, "dtype", "seconds", "baselines", "out", "rounds"):
    if getattr(args, name) is not None and name not in OPTIONS[study]:
      others = ", ".join(other for other in OPTIONS if name in OPTIONS[other])
      raise errors.UserError(f"--{name}: does not apply to {study}, only to {others}: leave it out")
  for name in ("rounds", *SIZES[1:]):
    if (value := getattr(args, name)) is not None:
      errors.check(f"--{name}", value, value >= 1, "must be at least 1")
  if (value := args.seconds) is not None:
    rule = "must be finite and above 0"
    errors.check("--seconds", f"{value:g}", 0 < value < math.inf, rule)
  if study == "startup":
    studies.check_startup()


def _baselines(args):
  """Return the requested baselines that are installed; report those that are not."""
  known = implementations.ALL_BASELINES
  if args.baselines is None:
    names = implementations.BASELINES
  else:
    names = list(dict.fromkeys(filter(None, args.baselines.split(","))))
  for name in names:
    if name not in known:
      raise errors.UserError(f"--baselines: unknown name {name!r}: use {', '.join(known)}")
  for name in names:
    if not implementations.is_installed(name):
      console.say(f"skipping {name}, which is not installed: run pip install 'charrnn[bench]'")
  return [name for name in names if implementations.is_installed(name)]
