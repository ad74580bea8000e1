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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from charrnn import errors
from charrnn.sampling import filters, options

CHUNK = 128  # characters of a prompt that are read at once
ENDED, BROKEN = -1, -2  # in the place of ids
DIVERGED = "the model's logits are not finite: its training has diverged; choose an earlier --step"


class Block(NamedTuple):
  """What was drawn in some steps: ids, and the logarithms of their probabilities, [B, N] each.

  log p is the model's; log q is of the draw itself, with constraint, temperature and filters.
  Where a text had ended, the id is ENDED and both are 0.
  """

  ids_BxN: np.ndarray
  log_p_BxN: np.ndarray
  log_q_BxN: np.ndarray
  state: Any  # (logits_BxV, carry) after a whole block of steps, N of them or more


def prime(model, params, prompt_ids_P, batch):
  """Reads the same prompt into `batch` rows -> logits_BxV of what comes next, carry."""
  if not len(prompt_ids_P):
    raise ValueError("an empty prompt leaves nothing to predict from")
  state = read(model, jax.device_put(params), prompt_ids_P, model.initial_carry(1))
  return jax.tree.map(lambda leaf: jnp.repeat(leaf, batch, axis=0), state)


def read(model, params, ids_P, carry, clamp=None):
  """Reads at least one id into a single row on from `carry` -> logits_1xV, carry.

  Whole chunks by one program, what is left over by another, step by step: any number of ids
  compiles these two at most.
  """
  ids_Px1, given = np.asarray(ids_P, np.int32)[:, None], _given(clamp)
  for start in range(0, len(ids_P) - CHUNK + 1, CHUNK):
    logits_1xV, carry = read_chunk(model, params, ids_Px1[start : start + CHUNK], carry, **given)
  if rest := len(ids_P) % CHUNK:
    ids_Tx1 = np.pad(ids_Px1[-rest:], ((0, CHUNK - rest), (0, 0)))
    logits_1xV, carry = _read_some(model, params, ids_Tx1, rest, carry, **given)
  return logits_1xV, carry


def _given(clamp):
  return {} if clamp is None else {"clamp": clamp}


@functools.partial(jax.jit, static_argnames="model")
def read_chunk(model, params, ids_TxB, carry, **given):
  """Reads ids on from `carry` -> logits_BxV of what comes next, carry."""
  logits_TxBxV, carry, _ = model.apply(params, ids_TxB, carry, **given)
  return logits_TxBxV[-1], carry


@functools.partial(jax.jit, static_argnames="model")
def _read_some(model, params, ids_TxB, count, carry, **given):
  """Reads the first `count` (at least 1) of the ids; the count is traced."""

  def step(t, before):
    return read_chunk(model, params, lax.dynamic_slice_in_dim(ids_TxB, t, 1), before[1], **given)

  return lax.fori_loop(1, count, step, step(0, (None, carry)))


def generate(model, params, prompt_ids, **asked):
  """`draw`, but for the ids alone -> iterator of id arrays [num, n], n <= block."""
  return (block.ids_BxN for block in draw(model, params, prompt_ids, **asked))


def draw(model, params, prompt_ids, *, length, num, seed, clamp=None, rows=None, **asked):
  """Samples after a prompt of at least one id -> iterator of Blocks.

  Symbol t of row r is drawn with a key of (seed, r, t) alone: neither `block` nor `num` changes
  what a row says (but for rounding, where products of another shape sum in another order).

  `clamp` sets cells from the first symbol after the prompt on, see `Model.apply`. `rows`: the
  numbers r, if not 0 to num - 1; rows of one number differ by nothing but their clamps. For the
  rest see `go_on`.
  """
  options.check(length=length, num=num, seed=seed)
  rows = jnp.arange(num) if rows is None else jnp.asarray(rows)
  asked |= {"length": length, "clamp": clamp}

  def blocks():
    on_device = jax.device_put(model.prepare(params))
    state = prime(model, on_device, prompt_ids, num)
    yield from go_on(model, on_device, state, row_keys(seed, rows), **asked)

  return blocks() if length else iter(())


def row_keys(seed, rows):
  """The keys of rows, for `go_on`."""
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows)


