"""Metrics of texts: values with intervals, distances from held-out text, and noise floors."""

import collections
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
MIN_ITEMS = 20  # minimum number of items for a reliable share or mean
RESAMPLES = 1000  # number of bootstrap resamples
DIVISIONS = 20  # number of random divisions of the held-out samples for a noise floor
QUANTILES = (0.05, 0.5, 0.95, 1.0)
OLD_KEYS = {"metrics": "figures", "systems": "columns", "noise_floor": "floor"}

Kind = Literal["share", "mean", "distribution"]
Items = Sequence  # booleans (share), numbers (mean) or hashable values (distribution)


class Metric(NamedTuple):
  """A metric. `items` maps a parsed sample to a sequence of items.

  The value for a system is the share or the mean over the items of all its samples. A distribution
  has no value, only a distance from the reference. `meaning` is a definition for tables.
  """

  kind: Kind
  meaning: str
  items: Callable[[Any], Items]


class Domain(NamedTuple):
  """A kind of text, and the metrics that apply to it.

  If a corpus is divided into documents, each of its samples is a document without its end.
  """

  metrics: dict[str, Metric]
  parser: Callable[[str], Callable[[str], Any]]  # training text -> (sample -> input of `items`)
  boundary: re.Pattern  # a sample may begin or end after a match
  tokens: re.Pattern  # the shuffled control permutes the matches of the group `token`
  prompt: str  # prompt of samples; it ends with a boundary
  source: str | None  # default corpus of this domain
  # The remaining fields are for corpora of many short documents.
  documents: str = "none"  # how the default corpus is divided into documents (text.documents)
  num: int = 40  # default number of samples of a model
  # Returns the documents of a sample or of the training text; copies must be equal strings.
  split: Callable[[str], list[str]] | None = None


def register(metrics: dict[str, Metric], name: str, kind: Kind, meaning: str, *arguments):
  """Return a decorator that registers a function as a metric.

  The function is called with a parsed sample and `arguments`, and returns items. It may be
  decorated several times; the lowest decorator registers the first metric.
  """

  def add(items):
    metrics[name] = Metric(kind, meaning, lambda sample: items(sample, *arguments))
    return items

  return add


def measure(metrics: Mapping[str, Metric], samples: Iterable[Any]) -> dict[str, list[Items]]:
  """Return the items of each parsed sample, by metric."""
  samples = list(samples)
  return {name: [_items(metric, sample) for sample in samples] for name, metric in metrics.items()}


def _items(metric: Metric, sample: Any) -> Items:
  items = metric.items(sample)
  return list(items) if metric.kind == "distribution" else np.asarray(items, np.float64)


def compare(
  metrics: Mapping[str, Metric],
  systems: Mapping[str, Mapping[str, list[Items]]],
  reference: str,
  seed: int = 0,
) -> dict[str, Any]:
  """Return the metrics of all systems, and their distances from the reference, as JSON data.

  `systems` maps names to results of `measure`. Values that cannot be computed are None.
  """
  counts = {name: len(next(iter(items.values()), [])) for name, items in systems.items()}
  rows = []
  for name, (kind, meaning, _) in metrics.items():
    samples = {system: items[name] for system, items in systems.items()}
    values = _compare(kind, samples, reference, seed)
    rows.append({"name": name, "kind": kind, "meaning": meaning, "systems": values})
  return {"reference": reference, "confidence": CONFIDENCE, "samples": counts, "metrics": rows}


def _compare(kind: Kind, systems: dict[str, list[Items]], reference: str, seed: int):
  expected = systems.get(reference, [])
  floor = functools.cache(lambda count: noise_floor(kind, expected, count, seed))
  values = {name: summary(kind, samples, seed) for name, samples in systems.items()}
  for name, samples in systems.items():
    if name != reference:
      values[name]["distance"] = distance(kind, _pool(samples), _pool(expected))
      values[name]["noise_floor"] = floor(len(samples))
  return values


