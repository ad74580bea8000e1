"""Text reports of a comparison: tables for a terminal, Markdown, CSV and JSON."""

import collections
import json
import math
from collections.abc import Iterable, Iterator, Sequence

from charrnn import config as config_lib
from charrnn import console, files
from charrnn.runs.status import RunStatus
from charrnn.sweeps import comparison, outcomes

Rows = list[dict[str, str]]  # table rows: cells by column name
MISSING = "-"
PICTURES = {
  "curves": "Loss curves",
  "settings": "Best validation loss of each run, by setting",
  "grid": "Best validation loss by config field",
  "sizes": "Best validation loss by number of parameters",
}
NAMES = 2  # number of columns at the left that contain text; they are left-aligned
UNITS = (
  "nats, bits: best validation loss per {}, and the step that reached it. "
  "bits/byte: the same loss per UTF-8 byte, for any tokenizer. "
  "seconds: training, evaluation and saving."
)


def terminal(result: comparison.Comparison) -> list[str]:
  """Return the lines of aligned tables, followed by notes."""
  blocks = [
    console.table(list(rows[0]), [list(row.values()) for row in rows], names=NAMES)
    for rows in _tables(result)
  ]
  blocks += [notes] if (notes := list(_notes(result))) else []
  return join(blocks).splitlines()


def markdown(result: comparison.Comparison) -> str:
  """Return a Markdown report with the tables, the notes and links to the pictures."""
  blocks = []
  for rows in _tables(result):
    blocks.append(markdown_table(list(rows[0]), map(dict.values, rows), NAMES))
  blocks += [[escaped(note)] for note in _notes(result)]
  blocks += [[f"![{title}]({name}.png)"] for name, title in PICTURES.items()]
  return join(blocks)


def markdown_table(
  header: Sequence[str], rows: Iterable[Iterable[str]], names: int = 1
) -> list[str]:
  """Return the lines of a Markdown table. The first `names` columns are aligned to the left."""
  rules = ["---" if n < names else "---:" for n in range(len(header))]
  cells = (map(escaped, row) for row in (header, *rows))
  header, *rest = (f"| {' | '.join(row)} |" for row in cells)
  return [header, f"| {' | '.join(rules)} |", *rest]


def join(blocks: Iterable[Sequence[str]]) -> str:
  """Return blocks of lines as a text, with a blank line between the blocks."""
  return "\n".join("".join(f"{line}\n" for line in block) for block in blocks)


def escaped(text: str) -> str:
  """Escape Markdown: pipes, tags, emphasis, code and links."""
  text = console.visible(text).replace("\\", "\\\\").replace("<", "&lt;")
  for sign in "|*`[":
    text = text.replace(sign, f"\\{sign}")
  return text


def _tables(result) -> Iterator[Rows]:
  yield _runs(result)
  yield from filter(None, (_seeds(result), _laws(result)))


def _runs(result) -> Rows:
  rows = []
  for run, record in ((run, _record(result, run)) for run in result.runs):
    cells = {"run": run.name, "status": run.status}
    if len(result.texts) > 1:
      cells["text"] = "?" if record["text"] is None else _letter(record["text"])
    cells |= {"nats": _loss(record["nats"]), "bits": _loss(record["bits"])}
    cells["bits/byte"] = _loss(record["bits_per_byte"])
    cells |= {"at step": _number(record["best_step"]), "epoch": _number(record["epochs"], ",.2f")}
    seconds = _number(record["seconds"], ",.0f" if (record["seconds"] or 0) >= 10 else ".1f")
    seconds = f"~{seconds}" if run.estimates_seconds else seconds
    cells |= {"tokens/s": _number(run.rate), "seconds": seconds}
    cells["parameters"] = _number(run.parameters)
    values = {config_lib.short(field): value for field, value in record["fields"].items()}
    rows.append(cells | {name: comparison.value_text(value) for name, value in values.items()})
  return rows


def _letter(number: int) -> str:
  """Return the name of a text in the table and the notes: A to Z, then numbers."""
  return chr(ord("A") + number) if number < 26 else str(number + 1)


def _bits(nats: float | None) -> float | None:
  return nats and nats / math.log(2)


def _loss(value: float | None) -> str:
  return MISSING if value is None else outcomes.loss_text(value)


def _number(value, style: str = ",.0f") -> str:
  return console.number(value, style)


def _seeds(result) -> Rows:
  rows, unit = [], "bits/byte" if result.in_bits else "nats"
  for setting in (each for each in result.settings if len(each.runs) > 1):
    unfinished = [run.status for run in setting.runs if run.status != RunStatus.FINISHED]
    counts = collections.Counter(unfinished).items()
    others = ", ".join(f"{count} {status}" for status, count in counts) or MISSING
    ends = setting.interval and " to ".join(map(_loss, setting.interval))
    row = {
      "setting": setting.name,
      "unfinished": others,
      "finished seeds": str(len(setting.losses)),
      f"mean {unit}": _loss(setting.loss),
      "95% interval": ends or MISSING,
    }
    rows.append(row if result.in_bits else row | {"mean bits": _loss(_bits(setting.loss))})
  return rows


