"""`charrnn verify`: check the checkpoints, config, vocabulary and metrics of a run for damage."""

import json
from collections.abc import Iterator
from typing import Any

from charrnn import config as config_lib
from charrnn import console, errors
from charrnn.cli import arguments
from charrnn.runs import checkpoints, metrics
from charrnn.runs import run as run_lib

HELP = """check the checkpoints, config, vocabulary and metrics of a run for damage

The command reads config.json, run.json, alphabet.json, metrics.jsonl and all arrays of all
checkpoints. Arrays are compared with their digests, and the vocabulary with the record of the
corpus in run.json. Exit codes: 0 if nothing is damaged; 1 if something is damaged; 2 if RUN is not
a run or cannot be read."""
MAX_NAMES = 6  # maximum number of damaged arrays that a line names


def add_arguments(parser):
  arguments.add_run(parser)
  arguments.add_json(parser)


def run(args):
  opened = run_lib.Run.open(args.run)
  run_lib.use_cpu()
  parts = []
  for part in _check(opened):
    parts.append(part)
    if not args.json:
      console.show([_line(part)])
  is_intact = not any(part["damaged"] for part in parts)
  if args.json:
    print(json.dumps({"run": str(opened.path), "whole": is_intact, "parts": parts}))
  return 0 if is_intact else 1


def _check(run: run_lib.Run) -> Iterator[dict[str, Any]]:
  """Yield a dict for each file and step: its name `part`, and the results of its check.

  `damaged` lists the names of damaged arrays, or messages. `found` is a summary of the content.
  """
  checks = {
    "config.json": lambda: f"{len(config_lib.flatten(config_lib.to_json(run.config)))} fields",
    "run.json": lambda: f"{(n := len(run.origin['launches']))} launch{'es' * (n != 1)}",
    "alphabet.json": lambda: _check_vocabulary(run),
    "metrics.jsonl": lambda: _check_metrics(run),
  }
  for name, check in checks.items():
    try:
      yield {"part": name, "damaged": [], "found": check()}
    except errors.UserError as error:
      yield {"part": name, "damaged": [str(error)], "found": None}
  for step in run.steps:
    damaged, summary = _check_step(run, step)
    yield {"part": f"step {step}", "damaged": damaged, "found": summary}


def _line(part) -> str:
  names = part["damaged"]
  more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
  state = f"DAMAGED: {', '.join(names[:MAX_NAMES])}{more}" if names else f"ok  {part['found']}"
  return f"{part['part']:<13}  {state}"


def _check_vocabulary(run) -> str:
  tokenizer, corpus = run.tokenizer, run.provenance
  # The file has no digest, but its counts must add up to the number of tokens in run.json.
  expected = corpus["alphabet"]["size"], corpus["characters"]
  if (tokenizer.vocab_size, sum(tokenizer.counts)) != expected:
    raise errors.UserError("does not match the corpus in run.json")
  return f"{tokenizer.vocab_size} tokens"


def _check_metrics(run) -> str:
  try:
    *lines, remainder = (run.path / "metrics.jsonl").read_bytes().split(b"\n")
  except FileNotFoundError:
    return "no lines yet"
  except OSError as error:
    raise errors.UserError(f"cannot be read: {error.strerror}") from error
  if bad := [f"line {n}" for n, line in enumerate(lines, 1) if metrics.parse(line) is None]:
    raise errors.UserError(", ".join(bad[:MAX_NAMES]))
  # A killed process may leave an incomplete last line. Training removes it when it resumes.
  return f"{len(lines)} lines{' and an incomplete one' if remainder else ''}"


def _check_step(run, step: int) -> tuple[list[str], str | None]:
  """Return the names of damaged arrays, and a summary of the intact ones."""
  try:
    arrays = run.arrays(step)
  except run_lib.DeletedError:
    return [], "deleted by training meanwhile"
  except checkpoints.DamagedError:
    return ["metadata, which contains all digests"], None
  size = sum(array.nbytes for array in arrays.whole.values())
  return list(arrays.damaged), f"{len(arrays.whole)} arrays  {size / 1e6:,.3f} MB"
