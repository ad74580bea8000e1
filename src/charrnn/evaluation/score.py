"""Scores of text under a model: the loop over its windows, and the measurements of the logits.

B: streams, T: window, N: tokens, K: number of most probable tokens stored.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special

from charrnn import errors
from charrnn.data import batches, encoded
from charrnn.models import layers
from charrnn.sampling import sampler
from charrnn.training import steps

K = 5
SCORING_WINDOW = 64  # number of tokens per call of the model when a text is scored
RECORDING_WINDOW = 1024  # number of tokens per call of the model when states are recorded
Progress = Callable[[int, int], None]  # (done, total)


class Prediction(NamedTuple):
  """A model's predictions of tokens, [T, B] each."""

  nats: Any  # -log p of the observed token
  rank: Any  # number of tokens at least as probable as the observed one, including itself
  top_ids: Any  # [T, B, K], most probable tokens; fewer than K if the vocabulary is smaller
  top_p: Any  # [T, B, K], their probabilities


class Scores(NamedTuple):
  """Predictions of N tokens of a text. The first token of a document has no prediction."""

  positions: np.ndarray  # [N], positions in the ids
  nats: np.ndarray  # [N], -log p; NaN without a prediction
  rank: np.ndarray  # [N]
  top_ids: np.ndarray  # [N, K]
  top_p: np.ndarray  # [N, K]
  text: encoded.EncodedText | None = None  # the text at `positions`, if it is known

  @property
  def is_scored(self) -> np.ndarray:
    return ~np.isnan(self.nats)

  @property
  def log_probs(self) -> np.ndarray:
    """The log-probability of each token, in nats, [N]."""
    return -self.nats

  @property
  def mean(self) -> float:
    """The loss: the mean of nats over the scored tokens."""
    return float(np.mean(self.nats[self.is_scored], dtype=np.float64))

  @property
  def bits_per_byte(self) -> float:
    """The exact bits per UTF-8 byte of the scored tokens; see `encoded.Size`."""
    if self.text is None:
      raise ValueError("the text of these scores is not known")
    places = self.positions[self.is_scored]
    cuts = np.flatnonzero(np.diff(places, prepend=-2, append=-2) != 1)
    # One span for each stretch of adjacent tokens; the last cut is the end.
    spans = [(int(places[a]), int(places[b - 1]) + 1) for a, b in itertools.pairwise(cuts)]
    return self.text.size(spans).bits_per_byte(self.mean)

  def within(self, spans: Sequence[tuple[int, int]]) -> "Scores":
    """Return the scores of the tokens in `spans`."""
    inside = np.zeros(len(self.positions), bool)
    for start, stop in spans:
      inside |= (start <= self.positions) & (self.positions < stop)
    return Scores(*(field[inside] for field in self[:-1]), self.text)


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
  """Run a model over spans of a text and yield a measurement of each window, on the host.

  Yields `measure(logits_TxBxV, y_TxB, recorded)`, positions_TxB of the targets y, and weight_TxB
  (see `batches.scoring_windows`). JAX traces `measure`; arguments in a jax.tree_util.Partial can
  change without recompilation. `carry` replaces the initial carry. `copies` is the number of rows
  that read each stream, so that a `clamp` [B * copies, H] can differ between them.
  """
  params = jax.device_put(model.prepare(params))
  if not isinstance(measure, jax.tree_util.Partial):
    measure = jax.tree_util.Partial(measure)

  def step(carry, x_TxB, y_TxB, _):
    x_TxB, y_TxB = (np.repeat(array, copies, axis=1) for array in (x_TxB, y_TxB))
    return _measure(model, record, measure, params, carry, x_TxB, y_TxB, clamp)

  def initial_carry(batch):
    return model.initial_carry(batch * copies) if carry is None else carry

  arguments = ids, spans, streams, window, burn_in, starts, model.reset_id
  for values, batch in _run(step, initial_carry, batches.scoring_windows(*arguments)):
    yield values, batch.positions, batch.weight


def record(
  model,
  params,
  ids_N,
  *,
  measure: Callable = lambda logits_TxBxV, y_TxB, recorded: recorded,
  clamp: Any = None,
) -> Iterator[Any]:
  """Read a text as one stream; yield `measure` of each window, as arrays [T, ...] on the host.

  The windows together cover each of the N tokens once, also the last one, whose target y is
  undefined. By default, yield all states and gates after each token: {layer: {name: [T, H]}}.
  """
  N = len(ids_N)
  # A target must follow the last token; 0 stands for it.
  inputs = np.append(np.asarray(ids_N, np.int32), 0), [(1, N + 1)]
  options = {"window": min(RECORDING_WINDOW, max(N, 1)), "record": True, "clamp": clamp}
  for values, _, weight in windows(model, params, *inputs, measure=measure, **options):
    T = int(weight.sum())
    yield jax.tree.map(lambda array, T=T: array[:T, 0], values)


def check_units(model, path):
  """Raise UserError if the model of the run at `path` has no states to record."""
  if not model.units:
    raise errors.UserError(f"{path}: the model has no states: use a run of a network")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(model, record, measure, params, carry, x_TxB, y_TxB, clamp):
  logits_TxBxV, carry, recorded = model.apply(params, x_TxB, carry, record=record, clamp=clamp)
  return measure(logits_TxBxV, y_TxB, recorded), carry


