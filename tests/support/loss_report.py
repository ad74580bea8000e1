"""The reference runs of the package, and the generated parts and pictures of docs/loss.md.

After the sweep of experiments/reference.py and `charrnn compare runs/reference-sweep`, this command
stores the runs in src/charrnn/sweeps/reference.json and updates the page. Without a file, it
updates the page for the stored runs.

  python tests/support/loss_report.py [runs/reference-sweep/compare/compare.json]
"""

import functools
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import charrnn
from charrnn import errors, files, plotting
from charrnn.runs import run as run_lib
from charrnn.sweeps import comparison_reference
from charrnn.sweeps.comparison_reference import FILE, Curve

DOCS = pathlib.Path(__file__).parents[2] / "docs"
KEYS = ("run", "status", "source", "text_characters", "model", "parameters", "seconds")
KEYS += ("bits_per_byte", "curve")
PARTS = r"(<!-- {} .*?-->\n)(.*?)(\n<!-- end -->\n)"  # a generated part of the page
MISSING = """
The reference runs of this version have not been trained yet, so `--reference` needs the
`compare.json` of other runs. The section [Train the reference runs](#train-the-reference-runs)
shows how to make one.
"""


def stored(value: dict[str, Any]) -> dict[str, Any]:
  """Return the content of reference.json for a compare.json: finished runs, without their paths."""
  runs = [run for run in value["runs"] if run["status"] == "finished"]
  origins = [run_lib.Run(pathlib.Path(run["path"])).origin for run in runs]
  launch = origins[-1]["launches"][-1]
  machine = {name: launch[name] for name in ("processor", "cores", "python")}
  machine |= {"charrnn": charrnn.__version__, "date": launch["time"][:10]}
  texts = {run["source"]: _version(origin["corpus"]) for run, origin in zip(runs, origins)}
  runs = [{key: run[key] for key in KEYS} for run in runs]
  return {"machine": machine, "texts": texts, "runs": sorted(runs, key=lambda run: run["run"])}


def _version(corpus: dict[str, Any]) -> str:
  """Return the version of a named corpus; "" if its name determines it."""
  python = f"Python {corpus['python']}" if "python" in corpus else ""
  return python or corpus.get("package") or corpus.get("version") or ""


def to_text(value: dict[str, Any]) -> str:
  """Return the content of reference.json with one line per run."""
  runs = ",\n".join(f"  {json.dumps(run)}" for run in value["runs"])
  others = "".join(f' "{name}": {json.dumps(value[name])},\n' for name in ("machine", "texts"))
  return f'{{\n{others} "runs": [\n{runs}\n ]\n}}\n'


def page(old: str, value: dict[str, Any] | None) -> str:
  """Return the page docs/loss.md with new generated parts; None: there are no reference runs."""
  parts = {"runs": MISSING, "gaps": ""}
  if value is not None:
    curves = comparison_reference.curves(value)
    parts = {"runs": _runs(value, curves), "gaps": _gaps(curves)}
  for name, text in parts.items():
    replace = functools.partial(lambda text, match: f"{match[1]}{text}{match[3]}", text)
    old, count = re.subn(PARTS.format(name), replace, old, flags=re.DOTALL)
    assert count == 1, f"docs/loss.md has {count} parts {name}"
  return old


def _runs(value: dict[str, Any], curves: Sequence[Curve]) -> str:
  names, rows, machine = _models(curves), [], value["machine"]
  for source, size in sorted({(curve.source, curve.text_characters) for curve in curves}):
    inside = [c for c in curves if (c.source, c.text_characters) == (source, size)]
    losses = {c.model: f"{c.bits_per_byte:.3f}" for c in inside if c.parameters}
    grams = [f"{c.bits_per_byte:.3f} ({c.model})" for c in inside if not c.parameters]
    cells = ("".join(grams[:1]), *(losses.get(name, "") for name in names))
    rows.append((source, f"{size:,}", *cells))
  texts = "; ".join(f"{name}: {version}" for name, version in value["texts"].items() if version)
  return f"""
Each curve is the validation loss of a reference run. A dashed line is the best n-gram.

![Validation losses by characters read, with a panel for each text](pictures/loss.png)

Best validation losses in bits per byte (an empty cell: not trained):

{_table(("text", "characters", "n-gram", *names), rows)}
Measured on {machine["date"]} with charrnn {machine["charrnn"]}, with one seed. Versions of the
texts: {texts or "none"}.

Costs, as medians over the texts. Each run had {errors.plural(machine["cores"], "core")} of
{machine["processor"]}:

{_table(("characters", "model", "parameters", "characters read", "minutes"), _costs(curves), 2)}"""


def _models(curves: Sequence[Curve]) -> list[str]:
  """Return the names of the networks, the smallest first."""
  networks = sorted((c for c in curves if c.parameters), key=lambda curve: curve.parameters)
  return list(dict.fromkeys(curve.model for curve in networks))


