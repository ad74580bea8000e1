"""Incremental conversion of ids to text, up to a stop text.

Bytes that are not valid UTF-8 become surrogates, from which `console.encode` restores the bytes.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from charrnn.data import tokenizers


class TextStream:
  """The text of one sample. It ends before the first stop text or END after the prompt."""

  def __init__(self, tokenizer: tokenizers.Tokenizer, prompt_ids=(), stop: str | None = None):
    self._decoder, self._end_id = tokenizer.decoder(), tokenizer.end_id
    # A character that the prompt leaves incomplete is decoded with the sampled bytes.
    self.prompt = self._decoder.decode(prompt_ids)
    self._stop = stop
    self._pending = ""  # text that may be the beginning of a stop text
    self.stopped = False

  def push(self, ids, final: bool = False) -> str:
    """Decode the next ids; return the new text that cannot be part of a stop text."""
    if self.stopped:
      return ""
    ids, is_end = np.asarray(ids, np.int64), False
    if self._end_id is not None and (is_end := self._end_id in ids):
      ids = ids[: np.argmax(ids == self._end_id)]
    text = self._pending + self._decoder.decode(ids, final or is_end)
    self.stopped = is_end
    if not self._stop:
      return text
    text, stop, _ = text.partition(self._stop)
    self.stopped |= bool(stop)
    if self.stopped or final:
      return text
    lengths = range(min(len(text), len(self._stop) - 1), -1, -1)
    end = len(text) - next(n for n in lengths if text.endswith(self._stop[:n]))
    self._pending = text[end:]
    return text[:end]


def texts(blocks: Iterable[np.ndarray], streams: Sequence[TextStream]) -> Iterator[list[str]]:
  """Yield the new piece of text of every stream for each block of ids [B, N].

  Return when every stream has stopped. Ids below 0 follow the end of a text and are ignored.
  """
  for ids_BxN in blocks:
    yield [stream.push(ids_N[ids_N >= 0]) for stream, ids_N in zip(streams, ids_BxN, strict=True)]
    if all(stream.stopped for stream in streams):
      return
  yield [stream.push([], final=True) for stream in streams]
