"""`charrnn inspect`: origin, progress and parameters of a run."""

import contextlib
import itertools
import json
import math
import statistics
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np

from charrnn import config as config_lib
from charrnn import console, errors, files, models
from charrnn.cli import arguments
from charrnn.runs import checkpoints, metrics
from charrnn.runs import run as run_lib
from charrnn.runs import status as status_lib

HELP = """show a run: origin, config, losses, checkpoints, parameters

Works while the run is training. The parameters are those of the best checkpoint by validation
loss, or of --step. An array that does not match its digest is marked DAMAGED (charrnn verify
checks all checkpoints). The norm is Euclidean, over all numbers of an array; std is the standard
deviation."""
WIDTH = 92
LABEL = 13
MAX_EVALUATIONS = 7  # columns of the table of evaluations
MAX_VOCABULARY_LINES = 4
MAX_LAUNCHES = 3
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
  show(summary(opened, args.step), _report, args.json, ALIASES)


def show(facts: dict[str, Any], report, as_json: bool, aliases: dict[str, str]):
  """Print facts as JSON, with the old names of renamed keys, or as the lines of `report(facts)`."""
  if as_json:
    print(json.dumps(files.with_aliases(facts, aliases)))
    return
  sys.stdout.reconfigure(errors="backslashreplace")  # the terminal may lack some characters
  print("\n".join(console.visible(line.rstrip()) for line in report(facts)))


def summary(run: run_lib.Run, step: int | None = None) -> dict[str, Any]:
  """Return everything about a run as JSON. Errors on the way are listed under `problems`.

  `step`: the checkpoint whose parameters are described; None: the best.
  """
  problems: list[str] = []

  def attempt(read):
    try:
      return read()
    except (errors.UserError, OSError) as error:
      problems.append(str(error))
      return None

  kept, seconds = _list_checkpoints(run)
  origin = attempt(lambda: run.origin) or {}
  config = attempt(lambda: run.config)
  tokenizer = attempt(lambda: run.tokenizer)
  lines = attempt(lambda: run.metrics) or []
  is_readable = config and origin
  steps = attempt(lambda: run.total_steps) if is_readable else None
  per_epoch = run.steps_per_epoch if steps is not None else None
  step_reached = max([kept["newest"] or 0, *(line["step"] for line in lines)])
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
      "step": step_reached,
      "steps": steps,
      "epochs": step_reached / per_epoch if per_epoch else None,
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
    "checkpoints": kept,
    "parameters": attempt(lambda: _parameters(run, kept, step)),
    "problems": problems,
  }


def _list_checkpoints(run: run_lib.Run) -> tuple[dict[str, Any], float | None]:
  """Return the checkpoints, without reading their arrays, and the seconds of training.

  `whole`: the metadata match their digest and no array is missing.
  """
  folder = run.path / "checkpoints"
  steps: list[dict[str, Any]] = []
  seconds = None
  for step in run.steps:
    try:
      meta = checkpoints.read_meta(folder, step)
      whole = checkpoints.shapes(folder, step).keys() == meta["arrays"].keys()
    except checkpoints.DamagedError:
      meta, whole = {}, False
    if not whole and run.await_deletion(step):
      continue
    if "memory" in meta:
      seconds = meta["memory"].get("seconds")
    steps.append({"step": step, "valid_loss": meta.get("valid_loss"), "whole": whole})
  losses = {entry["step"]: entry["valid_loss"] for entry in steps if entry["whole"]}
  return {
    "steps": steps,
    "best": checkpoints.best(losses),
    "newest": max(losses, default=None),
    "unfinished": sorted(path.name for path in folder.glob("*.orbax-checkpoint-tmp*")),
    "quarantined": sorted(path.name for path in (run.path / "damaged").glob("*")),
  }, seconds


def _parameters(run, kept, step: int | None) -> dict[str, Any] | None:
  """Return a description of the arrays of a step, by default of the best; None if there is none."""
  if step is not None:
    return _describe(run, step)
  best = [kept["best"]] if kept["best"] is not None else []
  for candidate in [*best, *(entry["step"] for entry in reversed(kept["steps"]))]:
    # Training may delete a step meanwhile: describe the next one.
    with contextlib.suppress(run_lib.DeletedError):
      return _describe(run, candidate)
  return None


def _describe(run, step: int) -> dict[str, Any]:
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
  """Return a float for JSON: None for NaN and infinity."""
  return float(value) if math.isfinite(value) else None


def _report(about) -> Iterator[str]:
  yield from _origin(about)
  yield from ["", *_config(about["config"] or {})]
  yield from ["", *_losses(about["history"])]
  yield from ["", *_checkpoints(about["checkpoints"])]
  if about["parameters"]:
    yield from ["", *_parameter_table(about["parameters"])]
  if about["problems"]:
    yield ""
  for problem in about["problems"]:
    yield from row("PROBLEM", problem)