def _laws(result) -> Rows:
  formula = "fitted loss L(N), N parameters"
  header, rows = ("cell", formula, "exponent", "95% interval", "R\u00b2", "sizes"), []
  for cell, curve in comparison.losses_by_size(result).items():
    for law in comparison.power_laws(curve):
      floor = f"{law['floor']:.3f} + " if law["floor"] else ""
      formula = f"{floor}{law['factor']:.3f} (N / {law['middle']:,.0f})^-{law['exponent']:.3f}"
      ends = law["interval"] and "{:.3f} to {:.3f}".format(*law["interval"])
      numbers = (f"{law['exponent']:.3f}", ends or MISSING, _number(law["r2"], ".4f"))
      cells = (cell, formula.replace("^--", "^"), *numbers, str(law["sizes"]))
      rows.append(dict(zip(header, cells)))
  return rows


def _notes(result) -> Iterator[str]:
  if any(run.best for run in result.runs):
    yield UNITS.format(result.unit)
  if result.in_bits:
    yield "The runs have different tokenizers: they are sorted and plotted by bits per byte."
  if not result.compares:
    yield "The runs use different texts or splits: losses are not comparable between them."
    names = comparison.differing(result.texts)
    for number, text in enumerate(result.texts):
      values = {name: text.get(name) for name in names}
      if "sha256" in values:
        values["sha256"] = str(values["sha256"])[:12]
      example = next(run for run in result.runs if run.text == text)
      pairs = ", ".join(f"{name} {comparison.value_text(v)}" for name, v in values.items())
      yield f"Text {_letter(number)} ({example.fields.get('text.source')}): {pairs}"
  if any(run.estimates_seconds for run in result.runs):
    yield "~: seconds are estimated from tokens/s and cover training steps only."
  if not all(run.has_gradient for run in result.runs):
    yield "The steps of an n-gram are orders. Its counts are not parameters."
  for run in result.runs:
    for problem in run.problems:
      yield f"{run.name}: {problem}"


def csv_text(result: comparison.Comparison) -> str:
  """Return CSV with a row per run: its metrics in full precision, and the fields that differ."""
  rows = [_record(result, run) for run in result.runs]
  for row in rows:
    del row["problems"]
    row |= {f"config.{name}": value for name, value in row.pop("fields").items()}
  return console.csv_text(list(rows[0]), rows)


def json_text(result: comparison.Comparison) -> str:
  """Return the data of the tables and pictures as JSON."""
  value = {
    "fields": result.fields,
    "compares": result.compares,
    "texts": [files.with_aliases(text, {"tokenizer": "alphabet"}) for text in result.texts],
    "runs": [_record(result, run) | _curve_record(run) for run in result.runs],
    "settings": [_setting_record(setting) for setting in result.settings],
    "sizes": {
      cell: {
        "points": [{"parameters": size, "nats": loss} for size, loss in curve.items()],
        "fits": comparison.power_laws(curve),
      }
      for cell, curve in comparison.losses_by_size(result).items()
    },
  }
  return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _curve_record(run: comparison.ComparedRun) -> dict:
  return {
    "source": run.fields.get("text.source"),
    "text_characters": run.text_characters,
    "model": run.model,
    "curve": run.curve,
  }


def _record(result, run: comparison.ComparedRun) -> dict:
  text, best, last = comparison.text_of(result.texts, run), run.best, run.last
  epochs = comparison.number(run.lines[-1].get("epoch")) if run.lines else None
  record = {
    "run": run.name,
    "path": run.path,
    "status": run.status,
    "text": None if text == len(result.texts) else text,
    "nats": best and best.nats,
    "bits": _bits(best and best.nats),
    "bits_per_byte": best and best.per_byte,
    "best_step": best and best.step,
    "step": last and last.step,
    "epochs": epochs,
    "characters": last and last.characters,
    "characters_per_second": run.rate,
    "seconds": last and last.seconds,
    "seconds_are_estimated": run.estimates_seconds,
    "parameters": run.parameters,
    "flops": last and last.flops,
    "fields": {name: run.fields.get(name) for name in result.fields},
    "problems": list(run.problems),
  }
  return record | {old: record[new] for new, old in outcomes.ALIASES.items()}


def _setting_record(setting: comparison.Setting) -> dict:
  return {
    "name": setting.name,
    "text": setting.text,
    "fields": setting.values,
    "runs": [run.name for run in setting.runs],
    "losses": setting.losses,
    "mean": setting.loss,
    "interval": setting.interval,
  }
