"""`charrnn bench`: how fast it is here, beside peers and beside what the machine could do."""

import json
import math
import os
import pathlib

from charrnn import errors
from charrnn.benchmarks import (
  comparison,
  contestants,
  launches,
  machine,
  progress,
  scale,
  split,
  tables,
  work,
)

HELP = """\
time training and sampling beside PyTorch and Flax

train    updates of two standard networks, in characters a second
sample   drawing characters one by one, of one text and of 64 at once
split    where the time of a train step goes
scale    how the cost of training grows with width, depth, batch, window and devices
startup  the seconds from `python launch.py` to the first training step
cells    the seconds to match 4,096 columns of 500,000 characters with 16 hypotheses

Without a word: train and sample. Every contestant is a process of its own and compiles first;
then they take turns in rounds, so that a noisy minute meets all alike, and medians are compared.
Between them the machine's best rates are measured: of matrix products, and of reading memory.
Memory is what a contestant took on top of what importing its library takes."""
ROUNDS = {"train": 5, "sample": 5, "scale": 3, "startup": 3, "cells": 1}
SECONDS = {"train": 2.0, "sample": 2.0, "scale": 0.5}
SIZES = ("cell", "layers", "hidden", "batch", "window")
TAKES = {
  "train": {*SIZES, "dtype", "seconds", "peers", "out", "rounds"},
  "sample": {*SIZES, "dtype", "seconds", "peers", "out", "rounds"} - {"window"},
  "split": {*SIZES, "dtype"},
  "scale": {*SIZES, "dtype", "seconds", "out", "rounds"},
  "startup": {"rounds"},
  "cells": {"rounds"},
}


def add_arguments(parser):
  add = parser.add_argument
  add("what", nargs="?", choices=TAKES, metavar="|".join(TAKES), help="see above")
  add("--peers", metavar="NAMES", help="default: torch,flax; --peers= for none")
  add("--rounds", metavar="N", type=int, help="default: 5, for scale and startup 3, cells 1")
  add("--seconds", metavar="S", type=float, help="of a turn, about (default 2, for scale 0.5)")
  size = parser.add_argument_group("one size of your own, or of what scale varies")
  size.add_argument("--cell", choices=work.GATES, help="default: lstm")
  size.add_argument("--layers", metavar="N", type=int)
  size.add_argument("--hidden", metavar="N", type=int, help="units in each layer")
  size.add_argument("--batch", metavar="N", type=int, help="streams or texts side by side")
  size.add_argument("--window", metavar="N", type=int, help="characters between updates")
  add("--dtype", choices=work.BYTES, help="of products; default: both, for scale float32")
  add("--out", metavar="DIR", help="a picture and JSON there (scale: default bench)")
  add("--json", action="store_true", help="every number exactly, one JSON object")


def run(args):
  whats = [args.what] if args.what else ["train", "sample"]
  for what in whats:
    _check(args, what)
  if args.out is None and args.what == "scale":
    args.out = "bench"
  if args.out is not None:
    _check_writable(pathlib.Path(args.out))
  line = progress.Progress()
  peers = _peers(args, line) if "peers" in TAKES[whats[0]] else []
  found = machine.facts()
  if not args.json:
    print(machine.text(found), flush=True)
  report = {"machine": found, "results": []}
  try:
    for what in whats:
      for result, lines in _results(what, args, peers, found, line):
        line.clear()
        report["results"].append(result)
        if not args.json:
          print("", *lines, sep="\n", flush=True)
  finally:
    line.clear()
  if args.json:
    print(json.dumps(report))
  if args.out is not None:
    _write(args.what or "bench", report, pathlib.Path(args.out), line)
  return 1 if any(result.get("failed") for result in report["results"]) else 0


def _results(what, args, peers, found, line):
  """Each result with its lines, as soon as it is there."""
  given = {name: getattr(args, name) for name in SIZES if getattr(args, name) is not None}
  dtypes = [args.dtype] if args.dtype else list(work.BYTES)
  if what == "split":
    for dtype in dtypes:
      result = split.measure(work.Training(**given, dtype=dtype))
      yield result, tables.split(result)
    return
  rounds = args.rounds or ROUNDS[what]
  if what == "startup":
    result = launches.measure(rounds, line)
    yield result, tables.startup(result)
    return
  if what == "cells":
    from charrnn.benchmarks import matching

    result = matching.measure(rounds, line)
    yield result, tables.matching(result)
    return
  seconds = args.seconds or SECONDS[what]
  if what == "scale":
    base = scale.BASE._replace(**given, dtype=args.dtype or "float32")
    result = scale.measure(base, found, rounds=rounds, seconds=seconds, progress=line)
    yield result, tables.sweeps(result)
    return
  tasks = comparison.standard(what, dtypes)
  if given:
    tasks = [work.KINDS[what](**given, dtype=dtype) for dtype in dtypes]
  for n, task in enumerate(tasks, 1):
    line.begin(f"{what} {n} of {len(tasks)}, {task}")
    result = comparison.compare(what, task, peers, rounds=rounds, seconds=seconds, say=line.say)
    yield result, tables.comparison(result)


def _check(args, what):
  """Everything that can be wrong with what was asked for, before anything starts."""
  given = [*SIZES, "dtype", "seconds", "peers", "out", "rounds"]
  for name in given:
    if getattr(args, name) is not None and name not in TAKES[what]:
      takers = ", ".join(other for other in TAKES if name in TAKES[other])
      raise errors.UserError(f"--{name}: not for {what}; leave it out (it is for {takers})")
  for name in ("rounds", "layers", "hidden", "batch", "window"):
    value = getattr(args, name)
    if value is not None and value < 1:
      raise errors.UserError(f"--{name}={value}: must be at least 1")
  if args.seconds is not None and not (args.seconds > 0 and math.isfinite(args.seconds)):
    raise errors.UserError(f"--seconds={args.seconds:g}: must be above 0")
  if what == "startup":
    launches.check()


def _peers(args, line):
  """The peers asked for that are installed; says which are not."""
  asked = contestants.PEERS if args.peers is None else filter(None, args.peers.split(","))
  asked = list(dict.fromkeys(asked))
  for name in asked:
    if name not in contestants.PEERS:
      known = ", ".join(contestants.PEERS)
      raise errors.UserError(f"--peers: no peer {name!r}; there are {known}")
  for name in asked:
    if not machine.installed(name):
      line.note(f"{name} is not installed, so it is left out: pip install 'charrnn[bench]'")
  return [name for name in asked if machine.installed(name)]


def _check_writable(folder):
  there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
  if not there.is_dir() or not os.access(there, os.W_OK):
    raise errors.UserError(f"--out={folder}: {there} is no folder that can be written to")


def _write(name, report, folder, line):
  from charrnn.benchmarks import pictures

  try:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    pictures.draw(report, folder / f"{name}.png")
  except OSError as error:
    raise errors.UserError(f"cannot write to {folder}: {error.strerror}") from error
  line.note(f"\nwritten: {folder / name}.png and {folder / name}.json")
