"""A scorecard as text: the columns side by side, and how far they are from the real one."""

from collections.abc import Callable, Iterator
from typing import Any

from charrnn.scorecards import card

_NOTHING = "-"
_SHOWN = 70  # characters of a copy


def values(scored: dict[str, Any]) -> Iterator[str]:
  """Shares and means, and their intervals where there are several samples."""
  numeric = [row for row in scored["figures"] if row["kind"] != card.DISTRIBUTION]
  yield from _table(scored, numeric, list(scored["samples"]), _value)


def distances(scored: dict[str, Any]) -> Iterator[str]:
  """To the real column, and in parentheses that of as many real samples to the others."""
  others = [name for name in scored["samples"] if name != scored["real"]]
  yield from _table(scored, scored["figures"], others, _distance)


def meanings(scored: dict[str, Any]) -> Iterator[str]:
  yield from _aligned([(row["name"], row["meaning"]) for row in scored["figures"]])


def copies(found: dict[str, list[dict[str, Any]]], count: int = 1) -> Iterator[str]:
  """By column: how long, from where in the training text, and the text itself."""
  rows = [
    (name, f"{copy['length']:,}", f"{copy['document']}:{copy['line']}", repr(_short(copy["text"])))
    for name, longest in found.items()
    for copy in longest[:count]
  ]
  if rows:
    yield from _aligned(rows)


def _short(text: str) -> str:
  return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _table(
  scored: dict[str, Any],
  rows: list[dict[str, Any]],
  columns: list[str],
  shown: Callable[[str, dict[str, Any]], str],
) -> Iterator[str]:
  counts = [f"{scored['samples'][name]:,}" for name in columns]
  lines = [[row["name"], *(shown(row["kind"], row["columns"][c]) for c in columns)] for row in rows]
  yield from _aligned([["", *columns], ["samples", *counts], *lines])


def _value(kind: str, cell: dict[str, Any]) -> str:
  if 0 < cell["items"] < card.FEW:
    return f"{_number(kind, cell['value'])} (of {cell['items']})"
  if cell["interval"] is None:
    return _number(kind, cell["value"])
  low, high = (_number(kind, end) for end in cell["interval"])
  return f"{_number(kind, cell['value'])} [{low}, {high}]"


def _distance(kind: str, cell: dict[str, Any]) -> str:
  return f"{_number(kind, cell['distance'])} ({_number(kind, cell['floor'])})"


def _number(kind: str, value: float | None) -> str:
  if value is None:
    return _NOTHING
  return f"{value:.1%}" if kind == card.SHARE else f"{value:.2f}"


def _aligned(rows: list) -> Iterator[str]:
  widths = [max(map(len, column)) for column in zip(*rows)]
  for row in rows:
    cells = (cell.ljust(width) for cell, width in zip(row, widths))
    yield "  " + "  ".join(cells).rstrip()
