"""Hypotheses as vectors: whose product with a column's ranks is the column's score."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.analysis import chance, scores

GIVEN = " | "  # between a hypothesis and the confounds taken out of it


class Target(NamedTuple):
  name: str
  kind: str  # "binary", "graded", or "beyond": a label with the confounds taken out
  values: np.ndarray
  mask: np.ndarray
  strata: np.ndarray | None = None


class Group(NamedTuple):
  """Targets that are defined at the same n places of one half; rows are (member, lag)."""

  members: list[int]
  places: np.ndarray  # [n]
  spectra: np.ndarray  # complex64 [rows, turns // 2 + 1, n / turns], of the vectors
  scales: np.ndarray  # [rows]
  by_norm: np.ndarray  # [rows]: whether to divide by the norm of the column's ranks too


def targets(labels: Mapping, given: Mapping[str, Sequence[str]], length: int) -> list[Target]:
  """One for every label, then one for every label with confounds, beyond these."""
  plain = [_target(name, *entry, length) for name, entry in labels.items()]
  known = {target.name: target for target in plain}
  return plain + [_beyond(known, name, tuple(names)) for name, names in given.items()]


def beyond(name: str, confounds: Sequence[str]) -> str:
  """The name of a hypothesis with the confounds taken out."""
  return f"{name}{GIVEN}{', '.join(confounds)}"


def plain(name: str) -> str:
  """The hypothesis that a name of `beyond` is of; any other as it is."""
  return name.partition(GIVEN)[0]


def _target(name, kind, label, length) -> Target:
  values, mask = np.asarray(label.values), np.asarray(label.mask, bool)
  if kind not in ("binary", "graded"):
    raise errors.UserError(f"label {name!r}: its kind is {kind!r}, not 'binary' or 'graded'")
  if values.shape != (length,) or mask.shape != (length,):
    raise errors.UserError(
      f"label {name!r} has {values.shape[0]} values, but the recording {length} characters"
    )
  defined = values[mask]
  if not np.isfinite(defined).all():
    raise errors.UserError(f"label {name!r} is not finite at some characters: mask these")
  if kind == "binary" and not np.isin(defined, (0, 1)).all():
    raise errors.UserError(f"label {name!r} is binary, but has other values than 0 and 1")
  return Target(name, kind, values.astype(np.float64), mask)


def _beyond(known, name, confounds) -> Target:
  for each in (name, *confounds):
    if each not in known:
      raise errors.UserError(f"no label {each!r} to take confounds out of, or as one")
  mask = np.logical_and.reduce([known[each].mask for each in (name, *confounds)])
  strata = np.zeros(len(mask), np.intp)
  if mask.any():
    strata[mask] = scores.strata([known[each].values[mask] for each in confounds])
  return Target(beyond(name, confounds), "beyond", known[name].values, mask, strata)


def defined(target: Target, inside: np.ndarray, lags: Sequence[int], turns: int = 1) -> np.ndarray:
  """The places of a half where the target is defined at every lag: all lags get the same."""
  places = inside[np.logical_and.reduce([target.mask[inside - lag] for lag in lags])]
  return places[: chance.whole(len(places), turns)]


def vector(target: Target, places: np.ndarray) -> tuple[np.ndarray, float]:
  """A vector v and a scale: with r the centred ranks of a column divided by n, the effect is
  scale * (v @ r), which is 2 AUROC - 1, for binary labels; scale * (v @ r) / |r|, which is
  Spearman's or the semipartial rank correlation, for others. The scale 0 means: nothing to score.
  """
  values = target.values[places]
  if target.kind == "binary":
    share = values.mean() if len(values) else 0.0
    spread = len(values) * share * (1 - share)
    return values - share, 2 / spread if spread else 0.0
  ranks = scores.centred_ranks(values)
  raw = np.linalg.norm(ranks)
  if target.strata is not None:
    ranks = scores.residual(ranks, target.strata[places])
  norm = np.linalg.norm(ranks)
  return ranks, 1 / norm if norm > 1e-9 * raw else 0.0


def why_not(target: Target, places: np.ndarray, lags: Sequence[int], half: str) -> str:
  """Why a target cannot be scored in a half; nothing if it can."""
  if any(not vector(target, places - lag)[1] for lag in lags):
    return f"{_flat(target, places)} in the {half} half"
  return ""


def _flat(target, places) -> str:
  if target.kind == "binary":
    return "no negatives" if target.values[places].any() else "no positives"
  return "constant" if target.kind == "graded" else "a function of its confounds"


def grouped(
  chosen: Mapping[int, Target], inside: np.ndarray, lags: Sequence[int], turns: int
) -> list[Group]:
  """Targets by their places: each group needs ranks of its own, of every column."""
  together = {}
  for index, target in chosen.items():
    places = defined(target, inside, lags, turns)
    together.setdefault(places.tobytes(), (places, []))[1].append(index)
  return [_group(chosen, members, places, lags, turns) for places, members in together.values()]


def _group(chosen, members, places, lags, turns) -> Group:
  found = [vector(chosen[member], places - lag) for member in members for lag in lags]
  vectors = np.array([one for one, _ in found], np.float32)
  by_norm = np.repeat([chosen[member].kind != "binary" for member in members], len(lags))
  scales = np.array([scale for _, scale in found])
  return Group(members, places, chance.spectrum(vectors, turns), scales, by_norm)
