"""A comparison as text: aligned for a terminal, as Markdown, as CSV, and as JSON."""

import collections
import csv
import io
import json
import math
from collections.abc import Iterator

from charrnn import config as config_lib
from charrnn import console
from charrnn.sweeps import board, comparison, size_laws

Rows = list[tuple[str, ...]]
NOTHING = "-"
PICTURES = ("curves", "settings", "grid", "sizes")
LEFT = 2  # columns that are names


def terminal(found: comparison.Comparison) -> str:
  blocks = [[console.visible(line) for line in board.table(rows)] for rows in _tables(found)]
  blocks.append([console.visible(note) for note in _notes(found)])
  return "\n".join("".join(f"{line}\n" for line in block) for block in blocks if block)


def markdown(found: comparison.Comparison) -> str:
  blocks = [list(_markdown_table(rows)) for rows in _tables(found)]
  blocks += [[_escaped(note)] for note in _notes(found)]
  blocks += [[f"![{name}]({name}.png)"] for name in PICTURES]
  return "\n".join("".join(f"{line}\n" for line in block) for block in blocks)


def _markdown_table(rows: Rows) -> Iterator[str]:
  head, *rest = ([_escaped(cell) for cell in row] for row in rows)
  lines = ["---" if n < LEFT else "---:" for n in range(len(head))]
  for cells in (head, lines, *rest):
    yield f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
  """What Markdown would take for more than text: pipes, tags, emphasis, code and links."""
  text = console.visible(text).replace("\\", "\\\\").replace("<", "&lt;")
  for sign in "|*`[":
    text = text.replace(sign, f"\\{sign}")
  return text


def _tables(found) -> Iterator[Rows]:
  yield _runs(found)
  if any(len(each.runs) > 1 for each in found.settings):
    yield _seeds(found)
  if laws := _laws(found):
    yield laws


def _runs(found) -> Rows:
  own = [config_lib.short(field) for field in found.fields]
  texts = [] if len(found.texts) < 2 else ["text"]
  head = ["run", "state", *texts, "nats", "bits", "at step", "epoch", "characters/s", "seconds"]
  rows = [(*head, "parameters", *own)]
  for run in found.runs:
    best = run.best.valid if run.best else None
    cells = [run.name, run.state, *([_letter(found, run)] if texts else [])]
    cells += [_loss(best), _loss(best and best / math.log(2)), _shown(run.best and run.best.step)]
    cells += [_shown(run.epochs, ",.2f"), _shown(run.rate), _seconds(run), _shown(run.parameters)]
    rows.append((*cells, *(comparison.shown(run.fields.get(field)) for field in found.fields)))
  return rows


def _letter(found, run) -> str:
  """Of its text: A, B and so on, as the notes tell them."""
  place = found.text_of(run)
  return "?" if place == len(found.texts) else _name(place)


def _name(place: int) -> str:
  return chr(ord("A") + place) if place < 26 else str(place + 1)


def _loss(value: float | None) -> str:
  if value is None:
    return NOTHING
  return f"{value:.4f}" if abs(value) < 1000 else f"{value:.2g}"


def _shown(value, how=",.0f") -> str:
  return NOTHING if value is None else format(value, how)


def _seconds(run) -> str:
  seconds = run.last and run.last.seconds
  if seconds is None:
    return NOTHING
  return ("~" if run.estimates_seconds else "") + format(
    seconds, ",.0f" if seconds >= 10 else ".1f"
  )


def _seeds(found) -> Rows:
  rows = [("setting", "not done", "n", "mean nats", "95% interval", "mean bits")]
  for each in (each for each in found.settings if len(each.runs) > 1):
    states = collections.Counter(run.state for run in each.runs if run.state != comparison.DONE)
    others = ", ".join(f"{count} {state}" for state, count in states.items())
    ends = each.interval and f"{_loss(each.interval[0])} to {_loss(each.interval[1])}"
    mean = each.loss
    cells = (_loss(mean), ends or NOTHING, _loss(mean and mean / math.log(2)))
    rows.append((each.name, others or NOTHING, str(len(each.losses)), *cells))
  return rows


