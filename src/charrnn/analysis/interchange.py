"""Interchange interventions: whether the network uses the state of a unit as the label.

The state of a unit after a character is replaced by its state after another character, where the
label differs (Geiger et al. 2021, arXiv 2106.02997). The network then reads on. If it uses the unit
as the label, the predictions move toward the characters that follow the other label.

Axes: P pairs of characters, M rows of clamps (with the unit itself, or with a control unit).
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charrnn.analysis import ablation, effects, inference, labels, matching, recording

PAIRS = 64  # number of pairs of characters, half of them in each direction
MIN_PAIRS = 16  # a hypothesis with fewer pairs is left out
READ = 8  # number of predictions that are compared, from the interchange on
BATCH = 1024  # number of rows that are read at once
MIN_FULL = 0.05  # minimum difference of the log odds, in nats, of which a share is reported


class Pairs(NamedTuple):
  """Positions [P] of the characters whose states are interchanged."""

  recipients: np.ndarray
  donors: np.ndarray  # with the other label
  same: np.ndarray  # with the label of the recipient
  signs: np.ndarray  # 1 if the label of the donor is the higher one, otherwise -1


def interchange(
  subject: recording.Subject, result: matching.Result, design: effects.Design
) -> list[dict]:
  """Interchange the states of the unit of each finding, and of its control units.

  `moved` is the change of the log odds of the next characters toward those that follow the label of
  the donor. `same` is this change for donors with the label of the recipient, and `full` is the
  difference of the log odds between both labels. Return no entries for a model without states.
  """
  progress, recorded = subject.progress("interchange"), subject.recording
  if not subject.run.model.can_hold:
    return []
  findings = [each for each in result.findings if each.scored and each.kind != "controlled"]
  units = {each.hypothesis: recorded.units[each.column] for each in findings}
  controls = ablation.find_controls(subject, units, ablation.CONTROLS)
  names, entries = [finding.hypothesis for finding in result.findings], []
  vocab = subject.run.model.vocab_size
  params = jax.device_put(subject.run.model.prepare(subject.run.params))
  for done, (name, unit) in enumerate(units.items()):
    label, seed = subject.labels[name], [subject.settings.seed, *map(ord, name)]
    pairs = choose(label, design.halves.confirmation, seed)
    if pairs is not None:
      odds_V = log_odds(subject.text.ids_N, label, design.halves.discovery, vocab)
      directions = np.sign(result.effects[:, names.index(name)])
      inputs = subject, params, pairs, odds_V, directions
      entries.append(
        {"hypothesis": name, "cell": str(unit)} | _entry(*inputs, unit, controls[unit])
      )
    progress(done + 1, len(units))
  observed, others = ([entry[key] for entry in entries] for key in ("moved", "controls"))
  p = ablation.corrected(observed, others, [entry["cell"] for entry in entries])
  return [entry | {"p_corrected": each} for entry, each in zip(entries, p)]


def _sides(label: labels.Label) -> tuple[np.ndarray, np.ndarray]:
  """Return where a label is low and high: false and true, or the outer quarters of its values."""
  high = ablation.inside(label)
  bar = np.quantile(label.values[label.mask], 0.25) if label.mask.any() else 0
  return label.mask & ~high & (label.values <= bar), high


def choose(
  label: labels.Label, spans: Sequence[inference.Span], seed: Sequence[int]
) -> Pairs | None:
  """Return random pairs of characters of a half; None if there are too few characters."""
  inside, rng = inference.inner(spans, (1, -READ)), np.random.default_rng(seed)
  sides = [inside[side[inside]] for side in _sides(label)]
  count = min(PAIRS // 2, *map(len, sides))
  if 2 * count < MIN_PAIRS:
    return None
  recipients = [rng.choice(side, count, replace=False) for side in sides]
  donors = [rng.choice(side, count, replace=False) for side in sides[::-1]]
  same = [rng.choice(side, count, replace=False) for side in sides]
  signs = np.repeat([1.0, -1.0], count)
  return Pairs(*map(np.concatenate, (recipients, donors, same)), signs)


def log_odds(
  ids_N: np.ndarray, label: labels.Label, spans: Sequence[inference.Span], vocab: int
) -> np.ndarray:
  """Return log P(x | the label is high) - log P(x | it is low) of the next character x, [V].

  The probabilities are shares of the characters after that label in `spans`, smoothed toward the
  shares after all characters.
  """
  inside = inference.inner(spans, (0, -1))

  def count(places):
    return np.bincount(ids_N[places + 1], minlength=vocab)

  overall = (count(inside) + 1) / (len(inside) + vocab)
  low, high = (count(inside[side[inside]]) for side in _sides(label))
  return np.log((high + overall) / (high.sum() + 1)) - np.log((low + overall) / (low.sum() + 1))


def _entry(subject, params, pairs, odds_V, directions, unit, controls) -> dict:
  """Return the results of a unit. `directions` are the signs of the effects of all columns."""
  model, recorded = subject.run.model, subject.recording
  number = {column: n for n, column in enumerate(recorded.columns)}
  quantity = model.states[-1]
  columns = [number[each.layer, quantity, each.number] for each in (unit, *controls)]
  sample = recorded.values[:: max(1, len(recorded.values) // 4000)][:, columns]
  low, high, spread = sample.min(axis=0), sample.max(axis=0), sample.std(axis=0)
  current, other, same = (recorded.values[places][:, columns] for places in pairs[:3])
  # A control unit does not follow the label, so that it hardly differs between the characters of a
  # pair. It is changed by as many standard deviations as the unit, in the direction of the label.
  change_Px1 = (other[:, :1] - current[:, :1]) / max(spread[0], 1e-12)
  turn_M = directions[columns] * directions[columns[0]]
  values_PxM = current + np.where(turn_M < 0, -1, 1) * change_Px1 * spread
  values_PxM = np.clip(values_PxM, low, high)
  values_PxM[:, 0] = other[:, 0]
  # The first row is not clamped, and the second has the state of a donor with the same label.
  values_MxP = np.stack([current[:, 0], same[:, 0], *values_PxM.T])
  numbers = np.array([-1, *(each.number for each in (unit, unit, *controls))])
  odds_MxP = _follow_all(subject, params, pairs.recipients, odds_V, unit.layer, numbers, values_MxP)
  free_P = odds_MxP[0]
  same, moved, *others = (pairs.signs * (odds_MxP[1:] - free_P)).mean(axis=1).tolist()
  full = float(free_P[pairs.signs < 0].mean() - free_P[pairs.signs > 0].mean())
  return {
    "pairs": len(free_P),
    "moved": moved,
    "same": same,
    "full": full,
    "share": moved / full if full > MIN_FULL else None,
    "controls": others,
    "p": ablation.p_value(moved, others),
  }


def _follow_all(subject, params, recipients, odds_V, layer, numbers_M, values_MxP) -> np.ndarray:
  """Return the mean log odds [M, P] of READ predictions, with a unit set at the first of them.

  A number of -1 stands for no unit.
  """
  model, values_NxC = subject.run.model, subject.recording.values
  ids_TxP = subject.text.ids_N[recipients + np.arange(READ)[:, None]]
  before_PxC = values_NxC[recipients - 1]
  (M, P), size = values_MxP.shape, max(1, BATCH // len(recipients))
  states = [
    [n for n, column in enumerate(subject.recording.columns) if column[:2] == (place, name)]
    for place in range(len(model.units))
    for name in model.states
  ]
  carry = [np.tile(before_PxC[:, columns], (size, 1)) for columns in states]
  carry = jax.tree.unflatten(jax.tree.structure(model.initial_carry(1)), carry)
  ids_TxB = np.tile(ids_TxP, (1, size)).astype(np.int32)
  hidden, results = model.units[f"layer_{layer}"][model.states[-1]], []
  for start in range(0, M, size):
    part = slice(start, start + size)
    # The last batch is padded to the size of the others with rows that are not clamped.
    short = size - len(numbers_M[part])
    units_B = np.repeat(np.pad(numbers_M[part], (0, short), constant_values=-1), P)
    values_B = np.pad(values_MxP[part], ((0, short), (0, 0))).ravel()
    mask_BxH = units_B[:, None] == np.arange(hidden)
    values_BxH = np.where(mask_BxH, values_B[:, None], 0).astype(np.float32)
    clamp = {f"layer_{layer}": {model.states[-1]: (mask_BxH, values_BxH)}}
    odds_B = _follow(model, params, ids_TxB, carry, clamp, odds_V.astype(np.float32))
    results.append(np.asarray(odds_B).reshape(size, P))
  return np.concatenate(results)[:M]


@functools.partial(jax.jit, static_argnums=0)
def _follow(model, params, ids_TxB, carry, clamp, odds_V):
  """Return the mean log odds of the predictions after each id, [B], clamped at the first id."""
  first_1xBxV, carry, _ = model.apply(params, ids_TxB[:1], carry, clamp=clamp)
  rest_TxBxV, _, _ = model.apply(params, ids_TxB[1:], carry)
  return (jax.nn.softmax(jnp.concatenate([first_1xBxV, rest_TxBxV])) @ odds_V).mean(axis=0)
