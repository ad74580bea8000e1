"""How much of each column of texts the training text has: by length, by place, as a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from charrnn import plotting
from charrnn.runs import held_out
from charrnn.scorecards import card, memorization

SIZES = (*range(1, 21), 25, 30, 40, 50, 75, 100)  # characters
_QUANTILES = {"median": 0.5, "p95": 0.95, "longest": 1.0}


def measure(
  columns: Mapping[str, Sequence[str]], training: held_out.Text, copies: int
) -> tuple[dict[str, Any], dict[str, list[memorization.Matches]]]:
  """By column: quantiles of the longest match, novelty by n, and the longest copies."""
  every = [text for texts in columns.values() for text in texts]
  found = iter(memorization.matches(training.text, every))
  matches = {name: [next(found) for _ in texts] for name, texts in columns.items()}
  told = {}
  for name, texts in columns.items():
    lengths = np.concatenate([each.lengths for each in matches[name]])
    longest = memorization.longest(texts, matches[name], training, copies)
    told[name] = {
      "samples": len(texts),
      "characters": len(lengths),
      "match": {key: float(np.quantile(lengths, q)) for key, q in _QUANTILES.items()},
      "novelty": [_novelty(matches[name], size) for size in SIZES],
      "copies": [copy._asdict() for copy in longest],
    }
  return told, matches


def _novelty(matches: Sequence[memorization.Matches], size: int) -> dict[str, Any]:
  """The share of sequences of a size that the training text does not have, with its interval."""
  novel = [memorization.novel(each, size) for each in matches]
  cell = card.summary(card.SHARE, [items.astype(np.float64) for items in novel])
  return {"size": size, "share": cell["value"], "interval": cell["interval"]}


def lines(told: dict[str, Any], sizes: Sequence[int] = (3, 5, 7, 10, 15, 20, 30, 50)):
  """The table: a row a column of texts."""
  rows = [("", "characters", *_QUANTILES, *(f"new {size}" for size in sizes))]
  for name, column in told.items():
    shares = {each["size"]: each["share"] for each in column["novelty"]}
    rows.append(
      (
        name,
        f"{column['characters']:,}",
        *(f"{column['match'][key]:.0f}" for key in _QUANTILES),
        *("-" if shares[size] is None else f"{shares[size]:.1%}" for size in sizes),
      )
    )
  widths = [max(map(len, column)) for column in zip(*rows)]
  for name, *cells in rows:
    right = (cell.rjust(width) for cell, width in zip(cells, widths[1:]))
    yield "  ".join([name.ljust(widths[0]), *right])


def draw(told: dict[str, Any], real: str, path, title: str):
  """Novelty against the length of the sequences, a line a column."""
  from matplotlib import ticker

  with plotting.figure(path, title, figsize=(7.5, 4.6)) as figure:
    axes = figure.subplots()
    for number, (name, column) in enumerate(told.items()):
      points = [each for each in column["novelty"] if each["share"] is not None]
      color = (
        plotting.REAL if name == real else plotting.COLORS[(number - 1) % len(plotting.COLORS)]
      )
      sizes = [each["size"] for each in points]
      style = {"lw": 2.5} if name == real else {"lw": 1.5}
      axes.plot(
        sizes,
        [100 * each["share"] for each in points],
        color=color,
        label=plotting.plain(name),
        **style,
      )
      if all(each["interval"] for each in points):
        ends = np.array([each["interval"] for each in points]).T * 100
        axes.fill_between(sizes, *ends, color=color, alpha=0.18, lw=0)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100])
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set(xlabel="characters in a row", ylabel="not in the training text, %", ylim=(-2, 102))
    axes.grid()
    axes.legend(loc="lower right")


def rows(columns, matches, training: held_out.Text):
  """For every character of every text where its longest match stands: lines of a TSV file."""
  breaks = np.flatnonzero(
    np.frombuffer(training.text.encode("utf-32-le", "surrogatepass"), "<u4") == 10
  )
  starts = np.array([each.start for each in training.passages])
  yield "column\tsample\tposition\tcharacter\tlength\tdocument\tline"
  for name, texts in columns.items():
    for sample, (text, found) in enumerate(zip(texts, matches[name]), 1):
      at = np.searchsorted(starts, found.places, side="right") - 1
      before = np.searchsorted(breaks, found.places) - np.searchsorted(breaks, starts[at])
      for i, (character, length) in enumerate(zip(text, found.lengths.tolist())):
        passage = training.passages[at[i]]
        source = f"{passage.name}\t{passage.line + before[i]}" if length else "\t"
        yield f"{name}\t{sample}\t{i}\t{_escaped(character)}\t{length}\t{source}"


def _escaped(character: str) -> str:
  return character if character.isprintable() else repr(character)[1:-1]
