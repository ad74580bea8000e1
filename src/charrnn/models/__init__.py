"""The interface, construction and size of models. This module does not import JAX.

A suffix names the axes of an array, for example `logits_TxBxV`. The letters have these meanings:

  T  steps in a window                           B  rows in a batch: streams, or texts to sample
  V  tokens in the vocabulary                    E  width of the embedding
  H  units in a layer                            L  layers
  D  width of a layer's input: V or E, then H    G  gates in a cell: W_xh is [D, G*H]
  N  tokens in a text                            P  tokens in a prompt
"""

import functools
import importlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
  import jax

Params = Any  # a dict of dicts of arrays
Carry = Any  # a tree of arrays [B, ...]


class Rngs(NamedTuple):
  """The random keys of a training step."""

  batch: "jax.Array"  # one key for the whole batch
  rows: "jax.Array"  # one key per row, [B]

  @classmethod
  def of(cls, key: "jax.Array", rows_B: "jax.Array") -> "Rngs":
    """Return keys derived from one key and the numbers of the rows, which are below 2**31.

    The key of a row depends on no other row, and therefore not on the number of devices.
    """
    import jax

    fold = jax.random.fold_in
    # training/steps.py folds in 2**31.
    return cls(fold(key, 2**31 + 1), jax.vmap(fold, in_axes=(None, 0))(key, rows_B))


class Model(Protocol):
  """Stateless model interface; parameters and carry are passed explicitly."""

  vocab_size: int
  has_gradient: bool  # False if the parameters are counts, not trained by gradients
  # {layer: {quantity: number of units}}, states before gates. Empty if nothing can be recorded.
  units: Mapping[str, Mapping[str, int]]
  # The quantities that can be clamped, for example h, and in an LSTM c. A clamp that names no
  # quantity sets the last one.
  states: tuple[str, ...]
  # Whether a unit is a cell with a state. A clamp can then keep its value, and all quantities of a
  # layer describe the same units. Otherwise, every quantity has units of its own.
  can_hold: bool
  description: str  # the architecture in words, for the log
  implementation: str  # what computes the layers, for the log
  reset_id: int | None  # the token before which the carry is reset: the end of a document

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
    carry: Carry | None,
    *,
    rngs: Rngs | None = None,
    record: bool = False,
    clamp: Mapping | None = None,
  ) -> "tuple[jax.Array, Carry, Any]":
    """Return logits_TxBxV of the next tokens, the carry after ids_TxB, and recorded quantities.

    `carry`: None if there are no tokens before ids_TxB. Wherever an id is `reset_id`, the carry of
    the row is replaced by the initial one before that token is read. `rngs` enables dropout.
    `record`: return every quantity in `units`, for example recorded["layer_0"]["c"] with shape
    [T, B, H]; otherwise recorded is None. `clamp`: set units after every step, for example
    clamp["layer_0"]["c"] = (mask, values), each [H] or [B, H]. Where a value is NaN, the unit keeps
    its value from before the step, if the model `can_hold` it.
    """

  def products(self, params: Params) -> int:
    """Return `Size.products` of a network, for the shapes of its parameters."""


class Kind(NamedTuple):
  """A kind of model, and the fields of `config.model` that it reads besides `cell`."""

  module: str  # module of this package, with `make` and, unless it counts, `shares_cores`
  structure: tuple[str, ...]  # fields that stored parameters depend on
  others: tuple[str, ...] = ()
  has_gradient: bool = True  # False if the parameters are counts, not trained by gradients

  @property
  def fields(self) -> tuple[str, ...]:
    return self.structure + self.others


# All cells that are not listed are recurrent; `rnn.make` reports an unknown one.
RECURRENT = Kind(
  "rnn",
  ("layers", "hidden", "embed", "residual"),
  (
    "dropout",
    "input_dropout",
    "weight_drop",
    "init",
    "forget_bias",
    "compute_dtype",
    "unroll",
  ),
)
KINDS = {
  "transformer": Kind(
    "transformer",
    ("layers", "hidden", "heads", "context", "positions", "tie"),
    ("dropout", "compute_dtype"),
  ),
  "ngram": Kind("ngram", ("order",), has_gradient=False),
}


def kind(cell: str) -> Kind:
  """Return the kind of the model that `config.model.cell` names."""
  return KINDS.get(cell, RECURRENT)


def _module(cell: str):
  """Return the module of a model, which imports JAX."""
  return importlib.import_module(f"charrnn.models.{kind(cell).module}")


