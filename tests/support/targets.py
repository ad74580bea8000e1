"""Build targets from labels."""

import numpy as np

from charrnn.analysis import effects, inference, labels


def label(values, mask=None):
  """Return a label that is defined everywhere, or where `mask` is True."""
  values = np.asarray(values, np.float32)
  return labels.Label(values, np.ones(len(values), bool) if mask is None else mask)


def make(labeled, confounds=None, predictions=(), of_next=()):
  """Return the targets of labels {name: (kind, label)}."""
  hypotheses = [
    labels.Hypothesis(
      name,
      kind,
      "any",
      "",
      labels.everywhere,
      predicts=name in predictions,
      of_next=name in of_next,
      confounds=tuple((confounds or {}).get(name, ())),
    )
    for name, (kind, _) in labeled.items()
  ]
  return effects.make_targets(hypotheses, {name: label for name, (_, label) in labeled.items()})


def in_two(n):
  """Return the first and the second half of n characters."""
  return inference.Halves(((0, n // 2),), ((n // 2, n),), "blocks")
