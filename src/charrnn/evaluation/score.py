"""Scores of text: the loop that runs a model over it, and the measurements of its logits.

B: streams, T: window, N: tokens, K: number of most probable tokens stored.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special

from charrnn import errors
from charrnn.data import batches
from charrnn.models import layers
from charrnn.sampling import sampler
from charrnn.training import steps

K = 5
RESCORING_WINDOW = 64
Progress = Callable[[int, int], None]  # (done, total)


class Prediction(NamedTuple):
  """A model's prediction of tokens, [T, B] each."""

  nats: Any  # -log p of the observed token
  rank: Any  # the number of tokens that were at least as probable, itself included
  top_ids: Any  # [T, B, K], the most probable tokens; fewer in a small vocabulary
  top_p: Any  # [T, B, K]


class Scores(NamedTuple):
  """Predictions of N tokens of a text. The first token of a document has none: nats is NaN."""

  positions: np.ndarray  # [N], in the ids
  nats: np.ndarray  # [N]
  rank: np.ndarray  # [N]
  top_ids: np.ndarray  # [N, K]
  top_p: np.ndarray  # [N, K]

  @property
  def is_scored(self) -> np.ndarray:
    return ~np.isnan(self.nats)

  @property
  def log_probs(self) -> np.ndarray:
    """The log-probability of each token, in nats, [N]."""
    return -self.nats

  @property
  def mean(self) -> float:
    """The loss: mean nats of the scored tokens."""
    return float(np.mean(self.nats[self.is_scored], dtype=np.float64))

  def within(self, spans: Sequence[tuple[int, int]]) -> "Scores":
    """Return the scores of the tokens in spans."""
    inside = np.zeros(len(self.positions), bool)
    for start, stop in spans:
      inside |= (start <= self.positions) & (self.positions < stop)
    return Scores(*(field[inside] for field in self))


def windows(
  model,
  params,
  ids,
  spans: Sequence[tuple[int, int]],
  *,
  measure: Callable,
  window: int,
  streams: int = 1,
  burn_in: int = 0,
  starts: Sequence[int] = (0,),
  record: bool = False,
  clamp: Any = None,
  carry: Any = None,
  copies: int = 1,
) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
  """Run a model over spans of a text; yield a measurement of each window, on the host.

  Yields `measure(logits_TxBxV, y_TxB, recorded)`, positions_TxB of the targets y and weight_TxB,
  see `batches.scoring_windows`. `measure` is traced by JAX; arguments in a jax.tree_util.Partial
  may change without another compilation. `carry`: before the first window, instead of the
  initial one. `copies`: rows that read each stream side by side, for a `clamp` [B * copies, H].
  """
  params = jax.device_put(model.prepare(params))
  if not isinstance(measure, jax.tree_util.Partial):
    measure = jax.tree_util.Partial(measure)

  def step(carry, x_TxB, y_TxB, _):
    x_TxB, y_TxB = (np.repeat(array, copies, axis=1) for array in (x_TxB, y_TxB))
    return _measure(model, record, measure, params, carry, x_TxB, y_TxB, clamp)

  def initial_carry(batch):
    return model.initial_carry(batch * copies) if carry is None else carry

  cut = batches.scoring_windows(ids, spans, streams, window, burn_in, starts)
  for values, batch in _run(step, initial_carry, cut):
    yield values, batch.positions, batch.weight


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(model, record, measure, params, carry, x_TxB, y_TxB, clamp):
  logits_TxBxV, carry, recorded = model.apply(params, x_TxB, carry, record=record, clamp=clamp)
  return measure(logits_TxBxV, y_TxB, recorded), carry


def _run(step, initial_carry, cut) -> Iterator[tuple[Any, batches.ScoringWindow]]:
  """Yield the values of `step(carry, x, y, weight) -> values, carry` and each window."""
  carry = previous = None
  for batch in cut:
    if carry is None:
      carry = initial_carry(batch.x.shape[1])
    values, carry = step(carry, batch.x, batch.y, batch.weight)
    if previous:  # fetched while the device computes the next window
      yield jax.device_get(previous[0]), previous[1]
    previous = values, batch
  if previous:
    yield jax.device_get(previous[0]), previous[1]


def loss(
  model,
  params,
  ids,
  spans: Sequence[tuple[int, int]],
  *,
  window: int,
  streams: int,
  burn_in: int,
  starts: Sequence[int] = (0,),
) -> float:
  """Return the mean nats per token of spans, computed on all devices; NaN if none is scored."""
  step, total, count = functools.partial(_loss_step(model), params), 0.0, 0.0
  cut = batches.scoring_windows(ids, spans, streams, window, burn_in, starts)
  for nats, batch in _run(step, lambda batch: None, cut):
    total += float(nats)
    count += float(batch.weight.sum())
  return total / count if count else math.nan


