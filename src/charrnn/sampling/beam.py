"""Beam search: the most probable texts that can be found, K hypotheses side by side.

Each step goes on with the K most probable of all hypotheses longer by a symbol. One that has ended
(at a stop text, or since nothing more may follow) keeps its place as it is while no K others are
more probable. What counts is log p of the whole text, not divided by its length: a text that ends
early has an advantage.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from charrnn import errors
from charrnn.sampling import generate


class Text(NamedTuple):
  ids_N: np.ndarray
  log_p: float  # of these ids, under the model


class _Step(NamedTuple):
  """A step of all hypotheses, [K] each, most probable first; `parents`: which they continue."""

  parents: jax.Array
  ids: jax.Array  # ENDED where there was none to add
  log_p: jax.Array  # of the id; -inf: there are no more than the hypotheses before this one


def search(
  model, params, prompt_ids, *, length, beam, block=64, clamp=None, automaton=None, progress=None
):
  """The most probable texts after a prompt, `beam` at most -> Texts, most probable first.

  With K >= V^(length - 1) for V symbols they are the most probable of all. `automaton`: what texts
  may be, see `automata`.
  """
  if not length:
    return [Text(np.zeros(0, np.int32), 0.0)]
  params = jax.device_put(model.prepare(params))
  # All rows are alike at first: one of them is a hypothesis, the rest are none.
  score_K = jnp.where(jnp.arange(beam) == 0, 0.0, -jnp.inf)
  state = *generate.prime(model, params, prompt_ids, beam), score_K, jnp.zeros(beam, jnp.int32)
  given = {} if clamp is None else {"clamp": clamp}
  allowed = None if automaton is None else (jax.device_put(automaton), length)
  blocks = []
  for start in range(0, length, block):
    state, steps = _run(model, params, state, start, block, allowed, **given)
    blocks.append(_check(jax.device_get(steps)))
    if progress:
      progress(min(start + block, length), length)
    if ((blocks[-1].ids[-1] == generate.ENDED) | (blocks[-1].log_p[-1] == -np.inf)).all():
      break
  steps = _Step(*[np.concatenate(arrays)[:length] for arrays in zip(*blocks)])
  return sorted(_trace(steps), key=lambda text: -text.log_p)


@functools.partial(jax.jit, static_argnames=("model", "block"))
def _run(model, params, state, start, block, allowed, **given):
  """`block` steps on -> the same, a _Step with [N, K] each."""
  K, V = state[0].shape

  def step(state, t):
    logits_KxV, carry, score_K, at_K = state
    log_p_KxV = jax.nn.log_softmax(logits_KxV)
    ended_K = jnp.zeros(K, bool)
    if allowed is not None:
      automaton, end = allowed
      may_come_KxV = automaton.may_come(at_K, end - t)
      ended_K = ~may_come_KxV.any(-1)
      # One that has ended goes on in one way alone, and for nothing.
      alone_KxV = jnp.where(jnp.arange(V) == 0, 0.0, -jnp.inf)
      log_p_KxV = jnp.where(may_come_KxV, log_p_KxV, -jnp.inf)
      log_p_KxV = jnp.where(ended_K[:, None], alone_KxV, log_p_KxV)
    score_K, chosen_K = lax.top_k((score_K[:, None] + log_p_KxV).ravel(), K)
    parents_K, ids_K = chosen_K // V, chosen_K % V
    log_p_K = jnp.where(score_K > -jnp.inf, log_p_KxV[parents_K, ids_K], -jnp.inf)
    carry = jax.tree.map(lambda leaf_KxH: leaf_KxH[parents_K], carry)
    ended_K = ended_K[parents_K]
    if allowed is not None:
      at_K = automaton.next_SxV[at_K[parents_K], ids_K]
    logits_KxV, carry = generate.read_chunk(model, params, ids_K[None], carry, **given)
    # Relative to the best: differences stay exact, however long the text.
    state = logits_KxV, carry, score_K - score_K[0], at_K
    return state, _Step(parents_K, jnp.where(ended_K, generate.ENDED, ids_K), log_p_K)

  return lax.scan(step, state, start + jnp.arange(block))


def _check(steps):
  # The best hypothesis has a log p, unless there are none for the model to give.
  if not np.isfinite(steps.log_p[:, 0]).all():
    raise errors.UserError(generate.DIVERGED)
  return steps


def _trace(steps):
  """From the last step back to the first -> Texts."""
  at_K = np.arange(steps.ids.shape[1])
  ids_NxK, log_p_NxK = np.empty_like(steps.ids), np.empty(steps.ids.shape)
  for n in reversed(range(len(steps.ids))):
    ids_NxK[n], log_p_NxK[n] = steps.ids[n, at_K], steps.log_p[n, at_K]
    at_K = steps.parents[n, at_K]
  for ids_N, log_p_N in zip(ids_NxK.T, log_p_NxK.T):
    if np.isfinite(log_p_N).all():
      yield Text(ids_N[ids_N != generate.ENDED], float(log_p_N.sum()))
