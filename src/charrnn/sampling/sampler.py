"""Sampling from a model: filters of the logits, blocks of tokens, and texts with log p and log q.

Anything with `model`, `params` and `tokenizer` can be sampled, such as an opened run. Shapes: B
texts side by side, N steps of a block, V tokens of the vocabulary, P tokens of a prompt. The model
is a static argument of the compiled programs: they are compiled once for each object.
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
from charrnn.sampling import streaming

MAX_LENGTH, MAX_NUM = 10**9, 10**7  # tokens of a text, and texts
MAX_SEED = 2**32 - 1
MAX_ROWS = 1024  # texts of a batch
MAX_NOISE = 2**20  # rows x vocabulary of a batch: a block of 64 steps has 256 MiB of noise
CHUNK = 128  # tokens of a prompt that are read at once
SESSION_BLOCK = 16  # steps of a block in a session: someone waits for them
ENDED, BROKEN = -1, -2  # in place of ids
TINY = jnp.finfo(jnp.float32).tiny


def not_finite(
  remedy: str = "its training has diverged; choose an earlier --step",
) -> errors.UserError:
  """Return the error of a model whose logits are not finite."""
  return errors.UserError(f"the model's logits are not finite: {remedy}")


class Source(NamedTuple):
  """A model to sample from. An opened run serves as well."""

  model: Any  # models.Model
  params: Any
  tokenizer: tokenizers.Tokenizer


@dataclasses.dataclass(frozen=True)
class Settings:
  """Temperature and filters. None switches a filter off."""

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None

  def __post_init__(self):
    # Written so that NaN fails. The upper end stays clear of float32's.
    if not 0 <= self.temperature <= 1e30:
      refuse("temperature", self.temperature, "must be 0 (greedy) or a positive number up to 1e30")
    if self.top_k is not None and not 1 <= self.top_k < 2**31:
      refuse("top-k", self.top_k, "must be from 1 to 2^31 - 1")
    if self.top_p is not None and not 0 < self.top_p <= 1:
      refuse("top-p", self.top_p, "must be above 0 and at most 1")


def check(*, length: int, num: int, seed: int):
  """Raise UserError for counts and seeds out of range."""
  counts = ("length", length, 0, MAX_LENGTH), ("num", num, 1, MAX_NUM), ("seed", seed, 0, MAX_SEED)
  for option, value, low, high in counts:
    if not low <= value <= high:
      refuse(option, value, f"must be from {low} to {high}")


def refuse(option: str, value, remedy: str):
  raise errors.UserError(f"--{option}={value}: {remedy}")


# Filters map logits [..., V] to logits [..., V], with -inf for tokens that are left out. Their
# settings may be traced, so that another temperature does not compile another program.


def filter_logits(logits, temperature, top_k=None, top_p=None):
  """Apply the temperature, then top-k, then top-p to what remains."""
  # The temperature 0 keeps only the first of the largest.
  is_first = jnp.arange(logits.shape[-1]) == logits.argmax(-1, keepdims=True)
  greedy = jnp.where(is_first, 0.0, -jnp.inf)
  # Below the largest, a quotient by a small temperature overflows to -inf, never to inf - inf.
  below = logits - logits.max(-1, keepdims=True)
  logits = jnp.where(temperature < TINY, greedy, below / jnp.maximum(temperature, TINY))
  if top_k is not None:
    logits = keep_top_k(logits, top_k)
  return logits if top_p is None else keep_top_p(logits, top_p)


def keep_top_k(logits, k):
  """Keep the k largest and never more: of equal ones the lower id comes first."""
  count = jnp.full((*logits.shape[:-1], 1), k)
  return _keep_largest(logits, jnp.sort(logits, descending=True), count)


def keep_top_p(logits, p):
  """Keep the nucleus (Holtzman et al. 2019, arXiv 1904.09751): the fewest that reach mass p.

  The largest always stays. Of equal ones the lower id comes first.
  """
  falling = jnp.sort(logits, descending=True)
  # Summed from the small end: at the large end of the sum they would be rounded away.
  mass_from = lax.cumsum(jax.nn.softmax(falling), axis=logits.ndim - 1, reverse=True)
  count = jnp.sum(mass_from > 1 - p, axis=-1, keepdims=True)
  return _keep_largest(logits, falling, jnp.maximum(count, 1))


def _keep_largest(logits, falling, count):
  """Keep `count` [..., 1] of the logits, which are also passed in falling order."""
  # Without the ids in falling order: sorting them too takes twice the time.
  last = jnp.take_along_axis(falling, jnp.minimum(count, logits.shape[-1]) - 1, -1)
  above, equal = logits > last, logits == last
  room = count - above.sum(-1, keepdims=True)
  return jnp.where(above | equal & (jnp.cumsum(equal, -1) <= room), logits, -jnp.inf)


def prime(model, params, prompt_ids_P, batch: int):
  """Read the same prompt into `batch` rows; return logits_BxV of the next token, and the carry."""
  state = read(model, jax.device_put(params), prompt_ids_P, model.initial_carry(1))
  return jax.tree.map(lambda leaf: jnp.repeat(leaf, batch, axis=0), state)


def read(model, params, ids_P, carry, clamp=None):
  """Read at least one id into a single row; return logits_1xV of the next token, and the carry.

  Whole chunks are read by one program, the rest step by step by another. So a text of any length
  compiles two programs at most.
  """
  ids_Px1 = np.asarray(ids_P, np.int32)[:, None]
  for start in range(0, len(ids_P) - CHUNK + 1, CHUNK):
    logits_1xV, carry = read_chunk(model, params, ids_Px1[start : start + CHUNK], carry, clamp)
  if rest := len(ids_P) % CHUNK:
    ids_Tx1 = np.pad(ids_Px1[-rest:], ((0, CHUNK - rest), (0, 0)))
    logits_1xV, carry = _read_first(model, params, ids_Tx1, rest, carry, clamp)
  return logits_1xV, carry


@functools.partial(jax.jit, static_argnames="model")
def read_chunk(model, params, ids_TxB, carry, clamp=None):
  """Read ids from `carry` on; return logits_BxV of the next token, and the carry."""
  logits_TxBxV, carry, _ = model.apply(params, ids_TxB, carry, clamp=clamp)
  return logits_TxBxV[-1], carry


@functools.partial(jax.jit, static_argnames="model")
def _read_first(model, params, ids_TxB, count, carry, clamp):
  """Read the first `count` (at least 1, traced) of the ids."""

  def step(t, state):
    return read_chunk(model, params, lax.dynamic_slice_in_dim(ids_TxB, t, 1), state[1], clamp)

  return lax.fori_loop(1, count, step, step(0, (None, carry)))


class Block(NamedTuple):
  """Tokens of some steps and the logarithms of their probabilities, [B, N] each.

  log p is the model's; log q is that of the draw, with constraint, temperature and filters. After
  the end of a text the id is ENDED and both are 0.
  """

  ids_BxN: np.ndarray
  log_p_BxN: np.ndarray
  log_q_BxN: np.ndarray
  state: Any  # (logits_BxV, carry) after the steps of a whole block


def draw(
  model, params, prompt_ids_P, *, length: int, num: int, seed: int, rows=None, **options
) -> Iterator[Block]:
  """Draw `num` texts after a prompt of at least one id; see `draw_from` for the other options.

  Token t of row r is drawn with a key of (seed, r, t) alone: neither the size of the blocks nor
  `num` changes a row, except by rounding, since products of another shape sum in another order.
  `rows`: the numbers r, if not 0 to num - 1; rows of the same number differ only by their clamps.
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
) -> Iterator[Block]:
  """Draw texts from a state of `prime` on, with prepared parameters; yield blocks of `block` steps.

  `start`: t of the first token. `clamp`: see models.Model.apply; it holds from the first token on.

  With an automaton of `constraints`, only tokens are drawn after which an allowed text can still
  be completed within the length. This is not the model's distribution on condition that the text
  is allowed: that weighs each token by the probability of an allowed continuation, while this only
  asks whether there is one. exp(log p - log q) of a text is the weight that corrects it.
  """
  knobs = dataclasses.astuple(settings)
  allowed = None if automaton is None else (jax.device_put(automaton), start + length)

  def blocks():
    now = *state, jnp.zeros(len(keys_B), jnp.int32)
    for n in range(0, length, block):
      now, arrays = _run(model, params, now, keys_B, start + n, knobs, block, allowed, clamp)
      yield arrays, now[:2], min(block, length - n)

  # The second block of a pair is computed while the first is fetched and printed.
  for (arrays, after, n), _ in itertools.pairwise(itertools.chain(blocks(), [None])):
    fetched = Block(*[np.asarray(array_NxB).T[:, :n] for array_NxB in arrays], after)
    if fetched.ids_BxN.min() == BROKEN:
      raise not_finite()
    yield fetched
    if (fetched.ids_BxN[:, -1] == ENDED).all():
      return