_loss_step = functools.lru_cache(maxsize=2)(steps.LossStep)  # a new one is compiled again


def score(
  model,
  params,
  ids,
  spans: Sequence[tuple[int, int]],
  *,
  window: int,
  streams: int = 1,
  burn_in: int = 0,
  starts: Sequence[int] = (0,),
  progress: Progress | None = None,
) -> Scores:
  """Return the scores of all tokens of spans."""
  pieces, done = [], 0
  total = sum(stop - first for first, stop in batches.scorable_spans(spans, starts))
  how = {"window": window, "streams": streams, "burn_in": burn_in, "starts": starts}
  for values, _, weight in windows(model, params, ids, spans, measure=predict, **how):
    pieces.append((values, weight))
    done += int(weight.sum())
    if progress:
      progress(done, total)
  return gather(pieces, spans, starts)


def predict(logits_TxBxV, y_TxB, recorded=None) -> Prediction:
  """Return the prediction of the tokens y."""
  del recorded
  nats_TxB = layers.cross_entropy(logits_TxBxV, y_TxB)
  log_p_TxBxV = jax.nn.log_softmax(logits_TxBxV)
  rank_TxB = (log_p_TxBxV >= -nats_TxB[..., None]).sum(-1)
  top, top_ids = lax.top_k(log_p_TxBxV, min(K, log_p_TxBxV.shape[-1]))
  return Prediction(nats_TxB, rank_TxB, top_ids, jnp.exp(top))


def gather(pieces, spans, starts, *remedy: str) -> Scores:
  """Return windows of (prediction, weight_TxB), cut by `scoring_windows`, in the order of the text.

  `remedy`: of `sampler.not_finite`, which is raised if a prediction is not finite.
  """
  positions = np.concatenate([np.zeros(0, np.int64), *(np.arange(*span) for span in spans)])
  is_scored = ~np.isin(positions, starts)
  if not is_scored.any():
    raise errors.UserError("there is nothing to score: a text needs at least two characters")
  # The order of the streams is that of the text.
  weight_BxT = np.concatenate([weight for _, weight in pieces]).T
  scattered = []  # NaN or 0 for the tokens that are not scored
  for field in zip(*(prediction for prediction, _ in pieces)):
    values = np.concatenate(field).swapaxes(0, 1)[weight_BxT == 1]
    missing = np.nan if values.dtype.kind == "f" else 0
    scattered.append(np.full((len(positions), *values.shape[1:]), missing, values.dtype))
    scattered[-1][is_scored] = values
  if not np.isfinite(scattered[0][is_scored]).all():
    raise sampler.not_finite(*remedy)
  return Scores(positions, *scattered)


def rescore(
  model, params, prompt_ids_P, ids_BxN: np.ndarray, settings: sampler.Settings
) -> list[np.ndarray]:
  """Score sampled texts again, each after the same prompt.

  Return two arrays [B, N], in nats: the entropy of the distribution that each token was sampled
  from, and its -log p by the model itself.
  """
  (B, N), P = ids_BxN.shape, len(prompt_ids_P)
  ids = np.concatenate([np.tile(np.asarray(prompt_ids_P, np.int32), (B, 1)), ids_BxN], axis=1)
  starts = np.arange(B) * (P + N)
  spans = [(start + P, start + P + N) for start in starts.tolist()]
  measure = jax.tree_util.Partial(_measure_draw, dataclasses.astuple(settings))
  how = {"window": RESCORING_WINDOW, "streams": B, "burn_in": P, "starts": starts}
  pieces = list(windows(model, params, ids.ravel(), spans, measure=measure, **how))
  is_scored_BxT = np.concatenate([weight for *_, weight in pieces]).T == 1
  fields = zip(*(values for values, *_ in pieces))
  rescored = [np.concatenate(field).T[is_scored_BxT].reshape(B, N) for field in fields]
  if not np.isfinite(rescored).all():
    raise sampler.not_finite()
  return rescored


def _measure_draw(settings, logits_TxBxV, y_TxB, _):
  """Return the entropy of the sampling distribution and the nats of the tokens, [T, B] each."""
  p_TxBxV = jax.nn.softmax(sampler.filter_logits(logits_TxBxV, *settings))
  return special.entr(p_TxBxV).sum(-1), layers.cross_entropy(logits_TxBxV, y_TxB)
