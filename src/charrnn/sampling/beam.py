"""Beam search for the most probable texts.

Each step extends all K hypotheses by every token and keeps the K most probable results. A
hypothesis ends at the stop text or when no further token is allowed. It stays in the beam as long
as it is among the K most probable. Texts are compared by their total log p, which is not divided by
the length. A text that ends early therefore has an advantage.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from charrnn import errors
from charrnn.sampling import sampler, streaming

MAX_BEAM = 4096


def check(beam: int, num: int):
  """Raise UserError if `beam` is out of range or smaller than `num`."""
  errors.check("--beam", beam, 1 <= beam <= MAX_BEAM, f"must be from 1 to {MAX_BEAM}")
  rule = f"must be at most --beam={beam}, the number of hypotheses"
  errors.check("--num", num, num <= beam, rule)


def search(source: sampler.Source, prompt_ids, *, num: int, stop=None, **options):
  """Return at most `num` Samples, most probable first; see `search_ids` for the options."""
  samples, first_ids = [], sampler.first_ids(source, prompt_ids)
  options = sampler.complete(source, options)
  for ids_N, log_p in search_ids(source.model, source.params, first_ids, **options)[:num]:
    stream = streaming.TextStream(source.tokenizer, prompt_ids, stop)
    text = stream.push(ids_N, final=True)
    samples.append(sampler.Sample(text, stream.stopped, len(ids_N), log_p))
  return samples


def search_ids(
  model,
  params,
  prompt_ids,
  *,
  length,
  beam,
  block=64,
  clamp=None,
  automaton=None,
  writable=None,
  progress=None,
  reading=None,
) -> list[tuple[np.ndarray, float]]:
  """Search for the most probable continuations of a prompt by at most `length` tokens.

  Return at most `beam` pairs of ids [N] and log p in nats, most probable first. The search is exact
  if `beam` >= V^(length - 1) for V tokens. `automaton` restricts the texts; see `constraints`.
  `writable` excludes tokens; see `sampler.draw_from`.
  """
  if not length:
    return [(np.zeros(0, np.int32), 0.0)]
  params = jax.device_put(model.prepare(params))
  # All rows are the same at first, so only row 0 counts as a hypothesis.
  score_K = jnp.where(jnp.arange(beam) == 0, 0.0, -jnp.inf)
  primed = sampler.prime(model, params, prompt_ids, beam, reading)
  state = (*primed, score_K, jnp.zeros(beam, jnp.int32))
  allowed = None if automaton is None else (jax.device_put(automaton), length)
  blocks = []
  for start in range(0, length, block):
    state, steps = _run(model, params, state, start, block, allowed, clamp, writable)
    blocks.append(jax.device_get(steps))
    _, ids_NxK, log_p_NxK = blocks[-1]
    # Row 0 is the best hypothesis. Its log p is finite unless the model's logits are not.
    if not np.isfinite(log_p_NxK[:, 0]).all():
      raise sampler.not_finite()
    if progress:
      progress(min(start + block, length), length)
    if ((ids_NxK[-1] == sampler.ENDED) | (log_p_NxK[-1] == -np.inf)).all():
      break
  steps = (np.concatenate(arrays)[:length] for arrays in zip(*blocks))
  return sorted(_trace(*steps), key=lambda hypothesis: -hypothesis[1])


@functools.partial(jax.jit, static_argnames=("model", "block"))
def _run(model, params, state, start, block, allowed, clamp, writable):
  """Run `block` steps; return the state, and the arrays (parents, ids, log p), each [N, K].

  The hypotheses of a step are sorted, most probable first. A parent is the row of the previous step
  that was extended by the id. The id is ENDED if the text had already ended. log p is the
  log-probability of the id alone; it is -inf in rows without a hypothesis, if fewer than K exist.
  """
  K, V = state[0].shape

  def step(state, t):
    logits_KxV, carry, score_K, at_K = state
    log_p_KxV = sampler.mask_unwritable(jax.nn.log_softmax(logits_KxV), writable)
    ended_K = jnp.zeros(K, bool)
    if allowed is not None:
      automaton, end = allowed
      allowed_KxV = automaton.allowed(at_K, end - t)
      ended_K = ~allowed_KxV.any(-1)
      # An ended hypothesis has a single continuation, whose log p is 0.
      single_KxV = jnp.where(jnp.arange(V) == 0, 0.0, -jnp.inf)
      log_p_KxV = jnp.where(allowed_KxV, log_p_KxV, -jnp.inf)
      log_p_KxV = jnp.where(ended_K[:, None], single_KxV, log_p_KxV)
    score_K, best_K = lax.top_k((score_K[:, None] + log_p_KxV).ravel(), K)
    parents_K, ids_K = best_K // V, best_K % V
    log_p_K = jnp.where(score_K > -jnp.inf, log_p_KxV[parents_K, ids_K], -jnp.inf)
    carry = jax.tree.map(lambda leaf_KxH: leaf_KxH[parents_K], carry)
    ended_K = ended_K[parents_K]
    if allowed is not None:
      at_K = automaton.next_SxV[at_K[parents_K], ids_K]
    logits_KxV, carry = sampler.read_chunk(model, params, ids_K[None], carry, clamp)
    # Keep scores relative to the best one, because the totals of long texts would lose precision.
    state = logits_KxV, carry, score_K - score_K[0], at_K
    return state, (parents_K, jnp.where(ended_K, sampler.ENDED, ids_K), log_p_K)

  return lax.scan(step, state, start + jnp.arange(block))


def _trace(parents_NxK, ids_NxK, log_p_NxK) -> Iterator[tuple[np.ndarray, float]]:
  """Follow the parents from the last step to the first; yield the ids and log p of each text."""
  path_NxK = np.empty_like(parents_NxK)
  at_K = np.arange(path_NxK.shape[1])
  for n in reversed(range(len(path_NxK))):
    path_NxK[n], at_K = at_K, parents_NxK[n, at_K]
  ids_NxK, log_p_NxK = (np.take_along_axis(each, path_NxK, 1) for each in (ids_NxK, log_p_NxK))
  for ids_N, log_p_N in zip(ids_NxK.T, log_p_NxK.T.astype(float)):
    if np.isfinite(log_p_N).all():
      yield ids_N[ids_N != sampler.ENDED], float(log_p_N.sum())