def summary(kind: Kind, samples: Sequence[Items], seed: int = 0) -> dict[str, Any]:
  """Return the number of items, and the value, interval and quantiles of shares and means."""
  counts = np.array([len(items) for items in samples], np.int64)
  result: dict[str, Any] = {"items": int(counts.sum())}
  if kind == "distribution":
    return result
  sums = np.array([np.sum(items) for items in samples], np.float64)
  result["value"] = _ratio(sums.sum(), counts.sum())
  result["interval"] = interval(sums, counts, seed)
  if kind == "share" and result["interval"] and result["value"] in (0, 1):
    # A bootstrap interval of equal values has zero width. Use the interval of Clopper & Pearson
    # (1934) instead, with each sample as one item.
    width = 1 - ((1 - CONFIDENCE) / 2) ** (1 / int((counts > 0).sum()))
    result["interval"] = [result["value"] - width, 1.0] if result["value"] else [0.0, width]
  result["samples"] = [_ratio(*pair) for pair in zip(sums, counts)]
  if kind == "mean" and result["items"]:
    pooled = _pool(samples)
    result["deviation"] = float(np.std(pooled))
    result["quantiles"] = {str(q): float(np.quantile(pooled, q)) for q in QUANTILES}
  return result


def _ratio(total: float, count: int) -> float | None:
  return float(total / count) if count else None


def interval(sums, counts, seed: int = 0) -> list[float] | None:
  """Return the percentile bootstrap interval of sum(sums) / sum(counts), or None.

  It is None if there are no items, or fewer than two samples.

  The bootstrap resamples samples and not items, because the items of one sample are dependent
  (Efron & Tibshirani 1993, ch. 13). The interval is too narrow if there are only a few samples.
  """
  sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
  if len(sums) < 2:
    return None
  indices = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
  totals = counts[indices].sum(1)
  # Drop resamples without items, for which scipy.stats.bootstrap would return NaN.
  means = sums[indices].sum(1)[totals > 0] / totals[totals > 0]
  tail = (1 - CONFIDENCE) / 2
  return np.quantile(means, [tail, 1 - tail]).tolist() if len(means) else None


def distance(kind: Kind, a: Items, b: Items) -> float | None:
  """Return the distance between two sets of items; None if one of them is empty.

  For shares it is the absolute difference. For means it is the Wasserstein-1 distance, in the unit
  of the metric. For distributions it is the total variation, sum |p - q| / 2, from 0 to 1; it is
  larger for short texts, so compare it with the noise floor.
  """
  if not (len(a) and len(b)):
    return None
  if kind == "share":
    return float(abs(np.mean(a) - np.mean(b)))
  if kind == "mean":
    return float(stats.wasserstein_distance(a, b))
  p, q = collections.Counter(a), collections.Counter(b)
  return math.fsum(abs(p[item] / len(a) - q[item] / len(b)) for item in p | q) / 2


def noise_floor(kind: Kind, samples: Sequence[Items], count: int, seed: int = 0) -> float | None:
  """Return the mean distance of `count` random samples from the other samples.

  The mean is over DIVISIONS random divisions of the samples. `count` is reduced to half of the
  samples if it is higher. The result estimates the distance of `count` further samples of the same
  domain and size. Return None if there are no two sets of items to compare.
  """
  count = min(count, len(samples) // 2)
  rng = np.random.default_rng(seed)
  distances = []
  for _ in range(DIVISIONS if count else 0):
    parts = np.split(rng.permutation(len(samples)), [count])
    pools = [_pool([samples[i] for i in part]) for part in parts]
    if all(len(pool) for pool in pools):
      distances.append(distance(kind, *pools))
  return math.fsum(distances) / len(distances) if distances else None


def _pool(samples: Sequence[Items]) -> Items:
  if any(isinstance(items, list) for items in samples):
    return [item for items in samples for item in items]
  return np.concatenate([np.empty(0), *samples])
