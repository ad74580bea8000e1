"""Metrics of sampled documents: distinct among the samples, and not in the training text."""

import functools
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from charrnn.scorecards import metrics

METRICS: dict[str, metrics.Metric] = {}

_metric = functools.partial(metrics.register, METRICS)


class Sample(NamedTuple):
  """Facts about each document of a sample."""

  distinct: list[bool]  # no earlier document of the system is the same
  novel: list[bool]  # no training document is the same


def samples(texts: Iterable[list[str]], known: Set[str]) -> Iterator[Sample]:
  """Yield the facts about the documents of all samples of one system.

  `known` are the training documents. Documents are the same if their strings are equal.
  """
  seen: set[str] = set()
  for documents in texts:
    distinct = []
    for document in documents:
      distinct.append(document not in seen)
      seen.add(document)
    yield Sample(distinct, [document not in known for document in documents])


@_metric("distinct", "share", "share of documents that no earlier sample of the system repeats")
def _distinct(sample: Sample) -> list[bool]:
  return sample.distinct


@_metric("novel", "share", "share of documents that the training text does not contain")
def _novel(sample: Sample) -> list[bool]:
  return sample.novel
