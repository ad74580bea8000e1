"""Models of text: their interface, construction and size. This module does not import JAX.

A name such as `logits_TxBxV` gives the axes of an array. The letters mean the same everywhere:

  T  steps of a window                           B  rows of a batch: streams, or texts to sample
  V  tokens of the vocabulary                    E  width of the embedding
  H  units of a layer                            L  layers
  D  width of a layer's input: V or E, then H    G  gates of a cell: W_xh is [D, G*H]
  N  tokens of a text                            P  prompt tokens, or rows of one device
"""

import bisect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from charrnn import errors

if TYPE_CHECKING:
  import jax

Params = Any  # a dict of dicts of arrays
Carry = Any  # a tree of arrays [B, ...]


class Model(Protocol):
  """A stateless model: parameters and carry are passed explicitly."""

  vocab_size: int
  has_gradient: bool  # False: its parameters are counted instead of trained
  # {layer: {quantity: units}}, states before gates. Empty: there is nothing to record or clamp.
  units: Mapping[str, Mapping[str, int]]
  states: tuple[
    str, ...
  ]  # the quantities that can be clamped; the last is an LSTM's cell state c, h for RNN and GRU

  def init(self, key: "jax.Array") -> Params:
    """Return parameters to start from, float32."""

  def initial_carry(self, batch: int) -> Carry:
    """Return the carry before the first token."""

  def prepare(self, params: Params) -> Params:
    """Return the parameters in the form that `apply` reads fastest, with the same results."""

  def apply(
    self,
    params: Params,
    ids_TxB: "jax.Array",
    carry: Carry,
    *,
    rngs: "jax.Array | None" = None,
    record: bool = False,
    clamp: Mapping | None = None,
  ) -> "tuple[jax.Array, Carry, Any]":
    """Return logits_TxBxV of the next tokens, the carry after them, and the recorded quantities.

    `rngs`: a key for each row, [B], switches dropout on. `record`: return every quantity of
    `units`, recorded["layer_0"]["c"] of shape [T, B, H]; otherwise None. `clamp`: set units after
    every step, clamp["layer_0"]["c"] = (mask, values), each [H] or [B, H]; NaN keeps the value
    from before the step.
    """


def has_gradient(fields: Mapping) -> bool:
  """Return whether the model of these fields is trained by gradients."""
  return fields["cell"] != "ngram"


def make(vocab_size: int, fields: Mapping) -> Model:
  """Return the model that the fields of `config.model` describe; raise UserError if none does."""
  # Imported here because both import JAX.
  if has_gradient(fields):
    from charrnn.models import rnn

    return rnn.make(vocab_size, **fields)
  from charrnn.models import ngram

  return ngram.Model(vocab_size, fields["order"])


def restore(vocab_size: int, fields: Mapping, params: Params) -> Model:
  """Return the model of stored parameters, on a machine that may differ from the first."""
  if not has_gradient(fields):
    return make(vocab_size, {**fields, "order": len(params)})  # its best order, not the highest
  return make(vocab_size, {**fields, "unroll": "auto"})


def parameter_count(vocab_size: int, cell: str, layers: int, hidden: int, embed: int = 0) -> int:
  """Return the number of parameters of an RNN."""
  G, biases = _gates(cell)
  rows = (embed or vocab_size) + (2 * layers - 1) * hidden  # of all W_xh and W_hh
  head = (hidden + 1) * vocab_size
  return vocab_size * embed + rows * G * hidden + layers * (G + biases) * hidden + head


def matmul_parameters(vocab_size: int, cell: str, layers: int, hidden: int, embed: int = 0) -> int:
  """Return the number of weights in matrix products, per token; look-ups do not count.

  Training takes 6 floating point operations per weight and token, 2 of them forward and 4
  backward: C = 6 N D, with N without embeddings (Kaplan et al. 2020, arXiv 2001.08361).
  """
  G, _ = _gates(cell)
  return (embed + (2 * layers - 1) * hidden) * G * hidden + hidden * vocab_size


def units_for(count: int, vocab_size: int, cell: str, layers: int, embed: int = 0) -> int:
  """Return the units of a layer with which `parameter_count` comes closest to `count`."""

  def excess(hidden):
    return parameter_count(vocab_size, cell, layers, hidden, embed) - count

  high = 1
  while excess(high) < 0:
    high *= 2
  above = bisect.bisect_left(range(high), 0, lo=1, key=excess)
  return min(range(max(1, above - 1), above + 1), key=lambda hidden: abs(excess(hidden)))


def _gates(cell):
  """Return the number of gates of a cell, and of its biases besides b_h."""
  from charrnn.models import cells  # imports JAX

  if cell not in cells.CELLS:
    raise errors.UserError(f"--config.model.cell={cell}: use one of {', '.join(cells.CELLS)}")
  return len(cells.CELLS[cell].gates), len(cells.CELLS[cell].biases)