@functools.partial(jax.jit, static_argnames=("model", "block"))
def _run(model, params, state, keys_B, start, knobs, block, allowed, clamp):
  """Run `block` steps from (logits_BxV, carry, automaton states); return the state and [N, B]s."""
  V = state[0].shape[-1]

  def gumbel(key, t):
    return jax.random.gumbel(jax.random.fold_in(key, t), (V,))

  def step(state, now):
    (logits_BxV, carry, at_B), (t, noise_BxV) = state, now
    masked_BxV, ended_B = logits_BxV, False
    if allowed is not None:
      automaton, end = allowed
      allowed_BxV = automaton.allowed(at_B, end - t)
      masked_BxV = jnp.where(allowed_BxV, logits_BxV, -jnp.inf)
      ended_B = ~allowed_BxV.any(-1)
    filtered_BxV = filter_logits(masked_BxV, *knobs)
    # The largest of logits + Gumbel noise is a draw from their softmax.
    ids_B = jnp.argmax(filtered_BxV + noise_BxV, -1)
    if allowed is not None:
      at_B = automaton.next_SxV[at_B, ids_B]
    after = *read_chunk(model, params, ids_B[None], carry, clamp), at_B
    broken_B = ~jnp.isfinite(masked_BxV.max(-1))
    output_B = jnp.where(ended_B, ENDED, jnp.where(broken_B, BROKEN, ids_B))
    return after, (output_B, logits_BxV, filtered_BxV)

  # Noise and log probabilities are computed for a whole block at once. Step by step they would take
  # a fifth and a twentieth of the time of a small model.
  steps_N = start + jnp.arange(block)
  noise_NxBxV = jax.vmap(jax.vmap(gumbel, (0, None)), (None, 0))(keys_B, steps_N)
  state, (ids_NxB, logits_NxBxV, filtered_NxBxV) = lax.scan(step, state, (steps_N, noise_NxBxV))
  log_p_NxB, log_q_NxB = (_log_p(each, ids_NxB) for each in (logits_NxBxV, filtered_NxBxV))
  return state, (ids_NxB, log_p_NxB, log_q_NxB)