def _run(step, initial_carry, inputs) -> Iterator[tuple[Any, batches.ScoringWindow]]:
  """Yield the values of `step(carry, x, y, weight) -> (values, carry)`, and the window."""
  carry = previous = None
  for batch in inputs:
    if carry is None:
      carry = initial_carry(batch.x.shape[1])
    values, carry = step(carry, batch.x, batch.y, batch.weight)
    if previous:  # Fetch these values while the device computes the current window.
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
  """Return the mean nats per token of `spans`, or NaN if no token is scored. Uses all devices."""
  step, total, count = functools.partial(_loss_step(model), params), 0.0, 0.0
  arguments = ids, spans, streams, window, burn_in, starts, model.reset_id
  for nats, batch in _run(step, lambda batch: None, batches.scoring_windows(*arguments)):
    total += float(nats)
    count += float(batch.weight.sum())
  return total / count if count else math.nan


# Steps are cached, because every new LossStep is compiled again.
_loss_step = functools.lru_cache(maxsize=2)(steps.LossStep)


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
  distributions: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> Scores:
  """Return the scores of all tokens in `spans`.

  `distributions` is called with positions [R] of scored tokens and the log-probabilities [R, V] of
  all tokens there, in nats, until it has received every scored token once.
  """
  pieces, done = [], 0
  total = sum(stop - first for first, stop in batches.scorable_spans(spans, starts))
  options = {"window": window, "streams": streams, "burn_in": burn_in, "starts": starts}
  measure = predict if distributions is None else _predict_all
  for values, positions, weight in windows(model, params, ids, spans, measure=measure, **options):
    prediction = values
    if distributions is not None:
      prediction, log_p_TxBxV = values
      # Streams are in the order of the text, so the transposed arrays have long stretches of it.
      is_scored_BxT = weight.T == 1
      distributions(positions.T[is_scored_BxT], log_p_TxBxV.swapaxes(0, 1)[is_scored_BxT])
    pieces.append((prediction, weight))
    done += int(weight.sum())
    if progress:
      progress(done, total)
  return gather(pieces, spans, starts)


def predict(logits_TxBxV, y_TxB, recorded=None) -> Prediction:
  """Return the predictions of the tokens y."""
  del recorded
  nats_TxB = layers.cross_entropy(logits_TxBxV, y_TxB)
  log_p_TxBxV = jax.nn.log_softmax(logits_TxBxV)
  rank_TxB = (log_p_TxBxV >= -nats_TxB[..., None]).sum(-1)
  top, top_ids = lax.top_k(log_p_TxBxV, min(K, log_p_TxBxV.shape[-1]))
  return Prediction(nats_TxB, rank_TxB, top_ids, jnp.exp(top))


def _predict_all(logits_TxBxV, y_TxB, recorded):
  """Return the predictions of the tokens y, and the log-probabilities of all tokens, [T, B, V]."""
  return predict(logits_TxBxV, y_TxB, recorded), jax.nn.log_softmax(logits_TxBxV)


def gather(pieces, spans, starts, *remedy: str) -> Scores:
  """Return the predictions of windows as scores, in the order of the text.

  `pieces` are pairs (prediction, weight_TxB) of the windows of `batches.scoring_windows`. Raises
  `sampler.not_finite(*remedy)` if a prediction is not finite.
  """
  positions = np.concatenate([np.zeros(0, np.int64), *(np.arange(*span) for span in spans)])
  is_scored = ~np.isin(positions, starts)
  if not is_scored.any():
    raise errors.UserError("there is nothing to score: use a text of at least two tokens")
  # Arrays are transposed, because streams follow the order of the text.
  weight_BxT = np.concatenate([weight for _, weight in pieces]).T
  scattered = []  # fields with NaN or 0 for tokens that are not scored
  for field in zip(*(prediction for prediction, _ in pieces)):
    values = np.concatenate(field).swapaxes(0, 1)[weight_BxT == 1]
    missing = np.nan if values.dtype.kind == "f" else 0
    scattered.append(np.full((len(positions), *values.shape[1:]), missing, values.dtype))
    scattered[-1][is_scored] = values
  if not np.isfinite(scattered[0][is_scored]).all():
    raise sampler.not_finite(*remedy)
  return Scores(positions, *scattered)


def rescore(
  model, params, prompt_ids_P, ids_BxN: np.ndarray, settings: sampler.Settings, writable=None
) -> list[np.ndarray]:
  """Rescore sampled texts that follow the same prompt; see sampler.draw_from for `writable`.

  Return two arrays [B, N] in nats: the entropy of the distribution that each token was sampled
  from, and -log p of the token under the model at temperature 1, without filters.
  """
  (B, N), P = ids_BxN.shape, len(prompt_ids_P)
  ids = np.concatenate([np.tile(np.asarray(prompt_ids_P, np.int32), (B, 1)), ids_BxN], axis=1)
  starts = np.arange(B) * (P + N)
  spans = [(start + P, start + P + N) for start in starts.tolist()]
  measure = jax.tree_util.Partial(_measure_sample, dataclasses.astuple(settings), writable)
  options = {"window": SCORING_WINDOW, "streams": B, "burn_in": P, "starts": starts}
  pieces = list(windows(model, params, ids.ravel(), spans, measure=measure, **options))
  is_scored_BxT = np.concatenate([weight for *_, weight in pieces]).T == 1
  fields = zip(*(values for values, *_ in pieces))
  rescored = [np.concatenate(field).T[is_scored_BxT].reshape(B, N) for field in fields]
  if not np.isfinite(rescored).all():
    raise sampler.not_finite()
  return rescored


def _measure_sample(settings, writable, logits_TxBxV, y_TxB, _):
  """Return the entropy of the sampling distribution, and -log p of the tokens: [T, B] each."""
  masked_TxBxV = sampler.mask_unwritable(logits_TxBxV, writable)
  p_TxBxV = jax.nn.softmax(sampler.filter_logits(masked_TxBxV, *settings))
  return special.entr(p_TxBxV).sum(-1), layers.cross_entropy(logits_TxBxV, y_TxB)
