"""`charrnn inspect`: a description of a run, as text or JSON."""

import contextlib
import itertools
import math
import statistics
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from charrnn import config as config_lib
from charrnn import console, errors, files, models
from charrnn.cli import arguments
from charrnn.data import tokenizers
from charrnn.runs import checkpoints, metrics
from charrnn.runs import run as run_lib
from charrnn.runs import status as status_lib

HELP = """show the origin, config, losses, checkpoints and parameters of a run

The run may still be training. The table of parameters describes the best checkpoint by
validation loss, or the one that --step selects. It gives the Euclidean norm of each array and the
minimum, maximum and standard deviation of its elements. An array that does not match its digest is
marked DAMAGED. Run charrnn verify to check all checkpoints."""
WIDTH = 92  # maximum width of the output in characters
LABEL = 13  # width of the column of labels
MAX_EVALUATIONS = 7  # maximum number of columns in the table of evaluations
MAX_VOCABULARY_LINES = 4
MAX_TOKENS = 40  # maximum number of tokens that are shown if they are not characters
MAX_LAUNCHES = 3  # maximum number of launches that are shown
STATISTICS = {"norm": np.linalg.norm, "min": np.min, "max": np.max, "mean": np.mean, "std": np.std}
SHOWN_STATISTICS = [name for name in STATISTICS if name != "mean"]
ALIASES = {
  "status": "state",
  "quarantined": "put_aside",
  "tokenizer": "alphabet",
  "tokens": "symbols",
}


def add_arguments(parser):
  arguments.add_run(parser)
  arguments.add_step(parser)
  arguments.add_json(parser)


def run(args):
  opened = run_lib.Run.open(args.run, args.step)
  run_lib.use_cpu()
  facts = summary(opened, args.step)
  arguments.show(args, files.with_aliases(facts, ALIASES), _report(facts))


def summary(run: run_lib.Run, step: int | None = None) -> dict[str, Any]:
  """Return a description of a run as JSON. Errors are listed under `problems`, not raised.

  `step` selects the checkpoint whose parameters are described. The default is the best.
  """
  problems: list[str] = []

  def attempt(read):
    try:
      return read()
    except (errors.UserError, OSError) as error:
      problems.append(str(error))
      return None

  listing, seconds = _list_checkpoints(run, attempt(lambda: run.steps) or [], problems)
  origin = attempt(lambda: run.origin) or {}
  config = attempt(lambda: run.config)
  tokenizer = attempt(lambda: run.tokenizer)
  lines = attempt(lambda: run.metrics) or []
  is_readable = config and origin
  steps = attempt(lambda: run.total_steps) if is_readable else None
  per_epoch = run.steps_per_epoch if steps is not None else None
  last_step = max([listing["newest"] or 0, *(line["step"] for line in lines)])
  train, valid = (
    [{"step": step, "loss": loss} for step, loss in metrics.curve(lines, name)]
    for name in ("train/loss", "valid/loss")
  )
  rates = [rate for _, rate in metrics.curve(lines, "chars_per_second")]
  return {
    "run": str(run.path),
    **{name: origin.get(name) for name in ("experiment", "variant", "corpus", "launches")},
    "progress": {
      "status": run.status,
      "step": last_step,
      "steps": steps,
      "epochs": last_step / per_epoch if per_epoch else None,
    },
    "tokenizer": tokenizer and tokenizer.to_json(),
    "config": config and config_lib.to_json(config),
    "history": {
      "first_train": train[0] if train else None,
      "last_train": train[-1] if train else None,
      "best_valid": min(valid, key=lambda point: point["loss"], default=None),
      "valid": valid,
      "characters_per_second": statistics.median(rates) if rates else None,
      "seconds": seconds,
    },
    "checkpoints": listing,
    "parameters": attempt(lambda: _parameters(run, listing, step)),
    "unverified": run.unverified,
    "problems": list(dict.fromkeys(problems)),
  }


