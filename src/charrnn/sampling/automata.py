"""Automata over ids, which determine the allowed tokens and the ends of sampled texts."""

from typing import NamedTuple

import numpy as np

from charrnn.data import tokenizers

MIN_STATES = 64  # minimum number of states of an automaton
NEVER = np.iinfo(np.int32).max


class Automaton(NamedTuple):
  """A deterministic automaton over ids that starts in state 0.

  A text ends when no next token can lead to an allowed text within the length. The number of
  states S is a power of two, so that automata of similar size share a compiled program.
  """

  next_SxV: np.ndarray  # int32
  remaining_SxV: np.ndarray  # int32: fewest tokens that must follow a token, or NEVER

  def allowed(self, state_B, length):
    """Return which tokens are allowed next, bool [B, V], if at most `length` tokens remain."""
    return self.remaining_SxV[state_B] < length


def until_end(tokenizer: tokenizers.Tokenizer) -> Automaton | None:
  """Return the automaton of texts that end at END; None if the vocabulary does not have it."""
  if tokenizer.end_id is None:
    return None
  next_SxV = np.ones((MIN_STATES, tokenizer.vocab_size), np.int32)
  next_SxV[0] = np.arange(tokenizer.vocab_size) == tokenizer.end_id
  remaining_SxV = np.full_like(next_SxV, NEVER)
  remaining_SxV[0] = 0
  return Automaton(next_SxV, remaining_SxV)