def has_gradient(fields: Mapping) -> bool:
  """Return True if the model with these fields of `config.model` is trained by gradients."""
  return kind(fields["cell"]).has_gradient


def shares_cores(fields: Mapping) -> bool:
  """Return True if a single JAX device that uses all cores of a CPU is the fastest.

  XLA computes small matrix products faster on one device per core. The native layers divide the
  work among the cores themselves. This may compile them.
  """
  return has_gradient(fields) and _module(fields["cell"]).shares_cores(fields)


def make(vocab_size: int, fields: Mapping, reset_id: int | None = None) -> Model:
  """Return the model for these fields of `config.model`; raise UserError if they are invalid.

  Fields that this kind of model does not read are ignored; `config.check` reports them. See `Model`
  for `reset_id`, which an n-gram does not have.
  """
  cell = fields["cell"]
  used = {name: fields[name] for name in ("cell", *kind(cell).fields) if name in fields}
  if reset_id is not None:
    used["reset_id"] = reset_id
  return _module(cell).make(vocab_size, **used)


def restore(vocab_size: int, fields: Mapping, params: Params, reset_id: int | None = None) -> Model:
  """Return the model for stored parameters, which may come from a different type of machine.

  An n-gram run stores its best order, not the maximum.
  """
  return make(vocab_size, {**fields, "unroll": "auto", "order": len(params)}, reset_id)


def shapes(vocab_size: int, fields: Mapping, batch: int = 1) -> dict[str, Any]:
  """Return the shapes of the parameters and of the carry of a network.

  Nothing is computed, and no device is started.
  """
  import jax

  model = make(vocab_size, {**fields, "unroll": "scan"})
  return {
    "params": jax.eval_shape(lambda: model.init(jax.random.key(0))),
    "carry": jax.eval_shape(lambda: model.initial_carry(batch)),
  }


def token_axes(vocab_size: int, fields: Mapping) -> Any:
  """Return, for each parameter of a network, the axis that tokens index; -1 if there is none."""
  import jax

  def axis(leaf, larger):
    return next((n for n in range(leaf.ndim) if leaf.shape[n] != larger.shape[n]), -1)

  ours, larger = (shapes(size, fields)["params"] for size in (vocab_size, vocab_size + 1))
  return jax.tree.map(axis, ours, larger)


class Size(NamedTuple):
  """The size of a network."""

  parameters: int
  # Multiplications in matrix products for each token, without look-ups. Each costs 2 floating-point
  # operations in the forward pass, and 6 in training (Kaplan et al. 2020, arXiv 2001.08361).
  products: int


def size(vocab_size: int, fields: Mapping) -> Size:
  """Return the size of a network with these fields of `config.model`."""
  names = ("cell", *kind(fields["cell"]).structure)
  return _size(vocab_size, tuple((name, fields[name]) for name in names if name in fields))


@functools.lru_cache(maxsize=1024)
def _size(vocab_size, items):
  import jax

  fields = dict(items)
  params = shapes(vocab_size, fields)["params"]
  parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
  return Size(parameters, make(vocab_size, {**fields, "unroll": "scan"}).products(params))


def activation_bytes(vocab_size: int, fields: Mapping, tokens: int) -> int:
  """Return a lower bound of the memory for the activations of a network in a training step.

  These are the logits in float32, and the quantities of all units in `compute_dtype`. `tokens` is
  the number of tokens in memory at a time.
  """
  units = make(vocab_size, {**fields, "unroll": "scan"}).units
  width = sum(sum(sizes.values()) for sizes in units.values())
  return tokens * (4 * vocab_size + (2 if fields["compute_dtype"] == "bfloat16" else 4) * width)


def units_for(count: int, vocab_size: int, fields: Mapping) -> int:
  """Return the `hidden` for which a network with these fields has closest to `count` parameters."""
  # The number of parameters is a polynomial of degree 2 in n = hidden / step.
  step = 2 * fields["heads"] if "heads" in kind(fields["cell"]).fields else 1
  first, second, third = (
    size(vocab_size, {**fields, "hidden": n * step}).parameters for n in (1, 2, 3)
  )
  a = (third - 2 * second + first) / 2
  b = second - first - 3 * a
  c = first - a - b
  n = max(1, math.floor((math.sqrt(max(0, b * b - 4 * a * (c - count))) - b) / (2 * a)))
  return step * min((n, n + 1), key=lambda n: abs(a * n * n + b * n + c - count))
