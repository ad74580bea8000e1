"""What the last k characters alone say about a label: a score that a cell has to beat."""

import math
from typing import NamedTuple

import numpy as np

from charrnn.analysis import halves, scores, targets


class LastK(NamedTuple):
  k: int
  statistic: str  # "auroc" or "spearman"
  score: float  # on the confirmation half
  contexts: int  # that occur in the discovery half


def last_k_predictor(
  ids,
  label,
  k: int,
  documents,
  *,
  kind: str = "binary",
  lag: int = 0,
  smoothing: float = 1.0,
  parts: halves.Halves | None = None,
  seed: int = 0,
) -> LastK:
  """A table from the last k characters to the label, made on discovery, scored on confirmation.

  The last k characters at t include the one at t; the label is that at t - lag, as for a cell.
  With n_k(c) occurrences of the context c of length k and the sum s_k(c) of the label (of its
  ranks, if it is graded), f_k(c) = (s_k(c) + a f_(k-1)(c')) / (n_k(c) + a), where c' is c without
  its oldest character and f_0 the mean: the Dirichlet back-off of MacKay & Peto (1995), a = 1.
  """
  parts = parts or halves.halve(documents, seed)
  target = targets.targets({"label": (kind, label)}, {}, len(ids))[0]
  fit, test = (
    targets.defined(target, halves.inner(spans, (lag,)), (lag,))
    for spans in (parts.discovery, parts.confirmation)
  )
  if not len(fit) or not len(test):
    return LastK(k, _statistic(kind), math.nan, 0)
  values = target.values[fit - lag]
  aims = values if kind == "binary" else scores.centred_ranks(values)
  predicted, contexts = _predicted(_contexts(np.asarray(ids), k, documents), fit, aims, smoothing)
  score = scores.auroc if kind == "binary" else scores.spearman
  truth = target.values[test - lag]
  return LastK(k, _statistic(kind), score(predicted[test], truth), contexts)


def _statistic(kind: str) -> str:
  return "auroc" if kind == "binary" else "spearman"


def _contexts(ids, k: int, documents):
  """Numbers [N] of the contexts of the lengths 0 to k; none looks beyond its document's start."""
  since_start = np.full(len(ids), -1)
  for start, stop in documents:
    since_start[start:stop] = np.arange(stop - start)
  symbols = np.unique(ids, return_inverse=True)[1] + 1
  context = np.zeros(len(ids), np.int64)
  yield context
  for back in range(k):
    older = np.zeros(len(ids), np.int64)  # 0: before the document
    older[back:] = symbols[: len(ids) - back]
    older[since_start < back] = 0
    context = np.unique(context * (int(symbols.max()) + 1) + older, return_inverse=True)[1]
    yield context


def _predicted(contexts, fit, aims, smoothing: float):
  """Predictions [N], and the number of the longest contexts that the fit has met."""
  predicted = np.full(len(next(contexts)), aims.mean())
  met = 1
  for context in contexts:
    size = int(context.max()) + 1
    counts = np.bincount(context[fit], minlength=size)
    sums = np.bincount(context[fit], weights=aims, minlength=size)
    predicted = (sums[context] + smoothing * predicted) / (counts[context] + smoothing)
    met = int(np.count_nonzero(counts))
  return predicted, met
