"""The explorer: what every cell does on a piece of text, as one page in one file.

All that was recorded is data beside the script, which writes it out as text: see `pages`.
"""

import base64
import math
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from charrnn import errors
from charrnn.analysis import confirm, findings
from charrnn.evaluation import pages

# Joined in this order to the one script.
SCRIPTS = (
  *("data", "draw", "text", "cells", "look"),
  *("findings", "causes", "network", "keys", "page"),
)
FINE = 256  # levels of the quantities of featured cells
LEVELS = (256, 128, 64, 32, 24, 16, 12, 10, 8, 6, 4)  # of the main quantity of all the others
# Of the room for traces, what the main quantities may take; featured cells get the rest.
MAIN_SHARE = 0.7
_SAMPLE = 24  # cells from which the size of all is guessed
_BATCH = 16  # featured cells read at once: the recording lies row by row

Cell = tuple[int, int]  # layer, cell


class Excerpt(NamedTuple):
  """N characters of the text with what the network did at each; C columns, V symbols."""

  text: str  # N code points, of any kind
  symbols: list[str]  # V
  columns: list[tuple[int, str, int]]  # C times (layer, quantity, cell)
  recording: np.ndarray  # float32 [N, C], may lie on a disk
  top_ids: np.ndarray  # [N, 5], the likeliest next characters after reading character t
  top_p: np.ndarray  # [N, 5]
  nats: np.ndarray  # [N], -log p of the character that came next; NaN at the last
  labels: dict[str, tuple[np.ndarray, np.ndarray]]  # values float32 [N], mask bool [N]


def write(
  path: str | os.PathLike, study: Mapping[str, Any], excerpt: Excerpt, limit: int = 10_000_000
) -> int:
  """Writes the page and returns its size in bytes, which is no more than `limit`.

  Every cell has its main quantity, in as many levels as fit; all quantities have as many cells as
  fit, first those that findings are about, then the next best. Raises UserError where not even
  the coarsest fits.
  """
  _check(excerpt)
  blocks = {"study": _short(findings.plain(dict(study))), "excerpt": _excerpt(excerpt)}
  title = f"{study['run']}: charrnn explorer"
  room = limit - len(_page(title, blocks | {"traces": _head(excerpt)}).encode())
  page = _page(title, blocks | {"traces": _traces(study, excerpt, room)}).encode()
  pathlib.Path(path).write_bytes(page)
  return len(page)


def main_quantity(excerpt: Excerpt) -> str:
  """What a cell is shown by: c (through tanh, as in the blog) where there is one, else h."""
  return "c" if any(quantity == "c" for _, quantity, _ in excerpt.columns) else "h"


def _check(excerpt):
  n, columns = len(excerpt.text), len(excerpt.columns)
  if not n:
    raise errors.UserError("the explorer's text is empty: choose a span that has characters")
  if excerpt.recording.shape != (n, columns):
    raise errors.UserError(
      f"the explorer's recording is {'x'.join(map(str, excerpt.recording.shape))}, for {n} "
      f"characters and {columns} columns: record the same text that is shown"
    )


def _page(title: str, blocks: Mapping[str, Any]) -> str:
  script = "\n".join(pages.source(f"{name}.js") for name in SCRIPTS)
  style = pages.source("page.css")
  return pages.page("page.html", title, style, script, data=pages.blocks(blocks))


def _short(value):
  """Floats with five digits: what is shown has three."""
  if isinstance(value, dict):
    return {key: _short(each) for key, each in value.items()}
  if isinstance(value, list):
    return [_short(each) for each in value]
  return float(f"{value:.5g}") if isinstance(value, float) else value


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
  return _text(zlib.compress(array.tobytes(), 9))


def _text(data: bytes) -> str:
  return base64.b64encode(data).decode()


def _head(excerpt: Excerpt) -> dict[str, Any]:
  return {"main": main_quantity(excerpt), "cells": _cells(excerpt), "coarse": [], "fine": {}}


def _cells(excerpt: Excerpt) -> list[Cell]:
  return sorted({(layer, cell) for layer, _, cell in excerpt.columns})


