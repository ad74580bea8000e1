"""Dynamic evaluation: score a text while the parameters learn from it.

The text is split into segments s_1, s_2, ... of 20 tokens. The current parameters score a segment
and then take one step of stochastic gradient descent on its mean loss L. Gradients are clipped to a
norm of 5 (Mikolov et al. 2010; "SGD" in Krause et al. 2018, arXiv 1709.07432):

  g = dL(s_i; theta_i) / d theta,   theta_(i+1) = theta_i - rate g / max(1, |g| / 5)

The carry passes from segment to segment. Gradients do not flow into earlier segments.

The extensions of Krause et al. do not help here. All gains are on the first 30,000 characters of
Shakespeare's validation split, with a 2 x 256 LSTM that reaches 1.356 nats without learning. Rates
of 0.1, 0.2, 0.3, 0.5 and 0.8 gain 0.098, 0.111, 0.116, 0.108 and 0.084 nats. At rate 0.3, segments
of 10 and 50 characters gain 0.109 and 0.099 nats. Decay towards the trained parameters by 0.0005 or
0.003 per segment reduces the gain to 0.115 and 0.100 nats. Gradients divided by their root mean
square on the training text gain at most 0.105 nats, over seven settings.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from charrnn import errors
from charrnn.data import batches, splits
from charrnn.evaluation import score as score_lib
from charrnn.models import layers

SEGMENT_LENGTH = 20  # number of tokens
MAX_NORM = 5.0  # norm at which gradients are clipped; the few larger ones would harm learning
SEGMENTS_PER_CALL = 50
MAX_LOSS = 100  # nats per token, above which learning has diverged


def score(
  model,
  params,
  ids,
  spans: Sequence[tuple[int, int]],
  *,
  rate: float,
  burn_in: int,
  starts: Sequence[int] = (0,),
  progress: score_lib.Progress | None = None,
) -> score_lib.Scores:
  """Return the scores of all tokens in `spans`, read as one stream.

  The parameters are reset at the start of each document (`starts`). The carry is rebuilt from the
  `burn_in` tokens before each span that follows a gap.
  """
  spans, pieces, done = splits.merge(spans), [], 0
  scorable, document_starts = list(batches.scorable_spans(spans, starts)), set(starts)
  total = sum(stop - first for first, stop in scorable)
  trained = adapted = jax.device_put(params)
  for first, stop in scorable:
    if first - 1 in document_starts:
      adapted = trained
    state = adapted, model.initial_carry(1)
    window = SEGMENTS_PER_CALL * SEGMENT_LENGTH
    # A multiple of the segment length, so that the first segment begins with the first target.
    context = burn_in // SEGMENT_LENGTH * SEGMENT_LENGTH
    span = [(first, stop)]
    arguments = ids, span, 1, window, context, starts, model.reset_id
    for x, y, weight, _ in batches.scoring_windows(*arguments):
      state, prediction = _score_and_learn(model, rate, state, x, y, weight)
      pieces.append((jax.device_get(prediction), weight))
      done += int(weight.sum())
      if progress:
        progress(done, total)
    adapted = state[0]
  remedy = "the learning of --dynamic has diverged; use a smaller rate"
  scores = score_lib.gather(pieces, spans, starts, remedy)
  if scores.mean > MAX_LOSS:
    raise errors.UserError(f"a loss of {scores.mean:.3g} nats: {remedy}")
  return scores


@functools.partial(jax.jit, static_argnames="model")
def _score_and_learn(model, rate, state, x_Tx1, y_Tx1, weight_Tx1):
  """Return (params, carry) after a window, and the predictions of its tokens."""

  def loss_fn(params, carry, x_Sx1, y_Sx1, weight_Sx1):
    logits, carry, _ = model.apply(params, x_Sx1, carry)
    nats = (layers.cross_entropy(logits, y_Sx1) * weight_Sx1).sum()
    return nats / jnp.maximum(weight_Sx1.sum(), 1), (carry, score_lib.predict(logits, y_Sx1))

  def step(state, segment):
    params, carry = state
    grads, (carry, prediction) = jax.grad(loss_fn, has_aux=True)(params, carry, *segment)
    norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(grads)))
    scale = rate / jnp.maximum(1, norm / MAX_NORM)
    params = jax.tree.map(lambda leaf, grad: leaf - scale * grad, params, grads)
    return (params, carry), prediction

  segments = [array.reshape(-1, SEGMENT_LENGTH, 1) for array in (x_Tx1, y_Tx1, weight_Tx1)]
  state, prediction = jax.lax.scan(step, state, tuple(segments))
  return state, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), prediction)
