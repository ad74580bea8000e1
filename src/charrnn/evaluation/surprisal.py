"""How much every single character of a text surprises a model, and what it expected instead.

Surprisal is -log p of the character that came, given all before it: its mean is the loss.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from charrnn import errors
from charrnn.data import batches
from charrnn.models import layers

TOP = 5


class Predictions(NamedTuple):
  """What was said of characters before they came: [T, B] each, or [N] in the order of the text."""

  nats: Any  # -log p of the one that came
  rank: Any  # how many were thought at least as likely, itself among them: 1 is the first guess
  top_ids: Any  # [..., TOP], the likeliest, fewer if the alphabet has fewer
  top_p: Any  # [..., TOP]


class Scores(NamedTuple):
  """N characters of a text and what was said of each; NaN nats where nothing stands before it."""

  places: np.ndarray  # [N], in the ids
  predictions: Predictions

  @property
  def scored(self) -> np.ndarray:
    return ~np.isnan(self.predictions.nats)

  @property
  def mean(self) -> float:
    """The loss: mean nats of the scored characters."""
    return float(np.mean(self.predictions.nats[self.scored], dtype=np.float64))

  def within(self, segments: Sequence[tuple[int, int]]) -> "Scores":
    """The part of it whose characters lie in segments (start, stop)."""
    inside = np.zeros(len(self.places), bool)
    for start, stop in segments:
      inside |= (start <= self.places) & (self.places < stop)
    return Scores(self.places[inside], Predictions(*(each[inside] for each in self.predictions)))


def read(
  model,
  params,
  ids,
  segments,
  *,
  readers: int,
  window: int,
  burn_in: int,
  begins: Sequence[int] = (0,),
  progress: Callable[[int, int], None] | None = None,
) -> Scores:
  """All characters of segments of `ids`, by as many readers as `evaluate.evaluate` has."""
  params, carry, pieces = jax.device_put(model.prepare(params)), None, []
  total = sum(stop - first for first, stop in batches.scorable_spans(segments, begins))
  done = 0
  for x, y, weight in batches.scoring_windows(ids, segments, readers, window, burn_in, begins):
    if carry is None:
      carry = model.initial_carry(x.shape[1])
    predictions, carry = _read(model, params, carry, x, y)
    pieces.append((jax.device_get(predictions), weight))
    done += int(weight.sum())
    if progress:
      progress(done, total)
  return gather(pieces, segments, begins, "its training has diverged; choose an earlier --step")


@functools.partial(jax.jit, static_argnames="model")
def _read(model, params, carry, x_TxB, y_TxB):
  logits_TxBxV, carry, _ = model.apply(params, x_TxB, carry)
  return predict(logits_TxBxV, y_TxB), carry


def predict(logits_TxBxV, y_TxB) -> Predictions:
  nats_TxB = layers.cross_entropy(logits_TxBxV, y_TxB)
  log_p_TxBxV = jax.nn.log_softmax(logits_TxBxV)
  rank_TxB = (log_p_TxBxV >= -nats_TxB[..., None]).sum(-1)
  top, top_ids = lax.top_k(log_p_TxBxV, min(TOP, log_p_TxBxV.shape[-1]))
  return Predictions(nats_TxB, rank_TxB, top_ids, jnp.exp(top))


def gather(pieces, segments, begins, remedy: str) -> Scores:
  """Windows of (predictions, weight_TxB), as `batches.scoring_windows` cut them, as one text.

  Raises UserError with a remedy where the model has said what is no number.
  """
  places = [np.arange(start, stop) for start, stop in segments]
  places = np.concatenate([np.zeros(0, np.int64), *places])
  scored = ~np.isin(places, begins)
  if not scored.any():
    raise errors.UserError("there is nothing to score: two characters are the least")
  # Reader by reader is the order of the text.
  weight_BxT = np.concatenate([weight for _, weight in pieces]).T
  windows = zip(*(predictions for predictions, _ in pieces))
  found = [np.concatenate(field).swapaxes(0, 1)[weight_BxT == 1] for field in windows]
  if not np.isfinite(found[0]).all():
    raise errors.UserError(f"the model's logits are not finite: {remedy}")
  return Scores(places, Predictions(*(_spread(field, scored) for field in found)))


def _spread(field, scored):
  """Values for the scored characters, and none (NaN or 0) for the others."""
  none = np.nan if field.dtype.kind == "f" else 0
  spread = np.full((len(scored), *field.shape[1:]), none, field.dtype)
  spread[scored] = field
  return spread
