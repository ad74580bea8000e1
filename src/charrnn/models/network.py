"""The whole network: ids in, a stack of recurrent layers, logits out.

Shapes: T time, B batch, V alphabet, E embedding, H hidden. Parameters, named by the equations:

  embed     W_e [V, E]                                        (only if there is an embedding)
  layer_0   W_xh [V or E, G*H], W_hh [H, G*H], b_h [G*H]      (G gates; the GRU adds b_hn [H])
  layer_1   W_xh [H, G*H], ...
  head      W_hy [H, V], b_y [V]
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from charrnn import errors
from charrnn.models import cells, cudnn, unroll


def uniform(scale):
  def initializer(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -scale, scale)

  return initializer


def orthogonal_blocks(key, shape, dtype=jnp.float32):
  """An orthogonal [H, H] matrix for every gate (Saxe et al. 2013), side by side: [H, G*H]."""
  H, GH = shape
  keys = jax.random.split(key, GH // H)
  return jnp.concatenate([nn.initializers.orthogonal()(k, (H, H), dtype) for k in keys], axis=1)


# How parameters start, by role. `uniform` is 2015's: all of them from U(-0.08, 0.08). `modern`:
# orthogonal recurrence, no biases, and inputs that are heard from the first step on: a character
# alone can open or close a gate, and a state, whose entries are about 0.3 in the beginning, gives
# pre-activations of about that size above. 600 steps on Shakespeare at a rate of 4e-3 come to 1.7
# nats a character, and to 2.2 from the usual U(-1, 1) / sqrt(H).
INITIALIZERS = {
  "uniform": lambda H: {
    "one_hot": uniform(0.08),
    "table": uniform(0.08),
    "input": uniform(0.08),
    "recurrent": uniform(0.08),
    "bias": uniform(0.08),
  },
  "modern": lambda H: {
    "one_hot": nn.initializers.normal(2.0),
    "table": nn.initializers.normal(1.0),
    "input": uniform(3 * H**-0.5),
    "recurrent": orthogonal_blocks,
    "bias": nn.initializers.zeros,
  },
}


class Embed(nn.Module):
  vocab: int
  width: int
  table: nn.initializers.Initializer

  @nn.compact
  def __call__(self, ids_TxB):
    return unroll.select(ids_TxB, self.param("W_e", self.table, (self.vocab, self.width)))


class Layer(nn.Module):
  cell: cells.Cell
  hidden: int
  initializers: dict
  forget_bias: float
  compute_dtype: str
  unroll: str

  @nn.compact
  def __call__(self, x, width, state, record, clamp):
    """x [T, B, width] or ids [T, B] -> state, h_TxBxH, and if asked every state and gate."""
    H, GH = self.hidden, self.hidden * len(self.cell.gates)
    reads_ids = jnp.issubdtype(x.dtype, jnp.integer)
    input_initializer = self.initializers["one_hot" if reads_ids else "input"]
    params = {
      "W_xh": self.param("W_xh", input_initializer, (width, GH)),
      "W_hh": self.param("W_hh", self.initializers["recurrent"], (H, GH)),
      "b_h": self.param("b_h", self._bias, (GH,)),
    }
    for name in self.cell.biases:
      params[name] = self.param(name, self.initializers["bias"], (H,))
    dtype = jnp.dtype(self.compute_dtype)
    if record or clamp:
      return unroll.scan_layer(self.cell, unroll.cast(params, dtype), state, x, clamp)
    if self._by_cudnn(len(x)):
      return *cudnn.lstm_layer(params, state, x), None
    return *unroll.fast_layer(self.cell, dtype, params, state, x), None

  def _by_cudnn(self, steps):
    wanted = self.unroll == "cudnn" or (self.unroll == "auto" and cudnn.available())
    # A single step, as in sampling, is left to XLA: expected to be faster, not measured.
    return wanted and self.cell == cells.CELLS["lstm"] and steps > 1

  def _bias(self, key, shape):
    """An LSTM's forget gate starts open (Gers 2000)."""
    b_h = self.initializers["bias"](key, shape, jnp.float32)
    if "f" not in self.cell.gates:
      return b_h
    f = self.cell.gates.index("f") * self.hidden
    return b_h.at[f : f + self.hidden].set(self.forget_bias)


class Head(nn.Module):
  vocab: int
  initializers: dict
  compute_dtype: str

  @nn.compact
  def __call__(self, h_TxBxH):
    W_hy = self.param("W_hy", self.initializers["input"], (h_TxBxH.shape[-1], self.vocab))
    b_y = self.param("b_y", self.initializers["bias"], (self.vocab,))
    return unroll.linear(h_TxBxH, W_hy, jnp.dtype(self.compute_dtype)) + b_y


