"""Sparse linear probes: whether one feature column or a code of several columns contains a label.

A probe of size k predicts a label linearly from at most k features: the coordinates of the state in
a basis. The bases are the feature columns themselves, random rotations of the state, and its
principal components. If the units are special, k columns score higher than k directions of another
basis.

Axes: n characters, F features, R rows (a label at a lag), K sizes of probes.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from charrnn.analysis import effects, inference, recording

SIZES = (1, 2, 4, 8, 16)
ROTATIONS = 5
CONTEXT = 2  # number of characters that determine a control label
CONTROLS = 3  # number of control labels per hypothesis
CANDIDATES = 32  # number of random functions of which the one with the most similar mean is used
MAX_CHARACTERS = 20_000  # maximum number of characters per half
MAX_VALUES = 40_000_000  # maximum number of values of the state per half
# Labels are probed together if the characters that they share are at least 98% of those of each.
SHARED = 0.98
# A feature of which the selected ones explain more than 99.9% of the variance is not selected.
MIN_NEW = 1e-3
MIN_VARIANCE = 1e-4  # minimum variance of a feature, relative to the mean; float32 is not exact

Basis = list[np.ndarray]  # an orthogonal matrix for each block; its columns are the directions


class State(NamedTuple):
  """The standardized state at characters of both halves. A block is a quantity of a layer."""

  fit_nxF: np.ndarray
  test_nxF: np.ndarray
  blocks: list[slice]


class Probes(NamedTuple):
  """The probes of R rows, fitted on the discovery half."""

  features_SxR: np.ndarray  # in the order of selection; -1 if no feature improved the fit
  weights_KxFxR: np.ndarray  # of the feature columns, for any basis
  r2_KxR: np.ndarray


def probe(
  recorded: recording.Recording,
  columns: Sequence[int],
  targets: Sequence[effects.Target],
  design: effects.Design,
  types_N: np.ndarray,
  seed: int,
  progress: effects.Progress,
) -> list[dict]:
  """Return the probes of each target, with their scores on the confirmation half.

  `columns` are the numbers of the columns that are the state: all columns of some quantities. Kinds
  of units, such as h and m of a transformer, are probed separately. `types_N` are the contexts that
  determine the control labels.
  """
  design = dataclasses.replace(design, shifts=0)
  kinds = {}
  for column in columns:
    kinds.setdefault(recorded.units[column].quantity, []).append(column)
  groups, entries, done = _groups(targets, design), [], 0
  for numbers in kinds.values():
    named = [recorded.columns[n] for n in numbers]
    count = min(MAX_CHARACTERS, max(1, MAX_VALUES // len(named)))
    blocks = _blocks([each[:2] for each in named])
    sizes = [block.stop - block.start for block in blocks]
    rotations = [rotation(sizes, seed, number) for number in range(ROTATIONS)]
    for members, places in groups:
      positions = [_spread(each, count) for each in places]
      parts = (_read(recorded.values, each, numbers, blocks) for each in positions)
      state = standardize(*parts, blocks)
      new = _probe_group(state, positions, members, design, types_N, seed, rotations)
      for entry in new:
        entry["quantities"] = list(dict.fromkeys(each.quantity for each in named))
        entry["columns"] = [[str(named[n]) for n in each] for each in entry["columns"]]
      entries += new
      done += 1
      progress(done, len(groups) * len(kinds))
  order = [target.name for target in targets]
  return sorted(entries, key=lambda entry: order.index(entry["hypothesis"]))


def _groups(targets, design) -> list[tuple[list[effects.Target], list[np.ndarray]]]:
  """Return groups of targets with the positions of both halves at which all of them are defined.

  The products of all features are computed once for each group.
  """
  groups = []
  for target in targets:
    places = [design.positions(target, half) for half in (0, 1)]
    for members, shared, counts in groups:  # counts: the largest of the members, by half
      common = [np.intersect1d(*pair, assume_unique=True) for pair in zip(shared, places)]
      largest = [max(count, len(each)) for count, each in zip(counts, places)]
      if all(len(each) >= SHARED * count for each, count in zip(common, largest)):
        members.append(target)
        shared[:], counts[:] = common, largest
        break
    else:
      groups.append(([target], places, [len(each) for each in places]))
  return [(members, shared) for members, shared, _ in groups]


def _spread(positions: np.ndarray, count: int) -> np.ndarray:
  """Return at most `count` positions, evenly spaced."""
  if len(positions) <= count:
    return positions
  return positions[np.linspace(0, len(positions) - 1, count).astype(np.intp)]


def _blocks(kinds: Sequence[tuple]) -> list[slice]:
  stops = np.cumsum([len(list(group)) for _, group in itertools.groupby(kinds)]).tolist()
  return [slice(*pair) for pair in itertools.pairwise([0, *stops])]


def _read(values, positions, numbers, blocks) -> np.ndarray:
  """Return the columns `numbers` of a recording [N, C] at positions: float32 [n, F]."""
  state_nxF = np.empty((len(positions), len(numbers)), np.float32)
  for block in blocks:  # its columns are adjacent
    first, last = numbers[block.start], numbers[block.stop - 1]
    state_nxF[:, block] = values[positions, first : last + 1]
  return state_nxF


def standardize(fit_nxF: np.ndarray, test_nxF: np.ndarray, blocks: list[slice]) -> State:
  """Give each column mean 0 and variance 1 on the discovery half, in place.

  A column that is constant there becomes 0 everywhere.
  """
  for block in blocks:
    values = fit_nxF[:, block].astype(np.float64)
    mean = values.mean(axis=0)
    spread = np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), np.inf)
    for part in (fit_nxF, test_nxF):
      part[:, block] = (part[:, block] - mean) / spread
  return State(fit_nxF, test_nxF, blocks)


def _probe_group(state, positions, targets, design, types_N, seed, rotations) -> list[dict]:
  """Return the entries of targets that are defined at the same positions of both halves."""
  controls = [
    control(target, types_N, seed, number) for target in targets for number in range(CONTROLS)
  ]
  labels = [*targets, *controls]
  aims_nxR = _aims(labels, positions[0], design.lags)
  moments_FxR = state.fit_nxF.T @ aims_nxR
  constant_R = ~aims_nxR.any(axis=0)
  grams = [state.fit_nxF[:, block].T @ state.fit_nxF[:, block] for block in state.blocks]
  multiply = _gram(state.fit_nxF)

  def evaluate(basis, labels):
    """Evaluate probes of labels, which are the first labels of `moments_FxR`."""
    rows, lags = slice(len(labels) * len(design.lags)), design.lags
    probes = select(multiply, grams, moments_FxR[:, rows], basis)
    return _evaluate(probes, state.test_nxF, labels, positions[1], lags, constant_R[rows])

  units = [np.eye(len(gram), dtype=np.float32) for gram in grams]
  own_KxL, lags_KxL, features = evaluate(units, labels)
  components = [np.linalg.eigh(gram)[1] for gram in grams]
  components_KxL, *_ = evaluate(components, targets)
  rotated = np.array([evaluate(basis, targets)[0] for basis in rotations])
  count, entries = len(targets), []
  for n, target in enumerate(targets):
    first = count + CONTROLS * n
    of_control = _median(own_KxL[:, first : first + CONTROLS])
    entries.append(
      {
        "hypothesis": target.name,
        "features": len(moments_FxR),
        "characters": [len(each) for each in positions],
        "k": list(SIZES),
        "units": own_KxL[:, n],
        "columns": [each[n] for each in features],
        "lags": lags_KxL[:, n],
        "rotated": np.median(rotated[..., n], axis=0),
        "rotated_low": rotated[..., n].min(axis=0),
        "rotated_high": rotated[..., n].max(axis=0),
        "components": components_KxL[:, n],
        "control": of_control,
        "selectivity": own_KxL[:, n] - of_control,
      }
    )
  return entries


def _median(scores_KxL: np.ndarray) -> np.ndarray:
  """Return the median of each row without NaN; NaN if the row has no other values."""
  rows = (row[~np.isnan(row)] for row in scores_KxL)
  return np.array([np.median(row) if len(row) else np.nan for row in rows])


def control(target: effects.Target, types_N: np.ndarray, seed: int, number: int) -> effects.Target:
  """Return a target whose label is a random function of the type of each character.

  As in Hewitt & Liang (2019), a probe can predict it only if the state contains the type, and if
  the probe learns the label of each type by heart. A type has the label of a random character.
  """
  rng = np.random.default_rng([seed, number, *map(ord, target.name)])
  counts = np.bincount(types_N[target.mask], minlength=types_N.max() + 1)
  defined = target.values[target.mask]
  by_type = rng.choice(defined, (CANDIDATES, len(counts)))
  nearest = np.abs(by_type @ counts - defined.sum()).argmin()
  return target._replace(values=by_type[nearest][types_N])


def rotation(sizes: Sequence[int], seed: int, number: int) -> Basis:
  """Return a basis of random directions in each block, uniform over all orthogonal matrices."""
  rng, basis = np.random.default_rng([seed, number]), []
  for size in sizes:
    q, r = np.linalg.qr(rng.standard_normal((size, size), np.float32))
    basis.append(q * np.sign(np.diag(r)))  # The signs of QR are not uniform.
  return basis


def _aims(labels, positions, lags) -> np.ndarray:
  """Return what the probes are fitted to: centered labels or ranks of norm 1, float32 [n, R].

  A label that is constant is 0 everywhere.
  """
  rows = []
  for label, lag in itertools.product(labels, lags):
    aim, scale = effects.vector(label, positions - lag)
    rows.append(aim / np.linalg.norm(aim) if scale else np.zeros(len(aim)))
  return np.array(rows, np.float32).T


def _gram(state_nxF: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  """Return the function D -> X^T X D of a state X [n, F]; X^T X is stored if F <= n."""
  n, features = state_nxF.shape
  if features > n:
    return lambda directions_FxR: state_nxF.T @ (state_nxF @ directions_FxR)
  gram_FxF = state_nxF.T @ state_nxF
  return lambda directions_FxR: gram_FxF @ directions_FxR


def _by_block(matrices: Sequence[np.ndarray], x_FxR: np.ndarray) -> np.ndarray:
  """Multiply each block of rows by its matrix."""
  stops = np.cumsum([len(matrix) for matrix in matrices])[:-1]
  return np.concatenate([matrix @ part for matrix, part in zip(matrices, np.split(x_FxR, stops))])


def select(
  multiply: Callable[[np.ndarray], np.ndarray],
  grams: Sequence[np.ndarray],
  moments_FxR: np.ndarray,
  basis: Basis,
) -> Probes:
  """Select features for each row and fit the probes of all sizes.

  Forward selection (orthogonal least squares): each step adds the feature that reduces the squared
  error of the least-squares fit most. The Gram matrix G = X^T X and the moments X^T y suffice: the
  steps are those of a Cholesky decomposition of G with pivots.

  `multiply` maps D to G D, `grams` are the diagonal blocks of G, and y has norm 1.
  """
  inverse = [matrix.T for matrix in basis]
  variances = [(matrix * (gram @ matrix)).sum(axis=0) for matrix, gram in zip(basis, grams)]
  full_Fx1 = np.concatenate(variances)[:, None].astype(np.float64)
  least_Fx1 = np.maximum(MIN_NEW * full_Fx1, MIN_VARIANCE * full_Fx1.mean())
  residual_FxR = _by_block(inverse, moments_FxR).astype(np.float64)
  F, R = residual_FxR.shape
  S, rows = min(max(SIZES), F), np.arange(R)
  variance_FxR = np.repeat(full_Fx1, R, axis=1)
  factor_SxFxR = np.zeros((S, F, R), np.float32)
  triangle_RxSxS, solution_RxS = np.zeros((R, S, S)), np.zeros((R, S))
  features_SxR = np.full((S, R), -1)
  for step in range(S):
    usable = variance_FxR > least_Fx1
    gain_FxR = np.where(usable, residual_FxR**2, 0) / np.where(usable, variance_FxR, 1)
    best = gain_FxR.argmax(axis=0)
    improves = gain_FxR[best, rows] > 0
    chosen_FxR = np.zeros((F, R), np.float32)
    chosen_FxR[best, rows] = 1
    column_FxR = _by_block(inverse, multiply(_by_block(basis, chosen_FxR)))
    known_SxR = factor_SxFxR[:step, best, rows]
    pivot = np.sqrt(np.where(improves, variance_FxR[best, rows], 1))
    column_FxR = (column_FxR - np.einsum("sfr,sr->fr", factor_SxFxR[:step], known_SxR)) / pivot
    factor_SxFxR[step] = np.where(improves, column_FxR, 0)
    solution_RxS[:, step] = np.where(improves, residual_FxR[best, rows] / pivot, 0)
    triangle_RxSxS[:, step, :step], triangle_RxSxS[:, step, step] = known_SxR.T, pivot
    residual_FxR -= factor_SxFxR[step] * solution_RxS[:, step]
    variance_FxR -= factor_SxFxR[step] ** 2
    features_SxR[step] = np.where(improves, best, -1)
  weights_KxFxR = np.zeros((len(SIZES), F, R), np.float32)
  for weights_FxR, size in zip(weights_KxFxR, SIZES):
    upper = triangle_RxSxS[:, :size, :size].transpose(0, 2, 1)
    solved_RxS = np.linalg.solve(upper, solution_RxS[:, :size, None])[..., 0]
    for features_R, weight_R in zip(features_SxR, solved_RxS.T):
      weights_FxR[features_R, rows] += weight_R  # 0 if the feature is -1
    weights_FxR[:] = _by_block(basis, weights_FxR)
  r2_KxR = np.array([(solution_RxS[:, :size] ** 2).sum(axis=1) for size in SIZES])
  return Probes(features_SxR, weights_KxFxR, r2_KxR)


def _evaluate(probes, test_nxF, labels, positions, lags, constant_R):
  """Return scores [K, L] and lags [K, L] of L labels, and their features as lists, by size.

  The lag of each probe is the one with the best fit on the discovery half. A label that is constant
  on either half has the score NaN. `constant_R` tells which rows are constant on the discovery
  half.
  """
  shape = len(labels), len(lags)
  late = np.outer([label.hypothesis.of_next for label in labels], np.array(lags) > 0)
  constant = constant_R.reshape(shape)
  r2_KxLxT = np.where(late | constant, -1, probes.r2_KxR.reshape(-1, *shape))
  best_KxL = r2_KxLxT.argmax(axis=2)
  lags_KxL = np.array(lags)[best_KxL]
  rows_KxL = best_KxL + len(lags) * np.arange(len(labels))
  scores_KxL, features = np.full(rows_KxL.shape, np.nan), []
  for place, (size, rows) in enumerate(zip(SIZES, rows_KxL)):
    predicted_nxL = test_nxF @ probes.weights_KxFxR[place][:, rows]
    for n, label in enumerate(labels):
      values = label.values[positions - lags_KxL[place, n]]
      score = inference.auroc if label.kind == "binary" else inference.spearman
      if not constant[n].all() and np.ptp(values):
        scores_KxL[place, n] = score(predicted_nxL[:, n], values)
    selected = probes.features_SxR[:size, rows].T
    features.append([each[each >= 0].tolist() for each in selected])
  return scores_KxL, lags_KxL, features