def _log_p(logits_NxBxV, ids_NxB):
  """Return log p of the ids, 0 where there is no token."""
  ids_NxBx1 = jnp.maximum(ids_NxB, 0)[..., None]
  log_p_NxB = jnp.take_along_axis(jax.nn.log_softmax(logits_NxBxV), ids_NxBx1, -1)[..., 0]
  return jnp.where(ids_NxB < 0, 0.0, log_p_NxB)


class Session:
  """A single row that reads and writes in turn and keeps its carry.

  Token t of all that is written (not of what is read) is drawn with a key of (seed, t). A clamp
  holds while it writes. The automaton starts anew each time. See `draw_from` for the options.
  """

  def __init__(self, source: Source, prompt_ids, *, seed: int, clamp=None, **options):
    self._model, self._tokenizer, self._clamp = source.model, source.tokenizer, clamp
    self._params = jax.device_put(source.model.prepare(source.params))
    self._keys = _row_keys(seed, np.arange(1))
    self._options = {"clamp": clamp, "block": SESSION_BLOCK, **options}
    self._written = 0
    self._state = None, source.model.initial_carry(1)
    self.read(prompt_ids)

  def read(self, ids, clamp=None):
    if len(ids):
      self._state = read(self._model, self._params, ids, self._state[1], clamp)

  def write(self) -> Iterator[str]:
    """Yield pieces of a new text. The session continues after the pieces that were taken."""
    if self._state[0] is None:
      self.read([self._tokenizer.default_id()])
    stream = streaming.TextStream(self._tokenizer)
    drawn_from = self._model, self._params, self._state, self._keys
    for block in draw_from(*drawn_from, start=self._written, **self._options):
      (ids_N,) = block.ids_BxN
      ids_N = ids_N[ids_N >= 0]
      if len(ids_N) == SESSION_BLOCK:
        self._state = block.state
      else:  # the block's state is that after steps beyond the end of the text
        self.read(ids_N, self._clamp)
      self._written += len(ids_N)
      yield stream.push(ids_N)
    yield stream.push([], final=True)


class Sample(NamedTuple):
  """A text after the prompt. The stop text is not part of it, but of its tokens and probability."""

  text: str
  stopped: bool
  tokens: int
  log_p: float  # nats
  log_q: float | None = None  # None: the text was not drawn but found by a search


