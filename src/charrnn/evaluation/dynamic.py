"""Dynamic evaluation: the parameters follow the text that is scored.

The text is read in segments s_1, s_2, ... of 20 characters. Each is scored by the parameters before
it, and only then learned from, by one step of stochastic gradient descent on its mean loss L whose
gradient is scaled down to a norm of 5 where it is greater (Mikolov et al. 2010; "SGD" in Krause et
al. 2018, arXiv 1709.07432):

  g = dL(s_i; theta_i) / d theta,   theta_(i+1) = theta_i - rate g / max(1, |g| / 5)

The state is carried on, and no gradient flows from a segment into those before.

What Krause et al. add to this does not pay here. On the first 30,000 characters of the validation
part of Shakespeare (2 x 256 LSTM, 1.356 nats without), rates of 0.1, 0.2, 0.3, 0.5 and 0.8 gain
0.098, 0.111, 0.116, 0.108 and 0.084 nats; at 0.3, segments of 10 and 50 characters gain 0.109 and
0.099, and a decay back to the trained parameters by 0.0005 or 0.003 a segment leaves 0.115 and
0.100. Gradients divided by their root mean square on the training text gain at most 0.105, at the
seven settings that were tried.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from charrnn import errors
from charrnn.data import batches, splits
from charrnn.evaluation import surprisal
from charrnn.models import layers

SEGMENT = 20  # characters
CLIP = 5.0  # of the gradient's norm: few segments have more, and those are to do no harm
_BLOCK = 50  # segments of one call
_DIVERGED = 100  # nats a character


def read(
  model,
  params,
  ids,
  segments,
  *,
  rate: float,
  burn_in: int,
  begins: Sequence[int] = (0,),
  progress: Callable[[int, int], None] | None = None,
) -> surprisal.Scores:
  """All characters of segments of `ids`, from the first to the last.

  At the places `begins` the parameters are the trained ones again and the state is zero. Elsewhere
  the parameters are carried from segment to segment; where text is left out between two, the state
  comes from the `burn_in` characters before, which are not learned from.
  """
  segments, pieces, done = splits.merge(segments), [], 0
  stretches, anew = list(batches.scorable_spans(segments, begins)), set(begins)
  total = sum(stop - first for first, stop in stretches)
  trained = adapted = jax.device_put(params)
  for first, stop in stretches:
    if first - 1 in anew:
      adapted = trained
    state = adapted, model.initial_carry(1)
    window = _BLOCK * SEGMENT
    whole = burn_in // SEGMENT * SEGMENT  # so that the first segment begins with what is scored
    for arrays in batches.scoring_windows(ids, [(first, stop)], 1, window, whole, begins):
      state, predictions = _block(model, rate, state, *arrays)
      pieces.append((jax.device_get(predictions), arrays[-1]))
      done += int(arrays[-1].sum())
      if progress:
        progress(done, total)
    adapted = state[0]
  remedy = "what it learns has made it diverge; give --dynamic a smaller rate"
  found = surprisal.gather(pieces, segments, begins, remedy)
  if found.mean > _DIVERGED:
    raise errors.UserError(f"a loss of {found.mean:.3g} nats: {remedy}")
  return found


@functools.partial(jax.jit, static_argnames="model")
def _block(model, rate, state, x_Tx1, y_Tx1, weight_Tx1):
  """Segment by segment on from (params, carry) -> the same, predictions of all."""

  def loss_fn(params, carry, x_Sx1, y_Sx1, weight_Sx1):
    logits, carry, _ = model.apply(params, x_Sx1, carry)
    nats = (layers.cross_entropy(logits, y_Sx1) * weight_Sx1).sum()
    return nats / jnp.maximum(weight_Sx1.sum(), 1), (carry, surprisal.predict(logits, y_Sx1))

  def step(state, segment):
    params, carry = state
    grads, (carry, predictions) = jax.grad(loss_fn, has_aux=True)(params, carry, *segment)
    norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(grads)))
    scale = rate / jnp.maximum(1, norm / CLIP)
    params = jax.tree.map(lambda leaf, grad: leaf - scale * grad, params, grads)
    return (params, carry), predictions

  cut = [array.reshape(-1, SEGMENT, 1) for array in (x_Tx1, y_Tx1, weight_Tx1)]
  state, predictions = jax.lax.scan(step, state, tuple(cut))
  return state, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), predictions)
