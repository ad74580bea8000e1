"""Reading and writing in turn: one row whose state goes on through all that it reads and writes."""

import jax
import numpy as np

from charrnn.sampling import generate, stream

BLOCK = 16  # symbols at a time: someone waits for them


class Session:
  """A run's model, which reads what it is given and writes on from there.

  Symbol t of all that is written, and not read, is drawn with a key of (seed, t). A clamp holds
  while it writes. What is written ends by the automaton, which begins anew each time.
  """

  def __init__(self, loaded, prompt_ids, *, length, seed, settings, clamp=None, automaton=None):
    self._model, self._tokenizer = loaded.model, loaded.tokenizer
    self._params = jax.device_put(loaded.model.prepare(loaded.params))
    self._keys = generate.row_keys(seed, np.arange(1))
    self._clamp = clamp
    self._asked = {"length": length, "settings": settings, "clamp": clamp, "automaton": automaton}
    self._written = 0
    self._state = None, loaded.model.initial_carry(1)
    self.read(prompt_ids)

  def read(self, ids, clamp=None):
    """Reads ids, if there are any."""
    if len(ids):
      self._state = generate.read(self._model, self._params, ids, self._state[1], clamp)

  def write(self):
    """Writes on -> pieces of text. What has been taken of them is what it goes on from."""
    if self._state[0] is None:
      self.read([self._tokenizer.default_id()])
    reader = stream.Reader(self._tokenizer)
    blocks = generate.go_on(
      self._model,
      self._params,
      self._state,
      self._keys,
      start=self._written,
      block=BLOCK,
      **self._asked,
    )
    for block in blocks:
      (ids_N,) = block.ids_BxN
      ids_N = ids_N[ids_N >= 0]
      if len(ids_N) == BLOCK:
        self._state = block.state
      else:  # the block's state is from beyond the end
        self.read(ids_N, self._clamp)
      self._written += len(ids_N)
      yield reader.read(ids_N)
    yield reader.read([], final=True)
