"""`charrnn diff`: what two runs have in common and what not."""

import json
import sys

HELP = """compare two runs: config, corpus, alphabet, versions, weights

What matters is the config, but for fields that decide no number (marked: aside), the text that was
read, the alphabet, and every bit of the weights. Exit code 0: all of that is the same; 1: it is
not; 2: an error. In the table, relative is |A - B| / |A| over all numbers of an array."""


def add_arguments(parser):
  parser.add_argument("a", metavar="RUN_A", help="a run directory")
  parser.add_argument("b", metavar="RUN_B", help="another, or the same with another step")
  for side in "ab":
    text = f"a kept step of RUN_{side.upper()}; default: the best"
    parser.add_argument(f"--step-{side}", metavar="N", type=int, help=text)
  parser.add_argument("--json", action="store_true", help="exact values, one JSON object")


def run(args):
  from charrnn.runs import inspection

  inspection.prepare()
  a, b = _side(args.a, args.step_a), _side(args.b, args.step_b)
  result = _compare(a, b)
  if args.json:
    print(json.dumps(result))
  else:
    sys.stdout.reconfigure(errors="backslashreplace")
    print("\n".join(line.rstrip() for line in _report(result)))
  return 0 if result["same"] else 1


def _side(path, step):
  """All of a run that is compared; without a checkpoint its params are None."""
  from charrnn import config as config_lib
  from charrnn.data import tokenizers
  from charrnn.runs import checkpoint, inspection, runs

  path = runs.check(path)
  loaded = None
  if step is not None or checkpoint.steps(path / "checkpoints"):
    loaded = runs.load(path, step)
  return {
    "about": runs.origin(path),
    "config": config_lib.flatten(config_lib.to_json(runs.read_config(path))),
    "alphabet": tokenizers.Tokenizer.load(path / "alphabet.json"),
    "params": loaded and inspection.flatten(loaded.params),
    "title": {"run": str(path), "step": loaded and loaded.step},
  }


def _compare(a, b):
  config = _config(a["config"], b["config"])
  corpora = [side["about"]["corpus"] for side in (a, b)]
  weights = _weights(a["params"], b["params"])
  same = {
    "config": not any(field["matters"] for field in config),
    "corpus": corpora[0]["sha256"] == corpora[1]["sha256"],
    "alphabet": len({(side["alphabet"].kind, side["alphabet"].tokens) for side in (a, b)}) == 1,
    "weights": all(array["same"] for array in weights or ()),
  }
  if (a["params"] is None) != (b["params"] is None):
    same["weights"] = False
  return {
    "same": all(same.values()),
    "same_by_part": same,
    "a": a["title"],
    "b": b["title"],
    "config": config,
    "corpus": {"a": corpora[0], "b": corpora[1]},
    "alphabet": _alphabets(a["alphabet"], b["alphabet"]),
    "versions": _versions(a["about"], b["about"]),
    "weights": weights,
  }


def _config(a, b):
  from charrnn import config as config_lib

  # Where the text was found decides nothing: its digest is compared.
  aside = {*config_lib.FREE, "text.source"}
  return [
    {
      "field": name,
      "a": a.get(name),
      "b": b.get(name),
      "matters": not config_lib.is_in(aside, name),
    }
    for name in {**a, **b}
    if a.get(name) != b.get(name)
  ]


def _alphabets(a, b):
  return {
    "a": {"kind": a.kind, "size": a.size},
    "b": {"kind": b.kind, "size": b.size},
    "only_a": [symbol for symbol in a.tokens if symbol not in b.tokens],
    "only_b": [symbol for symbol in b.tokens if symbol not in a.tokens],
  }


def _versions(a, b):
  """Those that differ, of the last launches."""
  a, b = (
    {"python": last["python"], "devices": last["devices"], **last["packages"]}
    for last in (a["launches"][-1], b["launches"][-1])
  )
  return {name: [a.get(name), b.get(name)] for name in {**a, **b} if a.get(name) != b.get(name)}