def _list_checkpoints(
  run: run_lib.Run, listed: Sequence[int], problems: list[str]
) -> tuple[dict[str, Any], float | None]:
  """Return a list of the checkpoints, without reading arrays, and the seconds of training so far.

  A step is `whole` if its metadata matches its digest and no array is missing. A step that cannot
  be read, for example for lack of permissions, is not whole, and is added to `problems`.
  """
  folder = run.path / "checkpoints"
  steps: list[dict[str, Any]] = []
  seconds = None
  for step in listed:
    try:
      meta = checkpoints.read_meta(folder, step)
      whole = checkpoints.shapes(folder, step).keys() == meta["arrays"].keys()
    except checkpoints.DamagedError:
      meta, whole = {}, False
    except errors.UserError as error:
      problems.append(str(error))
      meta, whole = {}, False
    if not whole and run.is_deleted(step):
      continue
    if memory := meta.get("memory"):
      seconds = finite(memory.get("seconds", math.nan))
    steps.append({"step": step, "valid_loss": meta.get("valid_loss"), "whole": whole})
  losses = {entry["step"]: entry["valid_loss"] for entry in steps if entry["whole"]}
  return {
    "steps": steps,
    "best": checkpoints.best(losses),
    "newest": max(losses, default=None),
    "unfinished": sorted(path.name for path in folder.glob("*.orbax-checkpoint-tmp*")),
    "quarantined": sorted(path.name for path in (run.path / "damaged").glob("*")),
  }, seconds


def _parameters(run, listing, step: int | None) -> dict[str, Any] | None:
  """Describe the arrays of a step, by default of the best; return None if there is no step."""
  if step is not None:
    return _describe(run, step)
  best = [listing["best"]] if listing["best"] is not None else []
  for candidate in [*best, *(entry["step"] for entry in reversed(listing["steps"]))]:
    # If training deletes the step meanwhile, describe the next candidate.
    with contextlib.suppress(run_lib.DeletedError):
      return _describe(run, candidate)
  return None


def _describe(run, step: int) -> dict[str, Any]:
  """Return shape, dtype and statistics of each array of a step, and their total size."""
  arrays, rows, size = run.arrays(step, "params"), [], 0
  union = arrays.whole | arrays.damaged
  for name in sorted(union, key=checkpoints.natural_key):
    array, row = union[name], {"name": name.removeprefix("params/"), "whole": name in arrays.whole}
    if array is not None:
      shape, dtype = list(array.shape), np.dtype(array.dtype)
      row |= {"shape": shape, "dtype": dtype.name, "size": math.prod(shape)}
      size += row["size"] * dtype.itemsize
    if row["whole"]:
      numbers = array.astype(np.float64).ravel()
      row |= {statistic: finite(value(numbers)) for statistic, value in STATISTICS.items()}
    rows.append(row)
  total = sum(row.get("size", 0) for row in rows)
  return {"step": step, "arrays": rows, "total": total, "bytes": size}


def finite(value: float) -> float | None:
  """Return a number as a float, or None for NaN and infinity, which JSON lacks."""
  return float(value) if math.isfinite(value) else None


def _report(about) -> Iterator[str]:
  yield from _origin(about)
  yield from ["", *_config(about["config"] or {})]
  yield from ["", *_losses(about["history"])]
  yield from ["", *_checkpoints(about["checkpoints"])]
  if about["parameters"]:
    yield from ["", *_parameter_table(about["parameters"])]
  if about["problems"] or about["unverified"]:
    yield ""
  if names := about["unverified"]:
    yield from row("unverified", f"{', '.join(names)}: {run_lib.NO_DIGEST}")
  for problem in about["problems"]:
    yield from row("PROBLEM", problem)


def row(label: str, text: str, lines: int | None = None) -> Iterator[str]:
  """Yield the lines of a label and its text, wrapped. Control characters are escaped."""
  text = console.visible(text)
  wrapped = textwrap.wrap(text, WIDTH - LABEL, break_on_hyphens=False, max_lines=lines) or [""]
  for line in wrapped:
    yield f"{label:<{LABEL}}{line}"
    label = ""


