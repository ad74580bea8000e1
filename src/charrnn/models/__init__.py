"""The interface, construction and size of models. This module does not import JAX.

A suffix names the axes of an array, for example `logits_TxBxV`. The letters have these meanings:

  T  steps in a window                           B  rows in a batch: streams, or texts to sample
  V  tokens in the vocabulary                    E  width of the embedding
  H  units in a layer                            L  layers
  D  width of a layer's input: V or E, then H    G  gates in a cell: W_xh is [D, G*H]
  N  tokens in a text                            P  tokens in a prompt
"""

import bisect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from charrnn import errors

if TYPE_CHECKING:
  import jax

MIN_SHARED = 512  # minimum number of units for which XLA divides a matrix product well

Params = Any  # a dict of dicts of arrays
Carry = Any  # a tree of arrays [B, ...]


class Model(Protocol):
  """Stateless model interface; parameters and carry are passed explicitly."""

  vocab_size: int
  has_gradient: bool  # False if the parameters are counts, not trained by gradients
  # {layer: {quantity: number of units}}, states before gates. Empty if nothing can be recorded.
  units: Mapping[str, Mapping[str, int]]
  # The fields of the state, which can be clamped: h, and in an LSTM c. A clamp that names no field
  # sets the last one.
  states: tuple[str, ...]

  def init(self, key: "jax.Array") -> Params:
    """Return initial parameters in float32."""

  def initial_carry(self, batch: int) -> Carry:
    """Return the carry before the first token."""

  def prepare(self, params: Params) -> Params:
    """Convert the parameters to the form that is fastest for `apply`; results do not change."""

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
    """Return logits_TxBxV of the next tokens, the carry after ids_TxB, and recorded quantities.

    `rngs`: one key per row, [B]; enables dropout. `record`: return every quantity in `units`, for
    example recorded["layer_0"]["c"] with shape [T, B, H]; otherwise recorded is None. `clamp`: set
    units after every step, for example clamp["layer_0"]["c"] = (mask, values), each [H] or [B, H].
    Where a value is NaN, the unit keeps its value from before the step.
    """


def has_gradient(fields: Mapping) -> bool:
  """Return True if the model with these fields of `config.model` is trained by gradients."""
  return fields["cell"] != "ngram"


def shares_cores(fields: Mapping) -> bool:
  """Return True if a single JAX device that uses all cores of a CPU is the fastest.

  XLA computes small matrix products faster on one device per core. The native layers divide the
  work among the cores themselves. This may compile them.
  """
  if not has_gradient(fields):
    return False
  from charrnn.models import cells, native_library

  if fields["hidden"] >= MIN_SHARED:
    return True
  cell = cells.CELLS.get(fields["cell"])  # `make` reports an unknown cell
  return cell is not None and cell.native and native_library.is_expected(fields["unroll"])


def make(vocab_size: int, fields: Mapping) -> Model:
  """Return the model for these fields of `config.model`; raise UserError if they are invalid."""
  # These modules are imported here because they import JAX.
  if has_gradient(fields):
    from charrnn.models import rnn

    return rnn.make(vocab_size, **fields)
  from charrnn.models import ngram

  return ngram.Model(vocab_size, fields["order"])


def restore(vocab_size: int, fields: Mapping, params: Params) -> Model:
  """Return the model for stored parameters, which may come from a different type of machine."""
  if not has_gradient(fields):
    return make(vocab_size, {**fields, "order": len(params)})  # the best order, not the maximum
  return make(vocab_size, {**fields, "unroll": "auto"})


def shapes(vocab_size: int, fields: Mapping, batch: int) -> dict[str, Any]:
  """Return the shapes of the parameters and of the carry of a network, without computing them."""
  import jax

  model = make(vocab_size, {**fields, "unroll": "scan"})
  return {
    "params": jax.eval_shape(lambda: model.init(jax.random.key(0))),
    "carry": jax.eval_shape(lambda: model.initial_carry(batch)),
  }


def parameter_count(vocab_size: int, cell: str, layers: int, hidden: int, embed: int = 0) -> int:
  """Return the number of parameters of an RNN."""
  G, biases = _gates(cell)
  rows = (embed or vocab_size) + (2 * layers - 1) * hidden  # total rows of all W_xh and W_hh
  head = (hidden + 1) * vocab_size
  return vocab_size * embed + rows * G * hidden + layers * (G + biases) * hidden + head


def matmul_parameters(vocab_size: int, cell: str, layers: int, hidden: int, embed: int = 0) -> int:
  """Return the number of weights that are used in matrix products, except those selected by ids.

  An embedding, or W_xh of a first layer with one-hot input, is a look-up. Training takes 6 floating
  point operations per remaining weight and token: 2 in the forward pass and 4 in the backward pass
  (Kaplan et al. 2020, arXiv 2001.08361).
  """
  G, _ = _gates(cell)
  return (embed + (2 * layers - 1) * hidden) * G * hidden + hidden * vocab_size


def activation_bytes(vocab_size: int, fields: Mapping, tokens: int) -> int:
  """Return a lower bound of the memory for the activations of an RNN in a training step.

  These are the logits in float32, and the pre-activations of all layers in `compute_dtype`.
  `fields` are those of `config.model`. `tokens` is the number of tokens in memory at a time.
  """
  G, _ = _gates(fields["cell"])
  size = 2 if fields["compute_dtype"] == "bfloat16" else 4
  return tokens * (4 * vocab_size + size * fields["layers"] * G * fields["hidden"])


def units_for(count: int, vocab_size: int, cell: str, layers: int, embed: int = 0) -> int:
  """Return the number of units per layer for which `parameter_count` is closest to `count`."""

  def excess(hidden):
    return parameter_count(vocab_size, cell, layers, hidden, embed) - count

  high = 1
  while excess(high) < 0:
    high *= 2
  above = bisect.bisect_left(range(high), 0, lo=1, key=excess)
  return min(range(max(1, above - 1), above + 1), key=lambda hidden: abs(excess(hidden)))


def _gates(cell):
  """Return the number of gates of a cell, and the number of its biases in addition to b_h."""
  from charrnn.models import cells  # imports JAX

  if cell not in cells.CELLS:
    raise errors.UserError(f"--config.model.cell={cell}: use one of {', '.join(cells.CELLS)}")
  return len(cells.CELLS[cell].gates), len(cells.CELLS[cell].biases)
