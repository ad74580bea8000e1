"""The chosen columns, exactly: their own values instead of codes, one column at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charrnn.analysis import chance, scores, targets

ROWS = 4096


class Half(NamedTuple):
  """A column and its target on one half, at the lag chosen; x is turned to be high with y."""

  x: np.ndarray
  y: np.ndarray
  places: np.ndarray  # of the label, that is with the lag taken off


class Pick(NamedTuple):
  target: targets.Target
  column: int
  lag: int
  direction: int
  discovery: Half
  confirmation: Half


def read(recording, columns: Sequence[int]) -> dict[int, np.ndarray]:
  """A few columns as float64, read by rows as they lie on the disk."""
  wanted = sorted(set(columns))
  values = np.empty((len(wanted), len(recording)))
  for row in range(0, len(recording), ROWS):
    values[:, row : row + ROWS] = recording[row : row + ROWS][:, wanted].T
  return dict(zip(wanted, values))


def half(values, target: targets.Target, places, lag: int, direction: int) -> Half:
  return Half(direction * values[places], target.values[places - lag], places - lag)


def effects(part: Half, target: targets.Target, turns: int) -> np.ndarray:
  """The effect of every turn [turns], the text as it is first; in float64."""
  one, scale = targets.vector(target, part.places)
  ranked = scores.centred_ranks(part.x) / len(part.x)
  if target.kind != "binary":
    scale /= np.linalg.norm(ranked) or 1.0
  spectra = (chance.spectrum(row[None], turns) for row in (ranked, one))
  return scale * chance.turned(*spectra, turns)[0, :, 0]


def details(pick: Pick) -> dict[str, float]:
  """What is said of a finding beside its score."""
  fit, test = pick.discovery, pick.confirmation
  told = {"characters": len(test.y)}
  if set(np.unique(test.y)) == {0, 1}:
    threshold = scores.best_threshold(fit.x, fit.y)
    told |= {
      "share": float(test.y.mean()),
      "average_precision": scores.average_precision(test.x, test.y),
      "threshold": threshold,
      "mcc": scores.mcc_at(threshold, test.x, test.y),
    }
  else:
    told["isotonic_r2"] = scores.isotonic_r2(fit[:2], test[:2])
  return told


def beyond(pick: Pick, confounded: targets.Target) -> dict[str, float]:
  """The column's score with the confounds taken out, on the confirmation half."""
  test = pick.confirmation
  kept = confounded.mask[test.places]
  x, y, stratum = test.x[kept], test.y[kept], confounded.strata[test.places[kept]]
  told = {"partial": scores.partial(x, y, stratum)}
  if pick.target.kind == "binary":
    told["stratified_auroc"] = scores.stratified_auroc(x, y, stratum)
  return told
