"""`charrnn diff`: the differences between two runs."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from charrnn import config as config_lib
from charrnn import console, errors, files
from charrnn.cli import arguments
from charrnn.cli import inspect as inspect_lib
from charrnn.runs import checkpoints
from charrnn.runs import run as run_lib

HELP = """compare the config, corpus, vocabulary, versions and weights of two runs

Exit code 0: the config, the corpus, the vocabulary and every bit of the weights are the same; 1:
something differs; 2: an error. Versions, and config fields that do not affect the results (marked
"no effect"), do not count as differences. In the table, "relative" is |A - B| / |A|, with Euclidean
norms over all numbers of an array."""
ALIASES = {"vocabulary": "alphabet"}  # former names of JSON keys
MAX_TOKENS = 20  # maximum number of listed tokens that only one vocabulary contains


def add_arguments(parser):
  parser.add_argument("a", metavar="RUN_A", help="a run directory")
  parser.add_argument("b", metavar="RUN_B", help="another run, or the same one with another step")
  for side in "ab":
    text = f"use the checkpoint of step N of RUN_{side.upper()} (default: the best)"
    parser.add_argument(f"--step-{side}", metavar="N", type=int, help=text)
  arguments.add_json(parser)


def run(args):
  a, b = run_lib.Run.open(args.a, args.step_a), run_lib.Run.open(args.b, args.step_b)
  run_lib.use_cpu()
  result = compare(a, b)
  arguments.show(args, files.with_aliases(result, ALIASES), _report(result))
  return 0 if result["same"] else 1


def compare(a: run_lib.Run, b: run_lib.Run) -> dict[str, Any]:
  """Return the differences of two runs as plain data; a run without a checkpoint has no weights."""
  config = _compare_configs(a, b)
  kinds, tokens = zip(*((run.tokenizer.kind, run.tokenizer.tokens) for run in (a, b)))
  known = [set(each) for each in tokens]
  corpora = [run.origin["corpus"] for run in (a, b)]
  weights = [checkpoints.flatten(run.params) if run.steps else None for run in (a, b)]
  arrays = None
  if None not in weights:
    x, y = weights
    names = sorted(x.keys() | y.keys(), key=checkpoints.natural_key)
    arrays = [{"name": name, **_distance(x.get(name), y.get(name))} for name in names]
  same = {
    "config": not any(field["matters"] for field in config),
    "corpus": corpora[0]["sha256"] == corpora[1]["sha256"],
    "vocabulary": kinds[0] == kinds[1] and tokens[0] == tokens[1],
    "weights": weights == [None, None] if arrays is None else all(row["same"] for row in arrays),
  }
  return {
    "same": all(same.values()),
    "same_by_part": same,
    **{
      side: {"run": str(run.path), "step": None if params is None else run.step}
      for side, run, params in zip("ab", (a, b), weights)
    },
    "config": config,
    "corpus": dict(zip("ab", corpora)),
    "vocabulary": {
      "a": {"kind": kinds[0], "size": len(tokens[0])},
      "b": {"kind": kinds[1], "size": len(tokens[1])},
      "only_a": [token for token in tokens[0] if token not in known[1]],
      "only_b": [token for token in tokens[1] if token not in known[0]],
    },
    "versions": _compare_versions(a.origin, b.origin),
    "weights": arrays,
  }


def _compare_configs(a, b) -> list[dict[str, Any]]:
  # The corpus is compared by its digest. Evaluations change training only if they can end it.
  ignored = {"text.source"} | (set() if a.config.patience or b.config.patience else {"eval_every"})
  a, b = (config_lib.flatten(config_lib.to_json(run.config)) for run in (a, b))
  return [
    {
      "field": name,
      "a": a.get(name),
      "b": b.get(name),
      "matters": name not in ignored and not config_lib.is_free(name),
    }
    for name in {**a, **b}
    if a.get(name) != b.get(name)
  ]


def _compare_versions(a, b) -> dict[str, list[str | None]]:
  """Return what differs between the last launches: packages, devices, layers, JAX settings."""
  a, b = (
    {name: last.get(name) for name in ("python", "devices", "layers")}
    | last["packages"]
    | last.get("settings", {})
    for last in (a["launches"][-1], b["launches"][-1])
  )
  return {name: [a.get(name), b.get(name)] for name in {**a, **b} if a.get(name) != b.get(name)}


def _distance(a: np.ndarray | None, b: np.ndarray | None) -> dict[str, Any]:
  shapes = [None if array is None else list(array.shape) for array in (a, b)]
  row = {"shape_a": shapes[0], "shape_b": shapes[1], "same": False}
  if shapes[0] != shapes[1]:
    return row
  row["same"] = a.dtype == b.dtype and a.tobytes() == b.tobytes()
  a, b = a.astype(np.float64), b.astype(np.float64)
  norm, distance = np.linalg.norm(a), np.linalg.norm(a - b)
  relative = distance / norm if norm else (np.inf if distance else 0.0)
  numbers = {"relative": relative, "max_abs": np.abs(a - b).max()}
  return row | {name: inspect_lib.finite(number) for name, number in numbers.items()}


def _report(result) -> Iterator[str]:
  row, same = inspect_lib.row, result["same_by_part"]
  for side in "ab":
    step = result[side]["step"]
    step = "no checkpoint yet" if step is None else f"step {step:,}"
    yield from row(side.upper(), f"{result[side]['run']}, {step}")
  yield ""
  for n, field in enumerate(result["config"]):
    values = f"{field['field']}: {field['a']!r} | {field['b']!r}"
    yield from row("" if n else "config", values + ("" if field["matters"] else "  (no effect)"))
  if not result["config"]:
    yield from row("config", "the same")
  texts = [
    f"{corpus['source']}, {corpus['characters']:,} characters, {corpus['sha256'][:12]}"
    for corpus in result["corpus"].values()
  ]
  yield from row("corpus", "the same" if same["corpus"] else " | ".join(texts))
  yield from row("vocabulary", "the same" if same["vocabulary"] else _vocabularies(result))
  pairs = [f"{name} {old} | {new}" for name, (old, new) in result["versions"].items()]
  yield from row("versions", "; ".join(pairs) or "the same")
  yield from _weights(result["weights"])
  yield ""
  parts = [name for name, value in same.items() if not value]
  if parts:
    yield f"different: {', '.join(parts)}"
  elif result["versions"]:
    yield "no difference that affects results, except for versions and settings"
  else:
    yield "no difference that affects results"


def _vocabularies(result) -> str:
  vocabulary = result["vocabulary"]
  text = " | ".join(
    f"{vocabulary[side]['kind']}, {vocabulary[side]['size']} tokens" for side in "ab"
  )
  for side in "ab":
    if only := vocabulary[f"only_{side}"]:
      tokens = errors.some(list(map(repr, only)), MAX_TOKENS, " ")
      text += f"; only in {side.upper()}: {tokens}"
  return text


def _weights(arrays) -> Iterator[str]:
  if arrays is None:
    yield from inspect_lib.row("weights", "not compared: a run has no checkpoint")
    return
  count = sum(array["same"] for array in arrays)
  text = f"{count} of {len(arrays)} arrays are bit-identical"
  yield from inspect_lib.row("weights", text)
  if count < len(arrays):
    header = ["array", "shape", "relative", "max |A-B|"]
    rows = [[array["name"], *_cells(array)] for array in arrays]
    yield from (f"  {line}" for line in console.table(header, rows))


def _cells(array) -> list[str]:
  """Return the cells of a row: the shapes, then the distances or why there are none."""
  shapes = [array["shape_a"], array["shape_b"]]
  texts = [" x ".join(map(str, shape)) for shape in shapes if shape is not None]
  if None in shapes:
    return [texts[0], f"only in {'A' if shapes[1] is None else 'B'}"]
  if shapes[0] != shapes[1]:
    return [" | ".join(texts), "shapes differ"]
  if array["same"]:
    return [texts[0], "same"]
  distances = (array["relative"], array["max_abs"])
  return [texts[0], *("nan" if value is None else f"{value:.3g}" for value in distances)]
