"""Beam search: the most probable texts among K hypotheses side by side.

Each step keeps the K most probable of all continuations by one token. A hypothesis that has ended
(at a stop text, or because nothing more is allowed) keeps its place as long as fewer than K others
are more probable. Texts compare by log p of the whole text, not divided by its length, so that a
text that ends early has an advantage.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from charrnn.sampling import sampler, streaming

MAX_BEAM = 4096


def check(beam: int, num: int):
  """Raise UserError for a beam out of range, or too narrow for `num` texts."""
  if not 1 <= beam <= MAX_BEAM:
    sampler.refuse("beam", beam, f"must be from 1 to {MAX_BEAM}")
  if num > beam:
    sampler.refuse("num", num, f"must be at most --beam={beam}, the number of texts that are found")


def search(source: sampler.Source, prompt_ids, *, num: int, stop=None, **options):
  """Return the `num` most probable texts as Samples; see `search_ids` for the options."""
  samples, first_ids = [], sampler.first_ids(source, prompt_ids)
  for ids_N, log_p in search_ids(source.model, source.params, first_ids, **options)[:num]:
    stream = streaming.TextStream(source.tokenizer, prompt_ids, stop)
    text = stream.push(ids_N, final=True)
    samples.append(sampler.Sample(text, stream.stopped, len(ids_N), log_p))
  return samples


def search_ids(
  model, params, prompt_ids, *, length, beam, block=64, clamp=None, automaton=None, progress=None
) -> list[tuple[np.ndarray, float]]:
  """Return ids [N] and log p of at most `beam` hypotheses after a prompt, most probable first.

  With K >= V^(length - 1) for V tokens they are the most probable texts of all. `automaton`: the
  texts that are allowed, see `constraints`.
  """
  if not length:
    return [(np.zeros(0, np.int32), 0.0)]
  params = jax.device_put(model.prepare(params))
  # All rows are equal at first: one of them is a hypothesis, the rest are not.
  score_K = jnp.where(jnp.arange(beam) == 0, 0.0, -jnp.inf)
  state = *sampler.prime(model, params, prompt_ids, beam), score_K, jnp.zeros(beam, jnp.int32)
  allowed = None if automaton is None else (jax.device_put(automaton), length)
  blocks = []
  for start in range(0, length, block):
    state, steps = _run(model, params, state, start, block, allowed, clamp)
    blocks.append(jax.device_get(steps))
    _, ids_NxK, log_p_NxK = blocks[-1]
    # The best hypothesis has a finite log p, unless the model's logits are not finite.
    if not np.isfinite(log_p_NxK[:, 0]).all():
      raise sampler.not_finite()
    if progress:
      progress(min(start + block, length), length)
    if ((ids_NxK[-1] == sampler.ENDED) | (log_p_NxK[-1] == -np.inf)).all():
      break
  steps = (np.concatenate(arrays)[:length] for arrays in zip(*blocks))
  return sorted(_trace(*steps), key=lambda hypothesis: -hypothesis[1])


@functools.partial(jax.jit, static_argnames=("model", "block"))
def _run(model, params, state, start, block, allowed, clamp):
  """Run `block` steps; return the state, and parents, ids and log p of the hypotheses, [N, K] each.

  The most probable one comes first. It continues its parent, a hypothesis of the step before, by
  an id, or by ENDED if no token was added. log p is -inf where there are fewer than K hypotheses.
  """
  K, V = state[0].shape

  def step(state, t):
    logits_KxV, carry, score_K, at_K = state
    log_p_KxV = jax.nn.log_softmax(logits_KxV)
    ended_K = jnp.zeros(K, bool)
    if allowed is not None:
      automaton, end = allowed
      allowed_KxV = automaton.allowed(at_K, end - t)
      ended_K = ~allowed_KxV.any(-1)
      # A hypothesis that has ended has one continuation, at no cost.
      single_KxV = jnp.where(jnp.arange(V) == 0, 0.0, -jnp.inf)
      log_p_KxV = jnp.where(allowed_KxV, log_p_KxV, -jnp.inf)
      log_p_KxV = jnp.where(ended_K[:, None], single_KxV, log_p_KxV)
    score_K, chosen_K = lax.top_k((score_K[:, None] + log_p_KxV).ravel(), K)
    parents_K, ids_K = chosen_K // V, chosen_K % V
    log_p_K = jnp.where(score_K > -jnp.inf, log_p_KxV[parents_K, ids_K], -jnp.inf)
    carry = jax.tree.map(lambda leaf_KxH: leaf_KxH[parents_K], carry)
    ended_K = ended_K[parents_K]
    if allowed is not None:
      at_K = automaton.next_SxV[at_K[parents_K], ids_K]
    logits_KxV, carry = sampler.read_chunk(model, params, ids_K[None], carry, clamp)
    # Relative to the best: differences stay exact, however long the text.
    state = logits_KxV, carry, score_K - score_K[0], at_K
    return state, (parents_K, jnp.where(ended_K, sampler.ENDED, ids_K), log_p_K)

  return lax.scan(step, state, start + jnp.arange(block))


def _trace(parents_NxK, ids_NxK, log_p_NxK) -> Iterator[tuple[np.ndarray, float]]:
  """Follow the parents from the last step to the first; yield ids and log p."""
  path_NxK = np.empty_like(parents_NxK)
  at_K = np.arange(path_NxK.shape[1])
  for n in reversed(range(len(path_NxK))):
    path_NxK[n], at_K = at_K, parents_NxK[n, at_K]
  ids_NxK, log_p_NxK = (np.take_along_axis(each, path_NxK, 1) for each in (ids_NxK, log_p_NxK))
  for ids_N, log_p_N in zip(ids_NxK.T, log_p_NxK.T.astype(float)):
    if np.isfinite(log_p_N).all():
      yield ids_N[ids_N != sampler.ENDED], float(log_p_N.sum())
