"""`charrnn verify`: reads all that a run has kept and checks it."""

import json

from charrnn import errors

HELP = """check a run: every array of every checkpoint, and the other files

A checkpoint is checked against its digests, alphabet.json against the corpus in run.json.
Exit code 0: all of it is whole; 1: something is damaged; 2: this is no run, or it
cannot be read."""
NAMED = 6  # damaged arrays on a line


def add_arguments(parser):
  parser.add_argument("run", metavar="RUN", help="a run directory")
  parser.add_argument("--json", action="store_true", help="everything found, one JSON object")


def run(args):
  from charrnn.runs import inspection, runs

  path = runs.check(args.run)
  inspection.prepare()
  parts = []
  for part in _parts(path):
    parts.append(part)
    if not args.json:
      print(_line(part), flush=True)
  whole = not any(part["damaged"] for part in parts)
  if args.json:
    print(json.dumps({"run": str(path), "whole": whole, "parts": parts}))
  return 0 if whole else 1


def _parts(path):
  """{"part", "damaged": what is, "found"} for every file and step."""
  from charrnn.runs import checkpoint

  checks = {
    "config.json": _check_config,
    "run.json": _check_provenance,
    "alphabet.json": _check_alphabet,
    "metrics.jsonl": _check_metrics,
  }
  for name, check in checks.items():
    try:
      yield {"part": name, "damaged": [], "found": check(path)}
    except errors.UserError as error:
      yield {"part": name, "damaged": [str(error)], "found": None}
  for step in checkpoint.steps(path / "checkpoints"):
    damaged, found = _check_step(path, step)
    yield {"part": f"step {step}", "damaged": damaged, "found": found}


def _line(part):
  names = part["damaged"]
  more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
  state = f"DAMAGED: {', '.join(names[:NAMED])}{more}" if names else f"ok  {part['found']}"
  return f"{part['part']:<13}  {state}"


def _check_config(path):
  from charrnn import config as config_lib
  from charrnn.runs import runs

  return f"{len(config_lib.flatten(config_lib.to_json(runs.read_config(path))))} fields"


def _check_provenance(path):
  from charrnn.runs import runs

  count = len(runs.origin(path)["launches"])
  return f"{count} launch{'es' * (count != 1)}"


def _check_alphabet(path):
  from charrnn.data import tokenizers
  from charrnn.runs import runs

  alphabet = tokenizers.Tokenizer.load(path / "alphabet.json")
  corpus = runs.provenance(path)
  # It has no digest, but it counts every character of the corpus.
  if (alphabet.vocab_size, sum(alphabet.counts)) != (
    corpus["alphabet"]["size"],
    corpus["characters"],
  ):
    raise errors.UserError("not the alphabet of the corpus in run.json")
  return f"{alphabet.vocab_size} symbols"


def _check_metrics(path):
  try:
    *lines, rest = (path / "metrics.jsonl").read_bytes().split(b"\n")
  except FileNotFoundError:
    return "no lines yet"
  except OSError as error:
    raise errors.UserError(f"cannot be read: {error.strerror}") from error
  bad = [f"line {n}" for n, line in enumerate(lines, 1) if not _is_metrics(line)]
  if bad:
    raise errors.UserError(", ".join(bad[:NAMED]))
  # A kill may leave one; training drops it when it goes on.
  return f"{len(lines)} lines{', the last one cut short' if rest else ''}"


def _is_metrics(line):
  try:
    return isinstance(json.loads(line)["step"], int)
  except (ValueError, TypeError, KeyError):
    return False


def _check_step(path, step):
  """The names of its damaged arrays, and what was read."""
  from charrnn.runs import checkpoint, inspection

  try:
    arrays = inspection.read(path, step)
  except inspection.GoneError:
    return [], "gone: training deleted it meanwhile"
  except checkpoint.DamagedError:
    return ["its meta data, and with them all digests"], None
  size = sum(array.nbytes for array in arrays.whole.values())
  return list(arrays.damaged), f"{len(arrays.whole)} arrays  {size / 1e6:,.3f} MB"
