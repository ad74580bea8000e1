"""How the loss falls with size: power laws, with and without a loss that no size goes below.

  L(N) = A (N / N_0)^-alpha          L(N) = E + A (N / N_0)^-alpha

N is the number of parameters, N_0 the middle one of them all (Kaplan et al. 2020, arXiv
2001.08361; with E, Hoffmann et al. 2022, arXiv 2203.15556).
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import optimize, stats

from charrnn.sweeps import comparison

FEWEST = 3  # sizes, and one more for E


def curves(found: comparison.Comparison) -> dict[str, dict[int, float]]:
  """Loss by size for each cell: of all settings of about one size that are done, the best one's."""
  points: dict[str, list[tuple[float, int]]] = {}
  for setting in found.settings if found.compares else ():
    size = setting.runs[0].parameters
    if setting.loss and setting.loss > 0 and size:
      cell = str(setting.runs[0].fields["model.cell"])
      points.setdefault(cell, []).append((setting.loss, size))
  return {cell: _best(each) for cell, each in sorted(points.items())}


def _best(points: list[tuple[float, int]]) -> dict[int, float]:
  of, best = comparison.sizes(size for _, size in points), {}
  for loss, size in sorted(points):
    best.setdefault(of[size], (size, loss))
  return dict(sorted(best.values()))


def fits(curve: dict[int, float]) -> Iterator[dict[str, Any]]:
  """The power laws through the points of a curve, as plain data; none of too few points."""
  if len(curve) >= FEWEST:
    yield _fit(curve, floor=False)
  if len(curve) > FEWEST and (fit := _fit(curve, floor=True)):
    yield fit


def loss(fit: dict[str, Any], sizes):
  """What a fit says of sizes."""
  x = np.asarray(sizes, float) / fit["middle"]
  return fit["floor"] + fit["factor"] * x ** -fit["exponent"]


def _fit(curve, floor: bool):
  """By least squares of the losses; None where that leads nowhere."""
  sizes, losses = (np.array(list(each), float) for each in (curve.keys(), curve.values()))
  middle = float(np.exp(np.log(sizes).mean()))
  line = stats.linregress(np.log(sizes / middle), np.log(losses))
  start, bounds = [np.exp(line.intercept), -line.slope], [(0, -np.inf), (np.inf, np.inf)]
  if floor:
    lowest = losses.min()
    if line.slope >= 0:
      return None
    start = [losses.mean() - 0.9 * lowest, -line.slope, 0.9 * lowest]
    bounds = [(0, 0, 0), (np.inf, np.inf, lowest)]
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", optimize.OptimizeWarning)  # no covariance: no interval
      found, covariance = optimize.curve_fit(_law, sizes / middle, losses, start, bounds=bounds)
  except RuntimeError:
    return None
  if floor and found[2] < 1e-3 * losses.min():  # the law without one
    return None
  fit = {
    "factor": float(found[0]),
    "middle": middle,
    "exponent": float(found[1]),
    "floor": float(found[2]) if floor else 0.0,
    "sizes": len(sizes),
    "interval": _interval(found[1], covariance[1, 1], len(sizes) - len(found)),
  }
  spread = ((losses - losses.mean()) ** 2).sum()
  left = ((losses - loss(fit, sizes)) ** 2).sum()
  return fit | {"r2": float(1 - left / spread) if spread else None}


def _law(x, factor, exponent, floor=0.0):
  return floor + factor * x**-exponent


def _interval(value, variance, free: int):
  """95% by Student's t, with so many degrees of freedom; None where there is none."""
  if free < 1 or not np.isfinite(variance):
    return None
  half = stats.t.ppf(0.975, free) * variance**0.5
  return [float(value - half), float(value + half)]
