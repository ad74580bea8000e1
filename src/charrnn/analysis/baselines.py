"""Baselines that a trained network has to beat: untrained networks, and the last k characters.

Some of the hundreds of units of an untrained network follow any label a little, because the network
reads the text. Circular shifts call that significant, and rightly so. Untrained networks with other
seeds therefore form a null of their own: the best of all units and hypotheses of each.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from charrnn.analysis import effects, inference, matching, recording

CHARACTERS = 40_000  # the first of the text, for each untrained network


class Untrained(NamedTuple):
  """The comparison for a hypothesis; effects are in 0 to 1, see `matching.Result`."""

  median: float  # of the best unit of each untrained network
  p: float
  family_p: float
  to_beat: float  # for family_p <= alpha; NaN with too few networks for that


def compare_untrained(subject: recording.Subject) -> dict[str, Untrained]:
  """Compare a trained network with untrained ones, by the hypotheses that are scored."""
  model, settings, columns = subject.run.model, subject.settings, subject.recording.columns
  ids_N, progress = subject.text.ids_N[:CHARACTERS], subject.progress("untrained networks")
  targets, design = subject.prepare(first=len(ids_N))
  values = subject.recording.values[: len(ids_N)]
  observed = matching.strengths(values, columns, targets, design)
  null, init = [], jax.jit(model.init)
  if not observed:  # nothing to compare
    return {}
  for number in range(settings.untrained):
    # Seeds far from those that users choose for runs.
    params = init(jax.random.fold_in(jax.random.key(settings.seed), 1_000_003 + number))
    recorded = recording.record(model, params, ids_N, subject.scratch).values
    null.append(list(matching.strengths(recorded, columns, targets, design).values()))
    progress(number + 1, settings.untrained)
  null = np.array(null)
  judged = inference.significance(np.array(list(observed.values())), null, design.alpha)
  arrays = np.median(null, axis=0), judged.p, judged.family_p, judged.family_to_beat
  return dict(zip(observed, map(Untrained, *(array.tolist() for array in arrays))))


def contexts(ids_N: np.ndarray, k: int, documents: Sequence[inference.Span]) -> list[np.ndarray]:
  """Return numbers [N] of the last 0, 1, ..., k characters, up to the document's start.

  The last characters at t include the one at t.
  """
  since_start = np.full(len(ids_N), -1)
  for start, stop in documents:
    since_start[start:stop] = np.arange(stop - start)
  tokens = np.unique(ids_N, return_inverse=True)[1] + 1
  found = [np.zeros(len(ids_N), np.int64)]
  for back in range(k):
    older = np.zeros(len(ids_N), np.int64)  # 0: before the document
    older[back:] = tokens[: len(ids_N) - back]
    older[since_start < back] = 0
    merged = found[-1] * (int(tokens.max()) + 1) + older
    found.append(np.unique(merged, return_inverse=True)[1])
  return found


def last_k_scores(
  contexts: Sequence[np.ndarray], target: effects.Target, design: effects.Design, lag: int
) -> list[float]:
  """Score predictions of a label from the last 0, 1, ..., k characters, for each k.

  A table from contexts to labels is made on discovery and scored on confirmation; at t it predicts
  the label at t - lag, as a column does. With n_k(c) occurrences of the context c of length k and
  the sum s_k(c) of the label (of its ranks, if it is graded), the prediction is
  f_k(c) = (s_k(c) + f_(k-1)(c')) / (n_k(c) + 1), where c' is c without its oldest character and f_0
  the mean: the Dirichlet back-off of MacKay & Peto (1995) with the weight 1.
  """
  binary, design = target.kind == "binary", dataclasses.replace(design, lags=(lag,), shifts=0)
  fit, test = (design.positions(target, half) for half in (0, 1))
  if not len(fit) or not len(test):
    return [np.nan] * len(contexts)
  values, score = target.values, inference.auroc if binary else inference.spearman
  aims = values[fit - lag] if binary else inference.centred_ranks(values[fit - lag])
  predicted, scores = np.full(len(values), aims.mean()), []
  for length, context in enumerate(contexts):
    if length:
      predicted = back_off(context, predicted, fit, aims)
    scores.append(score(predicted[test], values[test - lag]))
  return scores


def back_off(context: np.ndarray, shorter: np.ndarray, fit: np.ndarray, aims: np.ndarray):
  """Return predictions [N] from contexts [N] and the predictions [N] from shorter ones."""
  size = int(context.max()) + 1
  counts = np.bincount(context[fit], minlength=size)
  sums = np.bincount(context[fit], weights=aims, minlength=size)
  return (sums[context] + shorter) / (counts[context] + 1.0)
