"""Sampling from a model: filters of the logits, blocks of tokens, and texts with log p and log q.

Any object with `model`, `params` and `tokenizer` can be sampled, for example an opened run. Shapes:
B texts sampled in parallel, N steps of a block, V tokens of the vocabulary, P tokens of a prompt.
The model is a static argument of the compiled programs, so each model object compiles its own.
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

from charrnn import errors
from charrnn.data import tokenizers
from charrnn.sampling import automata, streaming

MAX_LENGTH, MAX_NUM = 10**9, 10**7  # maximum number of tokens in a text, and of texts
MAX_SEED = 2**32 - 1
MAX_ROWS = 1024  # maximum number of texts in a batch
MAX_NOISE = 2**20  # maximum of rows times vocabulary size: 256 MiB of noise for 64 steps
CHUNK = 128  # tokens of a prompt that one call reads
SESSION_BLOCK = 16  # steps of a block in a session: small, because a user waits for the text
Progress = Callable[[float, float], None]  # (done, total)
ENDED, BROKEN = -1, -2  # ids for no token: after the end of a text, or if logits are not finite
TINY = jnp.finfo(jnp.float32).tiny


def not_finite(
  remedy: str = "its training has diverged; use an earlier --step",
) -> errors.DivergedError:
  """Return the error for logits that are not finite."""
  return errors.DivergedError(f"the model's logits are not finite: {remedy}")


class Source(NamedTuple):
  """A model to sample from. An opened run has the same fields."""

  model: Any  # models.Model
  params: Any
  tokenizer: tokenizers.Tokenizer


@dataclasses.dataclass(frozen=True)
class Settings:
  """Temperature and filters. A filter is off if it is None."""

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None

  def __post_init__(self):
    # NaN fails these comparisons. The upper limit is well below the largest float32.
    T, k, p = self.temperature, self.top_k, self.top_p
    rule = "must be 0 (greedy) or a positive number up to 1e30"
    errors.check("--temperature", T, 0 <= T <= 1e30, rule)
    errors.check("--top-k", k, k is None or 1 <= k < 2**31, "must be from 1 to 2^31 - 1")
    errors.check("--top-p", p, p is None or 0 < p <= 1, "must be above 0 and at most 1")


def check(*, length: int, num: int, seed: int):
  """Raise UserError if a count or the seed is out of range."""
  counts = ("length", length, 0, MAX_LENGTH), ("num", num, 1, MAX_NUM), ("seed", seed, 0, MAX_SEED)
  for option, value, low, high in counts:
    errors.check(f"--{option}", value, low <= value <= high, f"must be from {low} to {high}")


# Filters map logits [..., V] to logits [..., V], with -inf for the tokens that they exclude. Their
# settings may be traced, so that a new temperature does not trigger a new compilation.


def filter_logits(logits, temperature, top_k=None, top_p=None):
  """Apply the temperature, then top-k, then top-p to the tokens that top-k keeps."""
  # Temperature 0 keeps only the largest logit; in a tie, the one with the lowest id.
  is_first = jnp.arange(logits.shape[-1]) == logits.argmax(-1, keepdims=True)
  greedy = jnp.where(is_first, 0.0, -jnp.inf)
  # Subtracting the maximum first lets a small temperature overflow only to -inf, never to NaN.
  below = logits - logits.max(-1, keepdims=True)
  logits = jnp.where(temperature < TINY, greedy, below / jnp.maximum(temperature, TINY))
  if top_k is not None:
    logits = keep_top_k(logits, top_k)
  return logits if top_p is None else keep_top_p(logits, top_p)


def mask_unwritable(logits, writable_V):
  """Exclude the tokens that are not sampled; `writable_V` is None if all are."""
  return logits if writable_V is None else jnp.where(writable_V, logits, -jnp.inf)


def keep_top_k(logits, k):
  """Keep exactly the k largest logits; in a tie, lower ids come first."""
  count = jnp.full((*logits.shape[:-1], 1), k)
  return _keep_largest(logits, jnp.sort(logits, descending=True), count)


def keep_top_p(logits, p):
  """Keep the nucleus (Holtzman et al. 2019, arXiv 1904.09751): the fewest tokens with mass p.

  At least the most probable token is kept. In a tie, lower ids come first.
  """
  descending = jnp.sort(logits, descending=True)
  # Sum from the smallest probability up, or rounding would lose the small ones.
  mass_from = lax.cumsum(jax.nn.softmax(descending), axis=logits.ndim - 1, reverse=True)
  count = jnp.sum(mass_from > 1 - p, axis=-1, keepdims=True)
  return _keep_largest(logits, descending, jnp.maximum(count, 1))


def _keep_largest(logits, descending, count):
  """Keep the `count` [..., 1] largest logits; `descending` has the logits in descending order."""
  # Ids are not sorted with the logits, because that takes twice the time.
  last = jnp.take_along_axis(descending, jnp.minimum(count, logits.shape[-1]) - 1, -1)
  above, equal = logits > last, logits == last
  room = count - above.sum(-1, keepdims=True)
  return jnp.where(above | equal & (jnp.cumsum(equal, -1) <= room), logits, -jnp.inf)


def prime(model, params, prompt_ids_P, batch: int, progress: Progress | None = None):
  """Read one prompt for `batch` rows; return logits_BxV of the next token, and the carry."""
  carry = model.initial_carry(1)
  state = read(model, jax.device_put(params), prompt_ids_P, carry, progress=progress)
  return _repeat(state, batch)


def _repeat(state, batch: int):
  """Return a state of one row for `batch` rows."""
  return jax.tree.map(lambda leaf: jnp.repeat(leaf, batch, axis=0), state)


def read(model, params, ids_P, carry, clamp=None, progress: Progress | None = None):
  """Read at least one id in a single row; return logits_1xV of the next token, and the carry.

  `progress` is called with (done, total). One program reads whole chunks, and another reads the
  rest step by step. A text of any length thus needs at most two compiled programs.
  """
  ids_Px1 = np.asarray(ids_P, np.int32)[:, None]
  for start in range(0, len(ids_P) - CHUNK + 1, CHUNK):
    logits_1xV, carry = read_chunk(model, params, ids_Px1[start : start + CHUNK], carry, clamp)
    if progress:
      jax.block_until_ready(logits_1xV)  # JAX would return before the chunk is read.
      progress(start + CHUNK, len(ids_P))
  if rest := len(ids_P) % CHUNK:
    ids_Tx1 = np.pad(ids_Px1[-rest:], ((0, CHUNK - rest), (0, 0)))
    logits_1xV, carry = _read_first(model, params, ids_Tx1, rest, carry, clamp)
    if progress:
      progress(len(ids_P), len(ids_P))
  return logits_1xV, carry


@functools.partial(jax.jit, static_argnames="model")
def read_chunk(model, params, ids_TxB, carry, clamp=None):
  """Read ids, starting from `carry`; return logits_BxV of the next token, and the new carry."""
  logits_TxBxV, carry, _ = model.apply(params, ids_TxB, carry, clamp=clamp)
  return logits_TxBxV[-1], carry


@functools.partial(jax.jit, static_argnames="model")
def _read_first(model, params, ids_TxB, count, carry, clamp):
  """Read the first `count` ids (at least 1; may be traced); return the same as `read_chunk`."""

  def step(t, state):
    return read_chunk(model, params, lax.dynamic_slice_in_dim(ids_TxB, t, 1), state[1], clamp)

  return lax.fori_loop(1, count, step, step(0, (None, carry)))


class Block(NamedTuple):
  """Tokens of N steps, with their log-probabilities in nats.

  log p is the log-probability under the model. log q is the log-probability with which the token
  was sampled, after constraints, temperature and filters. After the end of a text the id is ENDED,
  and log p and log q are 0.
  """

  ids_BxN: np.ndarray
  log_p_BxN: np.ndarray
  log_q_BxN: np.ndarray
  state: Any  # (logits_BxV, carry) after a whole block, even if the ids are truncated


def draw(
  model, params, prompt_ids_P, *, length: int, num: int, seed: int, rows=None, **options
) -> Iterator[Block]:
  """Sample `num` texts after a prompt of at least one id; see `draw_from` for the other options.

  The key for token t of row r depends only on (seed, r, t). A row is therefore the same for any
  block size and any `num`, except for rounding: the order of a sum depends on the shapes. `rows`
  overrides the row numbers r, which are 0 to num - 1 by default. Rows with the same number differ
  only by their clamps.
  """
  check(length=length, num=num, seed=seed)
  params = jax.device_put(model.prepare(params))
  state = prime(model, params, prompt_ids_P, num)
  keys_B = _row_keys(seed, np.arange(num) if rows is None else np.asarray(rows))
  return draw_from(model, params, state, keys_B, length=length, **options)


def _row_keys(seed: int, rows_B: np.ndarray):
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows_B)


def draw_from(
  model,
  params,
  state,
  keys_B,
  *,
  length: int,
  settings: Settings,
  start: int = 0,
  block: int = 64,
  clamp=None,
  automaton=None,
  writable=None,
) -> Iterator[Block]:
  """Sample texts from a state of `prime`, with prepared parameters; yield Blocks of `block` steps.

  `start` is the step t of the first token. `clamp` applies from the first sampled token; see
  models.Model.apply. Tokens are never sampled if `writable` [V], of a tokenizer, excludes them.

  With an automaton of `constraints`, each step excludes the tokens after which no allowed text can
  be completed within the length. This is not the model's distribution conditioned on the
  constraints. That distribution would weight each token by the probability of an allowed
  continuation; here, one only has to exist. exp(log p - log q) of a text is the importance weight
  that corrects for this.
  """
  knobs = dataclasses.astuple(settings)
  allowed = None if automaton is None else (jax.device_put(automaton), start + length)

  def blocks():
    now = *state, jnp.zeros(len(keys_B), jnp.int32)
    for n in range(0, length, block):
      now, arrays = _run(
        model, params, now, keys_B, start + n, knobs, block, allowed, clamp, writable
      )
      yield arrays, now[:2], min(block, length - n)

  # The device computes the second block of a pair while the first is fetched and printed.
  for (arrays, after, n), _ in itertools.pairwise(itertools.chain(blocks(), [None])):
    output = Block(*[np.asarray(array_NxB).T[:, :n] for array_NxB in arrays], after)
    if output.ids_BxN.min() == BROKEN:
      raise not_finite()
    yield output
    if (output.ids_BxN[:, -1] == ENDED).all():
      return


@functools.partial(jax.jit, static_argnames=("model", "block"))
def _run(model, params, state, keys_B, start, knobs, block, allowed, clamp, writable):
  """Run `block` steps from (logits_BxV, carry, automaton states); return the state and arrays."""
  V = state[0].shape[-1]

  def gumbel(key, t):
    return jax.random.gumbel(jax.random.fold_in(key, t), (V,))

  def step(state, now):
    (logits_BxV, carry, at_B), (t, noise_BxV) = state, now
    masked_BxV, ended_B = mask_unwritable(logits_BxV, writable), False
    if allowed is not None:
      automaton, end = allowed
      allowed_BxV = automaton.allowed(at_B, end - t)
      masked_BxV = jnp.where(allowed_BxV, masked_BxV, -jnp.inf)
      ended_B = ~allowed_BxV.any(-1)
    filtered_BxV = filter_logits(masked_BxV, *knobs)
    # The argmax of logits + Gumbel noise is a sample from their softmax.
    ids_B = jnp.argmax(filtered_BxV + noise_BxV, -1)
    if allowed is not None:
      at_B = automaton.next_SxV[at_B, ids_B]
    after = *read_chunk(model, params, ids_B[None], carry, clamp), at_B
    broken_B = ~jnp.isfinite(masked_BxV.max(-1))
    output_B = jnp.where(ended_B, ENDED, jnp.where(broken_B, BROKEN, ids_B))
    return after, (output_B, logits_BxV, filtered_BxV)

  # Compute noise and log-probabilities once for the whole block. Computing them in each step would
  # take 20% and 5%, respectively, of the run time of a small model.
  steps_N = start + jnp.arange(block)
  noise_NxBxV = jax.vmap(jax.vmap(gumbel, (0, None)), (None, 0))(keys_B, steps_N)
  state, (ids_NxB, logits_NxBxV, filtered_NxBxV) = lax.scan(step, state, (steps_N, noise_NxBxV))
  log_p_NxB, log_q_NxB = (_log_p(each, ids_NxB) for each in (logits_NxBxV, filtered_NxBxV))
  return state, (ids_NxB, log_p_NxB, log_q_NxB)


def _log_p(logits_NxBxV, ids_NxB):
  """Return log p of the ids; 0 where there is no token."""
  ids_NxBx1 = jnp.maximum(ids_NxB, 0)[..., None]
  log_p_NxB = jnp.take_along_axis(jax.nn.log_softmax(logits_NxBxV), ids_NxBx1, -1)[..., 0]
  return jnp.where(ids_NxB < 0, 0.0, log_p_NxB)


class Session:
  """A single row that alternates between reading and writing, and keeps its carry.

  The key for a token depends on the seed and on the number of tokens written before it. A clamp
  applies only while the session writes. The automaton restarts with each text. After END, the
  session is at the beginning of a new document. See `draw_from` for the options.
  """

  def __init__(self, source: Source, prompt_ids, *, seed: int, clamp=None, reading=None, **options):
    self._model, self._tokenizer, self._clamp = source.model, source.tokenizer, clamp
    self._params = jax.device_put(source.model.prepare(source.params))
    self._keys = _row_keys(seed, np.arange(1))
    self._options = {"clamp": clamp, "block": SESSION_BLOCK, **complete(source, options)}
    self._written = 0
    self._state = None, source.model.initial_carry(1)
    has_ends = source.tokenizer.end_id is not None
    self.read(first_ids(source, prompt_ids) if has_ends else prompt_ids, progress=reading)

  def read(self, ids, clamp=None, progress: Progress | None = None):
    """Read ids, without writing."""
    if len(ids):
      self._state = read(self._model, self._params, ids, self._state[1], clamp, progress)

  def write(self) -> Iterator[str]:
    """Yield pieces of a new text. The session continues after the last piece that was consumed."""
    if self._state[0] is None:
      self.read([self._tokenizer.default_id()])
    stream = streaming.TextStream(self._tokenizer)
    source = self._model, self._params, self._state, self._keys
    for block in draw_from(*source, start=self._written, **self._options):
      (ids_N,) = block.ids_BxN
      ids_N = ids_N[ids_N >= 0]
      if len(ids_N) == SESSION_BLOCK:
        self._state = block.state
      else:  # the block's state includes steps after the end of the text
        self.read(ids_N, self._clamp)
      self._written += len(ids_N)
      yield stream.push(ids_N)
    yield stream.push([], final=True)


class Sample(NamedTuple):
  """A text after the prompt. Only `tokens` and the probabilities include the stop text."""

  text: str
  stopped: bool
  tokens: int
  log_p: float  # nats
  log_q: float | None = None  # nats; None for a result of beam search


Pieces = Iterator[Sequence[str]]  # new text at each step: one piece per text of a batch


def sample(
  source: Source,
  prompt_ids,
  *,
  num: int,
  length: int,
  stop: str | None = None,
  watch: Callable[[Pieces], Pieces] = iter,
  progress: Progress | None = None,
  reading: Progress | None = None,
  batch: int = MAX_ROWS,
  **options,
) -> Iterator[Sample]:
  """Yield `num` samples; see `draw` for the other options.

  A text ends before END, if the vocabulary has it. `watch` receives an iterator over the pieces of
  text of each batch, and must yield the same pieces. `progress` is called with (done, total).
  `reading` is the same for the prompt. At most `batch` texts are sampled in parallel.
  """
  batches, options = _batches(num, source.tokenizer.vocab_size, batch), complete(source, options)
  drawn = _draw_batches(source, prompt_ids, batches, length=length, reading=reading, **options)
  for n, (rows, blocks) in enumerate(zip(batches, drawn)):
    streams = [streaming.TextStream(source.tokenizer, prompt_ids, stop) for _ in rows]
    totals_3xB, columns = np.zeros((3, len(rows))), []  # tokens, log p, log q
    for pieces in watch(streaming.texts(_add_up(blocks, totals_3xB), streams)):
      columns.append(pieces)
      if progress:
        progress(n * length + totals_3xB[0].max(), max(len(batches) * length, 1))
    for row in np.flatnonzero(rows < num):
      tokens, log_p, log_q = totals_3xB[:, row].tolist()
      text = "".join(pieces[row] for pieces in columns)
      yield Sample(text, streams[row].stopped, int(tokens), log_p, log_q)


def sample_ids(source: Source, prompt_ids, *, num: int, length: int, **options) -> np.ndarray:
  """Return the ids of `num` texts, [num, length]. After END, a text goes on with a new document."""
  batches = _batches(num, source.tokenizer.vocab_size)
  options["writable"] = source.tokenizer.writable
  drawn = _draw_batches(source, prompt_ids, batches, length=length, **options)
  texts = [np.concatenate([block.ids_BxN for block in blocks], axis=1) for blocks in drawn]
  return np.concatenate(texts)[:num]


def sample_texts(source: Source, *, prompt: str = "", **options) -> list[str]:
  """Return sampled texts without their prompt. See `sample` for the options."""
  return [each.text for each in sample(source, source.tokenizer.encode(prompt), **options)]


def first_ids(source: Source, prompt_ids):
  """Return the ids to read before a text: the prompt, or the default token if it is empty.

  A prompt is the beginning of a document, so END precedes it if the vocabulary has it.
  """
  tokenizer = source.tokenizer
  if len(prompt_ids) and tokenizer.end_id is None:
    return prompt_ids
  return [tokenizer.default_id(), *prompt_ids]


def complete(source: Source, options: dict[str, Any]) -> dict[str, Any]:
  """Return the options of `draw_from` with those that depend on the vocabulary."""
  automaton = options.get("automaton")
  if automaton is None:
    automaton = automata.until_end(source.tokenizer)
  return options | {"automaton": automaton, "writable": source.tokenizer.writable}


def _draw_batches(
  source, prompt_ids, batches, *, seed: int, length: int, reading=None, **options
) -> Iterator[Iterator[Block]]:
  """Read the prompt once; yield the blocks of each batch of row numbers."""
  check(length=length, num=len(batches[0]), seed=seed)
  model, params = source.model, jax.device_put(source.model.prepare(source.params))
  state = prime(model, params, first_ids(source, prompt_ids), 1, reading)
  for rows in batches:
    yield draw_from(
      model, params, _repeat(state, len(rows)), _row_keys(seed, rows), length=length, **options
    )


def _add_up(blocks: Iterator[Block], totals_3xB: np.ndarray) -> Iterator[np.ndarray]:
  """Yield the ids of each block; add its numbers of tokens, log p and log q to the totals."""
  for ids_BxN, log_p_BxN, log_q_BxN, _ in blocks:
    values = ids_BxN != ENDED, log_p_BxN, log_q_BxN
    totals_3xB += [values_BxN.sum(1, dtype=float) for values_BxN in values]
    yield ids_BxN


def _batches(num: int, vocab_size: int, batch: int | None = None) -> np.ndarray:
  """Return row numbers [batches, rows]; numbers from `num` on only pad the last batch."""
  count = math.ceil(num / min(batch or MAX_ROWS, MAX_ROWS, max(MAX_NOISE // vocab_size, 1)))
  size = math.ceil(num / count)
  return np.arange(count * size).reshape(count, size)


class Estimate(NamedTuple):
  """Estimate of the probability that an unconstrained text satisfies the constraints."""

  log_p: float  # nats; -inf if all weights are 0
  error: float  # standard error, as a fraction of the probability
  effective: float  # effective sample size (Kong 1992)


def estimate(samples: Sequence[Sample]) -> Estimate:
  """Return the mean importance weight p / q of at least two samples, as an Estimate.

  The mean is unbiased only if every allowed text can be sampled. This requires a temperature above
  0, without top-k and top-p.
  """
  log_w_B = np.array([sample.log_p - sample.log_q for sample in samples])
  largest = log_w_B.max()
  if largest == -np.inf:
    return Estimate(-math.inf, 0.0, 0.0)
  B, w_B = len(log_w_B), np.exp(log_w_B - largest)
  effective = w_B.sum() ** 2 / (w_B**2).sum()
  error = math.sqrt(max(B / effective - 1, 0) / (B - 1))
  return Estimate(float(largest + np.log(w_B.mean())), error, float(effective))