def row(label: str, text: str, lines: int | None = None) -> Iterator[str]:
  """Yield the lines of a label and its text, wrapped, with control characters as escapes."""
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
    yield from row("", "an n-gram: steps are orders, of which the best is kept")
  if corpus := about["corpus"]:
    known = {"source", "kind", "files", "bytes", "characters", "sha256", "options"}
    known |= {"alphabet", "tokenizer"}
    extra = [f"{name} {value}" for name, value in corpus.items() if name not in known]
    sizes = f"{corpus['characters']:,} characters, {corpus['bytes']:,} bytes in {corpus['files']}"
    sizes += " files" if corpus["files"] > 1 else " file"
    yield from row("corpus", ", ".join([f"{corpus['source']}: {sizes}", *extra]))
    yield from row("", f"sha256 {corpus['sha256']}")
  if tokenizer := about["tokenizer"]:
    if tokenizer["kind"] == "byte":
      text = f"all 256 bytes, of which {sum(map(bool, tokenizer['counts']))} occur"
    else:
      text = f"{len(tokenizer['tokens'])} characters: {' '.join(_ranges(tokenizer['tokens']))}"
    yield from row("vocabulary", text, lines=MAX_VOCABULARY_LINES)
  launches = about["launches"] or []
  for launch in launches[-MAX_LAUNCHES:]:
    time = launch["time"].replace("T", " ").replace("+00:00", " UTC")
    commit = f", git {launch['git'][:12]}" if launch["git"] else ""
    commit += " with changes" if commit and launch["git"].endswith("+") else ""
    yield from row("launched", f"{time} on {launch['devices']}{commit}")
    yield from row("", launch["command"])
  if launches:
    versions = {"python": launches[-1]["python"], **launches[-1]["packages"]}
    yield from row("versions", ", ".join(f"{name} {value}" for name, value in versions.items()))
  if len(launches) > MAX_LAUNCHES:
    yield from row("", f"({len(launches)} launches in all; --json has them)")


def _status(progress) -> str:
  status, step, steps = progress["status"], progress["step"], progress["steps"]
  text = f"{status}: step {step:,}" + (f" of {steps:,}" if steps else "")
  if status == status_lib.RunStatus.RUNNING and steps:
    text += f" ({step / steps:.0%})"
  text += "" if progress["epochs"] is None else f", {progress['epochs']:.2f} epochs"
  return text + ("; the same command resumes it" if status in status_lib.RESUMABLE else "")


def _ranges(tokens) -> Iterator[str]:
  """Yield characters, with runs of more than three letters or digits as a-z."""

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
    # A table of evenly spaced evaluations, with the best among them.
    points, count = history["valid"], MAX_EVALUATIONS - 1
    chosen = {round(n * (len(points) - 1) / (count - 1)) for n in range(count)}
    shown = [point for n, point in enumerate(points) if n in chosen or point is best]
    header = ["step", *(f"{point['step']:,}" for point in shown)]
    losses = ["loss", *(f"{point['loss']:.4f}" for point in shown)]
    yield from (f"{'':<{LABEL}}{line}" for line in console.table(header, [losses]))
    if len(shown) < len(points):
      yield from row("", f"({len(points)} evaluations in all; --json has them)")
  if rate := history["characters_per_second"]:
    seconds = history["seconds"]
    spent = "" if seconds is None else f"; {console.duration(seconds)} up to the newest checkpoint"
    yield from row("speed", f"{rate:,.0f} characters/s{spent}")


def _checkpoints(kept):
  label = "checkpoints"
  for entry in kept["steps"]:
    text, loss = "DAMAGED or incomplete", ""
    if entry["whole"]:
      text = ", ".join(name for name in ("best", "newest") if kept[name] == entry["step"])
      loss = entry["valid_loss"]
      loss = "not evaluated" if loss is None else f"loss {loss:.4f}"
    yield f"{label:<{LABEL}}step {entry['step']:>9,}  {loss:<13}  {text}"
    label = ""
  if not kept["steps"]:
    yield from row(label, "none yet")
  for name in kept["unfinished"]:
    yield from row("", f"{name}: being written, or left by a kill")
  if kept["quarantined"]:
    yield from row("quarantine", f"damaged steps, in damaged/: {', '.join(kept['quarantined'])}")


def _parameter_table(parameters):
  arrays = parameters["arrays"]
  size = f"{parameters['total']:,} in {len(arrays)} arrays, {parameters['bytes'] / 1e6:,.3f} MB"
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
  header = ["array", "dtype", "shape", "numbers", *SHOWN_STATISTICS]
  yield from (f"  {line}" for line in console.table(header, rows, names=2))
