"""Causes: what a network loses, and what it writes, when cells of it are set from outside.

What a cell keeps is set after every step (an LSTM's c, the h of others), and from there it reaches
all else. A cell is compared with others of its layer that are about as lively but were not chosen.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charrnn.analysis import labels, record
from charrnn.models import layers
from charrnn.sampling import clamps, generate

BURN_IN = 256  # characters read before cells are set: what `hold` keeps comes from them
CHUNK = 32
ROWS = 384  # side by side
FEWEST = 30  # characters that a mean is taken over
SETTINGS = ("zero", "mean", "hold")


class Cell(NamedTuple):
  layer: int
  cell: int

  def __str__(self):
    return f"{self.layer}:{self.cell}"

  def set_to(self, value: float) -> clamps.Clamp:
    return clamps.Clamp(*self, value)


class Effect(NamedTuple):
  """Loss with the cell set minus loss as it is, in nats a character; None of too few characters."""

  inside: float | None  # where the label is true, or in the top quarter of its values
  outside: float | None


def kept(recording: record.Recording, model, cell: Cell) -> np.ndarray:
  """The column [N] of what the cell keeps."""
  column = record.Column(cell.layer, model.states[-1], cell.cell)
  return np.array(recording.values[:, recording.columns.index(column)])


def controls(
  recording: record.Recording, cell: Cell, count: int, avoid: Sequence[Cell], seed: int = 0
) -> list[Cell]:
  """Random cells of the layer, from the third of them whose h varies most nearly as this one's.

  As many as there are, if these are fewer; none of those in `avoid`.
  """
  spread = _spread(recording, cell.layer)
  distance = np.abs(np.log(spread + 1e-12) - np.log(spread[cell.cell] + 1e-12))
  taken = {each.cell for each in avoid if each.layer == cell.layer} | {cell.cell}
  near = [int(index) for index in np.argsort(distance, kind="stable") if int(index) not in taken]
  near = near[: max(count, len(spread) // 3)]
  chosen = np.random.default_rng([seed, *cell]).permutation(len(near))[:count]
  return [Cell(cell.layer, near[index]) for index in chosen]


def _spread(recording, layer):
  """Standard deviations of the layer's h [H], over a thousand places."""
  places = [i for i, column in enumerate(recording.columns) if column[:2] == (layer, "h")]
  step = max(1, len(recording.values) // 1000)
  return np.std(recording.values[::step, places[0] : places[-1] + 1], axis=0)


def values(column, setting: str) -> float:
  """What `zero`, `mean`, `hold`, `low` or `high` sets a cell to whose values on a text are given.

  low and high are the 5th and 95th percentiles.
  """
  if setting in ("low", "high"):
    return float(np.quantile(column, 0.05 if setting == "low" else 0.95))
  return {"zero": 0.0, "mean": float(column.mean()), "hold": clamps.HOLD}[setting]


def losses(
  model,
  params,
  ids_N,
  rows: Sequence[Sequence[clamps.Clamp]],
  progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
  """-log p of the next character for each row of clamps, [R, N]; NaN in the burn-in and at the end.

  The text is read as one stream. Nothing is set during the first BURN_IN characters.
  """
  ids_N = np.asarray(ids_N, np.int32)
  params = jax.device_put(model.prepare(params))
  _, first = generate.prime(model, params, ids_N[:BURN_IN], 1)
  nats_RxN = np.full((len(rows), len(ids_N)), np.nan, np.float32)
  groups = np.array_split(np.arange(len(rows)), -(-len(rows) // ROWS))
  for done, group in enumerate(groups):
    clamp = clamps.arrays([rows[row] for row in group], model)
    carry = jax.tree.map(functools.partial(jnp.repeat, repeats=len(group), axis=0), first)
    for start in range(BURN_IN, len(ids_N) - 1, CHUNK):
      stop = min(start + CHUNK, len(ids_N) - 1)
      ids_T = np.pad(ids_N[start : stop + 1], (0, CHUNK - (stop - start)))
      nats_TxB, carry = _losses(model, params, ids_T, carry, clamp)
      nats_RxN[group, start:stop] = np.asarray(nats_TxB)[: stop - start].T
      if progress:
        progress(done * len(ids_N) + stop + 1, len(groups) * len(ids_N))
  return nats_RxN


@functools.partial(jax.jit, static_argnums=0)
def _losses(model, params, ids_T, carry, clamp):
  B = jax.tree.leaves(carry)[0].shape[0]
  ids_TxB = jnp.broadcast_to(ids_T[:, None], (len(ids_T), B))
  logits_TxBxV, carry, _ = model.apply(params, ids_TxB[:-1], carry, clamp=clamp)
  return layers.cross_entropy(logits_TxBxV, ids_TxB[1:]), carry


def inside(label: labels.Label) -> np.ndarray:
  """Where a label is true, or in the top quarter of its values: bool [N], False where masked."""
  defined = label.values[label.mask]
  if not len(defined):
    return np.zeros(len(label.mask), bool)
  bar = max(np.quantile(defined, 0.75), np.nextafter(defined.min(), np.inf))
  return label.mask & (label.values >= bar)


def effect(changes, label: labels.Label) -> Effect:
  """The mean change of the loss [N] at the characters that a label concerns, and elsewhere."""
  within, finite = inside(label), np.isfinite(changes)
  places = within & finite, label.mask & ~within & finite
  return Effect(*(float(changes[p].mean()) if p.sum() >= FEWEST else None for p in places))


def p_value(observed: float, others: Sequence[float]) -> float:
  """The share of the cell and its controls whose effect is at least as large."""
  return (1 + sum(other >= observed for other in others)) / (1 + len(others))