def _origin(about):
  yield from row("run", about["run"])
  yield from row(
    "experiment", ":".join(filter(None, [about["experiment"] or "?", about["variant"]]))
  )
  yield from row("status", _status(about["progress"]))
  if about["config"] and not models.has_gradient(about["config"]["model"]):
    yield from row("", "an n-gram: steps are orders; the checkpoint has the best order")
  if corpus := about["corpus"]:
    standard = {"source", "kind", "files", "bytes", "characters", "sha256", "options"}
    standard |= {"alphabet", "tokenizer", "boundaries", "tokens"}
    extra = [f"{name} {value}" for name, value in corpus.items() if name not in standard]
    sizes = f"{corpus['characters']:,} characters, {corpus['bytes']:,} bytes in {corpus['files']}"
    sizes += " files" if corpus["files"] > 1 else " file"
    sizes += f", {corpus['tokens']:,} tokens" if "tokens" in corpus else ""
    yield from row("corpus", ", ".join([f"{corpus['source']}: {sizes}", *extra]))
    yield from row("", f"sha256 {corpus['sha256']}")
  if tokenizer := about["tokenizer"]:
    yield from row("vocabulary", _vocabulary(tokenizer), lines=MAX_VOCABULARY_LINES)
  launches = about["launches"] or []
  for launch in launches[-MAX_LAUNCHES:]:
    time = launch["time"].replace("T", " ").replace("+00:00", " UTC")
    commit = f", git {launch['git'][:12]}" if launch.get("git") else ""
    commit += " with local changes" if commit and launch["git"].endswith("+") else ""
    layers = f", layers: {launch['layers']}" if "layers" in launch else ""
    yield from row("launched", f"{time} on {launch['devices']}{layers}{commit}")
    yield from row("", launch["command"])
  if launches:
    versions = {"python": launches[-1]["python"], **launches[-1]["packages"]}
    yield from row("versions", ", ".join(f"{name} {value}" for name, value in versions.items()))
  if len(launches) > MAX_LAUNCHES:
    yield from row("", f"(last {MAX_LAUNCHES} of {len(launches)} launches; --json lists all)")


def _vocabulary(value: dict[str, Any]) -> str:
  """Return the size of a vocabulary and its tokens, the most frequent ones first if it is large."""
  tokenizer = tokenizers.Tokenizer.from_json(value)
  size, count = tokenizer.vocab_size, sum(map(bool, tokenizer.counts))
  if tokenizer.reads_bytes:
    return f"{size} bytes; {count} of them occur in the corpus"
  if tokenizer.has_characters:
    return f"{errors.plural(size, 'character')}: {' '.join(_ranges(tokenizer.tokens))}"
  order = sorted(range(size), key=lambda n: -tokenizer.counts[n])[:MAX_TOKENS]
  examples = " ".join(repr(tokenizer.texts[n]) for n in order)
  where = "training split" if tokenizer.is_trained else "corpus"
  occurring = f"{count:,} occur in the {where}, most often {examples}"
  return f"{size:,} tokens ({value['kind']}); {occurring}"


def _status(progress) -> str:
  status, step, steps = progress["status"], progress["step"], progress["steps"]
  text = f"{status}: step {step:,}" + (f" of {steps:,}" if steps else "")
  if status == status_lib.RunStatus.RUNNING and steps:
    text += f" ({step / steps:.0%})"
  text += "" if progress["epochs"] is None else f", {progress['epochs']:.2f} epochs"
  if status == status_lib.RunStatus.DIVERGED:
    return f"{text}; diverged.txt has the reason; --rollback continues with a lower learning rate"
  return text + ("; run the same command to resume" if status in status_lib.RESUMABLE else "")


