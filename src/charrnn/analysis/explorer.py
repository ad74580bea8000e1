"""The explorer: one HTML file that shows the activity of every unit on an excerpt of the text.

The file contains the recorded data as JSON blocks, see `evaluation.pages`.
"""

import base64
import itertools
import json
import math
import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from charrnn import errors, files
from charrnn.analysis import gates, recording
from charrnn.evaluation import pages

# The script of the page is the concatenation of these files, in this order.
SCRIPTS = (
  *("elements", "glyphs", "shades", "theme", "data", "draw", "text", "cells", "look"),
  *("findings", "probes", "explanations", "ablation", "network", "rates"),
  *("views", "address", "keys", "page"),
)
STYLES = ("theme", "common", "page")
FOLDER, PAGE = "cells", "explorer.html"  # default folder in a run, and file name
EXPLANATIONS, RATES = "explanations", "rates"  # names of blocks that are added later
FINE = 256  # number of levels for all quantities of featured units
LEVELS = (256, 128, 64, 32, 24, 16, 12, 10, 8, 6, 4)  # choices for the main quantity of other units
MAIN_SHARE = 0.7  # maximum share of the traces' bytes that main quantities may use
LIMIT = 10_000_000  # maximum size of a page in bytes
FIRST = 500_000  # number of characters of codes that precede the script
UNIT_BYTES = 1500  # bytes per unit; pages of many units may exceed LIMIT
_SAMPLE = 24  # number of units from which the size of all units is estimated
_BATCH = 16  # number of featured units per pass over the recording, which is stored by rows
_PLACE = [10**9, 10**9]  # stands for a place that is not known yet, with at least as many digits
Columns = Mapping[recording.Unit, Sequence[int]]  # columns of each unit


class Excerpt(NamedTuple):
  """The first N characters of a text, with the recording of C columns; V is the vocabulary size."""

  text: str  # N code points
  symbols: list[str]  # the V tokens of the vocabulary; empty without predictions
  columns: Sequence[recording.Column]  # [C]
  units: Sequence[recording.Unit]  # [C], the unit of each column
  recording: np.ndarray  # float32 [N, C], may be memory-mapped
  # [N, 5], the most probable next characters after reading character t; [N, 0] if not known.
  top_ids: np.ndarray
  top_p: np.ndarray  # their probabilities
  nats: np.ndarray  # [N], -log p of the next character; NaN at the last position
  labels: dict[str, tuple[np.ndarray, np.ndarray]]  # values float32 [N], mask bool [N]


def write(
  path: str | os.PathLike,
  study: Mapping[str, Any],
  excerpt: Excerpt,
  limit: int | None = None,
  explanations: Iterable[Mapping[str, Any]] = (),
  rates: Mapping[str, Any] | None = None,
) -> int:
  """Write the page for the JSON data of a study and return its size in bytes, at most `limit`.

  The default limit is LIMIT, or UNIT_BYTES for each unit if this is larger. `explanations` are
  results of `explanation.explain` for the weights of the study, and `rates` is the result of
  `rates.around` for them. The limit does not include these two.

  The page contains the main quantity of every unit, with as many levels as fit: c (as tanh(c)) if
  there is one, otherwise h, or the unit's only quantity. It contains all quantities of as many
  units as fit: first the units of findings, then the others by score. Raises UserError if not even
  the coarsest levels fit.
  """
  blocks = {"study": _short(study), "excerpt": _excerpt(excerpt)}
  blocks |= {EXPLANATIONS: None, RATES: None}
  title = f"{study['run']}: charrnn explorer"
  columns = _by_unit(excerpt)
  limit = limit or max(LIMIT, UNIT_BYTES * len(columns))
  main = excerpt.columns[next(iter(columns.values()))[0]].quantity
  blocks["traces"] = {"main": main, "coarse": [], "fine": {}}
  room = limit - len(_page(title, blocks, "", "").encode())
  traces = _traces(study, excerpt, columns, room)
  codes = _take_codes(traces, [*columns], _ranked(study, [*columns]))
  blocks["traces"] |= traces
  if study["model"] and study["model"]["cell"] in gates.EQUATIONS:
    blocks[EXPLANATIONS] = _explanations(study["weights"], explanations)
  blocks[RATES] = _rates(study["weights"], rates)
  page = _page(title, blocks, *codes).encode()
  pathlib.Path(path).write_bytes(page)
  return len(page)


def read(path: pathlib.Path) -> str:
  """Return the text of a page."""
  return files.read_bytes(path).decode(errors="replace")


def with_explanations(page: str, weights: Mapping[str, Any], explanations) -> str | None:
  """Return a page with these explanations instead of its own.

  Return None if the page is not of these weights, or was written by another version.
  """
  return _replace(page, weights, EXPLANATIONS, _explanations(weights, explanations))


def with_rates(
  page: str, weights: Mapping[str, Any], rates: Mapping[str, Any] | None
) -> str | None:
  """Return a page with these rates instead of its own.

  Return None if the page is not of these weights, or was written by another version.
  """
  return _replace(page, weights, RATES, _rates(weights, rates))


def _replace(page: str, weights, name: str, value) -> str | None:
  block = pages.read_block(page, name)
  if not isinstance(block, dict) or block.get("weights") != weights:
    return None
  return pages.replace_block(page, name, value)


