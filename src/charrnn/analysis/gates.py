"""The gates of a unit: its equations, its weights, its recording, and what its gates read.

The state of a unit of an LSTM changes by c' = f * c + i * g, and that of a GRU by
h' = z * h + (1 - z) * n. Both have the form keep * state + write * tanh(pre).

N: characters of the text. D: units that a gate reads.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from charrnn import errors
from charrnn.analysis import accounts, effects
from charrnn.evaluation import score
from charrnn.models import layers

LINE_END = "\n"
CHUNK = 4096  # number of characters whose float32 values are converted to float64 at once


class Equations(NamedTuple):
  """The names of the parts of a cell in keep * state + write * tanh(pre)."""

  state: str
  keep: str
  write: str | None  # None if it is 1 - keep
  candidate: str  # the gate that is tanh(pre)

  @property
  def is_average(self) -> bool:
    return self.write is None


EQUATIONS = {"lstm": Equations("c", "f", "i", "g"), "gru": Equations("h", "z", None, "n")}


class Weights:
  """The weights of a unit, and the units that its gates read."""

  def __init__(self, run, layer: int, unit: int):
    self.layer, self.unit, self.hidden = layer, unit, run.config.model.hidden
    self.equations = EQUATIONS[run.config.model.cell]
    self.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), run.params)
    self.gates = run.model.cell.gates
    self.own = self.params[f"layer_{layer}"]
    # With residual layers, a layer reads the sum of all layers below it.
    residual, last = run.config.model.residual, len(run.model.units) - 1
    self.below = [*range(layer)] if residual else [*range(max(0, layer - 1), layer)]
    self.reads_head = residual or layer == last
    self.above = [*range(layer + 1, last + 1)] if residual else [*range(layer + 1, layer + 2)]
    self.above = [each for each in self.above if each <= last]

  def column(self, gate: str) -> int:
    return self.gates.index(gate) * self.hidden + self.unit

  def by_character(self, gate: str) -> np.ndarray:
    """Return what each character adds to the pre-activation of a gate in layer 0, [V]."""
    column_D = self.own["W_xh"][:, self.column(gate)]
    embed = self.params.get("embed")
    return column_D if embed is None else embed["W_e"] @ column_D


class Recorded(NamedTuple):
  """The quantities of a unit on a text, the outputs h of all units, and p of a line end."""

  own: dict[str, np.ndarray]  # [N] each
  h: list[np.ndarray]  # float32 [N, H] of each layer
  p: np.ndarray  # [N], probability that the next character is a line end; NaN without line ends
  nats: np.ndarray  # [N], -log p of the next character; the last is undefined


def record(run, ids_N: np.ndarray, layer: int, unit: int, progress: effects.Progress) -> Recorded:
  """Run the network on a text and return what the explanation of a unit needs.

  Raise UserError if a state or a prediction is not finite.
  """
  tokens = run.tokenizer.tokens
  line_end = tokens.index(LINE_END) if LINE_END in tokens else None
  measure = jax.tree_util.Partial(_measure_unit, unit, line_end)
  parts, done = [], 0
  for part in score.record(run.model, run.params, ids_N, measure=measure):
    parts.append(part)
    done += len(part[-1])
    progress(done, len(ids_N))
  own, h, p, nats = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
  own, p, nats = jax.tree.map(lambda array: array.astype(float), (own[f"layer_{layer}"], p, nats))
  if not all(np.isfinite(array).all() for array in (*own.values(), *h, nats[:-1])):
    raise errors.UserError(
      f"{run.path}: states or predictions are not finite at step {run.step}: use an earlier step"
    )
  return Recorded(own, h, p, nats)


def _measure_unit(unit, line_end, logits_TxBxV, y_TxB, recorded):
  own = jax.tree.map(lambda values_TxBxH: values_TxBxH[..., unit], recorded)
  h = [values["h"] for values in recorded.values()]
  p_TxB = y_TxB * np.nan if line_end is None else p_line_end(line_end, logits_TxBxV)
  return own, h, p_TxB, layers.cross_entropy(logits_TxBxV, y_TxB)


def p_line_end(line_end, logits_TxBxV, *_):
  """Return the probability that a line ends after each character, [T, B]."""
  return jax.nn.softmax(logits_TxBxV)[..., line_end]


class Terms(NamedTuple):
  """The terms of a pre-activation: pre = sum of values_NxD @ weights_D over blocks + constant."""

  names: list[str]  # of the columns of all blocks
  blocks: list[tuple[np.ndarray, np.ndarray]]  # values_NxD, float32 or float64, and weights_D
  constant: np.ndarray | float

  @property
  def weights(self) -> np.ndarray:
    return np.concatenate([weights_D for _, weights_D in self.blocks])

  @property
  def pre(self) -> np.ndarray:
    """The pre-activation at each character, [N]."""
    pre_N = np.zeros(len(self.blocks[0][0])) + self.constant
    for values_NxD, weights_D in self.blocks:
      for rows, values in _chunks(values_NxD):
        pre_N[rows] += values @ weights_D
    return pre_N

  def shares(self) -> tuple[np.ndarray, float]:
    """Return the share of each term in the variance of pre, cov(term, pre) / var(pre); its sd."""
    pre_N = self.pre
    pre_N -= pre_N.mean()
    variance = float(pre_N @ pre_N) / len(pre_N)
    if variance < 1e-12:
      return np.zeros(len(self.names)), 0.0
    covariances = [
      weights_D * sum(pre_N[rows] @ values for rows, values in _chunks(values_NxD)) / len(pre_N)
      for values_NxD, weights_D in self.blocks
    ]
    return np.concatenate(covariances) / variance, math.sqrt(variance)


def _chunks(values_NxD) -> Iterator[tuple[slice, np.ndarray]]:
  for start in range(0, len(values_NxD), CHUNK):
    rows = slice(start, start + CHUNK)
    yield rows, values_NxD[rows].astype(np.float64)


def terms(weights: Weights, recorded: Recorded, ids_N: np.ndarray, gate: str) -> Terms:
  """Return the terms of the pre-activation of a gate, at each character of a text."""
  column, layer = weights.column(gate), weights.layer
  h_NxH = recorded.h[layer]
  previous_NxH = np.concatenate([np.zeros_like(h_NxH[:1]), h_NxH[:-1]])
  constant = weights.own["b_h"][column]
  if "b_hn" in weights.own and gate == "n":  # The reset gate of a GRU multiplies this term.
    previous_NxH *= recorded.own["r"].astype(np.float32)[:, None]
    constant = constant + recorded.own["r"] * weights.own["b_hn"][weights.unit]
  if layer:
    names = [f"{n}:h{unit}" for n in weights.below for unit in range(weights.hidden)]
    blocks = [(recorded.h[n], weights.own["W_xh"][:, column]) for n in weights.below]
  else:
    names, blocks = ["character"], [(weights.by_character(gate)[ids_N][:, None], np.ones(1))]
  return Terms(
    [*names, *(f"{layer}:h{unit}" for unit in range(weights.hidden))],
    [*blocks, (previous_NxH, weights.own["W_hh"][:, column])],
    constant,
  )


def trace(weights: Weights, recorded: Recorded, ids_N: np.ndarray) -> accounts.Trace:
  """Return the steps of the unit on a text."""
  equations = weights.equations
  after, keep = recorded.own[equations.state], recorded.own[equations.keep]
  write = 1 - keep if equations.is_average else recorded.own[equations.write]
  pre = terms(weights, recorded, ids_N, equations.candidate).pre
  before = np.append(0.0, after[:-1])
  return accounts.Trace(ids_N, before, after, keep, write, pre, equations.is_average)
