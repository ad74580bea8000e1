"""`charrnn inspect`: what a run is, how it went, and the arrays of one of its checkpoints."""

import json
import sys
import textwrap

from charrnn import console

HELP = """show a run: origin, config, losses, checkpoints, parameters

Works on a run while it trains. The parameters are those of the best checkpoint by validation loss,
or of --step; an array that does not match its digest is marked DAMAGED (charrnn verify reads all
checkpoints). The norm is Euclidean, over all numbers of an array; std is their deviation."""
WIDTH = 92
LABEL = 13
SHOWN = 8  # columns of the table of evaluations
SYMBOL_LINES = 4
LAUNCHES = 3
STATISTICS = ("norm", "min", "max", "std")


def add_arguments(parser):
  parser.add_argument("run", metavar="RUN", help="a run directory")
  parser.add_argument("--step", metavar="N", type=int, help="a kept step; default: the best")
  parser.add_argument("--json", action="store_true", help="exact values, one JSON object")


def run(args):
  from charrnn.runs import inspection, runs

  path = runs.check(args.run)
  inspection.prepare()
  facts = inspection.facts(path, args.step)
  if args.json:
    print(json.dumps(facts))
    return
  sys.stdout.reconfigure(errors="backslashreplace")  # of the alphabet, where a terminal lacks some
  print("\n".join(line.rstrip() for line in _report(facts)))


def _report(facts):
  yield from _origin(facts)
  yield from _launches(facts["launches"] or [])
  yield ""
  yield from _config(facts["config"] or {})
  yield ""
  yield from _losses(facts["history"])
  yield ""
  yield from _checkpoints(facts["checkpoints"])
  if facts["parameters"]:
    yield ""
    yield from _parameters(facts["parameters"])
  if facts["problems"]:
    yield ""
    for problem in facts["problems"]:
      yield from row("PROBLEM", problem)


def row(label, text, lines=None):
  """A label and its text, wrapped, with whatever a terminal would obey escaped."""
  text = console.visible(text)
  wrapped = textwrap.wrap(text, WIDTH - LABEL, break_on_hyphens=False, max_lines=lines) or [""]
  for number, line in enumerate(wrapped):
    yield f"{label if number == 0 else '':<{LABEL}}{line}"


def _origin(facts):
  yield from row("run", facts["run"])
  experiment = [facts["experiment"] or "?", *filter(None, [facts["variant"]])]
  yield from row("experiment", ":".join(experiment))
  yield from row("state", _state(facts["progress"]))
  if facts["config"] and facts["config"]["model"]["cell"] == "ngram":
    yield from row("", "an ngram: steps are orders, of which the best is kept")
  corpus = facts["corpus"]
  if corpus:
    known = {"source", "kind", "files", "bytes", "characters", "sha256", "alphabet", "options"}
    extra = [f"{name} {value}" for name, value in corpus.items() if name not in known]
    sizes = f"{corpus['characters']:,} characters, {corpus['bytes']:,} bytes in {corpus['files']}"
    sizes += " files" if corpus["files"] > 1 else " file"
    yield from row("corpus", ", ".join([f"{corpus['source']}: {sizes}", *extra]))
    yield from row("", f"sha256 {corpus['sha256']}")
  if facts["alphabet"]:
    yield from row("alphabet", _symbols(facts["alphabet"]), lines=SYMBOL_LINES)


def _state(progress):
  step, steps, epochs = progress["step"], progress["steps"], progress["epochs"]
  text = "training now" if progress["state"] == "training" else progress["state"]
  text += f": step {step:,}" + (f" of {steps:,}" if steps else "")
  if progress["state"] == "training" and steps:
    text += f" ({step / steps:.0%})"
  text += "" if epochs is None else f", {epochs:.2f} epochs"
  return text + ("; launch it again to go on" if progress["state"] == "stopped" else "")


def _symbols(alphabet):
  if alphabet["kind"] == "byte":
    used = sum(map(bool, alphabet["counts"]))
    return f"all 256 bytes, of which {used} occur"
  symbols = alphabet["tokens"]
  return f"{len(symbols)} characters: {' '.join(_ranges(symbols))}"


def _ranges(symbols):
  """Symbols as a reader can tell them apart, neighbours in a row of letters or digits as a-z."""
  group = []
  for symbol in [*symbols, None]:
    joins = group and symbol and ord(symbol) == ord(group[-1]) + 1
    if joins and _kind(symbol) == _kind(group[-1]) != "other":
      group.append(symbol)
      continue
    if len(group) > 3:
      yield f"{group[0]}-{group[-1]}"
    else:
      yield from map(_named, group)
    group = [symbol]


