"""`charrnn bench`: speed beside other implementations and beside the roofline of the machine."""

import argparse
import dataclasses
import importlib.util
import json
import math
import pathlib

from charrnn import console, errors, files
from charrnn.benchmarks import implementations, report, rounds, studies, workloads
from charrnn.cli import arguments
from charrnn.models import cells

HELP = """\
time training and sampling beside PyTorch and Flax

train    updates of two standard networks, in characters/s
sample   sampling characters one by one, of one text and of 64 at once
profile  where the time of a train step goes
scale    how the cost of training grows with width, depth, batch, window and devices
startup  the seconds from `python launch.py` to the first training step
cells    the seconds to match 4,096 columns of 500,000 characters with 16 hypotheses

By default: train and sample. Every implementation is a process of its own and compiles first;
then they take turns in rounds, so that machine noise affects all alike, and medians are compared.
The rounds also measure the machine's best rates: of matrix products, and of reading memory.
Memory is what an implementation takes on top of importing its library."""
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
# Names of the former release: JSON keys by their new name, and a study.
KEYS = {
  "workload": "work",
  "implementations": "contestants",
  "rooflines": "ceilings",
  "utilization": "share",
  "vocab_size": "alphabet",
}
OLD_STUDIES = {"split": "profile"}


def add_arguments(parser):
  add = parser.add_argument
  add("study", nargs="?", type=lambda name: OLD_STUDIES.get(name, name), choices=OPTIONS,
      metavar="|".join(OPTIONS), help="default: train and sample")  # fmt: skip
  text = "baselines, with commas between them (default: torch,flax); empty: none"
  add("--baselines", metavar="NAMES", help=text)
  add("--peers", dest="baselines", help=argparse.SUPPRESS)
  text = "rounds of turns (default: 5; scale and startup: 3; cells: 1)"
  add("--rounds", metavar="N", type=int, help=text)
  text = "seconds of a turn, roughly (default: 2; scale: 0.5)"
  add("--seconds", metavar="S", type=float, help=text)
  text = "the size of one network instead of the standard ones, or the size that scale varies"
  size = parser.add_argument_group(text)
  size.add_argument("--cell", choices=cells.CELLS, help="the recurrent cell (default: lstm)")
  size.add_argument("--layers", metavar="N", type=int, help="number of recurrent layers")
  size.add_argument("--hidden", metavar="N", type=int, help="units in each layer")
  size.add_argument("--batch", metavar="N", type=int, help="streams or texts side by side")
  size.add_argument("--window", metavar="N", type=int, help="characters between updates")
  text = "type of matrix products (default: both; scale: float32)"
  add("--dtype", choices=workloads.BYTES, help=text)
  arguments.add_out(parser, "write a picture and JSON to DIR (default for scale: bench)")
  arguments.add_json(parser)


def run(args):
  names = [args.study] if args.study else ["train", "sample"]
  for name in names:
    _check(args, name)
  has_folder = args.out is not None or args.study == "scale"
  folder = files.output_folder(args.out, pathlib.Path("bench")) if has_folder else None
  baselines = _baselines(args) if "baselines" in OPTIONS[names[0]] else []
  machine = rounds.machine()
  if not args.json:
    print(report.machine(machine), flush=True)
  results = []
  with console.Progress() as progress:
    for name in names:
      for result in _results(name, args, baselines, machine, progress):
        progress.end(report=False)
        results.append(result)
        if not args.json:
          print("", *report.lines(result), sep="\n", flush=True)
  measured = {"machine": machine, "results": results}
  with_old_keys = files.with_aliases(measured, KEYS)
  if args.json:
    print(json.dumps(with_old_keys))
  if folder:
    title = args.study or "bench"
    with files.replace_in_folder(folder) as new:
      files.write_json(new / f"{title}.json", with_old_keys)
      report.plot(measured, new / f"{title}.png")
    console.say(f"\nwritten: {folder / title}.png and {folder / title}.json")
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
    # By default the blog's network and char-rnn's default; one text and many.
    small = {"hidden": 128, "batch": 50, "window": 50} if name == "train" else {"batch": 64}
    kind, chosen = workloads.KINDS[name], [sizes] if sizes else [{}, small]
    tasks = [kind(**values, dtype=dtype) for values in chosen for dtype in dtypes]
    for n, task in enumerate(tasks, 1):
      options = {"rounds": count, "seconds": seconds}
      update = progress(f"{name} {n} of {len(tasks)}, {task}")
      yield rounds.compare(name, task, baselines, **options, update=update)


def _check(args, study):
  """Raise UserError for every wrong option before anything starts."""
  for name in (*SIZES, "dtype", "seconds", "baselines", "out", "rounds"):
    if getattr(args, name) is not None and name not in OPTIONS[study]:
      others = ", ".join(other for other in OPTIONS if name in OPTIONS[other])
      raise errors.UserError(f"--{name}: not for {study}; leave it out (it is for {others})")
  for name in ("rounds", *SIZES[1:]):
    if (value := getattr(args, name)) is not None and value < 1:
      raise errors.UserError(f"--{name}={value}: must be at least 1")
  if args.seconds is not None and not 0 < args.seconds < math.inf:
    raise errors.UserError(f"--seconds={args.seconds:g}: must be above 0")
  if study == "startup":
    studies.check_startup()


def _baselines(args):
  """Return the requested baselines that are installed, and report the others."""
  known = implementations.BASELINES
  names = known if args.baselines is None else filter(None, args.baselines.split(","))
  names = list(dict.fromkeys(names))
  for name in names:
    if name not in known:
      raise errors.UserError(f"--baselines: no baseline {name!r}; there are {', '.join(known)}")
  for name in names:
    if not is_installed(name):
      console.say(f"{name} is not installed, so it is left out: pip install 'charrnn[bench]'")
  return [name for name in names if is_installed(name)]


def is_installed(name: str) -> bool:
  return importlib.util.find_spec(name) is not None