def _explanations(weights, explanations) -> dict[str, Any]:
  ordered = sorted(explanations, key=lambda each: (each["layer"], each["unit"]))
  units = {f"{each['layer']}:{each['unit']}": _short(each) for each in ordered}
  return {"weights": weights, "units": units}


def _rates(weights, rates) -> dict[str, Any]:
  return {"weights": weights, "rates": _short(rates)}


def _short(value):
  """Return JSON data with five digits per number that is not whole; the page shows four."""

  def shorten(digits: str) -> float:
    number = float(digits)
    return number if number.is_integer() else float(f"{number:.5g}")

  return json.loads(json.dumps(value), parse_float=shorten)


def _page(title: str, blocks: Mapping[str, Any], first: str, rest: str) -> str:
  style, script = pages.sources(STYLES, "css"), pages.sources(SCRIPTS, "js")
  codes = {name: pages.text_block(name, text) for name, text in (("first", first), ("rest", rest))}
  return pages.page("page.html", title, style, script, data=pages.blocks(blocks), **codes)


def _take_codes(traces, units: Sequence[recording.Unit], ranked) -> tuple[str, str]:
  """Replace the codes of each trace by their place; return the first codes, and the rest.

  The codes of all traces are one string, in the order of `ranked`, so that the page can read those
  of the best units first.
  """
  main, parts, start, size = dict(zip(units, traces["coarse"])), [], 0, 0
  for unit in ranked:
    for trace in (main[unit], *traces["fine"].get(str(unit), {}).values()):
      parts.append(trace.pop("codes"))
      stop = start + len(parts[-1])
      trace["at"] = [start, stop]
      size = stop if stop <= FIRST else size
      start = stop
  codes = "".join(parts)
  return codes[:size], codes[size:]


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


def _by_unit(excerpt: Excerpt) -> dict[recording.Unit, list[int]]:
  """Return the columns of each unit; the first one is that of its main quantity."""
  is_c = [column.quantity == "c" for column in excerpt.columns]
  groups = recording.by_unit(excerpt.units).items()
  return {unit: sorted(group, key=lambda n: not is_c[n]) for unit, group in groups}


def _traces(study, excerpt: Excerpt, columns: Columns, room: int) -> dict[str, Any]:
  """Return traces in `room` bytes: main quantities of all units, others of featured units."""
  firsts = {unit: group[0] for unit, group in columns.items()}
  values = recording.read_columns(excerpt.recording, list(firsts.values()))
  main = {unit: values.pop(column) for unit, column in firsts.items()}
  for unit, column in firsts.items():
    if excerpt.columns[column].quantity == "c":
      np.tanh(main[unit], out=main[unit])
  coarse = _coarse(main, room)
  room -= sum(map(_size, coarse.values()))
  fine = {}
  for unit, traces, own in _featured(study, excerpt, columns, main):
    room -= _size(traces) + _size(own) - _size(coarse[unit]) + len(f'"{unit}":')
    if room < 0:
      break
    fine[str(unit)], coarse[unit] = traces, own
  return {"coarse": list(coarse.values()), "fine": fine}


def _coarse(main: Mapping[recording.Unit, np.ndarray], room: int) -> dict[recording.Unit, dict]:
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


def _featured(
  study, excerpt: Excerpt, columns: Columns, main
) -> Iterator[tuple[recording.Unit, dict, dict]]:
  """Yield (unit, traces by quantity, main trace) in the order of `_ranked`."""
  ranked, quantities = _ranked(study, list(main)), [each.quantity for each in excerpt.columns]
  for start in range(0, len(ranked), _BATCH):
    # The main quantity tanh(c) does not replace c, but another one would be stored twice.
    batch = {
      unit: [n for n in columns[unit] if quantities[n] == "c" or n != columns[unit][0]]
      for unit in ranked[start : start + _BATCH]
    }
    numbers = [*itertools.chain(*batch.values())]
    values = recording.read_columns(excerpt.recording, numbers) if numbers else {}
    for unit, others in batch.items():
      traces = {quantities[n]: _trace(values[n], FINE) for n in others}
      yield unit, traces, _trace(main[unit], FINE)


def _ranked(study, units: list[recording.Unit]) -> list[recording.Unit]:
  """Return the units of findings, ablations and steering, then all others by score."""
  scored = [finding for finding in study["findings"] if finding["scored"]]
  scored.sort(key=lambda finding: not finding["significant"])
  names = [finding["unit"] for finding in scored]
  names += [entry["cell"] for entry in (*study["ablations"], *study["steering"])]
  by_name = {str(unit): unit for unit in units}
  # Hypotheses that look ahead are ignored, because nearly every unit weakly predicts line ends.
  states = {each["name"] for each in study["hypotheses"] if not each["predicts"]}
  best = dict.fromkeys(units, 0.0)
  for name, column in study["scores"].items():
    if name in states:
      best = {unit: max(best[unit], abs(score or 0.0)) for unit, score in zip(units, column)}
  order = sorted(units, key=lambda unit: -best[unit])
  return list(dict.fromkeys((*(by_name[name] for name in names), *order)))


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
    "at": _PLACE,
    "codes": base64.b64encode(min(whole, steps, key=len)).decode(),
  }


def _size(value) -> int:
  return len(pages.plain_json(value)) + 1  # 1 byte for a comma
