"""The explorer: one HTML file that shows what every unit does on an excerpt of the text.

The recorded data stands in JSON blocks beside the script, see `evaluation.pages`.
"""

import base64
import json
import math
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from charrnn import errors
from charrnn.analysis import recording
from charrnn.evaluation import pages

# Joined in this order to the one script.
SCRIPTS = (
  *("data", "draw", "text", "cells", "look"),
  *("findings", "ablation", "network", "keys", "page"),
)
FINE = 256  # levels of all quantities of featured units
LEVELS = (256, 128, 64, 32, 24, 16, 12, 10, 8, 6, 4)  # of the main quantity of all others
MAIN_SHARE = 0.7  # of the bytes for traces, that main quantities may take
_SAMPLE = 24  # units from which the size of all is estimated
_BATCH = 16  # featured units read at once: the recording lies row by row on the disk

Unit = tuple[int, int]  # layer, number


class Excerpt(NamedTuple):
  """N characters of the text with the recording of C columns; V tokens."""

  text: str  # N code points
  symbols: list[str]  # V
  columns: Sequence[tuple[int, str, int]]  # C times (layer, quantity, unit)
  recording: np.ndarray  # float32 [N, C], may lie on a disk
  top_ids: np.ndarray  # [N, 5], the most probable next characters after reading character t
  top_p: np.ndarray  # [N, 5]
  nats: np.ndarray  # [N], -log p of the next character; NaN at the last
  labels: dict[str, tuple[np.ndarray, np.ndarray]]  # values float32 [N], mask bool [N]

  @property
  def main_quantity(self) -> str:
    """The quantity that every unit is shown by: c (through tanh) if there is one, else h."""
    return "c" if any(quantity == "c" for _, quantity, _ in self.columns) else "h"


def write(
  path: str | os.PathLike, study: Mapping[str, Any], excerpt: Excerpt, limit: int = 10_000_000
) -> int:
  """Write the page for the JSON data of a study and return its size in bytes, at most `limit`.

  Every unit has its main quantity, in as many levels as fit. As many units as fit have all
  quantities: first those of findings, then the next best. Raises UserError if not even the coarsest
  levels fit.
  """
  # Floats of the study get five digits: three are shown.
  short = json.loads(json.dumps(study), parse_float=lambda digits: float(f"{float(digits):.5g}"))
  blocks = {"study": short, "excerpt": _excerpt(excerpt)}
  title = f"{study['run']}: charrnn explorer"
  units = sorted({(layer, unit) for layer, _, unit in excerpt.columns})
  head = {"main": excerpt.main_quantity, "cells": units, "coarse": [], "fine": {}}
  room = limit - len(_page(title, blocks | {"traces": head}).encode())
  traces = head | _traces(study, excerpt, units, room)
  page = _page(title, blocks | {"traces": traces}).encode()
  pathlib.Path(path).write_bytes(page)
  return len(page)


def _page(title: str, blocks: Mapping[str, Any]) -> str:
  script = "\n".join(pages.source(f"{name}.js") for name in SCRIPTS)
  style = pages.source("page.css")
  return pages.page("page.html", title, style, script, data=pages.blocks(blocks))


def _excerpt(excerpt: Excerpt) -> dict[str, Any]:
  # Code points and not a string: JavaScript would join two surrogates to one character.
  points = np.frombuffer(excerpt.text.encode("utf-32-le", "surrogatepass"), "<u4")
  labels = {
    name: _stream(np.where(mask, values, np.nan).astype("<f4"))
    for name, (values, mask) in excerpt.labels.items()
  }
  return {
    "text": _stream(points),
    "symbols": list(excerpt.symbols),
    "top_ids": _stream(np.asarray(excerpt.top_ids, "<u2")),
    "top_p": _stream(np.round(np.asarray(excerpt.top_p) * 65535).astype("<u2")),
    "nats": _stream(np.asarray(excerpt.nats, "<f4")),
    "labels": labels,
  }


def _stream(array: np.ndarray) -> str:
  return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()


