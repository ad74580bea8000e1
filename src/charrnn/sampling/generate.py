"""Reading a prompt and running freely, in ids: B rows, V symbols, a prompt of P, blocks of N steps.

A model is whatever answers `initial_carry(batch)`, `prepare(params)`, which may bring parameters
into the form that many steps read fastest, and, traced by JAX, `apply(params, ids_TxB, carry) ->
logits_TxBxV, carry, out`; `clamp=` is handed on to it only where there is one. It is a static
argument of the programs here: hashable, and compiled for once as long as the same object is
handed in.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from charrnn import errors
from charrnn.sampling import filters, options

CHUNK = 128  # characters of a prompt that are read at once


def prime(model, params, prompt_ids_P, batch):
  """Reads the same prompt into `batch` rows -> logits_BxV of what comes next, carry.

  Whole chunks by one program, what is left over by another, step by step: a prompt of any
  length compiles these two at most.
  """
  P = len(prompt_ids_P)
  if not P:
    raise ValueError("an empty prompt leaves nothing to predict from")
  ids_PxB = np.broadcast_to(np.asarray(prompt_ids_P, np.int32)[:, None], (P, batch))
  params, carry = jax.device_put(params), model.initial_carry(batch)
  for start in range(0, P - CHUNK + 1, CHUNK):
    logits_BxV, carry = _read(model, params, ids_PxB[start : start + CHUNK], carry)
  if rest := P % CHUNK:
    ids_TxB = np.pad(ids_PxB[-rest:], ((0, CHUNK - rest), (0, 0)))
    logits_BxV, carry = _read_some(model, params, ids_TxB, rest, carry)
  return logits_BxV, carry


@functools.partial(jax.jit, static_argnames="model")
def _read(model, params, ids_TxB, carry, **given):
  logits_TxBxV, carry, _ = model.apply(params, ids_TxB, carry, **given)
  return logits_TxBxV[-1], carry


@functools.partial(jax.jit, static_argnames="model")
def _read_some(model, params, ids_TxB, count, carry):
  """Reads the first `count` (at least 1) of the ids; the count is traced."""

  def step(t, before):
    return _read(model, params, lax.dynamic_slice_in_dim(ids_TxB, t, 1), before[1])

  return lax.fori_loop(1, count, step, step(0, (None, carry)))


def generate(
  model, params, prompt_ids, *, length, num, seed, settings, block=64, clamp=None, rows=None
):
  """Samples after a prompt of at least one id -> iterator of id arrays [num, n], n <= block.

  Symbol t of row r is drawn with a key of (seed, r, t) alone: neither `block` nor `num` changes
  what a row says (but for rounding, where products of another shape sum in another order).

  `clamp` sets cells from the first symbol after the prompt on, see `Model.apply`. `rows`: the
  numbers r, if not 0 to num - 1; rows of one number differ by nothing but their clamps.
  """
  options.check(length=length, num=num, seed=seed)
  rows = jnp.arange(num) if rows is None else jnp.asarray(rows)
  given = {} if clamp is None else {"clamp": clamp}

  def blocks():
    key = jax.random.key(seed)
    row_keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    on_device = jax.device_put(model.prepare(params))
    state = prime(model, on_device, prompt_ids, num)
    knobs = dataclasses.astuple(settings)
    for start in range(0, length, block):
      state, ids_NxB = _run(model, on_device, state, row_keys_B, start, knobs, block, **given)
      yield ids_NxB, min(block, length - start)

  def fetched():
    # A pair's second block is under way while its first is fetched and printed.
    for (ids_NxB, n), _ in itertools.pairwise(itertools.chain(blocks(), [None])):
      yield _check(np.asarray(ids_NxB).T[:, :n])

  return fetched() if length else iter(())


@functools.partial(jax.jit, static_argnames=("model", "block"))
def _run(model, params, state, row_keys_B, start, knobs, block, **given):
  """`block` steps on from (logits_BxV, carry) -> the same, ids_NxB; -1 where logits are broken."""
  V = state[0].shape[-1]

  def gumbel(key, t):
    return jax.random.gumbel(jax.random.fold_in(key, t), (V,))

  def step(state, noise_BxV):
    logits_BxV, carry = state
    # The largest of logits + Gumbel noise is a draw from their softmax.
    ids_B = jnp.argmax(filters.chain(logits_BxV, *knobs) + noise_BxV, -1)
    ids_B = jnp.where(jnp.isfinite(logits_BxV.max(-1)), ids_B, -1)
    return _read(model, params, ids_B[None], carry, **given), ids_B

  # All of a block's noise at once: step by step it is a fifth of the time of a small model.
  steps_N = start + jnp.arange(block)
  noise_NxBxV = jax.vmap(jax.vmap(gumbel, (0, None)), (None, 0))(row_keys_B, steps_N)
  return lax.scan(step, state, noise_NxBxV)


def _check(ids_BxN):
  if ids_BxN.min() < 0:
    raise errors.UserError(
      "the model's logits are not finite: its training has diverged; choose an earlier --step"
    )
  return ids_BxN