def _laws(found) -> Rows:
  rows = [("loss by size", "L(N), N parameters", "exponent", "95% interval", "R\u00b2", "sizes")]
  for cell, curve in size_laws.curves(found).items():
    for law in size_laws.fits(curve):
      floor = f"{law['floor']:.3f} + " if law["floor"] else ""
      formula = f"{floor}{law['factor']:.3f} (N / {law['middle']:,.0f})^-{law['exponent']:.3f}"
      ends = law["interval"] and "{:.3f} to {:.3f}".format(*law["interval"])
      numbers = (f"{law['exponent']:.3f}", ends or NOTHING, _shown(law["r2"], ".4f"))
      rows.append((cell, formula.replace("^--", "^"), *numbers, str(law["sizes"])))
  return rows if len(rows) > 1 else []


def _notes(found) -> Iterator[str]:
  if not found.compares:
    yield "These are runs on different texts or splits: losses do not compare between them."
    for place, text in enumerate(found.texts):
      told = {name: text.get(name) for name in comparison.differing(found.texts)}
      told = {name: str(value)[:12] if name == "sha256" else value for name, value in told.items()}
      example = next(run for run in found.runs if run.text == text)
      pairs = ", ".join(f"{name} {comparison.shown(value)}" for name, value in told.items())
      yield f"Text {_name(place)}, {example.fields.get('text.source')}: {pairs}"
  if any(run.estimates_seconds for run in found.runs):
    yield (
      "~ seconds are estimated from characters/s, of steps alone: metrics.jsonl did not have them"
    )
  if any(run.fields.get("model.cell") == "ngram" for run in found.runs):
    yield "Steps of an ngram are orders; its counts are not among the parameters."
  for run in found.runs:
    for problem in run.problems:
      yield f"{run.name}: {problem}"


def csv_text(found: comparison.Comparison) -> str:
  """A row for each run, exact, with the fields that differ."""
  records = [_record(found, run) for run in found.runs]
  fields = {f"config.{name}": name for name in found.fields}
  columns = [name for name in records[0] if name not in ("fields", "problems")]
  file = io.StringIO()
  writer = csv.writer(file, lineterminator="\n")
  writer.writerow([*columns, *fields])
  for record in records:
    own = [record["fields"].get(name) for name in fields.values()]
    writer.writerow([record[name] for name in columns] + own)
  return file.getvalue()


def json_text(found: comparison.Comparison) -> str:
  value = {
    "fields": found.fields,
    "compares": found.compares,
    "texts": found.texts,
    "runs": [_record(found, run) for run in found.runs],
    "settings": [_setting(each) for each in found.settings],
    "sizes": {
      cell: {
        "points": [{"parameters": size, "nats": loss} for size, loss in curve.items()],
        "fits": list(size_laws.fits(curve)),
      }
      for cell, curve in size_laws.curves(found).items()
    },
  }
  return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _record(found, run: comparison.Run) -> dict:
  place, best, last = found.text_of(run), run.best, run.last
  return {
    "run": run.name,
    "path": run.path,
    "state": run.state,
    "text": None if place == len(found.texts) else place,
    "nats": best and best.valid,
    "bits": best and best.valid / math.log(2),
    "best_step": best and best.step,
    "step": last and last.step,
    "epochs": run.epochs,
    "characters": last and last.characters,
    "characters_per_second": run.rate,
    "seconds": last and last.seconds,
    "seconds_are_estimated": run.estimates_seconds,
    "parameters": run.parameters,
    "flops": last and last.flops,
    "fields": {name: run.fields.get(name) for name in found.fields},
    "problems": list(run.problems),
  }


def _setting(each: comparison.Setting) -> dict:
  return {
    "name": each.name,
    "text": each.text,
    "fields": each.values,
    "runs": [run.name for run in each.runs],
    "losses": each.losses,
    "mean": each.loss,
    "interval": each.interval,
  }