def _traces(study, excerpt: Excerpt, units: list[Unit], room: int) -> dict[str, Any]:
  """Return the main quantity of every unit, and all of the featured ones, in `room` bytes."""
  quantity = excerpt.main_quantity
  number = {column: index for index, column in enumerate(excerpt.columns)}
  wanted = {unit: number[unit[0], quantity, unit[1]] for unit in units}
  values = recording.read_columns(excerpt.recording, list(wanted.values()))
  squash = np.tanh if quantity == "c" else np.asarray
  main = {unit: squash(values.pop(column)) for unit, column in wanted.items()}
  coarse = _coarse(main, room)
  room -= sum(map(_size, coarse.values()))
  fine = {}
  for unit, traces, own in _featured(study, excerpt, main, number):
    room -= _size(traces) + _size(own) - _size(coarse[unit]) + len('"00:0000":')
    if room < 0:
      break
    fine[f"{unit[0]}:{unit[1]}"], coarse[unit] = traces, own
  return {"coarse": [coarse[unit] for unit in units], "fine": fine}


def _coarse(main: Mapping[Unit, np.ndarray], room: int) -> dict[Unit, dict]:
  sample = list(main)[:: math.ceil(len(main) / _SAMPLE)]
  for levels in LEVELS:
    sampled = sum(_size(_trace(main[unit], levels)) for unit in sample)
    if sampled * len(main) / len(sample) > MAIN_SHARE * room:
      continue
    traces = {unit: _trace(values, levels) for unit, values in main.items()}
    if sum(map(_size, traces.values())) <= room:
      return traces
  characters = len(next(iter(main.values())))
  raise errors.UserError(
    f"{characters} characters of {len(main)} units exceed the size limit of the explorer: "
    "use fewer characters, or raise the limit"
  )


def _featured(study, excerpt: Excerpt, main, number) -> Iterator[tuple[Unit, dict, dict]]:
  """Yield units with their traces by quantity and their main trace, the most wanted first."""
  ranked, shown = _ranked(study, list(main)), excerpt.main_quantity
  quantities = list(dict.fromkeys(quantity for _, quantity, _ in excerpt.columns))
  # tanh(c) stands beside c, but h would be there twice.
  others = [quantity for quantity in quantities if quantity != shown or shown == "c"]
  for start in range(0, len(ranked), _BATCH):
    batch = ranked[start : start + _BATCH]
    columns = [number[layer, quantity, unit] for layer, unit in batch for quantity in others]
    values = recording.read_columns(excerpt.recording, columns) if columns else {}
    for layer, unit in batch:
      traces = {q: _trace(values[number[layer, q, unit]], FINE) for q in others}
      yield (layer, unit), traces, _trace(main[layer, unit], FINE)


def _ranked(study, units: list[Unit]) -> list[Unit]:
  """Return the units of findings, ablations and steering, then all others, best first."""
  scored = [finding for finding in study["findings"] if finding["scored"]]
  scored.sort(key=lambda finding: not finding["significant"])
  named = [(finding["layer"], finding["cell"]) for finding in scored]
  for entry in (*study["ablations"], *study["steering"]):
    named.append(tuple(map(int, entry["cell"].split(":"))))
  # Nearly every unit predicts a line end, so predictions rank nothing.
  states = {each["name"] for each in study["hypotheses"] if not each["predicts"]}
  best = dict.fromkeys(units, 0.0)
  for name, column in study["scores"].items():
    if name in states:
      best = {unit: max(best[unit], abs(score or 0.0)) for unit, score in zip(units, column)}
  order = sorted(units, key=lambda unit: -best[unit])
  return [unit for unit in dict.fromkeys((*named, *order)) if unit in best]


def _trace(values: np.ndarray, levels: int) -> dict[str, Any]:
  """Return values in `levels` equal steps from `low` to `high`, deflated as such or as differences.

  Differences are modulo 256. They are shorter where a state drifts and longer where a gate snaps.
  """
  low, high = float(values.min()), float(values.max())
  if not math.isfinite(low) or not math.isfinite(high):
    raise errors.UserError(
      "the recording contains values that are not finite because the network has diverged: use an "
      "earlier step"
    )
  scale = (levels - 1) / (high - low) if high > low else 0.0
  codes = np.round((values - low) * scale).astype(np.uint8)
  # Without a search for repetitions: in differences there are hardly any.
  deflater = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
  steps = deflater.compress(np.diff(codes, prepend=np.uint8(0))) + deflater.flush()
  whole = zlib.compress(codes)
  return {
    "low": float(f"{low:.5g}"),
    "high": float(f"{high:.5g}"),
    "levels": levels,
    "steps": len(steps) < len(whole),
    "data": base64.b64encode(min(whole, steps, key=len)).decode(),
  }


def _size(value) -> int:
  return len(pages.plain_json(value)) + 1  # and a comma