def dropout(x_TxBxH, row_keys_B, layer, rate):
  """Zeroes at `rate`, with a key for each row: rows are masked alike on any number of devices."""
  T, _, H = x_TxBxH.shape

  def bits(key):
    return jax.random.bits(jax.random.fold_in(key, layer), (T, H), jnp.uint16)

  keep_TxBxH = jax.vmap(bits, out_axes=1)(row_keys_B) >= round(rate * 2**16)
  return jnp.where(keep_TxBxH, x_TxBxH / (1 - rate), 0.0)


class Network(nn.Module):
  vocab: int
  cell: str
  layers: int
  hidden: int
  embed: int
  dropout: float
  initializer: str
  forget_bias: float
  compute_dtype: str
  unroll: str

  @nn.compact
  def __call__(self, ids_TxB, carry, row_keys_B=None, record=False, clamp=None):
    initializers = INITIALIZERS[self.initializer](self.hidden)
    x, width, after, out = ids_TxB, self.vocab, [], {}
    if self.embed:
      width = self.embed
      x = Embed(self.vocab, width, initializers["table"], name="embed")(x)
    for n, before in enumerate(carry):
      layer = Layer(
        cells.CELLS[self.cell],
        self.hidden,
        initializers,
        self.forget_bias,
        self.compute_dtype,
        self.unroll,
        name=f"layer_{n}",
      )
      name = f"layer_{n}"
      state, x, out[name] = layer(x, width, before, record, (clamp or {}).get(name))
      width = self.hidden
      after.append(state)
      if row_keys_B is not None and self.dropout:
        x = dropout(x, row_keys_B, n, self.dropout)
    logits_TxBxV = Head(self.vocab, initializers, self.compute_dtype, name="head")(x)
    return logits_TxBxV, tuple(after), out if record else None


class Model:
  """What every program holds: parameters and carry go in and out, nothing is kept inside."""

  def __init__(self, network):
    self.network = network

  def init(self, key):
    """Parameters as a plain dict of dicts, float32."""
    ids_TxB = jnp.zeros((1, 1), jnp.int32)
    return self.network.init(key, ids_TxB, self.initial_carry(1))["params"]

  def initial_carry(self, batch):
    """A state of zeros for every layer, [batch, H] each: nothing has been read."""
    hidden, layers = self.network.hidden, self.network.layers
    return tuple(self.cell.zero_state(batch, hidden) for _ in range(layers))

  @property
  def cell(self):
    return cells.CELLS[self.network.cell]

  def prepare(self, params):
    """The parameters with the weights of products in the compute dtype, for `apply` as before.

    A program that reads them at every step, as sampling does, would convert them at every step.
    """
    dtype = jnp.dtype(self.network.compute_dtype)
    table = {"embed": params["embed"]} if "embed" in params else {}  # it is only looked up in
    return {name: unroll.cast(part, dtype) for name, part in params.items()} | table

  def apply(self, params, ids_TxB, carry, *, row_keys_B=None, record=False, clamp=None):
    """(params, ids [T, B], carry) -> logits_TxBxV, carry, out.

    `row_keys_B`: a key for each row switches dropout on. `record`: `out` holds every state and
    gate, out["layer_0"]["c"] of shape [T, B, H]; else it is None. `clamp` sets cells after every
    step: clamp["layer_0"]["c"] = (where, value), each [H] or [B, H]; a NaN keeps what was.
    """
    return self.network.apply({"params": params}, ids_TxB, carry, row_keys_B, record, clamp)


def make(
  vocab,
  *,
  cell,
  layers,
  hidden,
  embed,
  dropout,
  init,
  forget_bias,
  compute_dtype,
  unroll="auto",
  order=None,
):
  """A model from the fields of `config.model`; raises UserError for what it has no program for."""
  choices = {
    "cell": (cell, cells.CELLS),
    "init": (init, INITIALIZERS),
    "unroll": (unroll, ("auto", "scan", "cudnn")),
  }
  for name, (value, known) in choices.items():
    if value not in known:
      raise errors.UserError(f"--config.model.{name}={value}: use one of {', '.join(known)}")
  if order is not None:
    raise errors.UserError(f"--config.model.order={order}: only an ngram has one, not a {cell}")
  if forget_bias != 1 and "f" not in cells.CELLS[cell].gates:
    raise errors.UserError(f"--config.model.forget_bias={forget_bias}: a {cell} has no forget gate")
  if unroll == "cudnn" and not (cell == "lstm" and cudnn.available()):
    raise errors.UserError(
      "--config.model.unroll=cudnn: it has an lstm alone, on NVIDIA GPUs; use auto"
    )
  return Model(
    Network(vocab, cell, layers, hidden, embed, dropout, init, forget_bias, compute_dtype, unroll)
  )


def cross_entropy(logits_TxBxV, y_TxB):
  """-log p(y) in nats for every character, [T, B]."""
  log_p = jax.nn.log_softmax(logits_TxBxV)
  # A comparison instead of a gather: its gradient is no scatter, which is slow on a CPU.
  chosen = jnp.arange(logits_TxBxV.shape[-1]) == y_TxB[..., None]
  return -jnp.where(chosen, log_p, 0.0).sum(-1)