def _groups(curves: Sequence[Curve]) -> list[tuple[int, str, list[Curve]]]:
  """Return (amount of text, model, runs on all texts) for each network."""
  amounts = sorted({curve.text_characters for curve in curves})
  groups = [
    (size, name, [c for c in curves if (c.text_characters, c.model) == (size, name)])
    for size in amounts
    for name in _models(curves)
  ]
  return [group for group in groups if group[-1]]


def _costs(curves) -> list[tuple[str, ...]]:
  median = statistics.median
  return [
    (
      f"{size:,}",
      name,
      f"{median(c.parameters for c in inside):,.0f}",
      f"{median(c.points[-1]['characters'] for c in inside):,.0f}",
      f"{median(c.seconds / 60 for c in inside):.1f}",
    )
    for size, name, inside in _groups(curves)
  ]


def gap(curve: Curve) -> float:
  """Return the validation loss minus the training loss at the end, in bits per byte."""
  last = curve.points[-1]
  return last["bits_per_byte"] - _train(last)


def rise(curve: Curve) -> float:
  """Return how much the validation loss has risen since its minimum, in bits per byte."""
  return curve.points[-1]["bits_per_byte"] - curve.bits_per_byte


def _train(point) -> float:
  """Return the training loss of a point in bits per byte."""
  return point["train_nats"] * point["bits_per_byte"] / point["nats"]


def _gaps(curves) -> str:
  header, rows = ("characters", "model", "gap at the end", "rise since the minimum"), []
  for size, name, inside in _groups(curves):
    rows.append((f"{size:,}", name, _range(map(gap, inside)), _range(map(rise, inside))))
  shown = examples(curves)
  captions = [f"{c.label}: gap {gap(c):.2f}, rise {rise(c):.2f}" for c in shown]
  return f"""
Three reference runs on {shown[0].source}, with the validation loss (solid) and the training loss
(dashed):

![Training and validation losses of three reference runs](pictures/loss-gaps.png)

In bits per byte, from left to right:

{"".join(f"- {caption}" + chr(10) for caption in captions)}
All reference runs, from the lowest to the highest value over the texts:

{_table(header, rows, 2)}"""


def _range(values: Iterable[float]) -> str:
  values = list(values)
  ends = [f"{round(end, 2) + 0.0:.2f}" for end in (min(values), max(values))]  # 0.00, not -0.00
  return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def examples(curves: Sequence[Curve]) -> list[Curve]:
  """Return three networks on one text, from much to little capacity for its amount."""
  networks = [curve for curve in curves if curve.parameters]
  # Of the texts with the most runs, take the one with the highest losses.
  names = comparison_reference.sources(networks)[::-1]
  source = max(names, key=[curve.source for curve in networks].count)
  inside = [curve for curve in networks if curve.source == source]
  by_amount = [
    sorted((c for c in inside if c.text_characters == size), key=lambda c: c.parameters)
    for size in sorted({curve.text_characters for curve in inside})
  ]
  middle = by_amount[len(by_amount) // 2]
  return [by_amount[0][-1], middle[len(middle) // 2], by_amount[-1][0]]


def plot_gaps(curves: Sequence[Curve], path: pathlib.Path):
  """Plot the training and validation losses of three runs."""
  title = "Validation loss (solid) and training loss (dashed)"
  with plotting.figure(path, title, figsize=(12, 3.6)) as figure:
    panels, points = figure.subplots(1, 3, sharey=True), []
    for number, (axes, curve) in enumerate(zip(panels, examples(curves))):
      x = [point["characters"] / 1e6 for point in curve.points]
      valid, train = curve.line[:, 1], [_train(point) for point in curve.points]
      axes.plot(x, valid, color=plotting.color(number), marker="o", ms=3)
      axes.plot(x, train, color=plotting.color(number), ls="--")
      axes.set_title(plotting.plain(curve.label))
      axes.set_xlabel("million characters read")
      axes.grid()
      points += [*valid[1:], *train[1:]]  # without the steep fall at the start of training
    panels[0].set_ylabel("bits per byte")
    panels[0].set_ylim(min(points) - 0.05, max(points) + 0.05)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> str:
  """Return a Markdown table whose first `names` columns are aligned to the left."""
  rules = ["---" if number < names else "---:" for number in range(len(header))]
  return "".join(f"| {' | '.join(row)} |\n" for row in (header, rules, *rows))


def main(arguments: Sequence[str]):
  """Store the runs of a compare.json, if there is one, and write the page and its pictures."""
  for path in arguments:
    files.write_text(FILE, to_text(stored(files.read_json(pathlib.Path(path)))))
  value = files.read_json(FILE) if FILE.exists() else None
  if value:
    curves = comparison_reference.read(FILE)
    comparison_reference.plot([], curves, DOCS / "pictures" / "loss.png")
    plot_gaps(curves, DOCS / "pictures" / "loss-gaps.png")
  path = DOCS / "loss.md"
  files.write_text(path, page(path.read_text(), value))


if __name__ == "__main__":
  main(sys.argv[1:])
