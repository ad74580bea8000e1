"""The explorer: one HTML file that shows the activity of every unit on an excerpt of the text.

The file contains the recorded data as JSON blocks, see `evaluation.pages`.
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

# The script of the page is the concatenation of these files, in this order.
SCRIPTS = (
  *("data", "draw", "text", "cells", "look"),
  *("findings", "ablation", "network", "keys", "page"),
)
FINE = 256  # number of levels for all quantities of featured units
LEVELS = (256, 128, 64, 32, 24, 16, 12, 10, 8, 6, 4)  # choices for the main quantity of other units
MAIN_SHARE = 0.7  # maximum share of the traces' bytes that main quantities may use
_SAMPLE = 24  # number of units from which the size of all units is estimated
_BATCH = 16  # number of featured units per pass over the recording, which is stored by rows

Unit = tuple[int, int]  # layer and index


class Excerpt(NamedTuple):
  """The first N characters of a text, with the recording of C columns; V is the vocabulary size."""

  text: str  # N code points
  symbols: list[str]  # the V tokens of the vocabulary
  columns: Sequence[tuple[int, str, int]]  # (layer, quantity, unit) of each of the C columns
  recording: np.ndarray  # float32 [N, C], may be memory-mapped
  top_ids: np.ndarray  # [N, 5], the most probable next characters after reading character t
  top_p: np.ndarray  # [N, 5], their probabilities
  nats: np.ndarray  # [N], -log p of the next character; NaN at the last position
  labels: dict[str, tuple[np.ndarray, np.ndarray]]  # values float32 [N], mask bool [N]

  @property
  def main_quantity(self) -> str:
    """The quantity that is shown for every unit: c (as tanh(c)) if it exists, otherwise h."""
    return "c" if any(quantity == "c" for _, quantity, _ in self.columns) else "h"


def write(
  path: str | os.PathLike, study: Mapping[str, Any], excerpt: Excerpt, limit: int = 10_000_000
) -> int:
  """Write the page for the JSON data of a study and return its size in bytes, at most `limit`.

  The page contains the main quantity of every unit, with as many levels as fit. It contains all
  quantities of as many units as fit: first the units of findings, then the others by score. Raises
  UserError if not even the coarsest levels fit.
  """
  # Five digits are enough, since the page shows at most three.
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
  # Code points are stored, because JavaScript would join two surrogates in a string.
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
  """Return traces in `room` bytes: main quantities of all units, others of featured units."""
  quantity = excerpt.main_quantity
  number = {column: index for index, column in enumerate(excerpt.columns)}
  main_columns = {unit: number[unit[0], quantity, unit[1]] for unit in units}
  values = recording.read_columns(excerpt.recording, list(main_columns.values()))
  squash = np.tanh if quantity == "c" else np.asarray
  main = {unit: squash(values.pop(column)) for unit, column in main_columns.items()}
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
    "set --characters to a smaller number, or pass a larger limit to explorer.write"
  )


def _featured(study, excerpt: Excerpt, main, number) -> Iterator[tuple[Unit, dict, dict]]:
  """Yield (unit, traces by quantity, main trace) in the order of `_ranked`."""
  ranked, shown = _ranked(study, list(main)), excerpt.main_quantity
  quantities = list(dict.fromkeys(quantity for _, quantity, _ in excerpt.columns))
  # The main quantity tanh(c) does not replace c, but a main quantity h would be stored twice.
  others = [quantity for quantity in quantities if quantity != shown or shown == "c"]
  for start in range(0, len(ranked), _BATCH):
    batch = ranked[start : start + _BATCH]
    columns = [number[layer, quantity, unit] for layer, unit in batch for quantity in others]
    values = recording.read_columns(excerpt.recording, columns) if columns else {}
    for layer, unit in batch:
      traces = {q: _trace(values[number[layer, q, unit]], FINE) for q in others}
      yield (layer, unit), traces, _trace(main[layer, unit], FINE)


def _ranked(study, units: list[Unit]) -> list[Unit]:
  """Return the units of findings, ablations and steering, then all others by score."""
  scored = [finding for finding in study["findings"] if finding["scored"]]
  scored.sort(key=lambda finding: not finding["significant"])
  named = [(finding["layer"], finding["cell"]) for finding in scored]
  for entry in (*study["ablations"], *study["steering"]):
    named.append(tuple(map(int, entry["cell"].split(":"))))
  # Hypotheses that look ahead are ignored, because nearly every unit weakly predicts line ends.
  states = {each["name"] for each in study["hypotheses"] if not each["predicts"]}
  best = dict.fromkeys(units, 0.0)
  for name, column in study["scores"].items():
    if name in states:
      best = {unit: max(best[unit], abs(score or 0.0)) for unit, score in zip(units, column)}
  order = sorted(units, key=lambda unit: -best[unit])
  return [unit for unit in dict.fromkeys((*named, *order)) if unit in best]


def _trace(values: np.ndarray, levels: int) -> dict[str, Any]:
  """Return values quantized to `levels` equal steps from `low` to `high`, and compressed.

  Either the codes or their differences modulo 256 are stored, whichever is shorter. Differences are
  shorter if a state changes slowly, and longer if a gate changes abruptly.
  """
  low, high = float(values.min()), float(values.max())
  if not math.isfinite(low) or not math.isfinite(high):
    raise errors.UserError(
      "the recording contains values that are not finite because the network has diverged: use an "
      "earlier step"
    )
  scale = (levels - 1) / (high - low) if high > low else 0.0
  codes = np.round((values - low) * scale).astype(np.uint8)
  # Differences are compressed without a search for repetitions, which are rare in them.
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
  return len(pages.plain_json(value)) + 1  # 1 byte for a comma