def _ranges(tokens) -> Iterator[str]:
  """Yield characters. More than three consecutive letters or digits become a range such as a-z."""

  def run_key(pair):
    position, token = pair
    category = unicodedata.category(token)
    is_run = category[0] == "L" or category == "Nd"
    return category, ord(token) - position if is_run else position

  for _, group in itertools.groupby(enumerate(tokens), run_key):
    run = [token for _, token in group]
    if len(run) > 3:
      yield f"{run[0]}-{run[-1]}"
    else:
      yield from ("space" if token == " " else console.visible(token) for token in run)


def _config(config):
  top = {name: value for name, value in config.items() if not isinstance(value, dict)}
  sections = {f"  {name}": value for name, value in config.items() if isinstance(value, dict)}
  for label, fields in {"config": top, **sections}.items():
    yield from row(label, "  ".join(f"{field}={_value(value)}" for field, value in fields.items()))


def _value(value) -> str:
  if not isinstance(value, str):
    return f"{value:g}" if isinstance(value, float) else str(value)
  return value if value.isprintable() and value and " " not in value else repr(value)


def _losses(history):
  if not history["first_train"] and not history["valid"]:
    yield from row("loss", "none yet")
    return
  if history["first_train"]:
    ends = [history["first_train"], history["last_train"]]
    first, last = (f"{end['loss']:.4f} nats at step {end['step']:,}" for end in ends)
    yield from row("train loss", first if ends[0] == ends[1] else f"{first}, {last}")
  if best := history["best_valid"]:
    loss = console.nats_and_bits(best["loss"])
    yield from row("valid loss", f"best {loss} at step {best['step']:,}")
    # The table has evenly spaced evaluations and the best one.
    points, count = history["valid"], MAX_EVALUATIONS - 1
    positions = {round(n * (len(points) - 1) / (count - 1)) for n in range(count)}
    columns = [point for n, point in enumerate(points) if n in positions or point is best]
    header = ["step", *(f"{point['step']:,}" for point in columns)]
    losses = ["loss", *(f"{point['loss']:.4f}" for point in columns)]
    yield from (f"{'':<{LABEL}}{line}" for line in console.table(header, [losses]))
    if len(columns) < len(points):
      yield from row("", f"({len(columns)} of {len(points)} evaluations; --json lists all)")
  if rate := history["characters_per_second"]:
    seconds = history["seconds"]
    time = "" if seconds is None else f"; {console.duration(seconds)} up to the newest checkpoint"
    yield from row("speed", f"{rate:,.0f} tokens/s{time}")


def _checkpoints(listing):
  label = "checkpoints"
  for entry in listing["steps"]:
    text, loss = "DAMAGED or incomplete", ""
    if entry["whole"]:
      text = ", ".join(name for name in ("best", "newest") if listing[name] == entry["step"])
      loss = entry["valid_loss"]
      loss = "not evaluated" if loss is None else f"loss {loss:.4f}"
    yield f"{label:<{LABEL}}step {entry['step']:>9,}  {loss:<13}  {text}"
    label = ""
  if not listing["steps"]:
    yield from row(label, "none yet")
  for name in listing["unfinished"]:
    yield from row("", f"{name}: being written, or incomplete because the process was killed")
  if listing["quarantined"]:
    yield from row("quarantine", f"damaged steps in damaged/: {', '.join(listing['quarantined'])}")


def _parameter_table(parameters):
  arrays = parameters["arrays"]
  count, size = errors.plural(len(arrays), "array"), parameters["bytes"] / 1e6
  size = f"{parameters['total']:,} in {count}, {size:,.3f} MB"
  yield f"parameters of step {parameters['step']:,}: {size}"
  rows = []
  for array in arrays:
    shape = " x ".join(map(str, array.get("shape", "?")))
    values = ["DAMAGED"]
    if array["whole"]:
      numbers = [array[name] for name in SHOWN_STATISTICS]
      values = ["nan" if number is None else f"{number:.3g}" for number in numbers]
    size = f"{array.get('size', 0):,}"
    rows.append([array["name"], array.get("dtype", "?"), shape, size, *values])
  header = ["array", "dtype", "shape", "elements", *SHOWN_STATISTICS]
  yield from (f"  {line}" for line in console.table(header, rows, names=2))