def _weights(a, b):
  """None where a run has no checkpoint."""
  if a is None or b is None:
    return None
  from charrnn.runs import inspection

  names = sorted(a.keys() | b.keys(), key=inspection.natural)
  return [{"name": name, **_distance(a.get(name), b.get(name))} for name in names]


def _distance(a, b):
  import numpy as np

  from charrnn.runs import inspection

  shapes = [None if array is None else list(array.shape) for array in (a, b)]
  row = {"shape_a": shapes[0], "shape_b": shapes[1], "same": False}
  if shapes[0] != shapes[1]:
    return row
  row["same"] = a.dtype == b.dtype and a.tobytes() == b.tobytes()
  a, b = a.astype(np.float64), b.astype(np.float64)
  size, apart = np.linalg.norm(a), np.linalg.norm(a - b)
  relative = apart / size if size else (np.inf if apart else 0.0)
  row["relative"], row["max_abs"] = map(inspection.finite, (relative, np.abs(a - b).max()))
  return row


def _report(result):
  from charrnn.cli.inspect import row

  same = result["same_by_part"]
  for side in "ab":
    title = result[side]
    step = "no checkpoint yet" if title["step"] is None else f"step {title['step']:,}"
    yield from row(f"{side.upper()}", f"{title['run']}, {step}")
  yield ""
  for n, field in enumerate(result["config"]):
    values = f"{field['field']}: {field['a']!r} | {field['b']!r}"
    yield from row("" if n else "config", values + ("" if field["matters"] else "  (aside)"))
  if not result["config"]:
    yield from row("config", "the same")
  a, b = result["corpus"]["a"], result["corpus"]["b"]
  texts = [f"{c['source']}, {c['characters']:,} characters, {c['sha256'][:12]}" for c in (a, b)]
  yield from row("corpus", "the same text" if same["corpus"] else " | ".join(texts))
  yield from row("alphabet", "the same" if same["alphabet"] else _alphabet(result["alphabet"]))
  pairs = [f"{name} {old} | {new}" for name, (old, new) in result["versions"].items()]
  yield from row("versions", "; ".join(pairs) or "the same")
  yield from _table(result["weights"])
  yield ""
  parts = [name for name, value in same.items() if not value]
  yield "the same in all that matters" if result["same"] else f"different: {', '.join(parts)}"


def _alphabet(alphabets):
  a, b = alphabets["a"], alphabets["b"]
  text = f"{a['kind']} of {a['size']} | {b['kind']} of {b['size']}"
  for side in "ab":
    if only := alphabets[f"only_{side}"]:
      text += f"; only in {side.upper()}: {' '.join(map(repr, only[:20]))}"
      text += f" and {len(only) - 20} more" if len(only) > 20 else ""
  return text


def _table(weights):
  from charrnn.cli.inspect import row

  if weights is None:
    yield from row("weights", "not compared: a checkpoint is missing")
    return
  count = sum(array["same"] for array in weights)
  yield from row("weights", f"{count} of {len(weights)} arrays are the same, bit by bit")
  width = max(len(array["name"]) for array in weights)
  if count < len(weights):
    yield f"  {'array':<{width}}  {'shape':>24}  {'relative':>10}  {'max |A-B|':>10}"
  for array in weights if count < len(weights) else ():
    yield f"  {array['name']:<{width}}  {_distance_text(array)}"


def _distance_text(array):
  shapes = [" x ".join(map(str, shape)) for shape in (array["shape_a"], array["shape_b"]) if shape]
  if array["shape_a"] is None or array["shape_b"] is None:
    return f"{shapes[0]:>24}  only in {'A' if array['shape_a'] else 'B'}"
  if array["shape_a"] != array["shape_b"]:
    return f"{' | '.join(shapes):>24}  shapes differ"
  if array["same"]:
    return f"{shapes[0]:>24}  {'same':>10}"
  numbers = ("nan" if x is None else f"{x:.3g}" for x in (array["relative"], array["max_abs"]))
  return f"{shapes[0]:>24}  " + "  ".join(f"{number:>10}" for number in numbers)
