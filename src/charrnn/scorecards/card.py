"""A scorecard: figures of several texts side by side, and how far each is from the real one.

A figure reads items off every sample of a text: truths for a share, numbers for a mean, names for
a distribution. The value of a column is taken over all items of all its samples.
"""

import collections
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

SHARE, MEAN, DISTRIBUTION = "share", "mean", "distribution"
CONFIDENCE = 0.95
FEW = 20  # items, of which a share or a mean says little
_RESAMPLES = 1000
_DIVISIONS = 20  # of the real text, for the floor
_QUANTILES = (0.05, 0.5, 0.95, 1.0)


class Figure(NamedTuple):
  """`items` takes a sample as the figure's own module reads it; shares and means are of numbers."""

  name: str
  kind: str
  meaning: str
  items: Callable[[Any], Sequence]


# By figure, for each sample: numbers [items], or names.
Column = dict[str, list[Sequence]]


def measure(figures: Iterable[Figure], readings: Sequence[Any]) -> Column:
  return {figure.name: [_items(figure, reading) for reading in readings] for figure in figures}


def _items(figure: Figure, reading: Any) -> Sequence:
  items = figure.items(reading)
  return list(items) if figure.kind == DISTRIBUTION else np.asarray(items, np.float64)


def card(
  figures: Iterable[Figure], columns: Mapping[str, Column], real: str = "real", seed: int = 0
) -> dict[str, Any]:
  """The scorecard as plain data for JSON; None stands where there is nothing to measure."""
  return {
    "real": real,
    "confidence": CONFIDENCE,
    "samples": {name: len(next(iter(column.values()), [])) for name, column in columns.items()},
    "figures": [_row(figure, columns, real, seed) for figure in figures],
  }


def _row(figure: Figure, columns: Mapping[str, Column], real: str, seed: int) -> dict[str, Any]:
  true = columns[real][figure.name] if real in columns else []
  sizes = {len(column[figure.name]) for name, column in columns.items() if name != real}
  floors = {size: floor(figure.kind, true, size, seed) for size in sizes}
  cells = {}
  for name, column in columns.items():
    samples = column[figure.name]
    cells[name] = summary(figure.kind, samples, seed)
    if name != real:
      cells[name]["distance"] = distance(figure.kind, _pooled(samples), _pooled(true))
      cells[name]["floor"] = floors[len(samples)]
  return {"name": figure.name, "kind": figure.kind, "meaning": figure.meaning, "columns": cells}


def summary(kind: str, samples: Sequence[Sequence], seed: int = 0) -> dict[str, Any]:
  """The value over all items, of each sample, and the interval; of names their number alone."""
  counts = np.array([len(items) for items in samples], np.int64)
  cell: dict[str, Any] = {"items": int(counts.sum())}
  if kind == DISTRIBUTION:
    return cell
  sums = np.array([np.sum(items) for items in samples], np.float64)
  cell["value"] = _ratio(sums.sum(), counts.sum())
  cell["interval"] = interval(sums, counts, seed)
  if kind == SHARE and cell["interval"] and cell["value"] in (0, 1):
    cell["interval"] = _extreme(cell["value"], int((counts > 0).sum()))
  cell["samples"] = [_ratio(*pair) for pair in zip(sums, counts)]
  if kind == MEAN and cell["items"]:
    pooled = _pooled(samples)
    cell["deviation"] = float(np.std(pooled))
    cell["quantiles"] = {str(q): float(np.quantile(pooled, q)) for q in _QUANTILES}
  return cell


def _ratio(total: float, count: int) -> float | None:
  return float(total / count) if count else None


def interval(sums, counts, seed: int = 0) -> list[float] | None:
  """Percentile bootstrap of sum(sums) / sum(counts) over samples (Efron & Tibshirani 1993, ch. 13).

  Samples are drawn and not items, for those of one sample are not independent. None for a single
  sample, whose variation nobody knows; of a handful it is too narrow.
  """
  sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
  if len(sums) < 2:
    return None
  drawn = np.random.default_rng(seed).integers(0, len(sums), (_RESAMPLES, len(sums)))
  totals = counts[drawn].sum(1)
  means = sums[drawn].sum(1)[totals > 0] / totals[totals > 0]
  tail = (1 - CONFIDENCE) / 2
  return np.quantile(means, [tail, 1 - tail]).tolist() if len(means) else None


def _extreme(value: float, count: int) -> list[float]:
  """Of a share that is all or nothing in every sample, which a bootstrap would take for certain.

  Clopper & Pearson's (1934) for so many samples, as if each were one item.
  """
  room = 1 - ((1 - CONFIDENCE) / 2) ** (1 / count)
  return [value - room, 1.0] if value else [0.0, room]


def distance(kind: str, a: Sequence, b: Sequence) -> float | None:
  """Between the items of two texts, order aside.

  Of numbers Wasserstein-1, in their own unit; of truths that is the difference of the shares. Of
  names total variation, sum |p - q| / 2, from 0 (as often, all of them) to 1 (none in common).
  Both grow as texts shrink, so a distance means something beside its floor only.
  """
  if not len(a) or not len(b):
    return None
  if kind == SHARE:
    return float(abs(np.mean(a) - np.mean(b)))
  if kind == MEAN:
    from scipy import stats  # a second, which every command would take that has scorecards to offer

    return float(stats.wasserstein_distance(a, b))
  p, q = collections.Counter(a), collections.Counter(b)
  return math.fsum(abs(p[name] / len(a) - q[name] / len(b)) for name in p | q) / 2


def floor(kind: str, real: Sequence[Sequence], count: int, seed: int = 0) -> float | None:
  """The distance of real text to real text: of so many of its samples to all the others.

  The mean over divisions drawn at random, with half of the samples for the `count` at most. It is
  the floor of a text of `count` samples if real text was cut into samples of the same size.
  """
  count = min(count, len(real) // 2)
  rng = np.random.default_rng(seed)
  found = []
  for _ in range(_DIVISIONS if count else 0):
    order = rng.permutation(len(real))
    parts = ([real[i] for i in order[:count]], [real[i] for i in order[count:]])
    found.append(distance(kind, *map(_pooled, parts)))
  found = [value for value in found if value is not None]
  return math.fsum(found) / len(found) if found else None


def _pooled(samples: Sequence[Sequence]) -> Sequence:
  if any(isinstance(items, list) for items in samples):
    return [item for items in samples for item in items]
  return np.concatenate([np.empty(0), *samples])