def _kind(symbol):
  kinds = {"digit": symbol.isdigit(), "lower": symbol.islower(), "upper": symbol.isupper()}
  kinds["letter"] = symbol.isalpha()
  return next((name for name, is_it in kinds.items() if is_it), "other")


def _named(symbol):
  if symbol == " ":
    return "space"
  return console.visible(symbol)


def _launches(launches):
  """The latest ones; the versions of the last."""
  for launch in launches[-LAUNCHES:]:
    time = launch["time"].replace("T", " ").replace("+00:00", " UTC")
    commit = f", git {launch['git'][:12]}" if launch["git"] else ""
    commit += " with changes" if commit and launch["git"].endswith("+") else ""
    yield from row("launched", f"{time} on {launch['devices']}{commit}")
    yield from row("", launch["command"])
  if launches:
    versions = {"python": launches[-1]["python"], **launches[-1]["packages"]}
    yield from row("versions", ", ".join(f"{name} {value}" for name, value in versions.items()))
  if len(launches) > LAUNCHES:
    yield from row("", f"({len(launches)} launches in all; --json has them)")


def _config(config):
  top = {name: value for name, value in config.items() if not isinstance(value, dict)}
  sections = {name: value for name, value in config.items() if isinstance(value, dict)}
  for name, fields in {"config": top, **sections}.items():
    label = name if fields is top else f"  {name}"
    yield from row(label, "  ".join(f"{field}={_value(value)}" for field, value in fields.items()))


def _value(value):
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
    yield from _evaluations(history["valid"], best)
  if rate := history["characters_per_second"]:
    seconds = history["seconds"]
    spent = "" if seconds is None else f"; {console.duration(seconds)} up to the newest checkpoint"
    yield from row("speed", f"{rate:,.0f} characters/s{spent}")


def _evaluations(points, best):
  """Some of the evaluations, evenly chosen, with the best among them."""
  chosen = {round(n * (len(points) - 1) / (SHOWN - 1)) for n in range(SHOWN)}
  shown = [point for n, point in enumerate(points) if n in chosen or point is best]
  width = max(9, 2 + max(len(f"{point['step']:,}") for point in shown))
  shown = shown[-((WIDTH - LABEL - 4) // width) :]
  yield f"{'':<{LABEL}}step" + "".join(f"{point['step']:>{width},}" for point in shown)
  yield f"{'':<{LABEL}}loss" + "".join(f"{point['loss']:>{width}.4f}" for point in shown)
  if len(shown) < len(points):
    yield from row("", f"({len(points)} evaluations in all; --json has them)")


def _checkpoints(kept):
  marks = {kept["best"]: ["best"]}
  marks.setdefault(kept["newest"], []).append("newest")
  label = "checkpoints"
  for entry in kept["steps"]:
    loss = "not evaluated" if entry["valid_loss"] is None else f"loss {entry['valid_loss']:.4f}"
    text = ", ".join(marks.get(entry["step"], [])) if entry["whole"] else "DAMAGED or incomplete"
    yield f"{label:<{LABEL}}step {entry['step']:>9,}  {loss if entry['whole'] else '':<13}  {text}"
    label = ""
  if not kept["steps"]:
    yield from row(label, "none yet")
  for name in kept["unfinished"]:
    yield from row("", f"{name}: being written, or left by a kill")
  if kept["put_aside"]:
    yield from row("put aside", f"damaged steps, in damaged/: {', '.join(kept['put_aside'])}")


def _parameters(parameters):
  arrays = parameters["arrays"]
  size = f"{parameters['total']:,} in {len(arrays)} arrays, {parameters['bytes'] / 1e6:,.3f} MB"
  yield f"parameters of step {parameters['step']:,}: {size}"
  width = max(12, *(len(array["name"]) for array in arrays))
  columns = "".join(f"{name:>10}" for name in STATISTICS)
  yield f"  {'array':<{width}}{'shape':>12}  {'dtype':<8}{'numbers':>11}{columns}"
  for array in arrays:
    shape = " x ".join(map(str, array.get("shape", "?")))
    size, dtype = array.get("size", 0), array.get("dtype", "?")
    yield (
      f"  {array['name']:<{width}}{shape:>12}  {dtype:<8}{size:>11,}"
      + (_numbers(array) if array["whole"] else "  DAMAGED")
    )


def _numbers(array):
  values = (array[name] for name in STATISTICS)
  return "".join(f"{'nan':>10}" if value is None else f"{value:>10.3g}" for value in values)
