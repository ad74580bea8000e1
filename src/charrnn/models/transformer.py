"""A GPT-style decoder: an embedding, blocks of attention and an MLP, and an output layer.

The input is ids and the output is logits. Parameters, named as in the equations of `Block`:

  embed     W_e [V, D], and with learned positions W_p [C, D]
  layer_0   norm_1 {scale [D], bias [D]}, W_qkv [D, 3*D], b_qkv [3*D], W_o [D, D], b_o [D],
            norm_2 {scale [D], bias [D]}, W_up [D, 4*D], b_up [4*D], W_down [4*D, D], b_down [D]
  layer_1   ...
  norm      scale [D], bias [D]
  head      W_hy [D, V]                                (absent if the output layer uses W_e)

A token attends to the last C tokens, itself included. The carry contains the keys and values of the
tokens before a window, as in Transformer-XL (Dai et al. 2019, arXiv 1901.02860), so the result does
not depend on how a text is cut into windows. Without a carry, a window of C tokens is a sequence of
GPT-2 (Radford et al. 2019).

Axis letters in addition to `models`: D is the width of all layers, C the length of the context, A
the attention heads, F the features of a head, and S the tokens that a window attends to: those of
the carry, followed by its own.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from charrnn import errors
from charrnn.models import layers

POSITIONS = ("rotary", "learned")
BASE = 10_000.0  # 2 pi BASE tokens is the longest wavelength of rotary positions


class Cache(NamedTuple):
  """The last C keys, before their rotation, and values of a layer, in `compute_dtype`."""

  k: jax.Array  # [B, C, A, F]
  v: jax.Array


class Carry(NamedTuple):
  """The tokens before a window. If there are fewer than C of them, the caches begin with zeros."""

  read: jax.Array  # [B], int32: the number n of tokens so far; C + n % C if that is less
  layers: tuple[Cache, ...]


class Config(NamedTuple):
  """The fields of `config.model`."""

  vocab: int
  layers: int
  hidden: int
  heads: int
  context: int
  positions: str = "rotary"
  tie: bool = False
  dropout: float = 0.0
  compute_dtype: str = "float32"
  reset_id: int | None = None


class Embed(nn.Module):
  """The embedding of ids and of learned positions."""

  c: Config

  def setup(self):
    normal = nn.initializers.normal(0.02)
    self.W_e = self.param("W_e", normal, (self.c.vocab, self.c.hidden))
    if self.c.positions == "learned":
      self.W_p = self.param("W_p", normal, (self.c.context, self.c.hidden))

  def __call__(self, ids_TxB, positions_TxB):
    x_TxBxD = layers.select(ids_TxB, self.W_e)
    if self.c.positions == "learned":
      x_TxBxD += layers.select(positions_TxB % self.c.context, self.W_p)
    return x_TxBxD


class Head(nn.Module):
  """The output layer: h [T, B, D] -> logits [T, B, V]."""

  c: Config

  @nn.compact
  def __call__(self, h_TxBxD):
    W_hy = self.param("W_hy", nn.initializers.normal(0.02), (self.c.hidden, self.c.vocab))
    return layers.linear(h_TxBxD, W_hy, jnp.dtype(self.c.compute_dtype))


class Block(nn.Module):
  """A layer of the residual stream x.

  q, k, v = W_qkv norm_1(x) + b_qkv
  x' = x + W_o attention(q, k, v) + b_o
  m = gelu(W_up norm_2(x') + b_up)
  h = x' + W_down m + b_down
  """

  c: Config
  number: int

  @nn.compact
  def __call__(self, x_TxBxD, cache: Cache, visible_BxTxS, rngs, clamp: Mapping):
    """Return h [T, B, D], the cache after the window, and the recorded quantities."""
    c, D = self.c, self.c.hidden
    # GPT-2 keeps the sum of 2 L outputs at the scale of one.
    to_residual = 0.02 / (2 * c.layers) ** 0.5
    drop = functools.partial(layers.dropout, rngs=rngs, rate=c.dropout)
    qkv_TxBx3D = self._linear("qkv", _norm("norm_1")(x_TxBxD), 3 * D)
    y_TxBxD, cache = self._attend(qkv_TxBx3D, cache, visible_BxTxS)
    x_TxBxD += drop(self._linear("o", y_TxBxD, D, to_residual), number=2 * self.number + 1)
    m_TxBxH = nn.gelu(self._linear("up", _norm("norm_2")(x_TxBxD), 4 * D))
    m_TxBxH = _clamp(m_TxBxH, clamp.get("m"))
    h_TxBxD = x_TxBxD + drop(
      self._linear("down", m_TxBxH, D, to_residual), number=2 * self.number + 2
    )
    h_TxBxD = _clamp(h_TxBxD, clamp.get("h"))
    return h_TxBxD, cache, {"h": h_TxBxD, "m": m_TxBxH}

  def _linear(self, name, x_TxBxD, width, deviation=0.02):
    W = self.param(f"W_{name}", nn.initializers.normal(deviation), (x_TxBxD.shape[-1], width))
    b = self.param(f"b_{name}", nn.initializers.zeros, (width,))
    return layers.linear(x_TxBxD, W, jnp.dtype(self.c.compute_dtype)) + b

  def _attend(self, qkv_TxBx3D, cache, visible_BxTxS):
    """Return the outputs of all heads, [T, B, D], and the cache after the window."""
    c, (T, B, _) = self.c, qkv_TxBx3D.shape
    qkv_TxBx3xAxF = qkv_TxBx3D.reshape(T, B, 3, c.heads, -1)
    # Round all keys, because those in the cache are rounded.
    q, k, v = qkv_TxBx3xAxF.transpose(2, 1, 0, 3, 4).astype(c.compute_dtype)
    k, v = (jnp.concatenate(pair, axis=1) for pair in zip(cache, (k, v)))
    cache = Cache(_last(k, c.context), _last(v, c.context))
    if c.positions == "rotary":
      k = _rotate(k)
      q = _rotate(q)
    # Large products in bfloat16 are fast on a CPU, small ones are not. `init` starts no device.
    is_cpu = self.is_initializing() or jax.default_backend() == "cpu"
    q, k, v = (each.astype("float32" if is_cpu else c.compute_dtype) for each in (q, k, v))
    y_BxTxAxF = jax.nn.dot_product_attention(q, k, v, mask=visible_BxTxS[:, None])
    return y_BxTxAxF.swapaxes(0, 1).reshape(T, B, -1), cache


def _norm(name):
  return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


def _clamp(units_TxBxH, clamp):
  """Return units with the clamped ones replaced; `clamp` is (mask, values) or None."""
  return units_TxBxH if clamp is None else jnp.where(*clamp, units_TxBxH)


def _last(x_BxSxAxF, count):
  """Return the last `count` tokens, after zeros if there are fewer."""
  missing = max(0, count - x_BxSxAxF.shape[1])
  return jnp.pad(x_BxSxAxF, ((0, 0), (missing, 0), (0, 0), (0, 0)))[:, -count:]


def _rotate(x_BxSxAxF):
  """Rotate pairs of features by angles proportional to the position (Su et al. 2021).

  The last token has position 0. The product of a rotated query and a rotated key depends only on
  the distance between their tokens.
  """
  S, half = x_BxSxAxF.shape[1], x_BxSxAxF.shape[-1] // 2
  angles_Sx1xF = np.arange(1 - S, 1)[:, None, None] * BASE ** (-np.arange(half) / half)
  cos, sin = np.cos(angles_Sx1xF).astype("float32"), np.sin(angles_Sx1xF).astype("float32")
  x, y = jnp.split(x_BxSxAxF.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([x * cos - y * sin, x * sin + y * cos], axis=-1)


class Network(nn.Module):
  """The network as a Flax module.

  Dropout applies to the embedding and to the outputs of attention and MLP.
  """

  c: Config

  @nn.compact
  def __call__(self, ids_TxB, carry: Carry, rngs=None, record=False, clamp=None):
    """Return logits_TxBxV, the carry after the window, and the recorded quantities."""
    c, T = self.c, len(ids_TxB)
    steps_Tx1 = np.arange(T)[:, None]  # The tokens of the carry have negative numbers.
    keys_S = np.arange(-carry.layers[0].k.shape[1], T)
    is_near_TxS = (steps_Tx1 - c.context < keys_S) & (keys_S <= steps_Tx1)
    ages_TxB = self._ages(ids_TxB, carry.read)
    visible_BxTxS = is_near_TxS & (keys_S >= (steps_Tx1 - ages_TxB).T[..., None])
    embed = Embed(c, name="embed")
    x_TxBxD = layers.dropout(embed(ids_TxB, ages_TxB), rngs, 0, c.dropout)
    after, recorded = [], {}
    for n, before in enumerate(carry.layers):
      name = f"layer_{n}"
      block, units = Block(c, n, name=name), (clamp or {}).get(name, {})
      x_TxBxD, cache, recorded[name] = block(x_TxBxD, before, visible_BxTxS, rngs, units)
      after.append(cache)
    h_TxBxD = _norm("norm")(x_TxBxD)
    if c.tie:
      logits_TxBxV = layers.unembed(h_TxBxD, embed.W_e, jnp.dtype(c.compute_dtype))
    else:
      logits_TxBxV = Head(c, name="head")(h_TxBxD)
    read = ages_TxB[-1] + 1
    read = jnp.minimum(read, c.context + read % c.context)
    return logits_TxBxV, Carry(read, tuple(after)), recorded if record else None

  def _ages(self, ids_TxB, read_B):
    """Return the number of tokens before each token: all tokens, or those after a reset."""
    steps_Tx1 = np.arange(len(ids_TxB))[:, None]
    if self.c.reset_id is None:
      return read_B + steps_Tx1
    # The step of the latest reset, or the negative number of the tokens before the window.
    resets_TxB = jnp.where(ids_TxB == self.c.reset_id, steps_Tx1, -read_B)
    return steps_Tx1 - jax.lax.cummax(resets_TxB)


class Transformer:
  """The network as a `models.Model`.

  Its units are the residual stream h after a block, and the activations m of the MLP.
  """

  has_gradient = True
  can_hold = False
  states = ("h", "m")
  implementation = "jax.nn.dot_product_attention"

  def __init__(self, config: Config):
    self.config, self.vocab_size, self.reset_id = config, config.vocab, config.reset_id
    sizes = {"h": config.hidden, "m": 4 * config.hidden}
    self.units = {f"layer_{n}": sizes for n in range(config.layers)}
    self._network = Network(config)

  @property
  def description(self):
    c = self.config
    shape = f"{c.layers} blocks of width {c.hidden}, {c.heads} heads"
    context = f"context of {c.context} tokens, {c.positions} positions"
    tied = ", tied embedding" if c.tie else ""
    return f"transformer, {shape}, {context}{tied}, dropout {c.dropout:g}"

  def init(self, key):
    ids_TxB = jnp.zeros((1, 1), jnp.int32)
    return self._network.init(key, ids_TxB, self._carry(1, 0))["params"]

  def initial_carry(self, batch):
    return self._carry(batch, self.config.context)

  def _carry(self, batch, tokens):
    """Return a carry without tokens, whose caches have the length `tokens`."""
    c = self.config
    shape = batch, tokens, c.heads, c.hidden // c.heads
    # Create a separate buffer for each array, because aliased arrays cannot be donated.
    caches = (Cache(*(jnp.zeros(shape, c.compute_dtype) for _ in "kv")) for _ in range(c.layers))
    return Carry(jnp.zeros(batch, jnp.int32), tuple(caches))

  def prepare(self, params):
    """Cast the weights of matrix products once, instead of in every call of `apply`."""
    dtype = self.config.compute_dtype
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.ndim > 1 else leaf, params)
    return {**cast, "embed": params["embed"]}  # Look-ups are in float32.

  def products(self, params):
    c = self.config
    matrices = {**params, "embed": params["embed"]["W_e"] if c.tie else ()}
    weights = sum(leaf.size for leaf in jax.tree.leaves(matrices) if leaf.ndim == 2)
    # Every token has a product with `context` keys, and one with as many values. Without the carry,
    # these are half as many on average. Training costs 12 L D C for them (Chowdhery et al. 2022).
    return weights + 2 * c.layers * c.hidden * c.context

  def apply(self, params, ids_TxB, carry, *, rngs=None, record=False, clamp=None):
    if carry is None:
      carry = self._carry(ids_TxB.shape[1], 0)
    return self._network.apply({"params": params}, ids_TxB, carry, rngs, record, clamp)


def shares_cores(fields: Mapping) -> bool:
  """Return the result of `models.shares_cores`."""
  return fields["hidden"] >= layers.MIN_SHARED


def make(vocab_size: int, *, cell: str, **fields) -> Transformer:
  """Return the network for these fields of `config.model`; raise UserError if they are invalid."""
  del cell
  c = Config(vocab_size, **fields)
  if c.positions not in POSITIONS:
    raise errors.UserError(
      f"--config.model.positions={c.positions}: use one of {', '.join(POSITIONS)}"
    )
  if c.hidden % (2 * c.heads):
    raise errors.UserError(
      f"--config.model.heads={c.heads}: --config.model.hidden={c.hidden} must be divisible by "
      f"{2 * c.heads}, so that each head has an even number of features"
    )
  return Transformer(c)