Pieces = Iterator[Sequence[str]]  # new pieces of text, one for each text of a batch


def sample(
  source: Source,
  prompt_ids,
  *,
  num: int,
  length: int,
  stop: str | None = None,
  watch: Callable[[Pieces], Pieces] = iter,
  progress: Callable[[float, float], None] | None = None,
  **options,
) -> Iterator[Sample]:
  """Yield `num` samples; see `draw` for the other options.

  `watch` passes on the pieces of text of each batch as they come; `progress` takes (done, total).
  """
  batches = _batches(num, source.tokenizer.vocab_size)
  for n, rows in enumerate(batches):
    streams = [streaming.TextStream(source.tokenizer, prompt_ids, stop) for _ in rows]
    totals_3xB = np.zeros((3, len(rows)))  # tokens, log p, log q
    blocks, columns = _draw_rows(source, prompt_ids, rows, length=length, **options), []
    for pieces in watch(streaming.texts(_add_up(blocks, totals_3xB), streams)):
      columns.append(pieces)
      if progress:
        progress(n * length + totals_3xB[0].max(), max(len(batches) * length, 1))
    for row in np.flatnonzero(rows < num):
      tokens, log_p, log_q = totals_3xB[:, row].tolist()
      text = "".join(pieces[row] for pieces in columns)
      yield Sample(text, streams[row].stopped, int(tokens), log_p, log_q)


def sample_ids(source: Source, prompt_ids, *, num: int, length: int, **options) -> np.ndarray:
  """Return the tokens of `num` texts, [num, length]."""
  batches = []
  for rows in _batches(num, source.tokenizer.vocab_size):
    blocks = _draw_rows(source, prompt_ids, rows, length=length, **options)
    batches.append(np.concatenate([block.ids_BxN for block in blocks], axis=1))
  return np.concatenate(batches)[:num]


def sample_texts(source: Source, *, prompt: str = "", **options) -> list[str]:
  """Return texts after the same prompt, with U+FFFD for bytes that are not UTF-8.

  The prompt is not part of them. See `sample` for the options.
  """
  tokenizer = source.tokenizer
  samples = sample(source, tokenizer.encode(prompt), **options)
  return [streaming.encode(each.text, tokenizer).decode("utf-8", "replace") for each in samples]


def first_ids(source: Source, prompt_ids):
  """Return the prompt, or in place of an empty one the default token."""
  return prompt_ids if len(prompt_ids) else [source.tokenizer.default_id()]


def _draw_rows(source, prompt_ids, rows, **options) -> Iterator[Block]:
  prompt_ids = first_ids(source, prompt_ids)
  return draw(source.model, source.params, prompt_ids, num=len(rows), rows=rows, **options)


def _add_up(blocks: Iterator[Block], totals_3xB: np.ndarray) -> Iterator[np.ndarray]:
  """Pass on the ids of blocks; add up the numbers of tokens, log p and log q."""
  for ids_BxN, log_p_BxN, log_q_BxN, _ in blocks:
    values = ids_BxN != ENDED, log_p_BxN, log_q_BxN
    totals_3xB += [values_BxN.sum(1, dtype=float) for values_BxN in values]
    yield ids_BxN


def _batches(num: int, vocab_size: int) -> np.ndarray:
  """Return row numbers [batches, rows of each]; those from `num` on fill up the last batch."""
  count = math.ceil(num / min(MAX_ROWS, max(MAX_NOISE // vocab_size, 1)))
  size = math.ceil(num / count)
  return np.arange(count * size).reshape(count, size)


class Estimate(NamedTuple):
  """Estimate of the probability that the model's own text satisfies the constraint."""

  log_p: float  # nats; -inf where all weights are 0
  error: float  # the standard error, as a part of the probability
  effective: float  # effective sample size (Kong 1992)


def estimate(samples: Sequence[Sample]) -> Estimate:
  """Return the mean of the importance weights p / q of at least two samples.

  It is unbiased if every allowed text can be drawn: with a temperature above 0 and neither top-k
  nor top-p.
  """
  log_w_B = np.array([sample.log_p - sample.log_q for sample in samples])
  largest = log_w_B.max()
  if largest == -np.inf:
    return Estimate(-math.inf, 0.0, 0.0)
  B, w_B = len(log_w_B), np.exp(log_w_B - largest)
  effective = w_B.sum() ** 2 / (w_B**2).sum()
  error = math.sqrt(max(B / effective - 1, 0) / (B - 1))
  return Estimate(float(largest + np.log(w_B.mean())), error, float(effective))
