"""What untrained networks of the same shape reach: the null that a trained one has to beat.

A network that never learnt still hears the text: of hundreds of cells, some follow any label a
little, which shifts of the label call significant, and rightly. So as many networks with other
seeds are scored on the same text, and the best of all cells and hypotheses of each makes the null.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from charrnn.analysis import chance, labels, match, record

CHARACTERS = 40_000  # that twins are compared on


class Twins(NamedTuple):
  """By hypothesis; effects are in 0 to 1, see `findings.Result`."""

  observed: dict[str, float]  # of the trained network on the same text
  median: dict[str, float]  # of the best of each untrained one
  p: dict[str, float]
  family_p: dict[str, float]
  to_beat: dict[str, float]  # for family_p <= alpha; NaN if there are too few twins for that


def compare(
  model,
  ids_N,
  recording,
  entries: Mapping[str, tuple[str, labels.Label]],
  documents: Sequence[tuple[int, int]],
  scratch: pathlib.Path,
  *,
  count: int,
  alpha: float = 0.05,
  seed: int = 0,
  progress: Callable[[int, int], None] | None = None,
  **options,
) -> Twins:
  """The trained network's `recording` [N, C] beside `count` twins, on the first characters.

  `scratch` is a file that their recordings are written to. `options` are those of
  `match.strengths`.
  """
  N = min(CHARACTERS, len(ids_N))
  entries = {name: (kind, label.first(N)) for name, (kind, label) in entries.items()}
  documents = [(start, min(stop, N)) for start, stop in documents if start < N]
  columns = [str(column) for column in record.columns(model)]

  def score(values):
    return match.strengths(values, columns, entries, documents, seed=seed, **options)

  observed, found, init = score(recording[:N]), [], jax.jit(model.init)
  if not observed:  # nothing to compare
    return Twins({}, {}, {}, {}, {})
  for number in range(count):
    # Seeds far from those that people give to runs.
    params = init(jax.random.fold_in(jax.random.key(seed), 1_000_003 + number))
    found.append(score(record.record(model, params, ids_N[:N], scratch).values))
    if progress:
      progress(number + 1, count)
  names = list(observed)
  null = np.array([[one[name] for name in names] for one in found])
  judged = chance.judge(np.array(list(observed.values())), null, alpha)
  by_name = (dict(zip(names, map(float, values))) for values in (judged.p, judged.family_p))
  return Twins(
    observed,
    dict(zip(names, np.median(null, axis=0).tolist())),
    *by_name,
    dict(zip(names, judged.family_to_beat.tolist())),
  )
