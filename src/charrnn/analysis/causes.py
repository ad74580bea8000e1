"""What the cells that were found do: `ablations` and `steering` of cells.json."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from charrnn.analysis import hypotheses, intervene, labels, material, record, steer, targets
from charrnn.runs import run as run_lib

ABLATED = 20_000  # characters of the confirmation half, for each cell that is set
STEERED = 4  # controls of a cell in generation
SETTINGS = ("zero", "low", "high")

Progress = Callable[[int, int], None]
Cells = Mapping[str, intervene.Cell]  # by the hypothesis that they were found for


def ablations(
  run: run_lib.Run,
  text: material.Material,
  recording: record.Recording,
  cells: Cells,
  of: Mapping[str, labels.Label],
  confirmation: Sequence[tuple[int, int]],
  *,
  setting: str,
  controls: int,
  seed: int,
  progress: Progress,
) -> list[dict]:
  """The change of the loss with each cell set, and with its controls set likewise."""
  counted = _counted(len(text.ids_N), confirmation)
  others = _controls(recording, cells, controls, seed)
  wanted = _all(others)
  values = [intervene.kept(recording, run.model, cell) for cell in wanted]
  rows = [[c.set_to(intervene.values(v, setting))] for c, v in zip(wanted, values)]
  ids = text.ids_N[: len(counted)]
  nats = intervene.losses(run.model, run.params, ids, [[], *rows], progress)
  changes = dict(zip(wanted, nats[1:] - nats[0]))
  told = []
  for name, cell in cells.items():
    label = of[targets.plain(name)].first(len(counted))
    label = label._replace(mask=label.mask & counted)
    effects = [intervene.effect(changes[each], label) for each in (cell, *others[cell])]
    told.append({"hypothesis": name, "cell": str(cell), "setting": setting, **_compared(*effects)})
  return told


def _counted(length, confirmation) -> np.ndarray:
  """Where the text counts, up to the last character of ABLATED in the confirmation half: bool."""
  counted = np.zeros(length, bool)
  for start, stop in confirmation:
    counted[start:stop] = True
  last = np.searchsorted(np.cumsum(counted), min(ABLATED, counted.sum()))
  return counted[: int(last) + 1]


def _compared(own, *rest) -> dict:
  """The effect of a cell beside those of its controls, which are known at the same characters."""
  known = None not in own
  rest = rest if known else ()
  return {
    "inside": own.inside,
    "outside": own.outside,
    "controls": {
      "inside": [each.inside for each in rest],
      "outside": [each.outside for each in rest],
    },
    # Of costing more where the label holds than elsewhere; not corrected for many hypotheses.
    "p": intervene.p_value(_selective(own), list(map(_selective, rest))) if known else None,
  }


def _selective(effect) -> float:
  return effect.inside - effect.outside


def _controls(recording, cells, count, seed) -> dict[intervene.Cell, list[intervene.Cell]]:
  found = list(dict.fromkeys(cells.values()))
  return {cell: intervene.controls(recording, cell, count, found, seed) for cell in found}


def _all(others) -> list[intervene.Cell]:
  return list(dict.fromkeys([*others, *(each for several in others.values() for each in several)]))


def steering(
  run: run_lib.Run,
  text: material.Material,
  recording: record.Recording,
  cells: Cells,
  known: Mapping[str, hypotheses.Hypothesis],
  *,
  seed: int,
  progress: Progress,
) -> list[dict]:
  """Generated text with each cell at zero, low and high, and with controls likewise."""
  others, rows = _controls(recording, cells, STEERED, seed), {"free": []}
  for cell in _all(others):
    column = intervene.kept(recording, run.model, cell)
    for setting in SETTINGS:
      rows[cell, setting] = [cell.set_to(intervene.values(column, setting))]
  prompt, decode = text.ids_N[: _prompt(text)], run.tokenizer.decode
  texts = steer.write(run.model, run.params, prompt, decode, rows, seed=seed, progress=progress)
  told, shown = [], set()
  for name, cell in cells.items():
    # What is measured of every cell is told once.
    standard = () if cell in shown else steer.STANDARD
    shown.add(cell)
    for measure in (steer.of_label(known[targets.plain(name)]), *standard):
      told.append(_steered(name, cell, measure, texts, rows, others[cell]))
  return [each for each in told if _says_something(each)]


def _prompt(text) -> int:
  """The length of a prompt that ends with a line, if there is one in time."""
  beginning = text.texts[0][: intervene.BURN_IN]
  return beginning.rfind("\n") + 1 or len(beginning)


def _steered(name, cell, measure, texts, rows, others) -> dict:
  def result(key):
    value = measure.function(texts[key])
    return None if math.isnan(value) else value

  settings = [
    {
      "setting": setting,
      "value": rows[cell, setting][0].value,
      "result": result((cell, setting)),
      "controls": [result((other, setting)) for other in others],
    }
    for setting in SETTINGS
  ]
  keys = {"free": "free"} | {each: (cell, each) for each in SETTINGS}
  return {
    "hypothesis": name,
    "cell": str(cell),
    "measure": measure.name,
    "unit": measure.unit,
    "free": result("free"),
    "settings": settings,
    "excerpts": {setting: texts[key][0][: steer.EXCERPT] for setting, key in keys.items()},
  }


def _says_something(steered) -> bool:
  """Whether there is anything to measure: verse has no indentation, and some texts no quotes."""
  return steered["free"] is not None and any(
    each["result"] or any(each["controls"]) for each in steered["settings"]
  )
