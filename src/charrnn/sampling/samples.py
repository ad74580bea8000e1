"""Samples as texts, with how probable they are: log p under the model, log q as they were drawn."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from charrnn.sampling import beam as beam_lib
from charrnn.sampling import generate, stream

MOST_ROWS = 1024  # side by side
MOST_NOISE = 2**20  # rows times symbols: with 64 steps to a block, 256 MiB of noise


class Sample(NamedTuple):
  """What follows the prompt. The stop text is not in it, but in the probabilities and symbols."""

  text: str
  stopped: bool
  symbols: int
  log_p: float  # nats
  log_q: float | None = None  # none: it was not drawn but searched for


class Scores:
  """Sums up log p and log q of rows as their blocks go by."""

  def __init__(self, num: int):
    self.symbols_B = np.zeros(num, int)
    self.log_p_B, self.log_q_B = np.zeros(num), np.zeros(num)

  def watch(self, blocks: Iterator[generate.Block]) -> Iterator[np.ndarray]:
    for block in blocks:
      self.symbols_B += (block.ids_BxN != generate.ENDED).sum(1)
      self.log_p_B += block.log_p_BxN.sum(1, dtype=float)
      self.log_q_B += block.log_q_BxN.sum(1, dtype=float)
      yield block.ids_BxN

  def sample(self, row: int, text: str, stopped: bool) -> Sample:
    numbers = (array_B[row].item() for array_B in (self.symbols_B, self.log_p_B, self.log_q_B))
    return Sample(text, stopped, *numbers)


def draw(loaded, prompt_ids, *, num, length, stop, watch=iter, progress=None, **asked):
  """Draws texts with a run's model, see `generate.draw` -> iterator of `num` Samples.

  `watch` passes on the lists of pieces of text, as they come, of a batch of rows.
  """
  every = _batches(num, loaded.tokenizer.vocab_size)
  for n, rows in enumerate(every):
    readers = [stream.Reader(loaded.tokenizer, prompt_ids, stop) for _ in rows]
    scores, columns = Scores(len(rows)), []
    blocks = generate.draw(
      loaded.model,
      loaded.params,
      _begin(loaded, prompt_ids),
      num=len(rows),
      rows=rows,
      length=length,
      **asked,
    )
    for pieces in watch(stream.texts(scores.watch(blocks), readers)):
      columns.append(pieces)
      if progress:
        progress(n * length + scores.symbols_B.max(), max(len(every) * length, 1))
    texts = ["".join(pieces) for pieces in zip(*columns)]
    for row, text, reader in zip(rows[rows < num], texts, readers):
      yield scores.sample(row - rows[0], text, reader.stopped)


def ids(loaded, prompt_ids, *, num, length, **asked) -> Iterator[np.ndarray]:
  """The symbols alone of `num` texts [B, N], batch by batch."""
  for rows in _batches(num, loaded.tokenizer.vocab_size):
    blocks = generate.draw(
      *(loaded.model, loaded.params, _begin(loaded, prompt_ids)),
      num=len(rows),
      rows=rows,
      length=length,
      **asked,
    )
    yield np.concatenate([block.ids_BxN for block in blocks], axis=1)[rows < num]


def search(loaded, prompt_ids, *, num, stop, **asked):
  """The `num` most probable texts that a search finds, see `beam.search` -> Samples."""
  found = beam_lib.search(loaded.model, loaded.params, _begin(loaded, prompt_ids), **asked)
  samples = []
  for ids_N, log_p in found[:num]:
    reader = stream.Reader(loaded.tokenizer, prompt_ids, stop)
    samples.append(Sample(reader.read(ids_N, final=True), reader.stopped, len(ids_N), log_p))
  return samples


def _begin(loaded, prompt_ids):
  return prompt_ids if len(prompt_ids) else [loaded.tokenizer.default_id()]


def _batches(num, vocab):
  """The numbers of `num` rows in batches of one size; some at the end may be beyond `num`."""
  most = min(MOST_ROWS, max(MOST_NOISE // vocab, 1))
  count = -(-num // most)
  size = -(-num // count)
  return np.arange(count * size).reshape(count, size)


class Estimate(NamedTuple):
  """Of the probability that what the model writes is as the samples were made to be."""

  log_p: float  # nats; -inf where all weights are 0
  error: float  # the standard error, as a part of the probability
  effective: float  # so many samples of the condition itself would say as much


def estimate(samples: Sequence[Sample]) -> Estimate:
  """The mean of the importance weights p / q of two samples at least.

  It is unbiased where every such text can be drawn: with a temperature above 0 and neither top-k
  nor top-p. Effective size: Kong 1992.
  """
  log_w_B = np.array([sample.log_p - sample.log_q for sample in samples])
  largest = log_w_B.max()
  if largest == -np.inf:
    return Estimate(-math.inf, 0.0, 0.0)
  B, w_B = len(log_w_B), np.exp(log_w_B - largest)
  effective = w_B.sum() ** 2 / (w_B**2).sum()
  error = math.sqrt(max(B / effective - 1, 0) / (B - 1))
  return Estimate(float(largest + np.log(w_B.mean())), error, float(effective))
