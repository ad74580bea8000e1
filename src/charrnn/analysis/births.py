"""How a cell came to be: its score at every checkpoint that was kept."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from charrnn.analysis import findings, match, record

CHARACTERS = 40_000  # that checkpoints are scored on
MOST = 12  # checkpoints


def spread(steps: Sequence[int]) -> list[int]:
  """At most MOST of the steps, evenly spaced in the logarithm of their place: more early ones."""
  if len(steps) <= MOST:
    return list(steps)
  chosen = np.round(np.geomspace(1, len(steps), MOST)).astype(int) - 1
  return [steps[place] for place in dict.fromkeys(chosen.tolist())]


class Birth(NamedTuple):
  hypothesis: str
  column: str
  steps: list[int]
  score: list[float]  # of the column that was found at the end, in the direction it has there
  best: list[float]  # of the column that is best at that step, chosen on discovery
  best_column: list[str]


def trace(
  model,
  checkpoints: Sequence[tuple[int, Callable]],
  ids_N,
  entries,
  documents,
  found: Sequence[findings.Finding],
  scratch,
  *,
  progress: Callable[[int, int], None] | None = None,
  **options,
) -> list[Birth]:
  """`checkpoints`: (step, function that gives its parameters, or None where they are lost).

  `scratch` holds the recordings. All are scored on the confirmation half of the first characters of
  the text. `options` are those of `match.match`.
  """
  N = min(CHARACTERS, len(ids_N))
  entries = {name: (kind, label.first(N)) for name, (kind, label) in entries.items()}
  documents = [(start, min(stop, N)) for start, stop in documents if start < N]
  columns = [str(column) for column in record.columns(model)]
  born = [Birth(each.hypothesis, each.name, [], [], [], []) for each in found if each.scored]
  chosen = {each.hypothesis: each for each in found if each.scored}
  for done, (step, load) in enumerate(checkpoints):
    if (params := load()) is None:
      continue
    values = record.record(model, params, ids_N[:N], scratch).values
    result = match.match(values, columns, entries, documents, shifts=0, **options)
    best = {each.hypothesis: each for each in result.findings if each.scored}
    for birth in born:
      if birth.hypothesis not in best:
        continue
      one, top = chosen[birth.hypothesis], best[birth.hypothesis]
      birth.steps.append(step)
      birth.score.append(match.rescore(values, one, entries, result.halves))
      birth.best.append(top.confirmation.score)
      birth.best_column.append(top.name)
    if progress:
      progress(done + 1, len(checkpoints))
  return [birth for birth in born if birth.steps]
