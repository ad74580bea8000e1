"""The n-gram as the programs hold any model: it answers the same call as `network.Model`.

Its parameters are `ngram.NGram.params`: for every level a tree of the strings there are, of what
they have of their own (own) and what their contexts leave to shorter ones (rest). Its state is the
string of each length that the text read so far ends with.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from charrnn.models import ngram_counts


class Model:
  """Interpolated n-grams of one order: log p [T, B, V] in the place of logits."""

  def __init__(self, vocab: int, order: int):
    self.vocab, self.order = vocab, order

  def initial_carry(self, batch: int):
    """The numbers of the strings of 1 to N - 1 symbols that were read last, [batch] each."""
    return tuple(jnp.zeros(batch, jnp.int32) for _ in range(1, self.order))

  def prepare(self, params):
    """The parameters: there is no other form of them that is faster to read."""
    return params

  def apply(self, params, ids_TxB, carry):
    """(params, ids [T, B], carry) -> log p [T, B, V], carry, None."""
    levels = [params[f"level_{n}"] for n in range(1, self.order + 1)]
    strings_TxB = jnp.full(ids_TxB.shape, ngram_counts.EMPTY)
    p_TxBxV = self._mix(levels[0], strings_TxB, 1 / self.vocab)
    contexts_TxB, after = strings_TxB, []
    for level, longer, before_B in zip(levels, levels[1:], carry):
      strings_TxB = self._find(level, contexts_TxB, ids_TxB)
      p_TxBxV = self._mix(longer, strings_TxB, p_TxBxV)
      contexts_TxB = jnp.concatenate([before_B[None], strings_TxB[:-1]])
      after.append(strings_TxB[-1])
    return jnp.log(p_TxBxV), tuple(after), None

  def _mix(self, level, contexts_TxB, p_TxBxV):
    """p after longer contexts, given it after ones that are a symbol shorter."""
    strings_TxBxV = self._find(level, contexts_TxB[..., None], np.arange(self.vocab))
    return level["own"][strings_TxBxV] + level["rest"][contexts_TxB][..., None] * p_TxBxV

  def _find(self, level, context, symbol):
    """`ngram_counts.find`, with a loop: XLA takes half a minute to compile it written out."""
    first, symbols = jnp.asarray(level["first"]), jnp.asarray(level["symbols"])
    low, end, symbol = jnp.broadcast_arrays(first[context], first[context + 1], symbol)

    def halve(_, ends):
      low, high = ends
      middle = (low + high) // 2
      below = (low < high) & (symbols[middle] < symbol)
      return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

    low, _ = lax.fori_loop(0, self.vocab.bit_length(), halve, (low, end))
    # JAX takes the last symbol for one beyond.
    return jnp.where((low < end) & (symbols[low] == symbol), low, 0)
