"""Baselines for a trained network: untrained networks, and predictors of the last k characters.

An untrained network reads the text too, so some of its hundreds of units weakly follow any label.
Compared with circular shifts, this effect is significant, because it is real. Untrained networks
therefore provide a second null: the best score of each network over all its units.
"""

import dataclasses
from collections.abc import Sequence
from concurrent import futures
from typing import NamedTuple

import jax
import numpy as np

from charrnn import runtime
from charrnn.analysis import effects, inference, matching, passages, recording

# The passages of the discovery half that each untrained network reads. Its state hardly depends on
# characters before the warm-up.
ROWS, LENGTH, WARM_UP = 32, 320, 128
MAX_WORKERS = 4  # maximum number of untrained networks that read at the same time
MIN_CHARACTERS = 200  # minimum number of characters of the passages where a label is defined


class Untrained(NamedTuple):
  """The comparison for a hypothesis. Effects are absolute, see `matching.Result`."""

  median: float  # median over the untrained networks of the best unit's effect
  p: float
  family_p: float
  to_beat: float  # threshold for family_p <= alpha; NaN if there are too few networks


def _passages(subject: recording.Subject):
  """Return the passages that untrained networks read, and the targets and the design for them."""
  targets, design = subject.prepare(min_characters=MIN_CHARACTERS)
  parts = passages.choose([design.halves.discovery], ROWS, LENGTH, WARM_UP)
  return parts, *parts.restrict(targets, design)


def compare_untrained(
  subject: recording.Subject, null: np.ndarray | None = None
) -> dict[str, Untrained]:
  """Compare a trained network with untrained networks; return the results by hypothesis.

  `null` has the effects of untrained networks, as `untrained_effects` returns them for a network of
  the same shape on the same text. By default, they are measured.
  """
  parts, targets, design = _passages(subject)
  values, columns = subject.recording.values[parts.scored], subject.recording.columns
  observed = matching.strengths(values, columns, targets, design)
  if not observed:  # no hypothesis can be scored
    return {}
  null = untrained_effects(subject) if null is None else null
  judged = inference.significance(np.array(list(observed.values())), null, design.alpha)
  arrays = np.median(null, axis=0), judged.p, judged.family_p, judged.family_to_beat
  return dict(zip(observed, map(Untrained, *(array.tolist() for array in arrays))))


def untrained_effects(subject: recording.Subject) -> np.ndarray:
  """Return the largest |effect| of each untrained network for each scorable hypothesis, [S, H]."""
  model, settings, columns = subject.run.model, subject.settings, subject.recording.columns
  progress, (parts, targets, design) = subject.progress("untrained networks"), _passages(subject)
  null, init = [], jax.jit(model.init)

  def strengths(number: int) -> list[float]:
    # The offset keeps these seeds distinct from the usual seeds of runs.
    params = init(jax.random.fold_in(jax.random.key(settings.seed), 1_000_003 + number))
    values = passages.read(model, params, subject.text.ids_N, parts, subject.scratch).values
    return list(matching.strengths(values, columns, targets, design).values())

  # A network uses little more than one core. Large recordings are in the same file, one at a time.
  workers = min(MAX_WORKERS, len(runtime.cores())) if parts.fits_in_memory(model) else 1
  with futures.ThreadPoolExecutor(workers) as pool:
    for each in pool.map(strengths, range(settings.untrained)):
      null.append(each)
      progress(len(null), settings.untrained)
  return np.array(null)


def contexts(ids_N: np.ndarray, k: int, documents: Sequence[inference.Span]) -> list[np.ndarray]:
  """Return the contexts of 0, 1, ..., k characters as arrays [N] of context numbers.

  The context at t includes character t. It does not extend before the document's start.
  """
  since_start = np.full(len(ids_N), -1)
  for start, stop in documents:
    since_start[start:stop] = np.arange(stop - start)
  tokens = np.unique(ids_N, return_inverse=True)[1] + 1
  numbers = [np.zeros(len(ids_N), np.int64)]
  for back in range(k):
    older = np.zeros(len(ids_N), np.int64)  # 0 means before the start of the document
    older[back:] = tokens[: len(ids_N) - back]
    older[since_start < back] = 0
    merged = numbers[-1] * (int(tokens.max()) + 1) + older
    numbers.append(np.unique(merged, return_inverse=True)[1])
  return numbers


def last_k_scores(
  contexts: Sequence[np.ndarray], target: effects.Target, design: effects.Design, lag: int
) -> list[float]:
  """Return the scores of predictors of a label from the last 0, 1, ..., k characters.

  A predictor is a table from contexts to labels. It is fitted on the discovery half and scored on
  the confirmation half. At t it predicts the label at t - lag, like a column. Let n_k(c) be the
  number of occurrences of a context c of length k, and s_k(c) the sum of the label there (of its
  ranks, if it is graded). The prediction is f_k(c) = (s_k(c) + f_(k-1)(c')) / (n_k(c) + 1), where
  c' is c without its oldest character and f_0 is the mean. This is the Dirichlet back-off of
  MacKay & Peto (1995) with weight 1.
  """
  binary, design = target.kind == "binary", dataclasses.replace(design, lags=(lag,), shifts=0)
  fit, test = (design.positions(target, half) for half in (0, 1))
  if not len(fit) or not len(test):
    return [np.nan] * len(contexts)
  values, score = target.values, inference.auroc if binary else inference.spearman
  aims = values[fit - lag] if binary else inference.centered_ranks(values[fit - lag])
  predicted, scores = np.full(len(values), aims.mean()), []
  for length, context in enumerate(contexts):
    if length:
      predicted = back_off(context, predicted, fit, aims)
    scores.append(score(predicted[test], values[test - lag]))
  return scores


def back_off(context: np.ndarray, shorter: np.ndarray, fit: np.ndarray, aims: np.ndarray):
  """Return predictions [N] from contexts [N] and the predictions [N] of shorter contexts."""
  size = int(context.max()) + 1
  counts = np.bincount(context[fit], minlength=size)
  sums = np.bincount(context[fit], weights=aims, minlength=size)
  return (sums[context] + shorter) / (counts[context] + 1.0)