def go_on(
  model,
  params,
  state,
  row_keys_B,
  *,
  length,
  settings,
  start=0,
  block=64,
  clamp=None,
  automaton=None,
):
  """Samples on from `state`, as `prime` gave it with prepared parameters -> iterator of Blocks.

  They are of `block` steps but for the last. `settings`: options.Settings; `start`: t of the first
  symbol.

  With an automaton (see `automata`) only such symbols are drawn from which a good text can still
  be reached within the length. This is not the model's distribution given that the text is good:
  that would weigh each symbol by how probable a good text is after it, where this only asks if
  there is one. It draws too often what leads into corners, and exp(log p - log q) of a text is the
  weight that makes up for it.
  """
  knobs, given = dataclasses.astuple(settings), _given(clamp)
  allowed = None if automaton is None else (jax.device_put(automaton), start + length)

  def blocks():
    now = *state, jnp.zeros(len(row_keys_B), jnp.int32)
    for n in range(0, length, block):
      now, drawn = _run(model, params, now, row_keys_B, start + n, knobs, block, allowed, **given)
      yield drawn, now[:2], min(block, length - n)

  # A pair's second block is under way while its first is fetched and printed.
  for (drawn, after, n), _ in itertools.pairwise(itertools.chain(blocks(), [None])):
    fetched = _check(Block(*[np.asarray(array_NxB).T[:, :n] for array_NxB in drawn], after))
    yield fetched
    if (fetched.ids_BxN[:, -1] == ENDED).all():
      return


@functools.partial(jax.jit, static_argnames=("model", "block"))
def _run(model, params, state, row_keys_B, start, knobs, block, allowed, **given):
  """`block` steps on from (logits_BxV, carry, states of the automaton) -> the same, drawn."""
  V = state[0].shape[-1]

  def gumbel(key, t):
    return jax.random.gumbel(jax.random.fold_in(key, t), (V,))

  def step(state, now):
    (logits_BxV, carry, at_B), (t, noise_BxV) = state, now
    masked_BxV, ended_B = logits_BxV, False
    if allowed is not None:
      automaton, end = allowed
      may_come_BxV = automaton.may_come(at_B, end - t)
      masked_BxV = jnp.where(may_come_BxV, logits_BxV, -jnp.inf)
      ended_B = ~may_come_BxV.any(-1)
    filtered_BxV = filters.chain(masked_BxV, *knobs)
    # The largest of logits + Gumbel noise is a draw from their softmax.
    ids_B = jnp.argmax(filtered_BxV + noise_BxV, -1)
    if allowed is not None:
      at_B = automaton.next_SxV[at_B, ids_B]
    after = *read_chunk(model, params, ids_B[None], carry, **given), at_B
    broken_B = ~jnp.isfinite(masked_BxV.max(-1))
    said_B = jnp.where(ended_B, ENDED, jnp.where(broken_B, BROKEN, ids_B))
    return after, (said_B, logits_BxV, filtered_BxV)

  # All of a block's noise at once: step by step it is a fifth of the time of a small model. And
  # all of its log p: a twentieth.
  steps_N = start + jnp.arange(block)
  noise_NxBxV = jax.vmap(jax.vmap(gumbel, (0, None)), (None, 0))(row_keys_B, steps_N)
  state, (ids_NxB, logits_NxBxV, filtered_NxBxV) = lax.scan(step, state, (steps_N, noise_NxBxV))
  log_p_NxB, log_q_NxB = (_log_p(each, ids_NxB) for each in (logits_NxBxV, filtered_NxBxV))
  return state, (ids_NxB, log_p_NxB, log_q_NxB)


def _log_p(logits_NxBxV, ids_NxB):
  """log p of the ids, 0 where there are none."""
  ids_NxBx1 = jnp.maximum(ids_NxB, 0)[..., None]
  log_p_NxB = jnp.take_along_axis(jax.nn.log_softmax(logits_NxBxV), ids_NxBx1, -1)[..., 0]
  return jnp.where(ids_NxB < 0, 0.0, log_p_NxB)


def _check(block):
  if block.ids_BxN.min() == BROKEN:
    raise errors.UserError(DIVERGED)
  return block