def _traces(study, excerpt: Excerpt, room: int) -> dict[str, Any]:
  """Of every cell its main quantity, and of the featured ones everything, in `room` bytes."""
  head = _head(excerpt)
  cells, quantity = head["cells"], head["main"]
  number = {column: index for index, column in enumerate(excerpt.columns)}
  wanted = {cell: number[cell[0], quantity, cell[1]] for cell in cells}
  values = confirm.read(excerpt.recording, list(wanted.values()))
  squash = np.tanh if quantity == "c" else np.asarray
  main = {cell: squash(values.pop(column)) for cell, column in wanted.items()}
  coarse = _coarse(main, room)
  room -= sum(map(_size, coarse.values()))
  fine = {}
  for cell, traces, mine in _featured(study, excerpt, main, number):
    room -= _size(traces) + _size(mine) - _size(coarse[cell]) + len('"00:0000":')
    if room < 0:
      break
    fine[f"{cell[0]}:{cell[1]}"], coarse[cell] = traces, mine
  return head | {"coarse": [coarse[cell] for cell in cells], "fine": fine}


def _coarse(main: Mapping[Cell, np.ndarray], room: int) -> dict[Cell, dict]:
  sample = list(main)[:: math.ceil(len(main) / _SAMPLE)]
  for levels in LEVELS:
    guess = sum(_size(_trace(main[cell], levels)) for cell in sample) * len(main) / len(sample)
    if guess > MAIN_SHARE * room:
      continue
    traces = {cell: _trace(values, levels) for cell, values in main.items()}
    if sum(map(_size, traces.values())) <= room:
      return traces
  characters = len(next(iter(main.values())))
  raise errors.UserError(
    f"{characters} characters of {len(main)} cells do not fit into the explorer's limit: "
    "show fewer characters, or raise the limit"
  )


def _featured(study, excerpt: Excerpt, main, number):
  """(cell, traces by quantity, its main trace), the most wanted cells first."""
  ranked = _ranked(study, list(main))
  shown = main_quantity(excerpt)
  quantities = list(dict.fromkeys(quantity for _, quantity, _ in excerpt.columns))
  # tanh(c) stands beside c, but h would be there twice.
  others = [quantity for quantity in quantities if quantity != shown or shown == "c"]
  for start in range(0, len(ranked), _BATCH):
    batch = ranked[start : start + _BATCH]
    columns = [number[layer, quantity, cell] for layer, cell in batch for quantity in others]
    values = confirm.read(excerpt.recording, columns) if columns else {}
    for layer, cell in batch:
      traces = {q: _trace(values[number[layer, q, cell]], FINE) for q in others}
      yield (layer, cell), traces, _trace(main[layer, cell], FINE)


def _ranked(study, cells: list[Cell]) -> list[Cell]:
  """The cells that findings, ablations and steering are about, then all others, best first."""
  found = sorted(
    (finding for finding in study["findings"] if finding["scored"]),
    key=lambda finding: not finding["survives"],
  )
  named = [(finding["layer"], finding["cell"]) for finding in found]
  for entry in (*study["ablations"], *study["steering"]):
    named.append(tuple(map(int, entry["cell"].split(":"))))
  # That a line ends here or next, nearly every cell says.
  states = {each["name"] for each in study["hypotheses"] if not each["predicts"]}
  scores = [column for name, column in study["scores"].items() if name in states]
  best = _best(scores, len(cells))
  order = sorted(range(len(cells)), key=lambda index: -best[index])
  known = set(cells)
  return list(dict.fromkeys(c for c in (*named, *(cells[i] for i in order)) if c in known))


def _best(scores: Iterable, count: int) -> list[float]:
  best = [0.0] * count
  for column in scores:
    best = [max(a, abs(b or 0.0)) for a, b in zip(best, column)]
  return best


def _trace(values: np.ndarray, levels: int) -> dict[str, Any]:
  """Values in `levels` equal steps from `low` to `high`; deflated as such or as differences.

  Differences are modulo 256. They are shorter where a cell drifts and longer where a gate snaps;
  of a drift hardly anything occurs twice, so that nothing is looked for.
  """
  low, high = float(values.min()), float(values.max())
  if not math.isfinite(low) or not math.isfinite(high):
    raise errors.UserError(
      "the recording holds values that are not finite: the network has diverged, take an earlier "
      "step"
    )
  scale = (levels - 1) / (high - low) if high > low else 0.0
  codes = np.round((values - low) * scale).astype(np.uint8)
  whole, steps = zlib.compress(codes), _huffman(np.diff(codes, prepend=np.uint8(0)))
  return {
    "low": float(f"{low:.5g}"),
    "high": float(f"{high:.5g}"),
    "levels": levels,
    "steps": len(steps) < len(whole),
    "data": _text(min(whole, steps, key=len)),
  }


def _huffman(data) -> bytes:
  deflater = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
  return deflater.compress(data) + deflater.flush()


def _size(value) -> int:
  return len(pages.plain_json(value)) + 1  # and a comma
