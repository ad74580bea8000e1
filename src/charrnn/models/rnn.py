"""The recurrent network: an optional embedding, a stack of recurrent layers, and an output layer.

The input is ids and the output is logits. Parameters, named as in the equations:

  embed     W_e [V, E]                                        (only with an embedding)
  layer_0   W_xh [V or E, G*H], W_hh [H, G*H], b_h [G*H]      (G gates; the GRU adds b_hn [H])
  layer_1   W_xh [H, G*H], ...
  head      W_hy [H, V], b_y [V]
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from charrnn import errors
from charrnn.models import cells, native, native_library
from charrnn.models import layers as layers_lib


def uniform(scale):
  """Return an initializer that samples from U(-scale, scale)."""
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -scale, scale)


def orthogonal_blocks(key, shape, dtype=jnp.float32):
  """Return one orthogonal [H, H] matrix per gate (Saxe et al. 2013), concatenated to [H, G*H]."""
  H, GH = shape
  keys = jax.random.split(key, GH // H)
  return jnp.concatenate([nn.initializers.orthogonal()(k, (H, H), dtype) for k in keys], axis=1)


# Initial parameters by role; `forget_bias` then replaces the bias of a forget gate. `uniform`: all
# from U(-0.08, 0.08), as in char-rnn. `modern`: orthogonal recurrent weights, zero biases,
# and input weights large enough for one token to saturate a gate. Weights between layers make
# pre-activations 1.7 times as large as the states of the layer below; the output layer uses the
# same range. With learning rate 4e-3, 600 steps on Shakespeare reach 1.7 nats per character; the
# common U(-1, 1) / sqrt(H) reaches 2.2.
INITIALIZERS = {
  "uniform": lambda H: dict.fromkeys(
    ("one_hot", "table", "input", "recurrent", "bias"), uniform(0.08)
  ),
  "modern": lambda H: {
    "one_hot": nn.initializers.normal(2.0),
    "table": nn.initializers.normal(1.0),
    "input": uniform(3 * H**-0.5),
    "recurrent": orthogonal_blocks,
    "bias": nn.initializers.zeros,
  },
}


PACKED = "packed"  # the Flax collection of the parameters in the layout of native.cc


def choose_implementation(cell: cells.Cell, unroll: str, resets: bool = False) -> str:
  """Return what computes the layers: "native", "cudnn" or "scan".

  `resets`: whether the state is reset within a window, which only the scan can do.
  """
  if resets:
    return "scan"
  if cell.native and native_library.is_used(unroll):
    return "native"
  if cell.cudnn and (unroll == "cudnn" or (unroll == "auto" and layers_lib.has_cudnn())):
    return "cudnn"
  return "scan"


class Embed(nn.Module):
  """A learned embedding: ids [T, B] -> [T, B, width]."""

  vocab: int
  width: int
  table: nn.initializers.Initializer

  @nn.compact
  def __call__(self, ids_TxB):
    return layers_lib.select(ids_TxB, self.param("W_e", self.table, (self.vocab, self.width)))


class Layer(nn.Module):
  """A recurrent layer; `implementation` is a result of `choose_implementation`."""

  cell: cells.Cell
  hidden: int
  initializers: dict
  forget_bias: float
  compute_dtype: str
  implementation: str
  weight_drop: float
  number: int

  @nn.compact
  def __call__(self, x, width, state, is_reset_TxB, rngs, record, clamp):
    """Run the layer on x [T, B, width] or ids [T, B]; return (state, h_TxBxH, recorded)."""
    H, GH = self.hidden, self.hidden * len(self.cell.gates)
    reads_ids = cells.is_ids(x)
    input_initializer = self.initializers["one_hot" if reads_ids else "input"]
    params = {
      "W_xh": self.param("W_xh", input_initializer, (width, GH)),
      "W_hh": self.param("W_hh", self.initializers["recurrent"], (H, GH)),
      "b_h": self.param("b_h", self._bias, (GH,)),
    }
    for name in self.cell.biases:
      params[name] = self.param(name, self.initializers["bias"], (H,))
    params["W_hh"] = layers_lib.drop_weights(params["W_hh"], rngs, self.number, self.weight_drop)
    dtype = jnp.dtype(self.compute_dtype)
    if record or clamp or not self.cell.update:
      return layers_lib.scan_layer(self.cell, dtype, params, state, x, clamp, is_reset_TxB)
    if self.implementation == "native":
      packed = self.get_variable(PACKED, "parameters")
      return *native.layer(self.cell, dtype, params, state, x, packed), None
    # cuDNN runs only windows of several steps. Sampling, which takes single steps, stays with XLA.
    if self.implementation == "cudnn" and len(x) > 1:
      return *layers_lib.cudnn_layer(params, state, x), None
    return *layers_lib.fast_layer(self.cell, dtype, params, state, x, is_reset_TxB), None

  def _bias(self, key, shape):
    """Return the initial b_h, with `forget_bias` for the forget gate (Gers et al. 2000)."""
    b_h = self.initializers["bias"](key, shape, jnp.float32)
    if "f" not in self.cell.gates:
      return b_h
    f = self.cell.gates.index("f") * self.hidden
    return b_h.at[f : f + self.hidden].set(self.forget_bias)


class Head(nn.Module):
  """The output layer: h [T, B, H] -> logits [T, B, vocab]."""

  vocab: int
  initializers: dict
  compute_dtype: str
  implementation: str

  @nn.compact
  def __call__(self, h_TxBxH):
    W_hy = self.param("W_hy", self.initializers["input"], (h_TxBxH.shape[-1], self.vocab))
    b_y = self.param("b_y", self.initializers["bias"], (self.vocab,))
    dtype = jnp.dtype(self.compute_dtype)
    if self.implementation == "native":
      return native.linear(h_TxBxH, W_hy, b_y, dtype, self.get_variable(PACKED, "parameters"))
    return layers_lib.linear(h_TxBxH, W_hy, dtype) + b_y


class Network(nn.Module):
  """The network as a Flax module; `make` maps the fields of `config.model` to its fields.

  Dropout applies to the embedding, to the output of every layer, and to the weights W_hh.
  """

  vocab: int
  cell: str
  layers: int
  hidden: int
  embed: int = 0
  residual: bool = False
  dropout: float = 0.0
  input_dropout: float = 0.0
  weight_drop: float = 0.0
  initializer: str = "modern"
  forget_bias: float = 1.0
  compute_dtype: str = "float32"
  unroll: str = "auto"
  reset_id: int | None = None

  @property
  def implementation(self) -> str:
    resets = self.reset_id is not None
    return choose_implementation(cells.CELLS[self.cell], self.unroll, resets)

  @nn.compact
  def __call__(self, ids_TxB, carry, rngs=None, record=False, clamp=None):
    initializers = INITIALIZERS[self.initializer](self.hidden)
    x, width, after, recorded = ids_TxB, self.vocab, [], {}
    cell = cells.CELLS[self.cell]
    implementation = self.implementation
    is_reset_TxB = None if self.reset_id is None else ids_TxB == self.reset_id
    if self.embed:
      width = self.embed
      x = Embed(self.vocab, width, initializers["table"], name="embed")(x)
      x = layers_lib.dropout(x, rngs, self.layers, self.input_dropout)
    for n, before in enumerate(carry):
      name = f"layer_{n}"
      settings = self.forget_bias, self.compute_dtype, implementation, self.weight_drop, n
      layer = Layer(cell, self.hidden, initializers, *settings, name=name)
      units = (clamp or {}).get(name)
      state, h, recorded[name] = layer(x, width, before, is_reset_TxB, rngs, record, units)
      after.append(state)
      if self.residual and n:
        h += x
      x, width = layers_lib.dropout(h, rngs, n, self.dropout), self.hidden
    head = Head(self.vocab, initializers, self.compute_dtype, implementation, name="head")
    return head(x), tuple(after), recorded if record else None


class RNN:
  """The network as a `models.Model`."""

  has_gradient = can_hold = True

  def __init__(self, network: Network):
    self.network = network
    self.vocab_size, self.reset_id = network.vocab, network.reset_id

  @property
  def description(self):
    network = self.network
    inputs = f"embedding of width {network.embed}" if network.embed else "one-hot input"
    shape = f"{network.layers} x {network.hidden} units"
    parts = [network.cell, shape, inputs, f"dropout {network.dropout:g}"]
    parts += [f"input dropout {rate:g}"] if (rate := network.input_dropout) else []
    parts += [f"weight drop {rate:g}"] if (rate := network.weight_drop) else []
    parts += ["residual layers"] if network.residual else []
    return ", ".join(parts)

  @property
  def cell(self) -> cells.Cell:
    return cells.CELLS[self.network.cell]

  @functools.cached_property
  def units(self):
    quantities = (*self.cell.state._fields, *self.cell.recorded)
    sizes = dict.fromkeys(quantities, self.network.hidden)
    return {f"layer_{n}": sizes for n in range(self.network.layers)}

  @property
  def states(self):
    return self.cell.state._fields

  @property
  def implementation(self) -> str:
    """A description of what computes the layers, and why, if "auto" falls back to the scan."""
    cell, unroll = self.cell, self.network.unroll
    name = self.network.implementation
    if name == "native":
      return str(native_library.load())
    if self.reset_id is not None:
      return f"{name}, with resets between documents"
    if cell.native and unroll == "auto" and jax.default_backend() == "cpu":
      return f"{name} ({native_library.fallback_reason()})"
    return name

  def init(self, key):
    """Return initial parameters. Recording selects the scan, which is traced without a device."""
    ids_TxB = jnp.zeros((1, 1), jnp.int32)
    return self.network.init(key, ids_TxB, self.initial_carry(1), record=True)["params"]

  def initial_carry(self, batch):
    """Return a zero state for every layer; each array is [batch, H]."""
    state, shape = self.cell.state, (batch, self.network.hidden)
    # Create a separate buffer for each array, because aliased arrays cannot be donated.
    layers = range(self.network.layers)
    return tuple(state(*(jnp.zeros(shape) for _ in state._fields)) for _ in layers)

  def prepare(self, params):
    """Cast and pack the weights of matrix products once, instead of in every call of `apply`."""
    dtype = jnp.dtype(self.network.compute_dtype)
    prepared = {name: layers_lib.cast(part, dtype) for name, part in params.items()}
    if "embed" in params:
      prepared["embed"] = params["embed"]  # used for look-up only
    if self.network.implementation == "native":
      packed = {"head": native.pack_linear(dtype, params["head"]["W_hy"])}
      reader = None if self.network.embed else "layer_0"  # the layer that reads ids
      for name in self.units:
        packed[name] = native.pack(self.cell, dtype, params[name], reads_ids=name == reader)
      prepared[PACKED] = {name: {"parameters": each} for name, each in packed.items()}
    return prepared

  def products(self, params):
    matrices = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 2)
    # The ids select rows of this matrix.
    table = params["embed"]["W_e"] if self.network.embed else params["layer_0"]["W_xh"]
    return matrices - table.size

  def apply(self, params, ids_TxB, carry, *, rngs=None, record=False, clamp=None):
    if carry is None:
      carry = self.initial_carry(ids_TxB.shape[1])
    variables = {"params": {k: v for k, v in params.items() if k != PACKED}}
    if PACKED in params:
      variables[PACKED] = params[PACKED]
    return self.network.apply(variables, ids_TxB, carry, rngs, record, clamp)


def shares_cores(fields: Mapping) -> bool:
  """Return the result of `models.shares_cores`."""
  if fields["hidden"] >= layers_lib.MIN_SHARED:
    return True
  cell = cells.CELLS.get(fields["cell"])  # `make` reports an unknown cell
  return cell is not None and cell.native and native_library.is_expected(fields["unroll"])


def make(vocab_size: int, *, init="modern", **fields) -> RNN:
  """Return the network for these fields of `config.model`; raise UserError if they are invalid."""
  for name, value, choices in (
    ("cell", fields["cell"], cells.CELLS),
    ("init", init, INITIALIZERS),
    ("unroll", fields.get("unroll", "auto"), ("auto", "scan", "native", "cudnn")),
  ):
    if value not in choices:
      raise errors.UserError(f"--config.model.{name}={value}: use one of {', '.join(choices)}")
  network = Network(vocab_size, initializer=init, **fields)
  cell, unroll, forget_bias = network.cell, network.unroll, network.forget_bias
  if forget_bias != 1 and "f" not in cells.CELLS[cell].gates:
    raise errors.UserError(
      f"--config.model.forget_bias={forget_bias}: the cell {cell} has no forget gate; "
      "remove this option"
    )
  if network.input_dropout and not network.embed:
    raise errors.UserError(
      f"--config.model.input_dropout={network.input_dropout}: needs an embedding: set "
      "--config.model.embed, for example to 64"
    )
  if (network.embed or vocab_size) > network.hidden and not cells.CELLS[cell].wide_inputs:
    raise errors.UserError(
      f"--config.model.cell={cell}: the inputs of the first layer must not have more elements than "
      f"model.hidden={network.hidden}: set --config.model.embed to at most this number"
    )
  if network.residual and network.layers == 1:
    raise errors.UserError(
      "--config.model.residual=True: has no effect on a single layer: set --config.model.layers, "
      "for example to 2"
    )
  _check_unroll(cells.CELLS[cell], cell, unroll)
  return RNN(network)


def _check_unroll(cell: cells.Cell, name: str, unroll: str):
  """Raise UserError if this machine cannot compute the layers with this value of `unroll`."""
  if unroll == "cudnn" and not (cell.cudnn and layers_lib.has_cudnn()):
    raise errors.UserError(
      "--config.model.unroll=cudnn: cuDNN runs only the LSTM, and only on NVIDIA GPUs; use auto"
    )
  if unroll != "native":
    return
  if not cell.native:
    raise errors.UserError(
      f"--config.model.unroll=native: the cell {name} has no native implementation; use auto"
    )
  if (platform := jax.default_backend()) != "cpu":
    raise errors.UserError(
      f"--config.model.unroll=native: JAX uses a {platform}, and the native layers run only on "
      "CPUs; use auto, or set JAX_PLATFORMS=cpu"
    )
  try:
    native_library.load()
  except native_library.UnavailableError as error:
    raise errors.UserError(f"--config.model.unroll=native: {error}") from error
