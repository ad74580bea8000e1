"""`charrnn verify`: check the files of a run for damage, or accept deliberate changes."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from charrnn import config as config_lib
from charrnn import console, errors, files
from charrnn.cli import arguments
from charrnn.runs import checkpoints, lock, metrics
from charrnn.runs import run as run_lib

HELP = """check the checkpoints, config, vocabulary and metrics of a run for damage

The command reads config.json, run.json, alphabet.json, metrics.jsonl and all arrays of all
checkpoints, and compares them with their digests. It also checks that each checkpoint belongs to
the run: a checkpoint repeats the config, and has digests of the vocabulary, the corpus and the
lines of metrics.jsonl that were written before it. Older runs have digests only of arrays, and what
they lack is reported as unverified. Exit codes: 0 if nothing is damaged; 1 if something is damaged;
2 if RUN is not a run or cannot be read."""
MAX_NAMES = 6  # maximum number of damaged arrays that a line names


def add_arguments(parser):
  arguments.add_run(parser)
  text = (
    "accept the current content of config.json, run.json, alphabet.json and metrics.jsonl: replace "
    "their digests, also in the checkpoints, and report what changed"
  )
  parser.add_argument("--accept", action="store_true", help=text)
  arguments.add_json(parser)


def run(args):
  opened = run_lib.Run.open(args.run)
  run_lib.use_cpu()
  accepted = list(accept(opened)) if args.accept else []
  if not args.json:
    for text in accepted or ["nothing to accept"] * args.accept:
      print(console.visible(text))
  parts = []
  for part in _check(opened):
    parts.append(part)
    if not args.json:
      console.show([_line(part)])
  is_intact = not any(part["damaged"] for part in parts)
  if args.json:
    result = {"run": str(opened.path), "whole": is_intact, "parts": parts}
    print(json.dumps(result | ({"accepted": accepted} if args.accept else {})))
  return 0 if is_intact else 1


def accept(run: run_lib.Run) -> Iterator[str]:
  """Replace the digests that do not match; yield a line for each change."""
  folder = run.path / "checkpoints"
  with lock.hold(run.path, remedy="use a copy of the run"):
    for name in run_lib.SEALED:
      value = files.read_json(run.path / name)
      if value.pop("sha256", None) != files.digest(value):
        files.write_json(run.path / name, files.seal(value))
        yield f"accepted {name}"
    for step in run.steps:
      try:
        meta = checkpoints.read_meta(folder, step)
      except checkpoints.DamagedError:
        continue
      changes = {}
      if meta.get("run") and meta["run"] != run.identity:
        changes["run"] = run.identity
        differences = ", ".join(checkpoints.differences(meta["run"], run.identity))
        yield f"accepted step {step}: {differences}"
      if meta.get("metrics") and not metrics.matches(run.path, meta["metrics"]):
        changes["metrics"] = metrics.prefix(run.path, step)
        yield f"accepted metrics.jsonl up to step {step}"
      if changes:
        checkpoints.write_meta(folder, meta | changes)


def _check(run: run_lib.Run) -> Iterator[dict[str, Any]]:
  """Yield a dict for each file and step: its name `part`, and the results of its check.

  `damaged` lists the names of damaged arrays, or messages. `found` is a summary of the content.
  `verified` is false if there is no digest to compare with.
  """
  checks = {
    "config.json": lambda: f"{len(config_lib.flatten(config_lib.to_json(run.config)))} fields",
    "run.json": lambda: f"{(n := len(run.origin['launches']))} launch{'es' * (n != 1)}",
    "alphabet.json": lambda: _check_vocabulary(run),
    "metrics.jsonl": lambda: _check_metrics(run),
  }
  newest = checkpoints.newest_meta(run.path / "checkpoints") or {}
  for name, check in checks.items():
    verified = bool(newest.get("metrics"))
    try:
      if name in run_lib.SEALED:
        verified = name not in run.unverified
      yield {"part": name, "damaged": [], "found": check(), "verified": verified}
    except errors.UserError as error:
      yield {"part": name, "damaged": [str(error)], "found": None, "verified": verified}
  for step in run.steps:
    yield {"part": f"step {step}", **_check_step(run, step)}


def _line(part) -> str:
  names = part["damaged"]
  is_step = part["part"].startswith("step ")
  missing = "the run was written before steps named their run" if is_step else run_lib.NO_DIGEST
  unverified = "" if part["verified"] else f"  unverified: {missing}"
  good = f"ok  {part['found']}{unverified}"
  state = f"DAMAGED: {errors.some(names, MAX_NAMES)}" if names else good
  return f"{part['part']:<13}  {state}"


def _check_vocabulary(run) -> str:
  tokenizer, corpus = run.tokenizer, run.provenance
  # The counts must add up to the number of counted tokens in run.json.
  counted = corpus["characters"]
  if tokenizer.is_trained:
    counted = sum(stop - start for start, stop in run.splits().train)
  expected = corpus["alphabet"]["size"], counted
  if (tokenizer.vocab_size, sum(tokenizer.counts)) != expected:
    raise errors.UserError("does not match the corpus in run.json")
  return errors.plural(tokenizer.vocab_size, "token")


def _check_metrics(run) -> str:
  path = run.path / "metrics.jsonl"
  newest = checkpoints.newest_meta(run.path / "checkpoints") or {}
  stored = newest.get("metrics")
  if not path.exists() and (not run.steps or (stored and metrics.matches(run.path, stored))):
    return "no lines yet"
  *lines, remainder = files.read_bytes(path).split(b"\n")
  if bad := [f"line {n}" for n, line in enumerate(lines, 1) if metrics.parse(line) is None]:
    raise errors.UserError(", ".join(bad[:MAX_NAMES]))
  if stored and not metrics.matches(run.path, stored):
    raise errors.UserError(f"does not match its digest in checkpoint {newest['step']}")
  # A killed process may leave an incomplete last line. Training removes it when it resumes.
  return f"{errors.plural(len(lines), 'line')}{' and an incomplete one' if remainder else ''}"


def _check_step(run, step: int) -> dict[str, Any]:
  """Return the names of damaged arrays, and a summary of the intact ones."""
  result: dict[str, Any] = {"damaged": [], "found": None, "verified": True}
  try:
    arrays = run.arrays(step)
    meta = checkpoints.read_meta(run.path / "checkpoints", step)
  except run_lib.DeletedError:
    return result | {"found": "deleted by training during the check"}
  except checkpoints.DamagedError:
    return result | {"damaged": ["metadata, which contains all digests"]}
  with contextlib.suppress(errors.UserError):  # The parts config.json etc. report the error.
    result["damaged"] += checkpoints.differences(meta.get("run"), run.identity)
  result["damaged"] += arrays.damaged
  size = sum(array.nbytes for array in arrays.whole.values())
  result["found"] = f"{errors.plural(len(arrays.whole), 'array')}  {size / 1e6:,.3f} MB"
  return result | {"verified": meta.get("run") is not None}
