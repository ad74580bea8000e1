"""Conversion of ids to text as they come, up to a stop text.

Bytes that are not UTF-8 become surrogates, from which `encode` restores them.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from charrnn.data import tokenizers


class TextStream:
  """The text of one sample. It ends just before the first stop text after the prompt."""

  def __init__(self, tokenizer: tokenizers.Tokenizer, prompt_ids=(), stop: str | None = None):
    self._decoder = tokenizer.decoder("surrogateescape")
    # The last bytes of the prompt may wait for the rest of a character.
    self.prompt = self._decoder.decode(prompt_ids)
    self._stop = stop
    self._held = ""  # text that may be the beginning of a stop text
    self.stopped = False

  def push(self, ids, final: bool = False) -> str:
    """Take the next ids; return the text that has become certain."""
    if self.stopped:
      return ""
    text = self._held + self._decoder.decode(ids, final)
    if not self._stop:
      return text
    text, stop, _ = text.partition(self._stop)
    self.stopped = bool(stop)
    if stop or final:
      return text
    lengths = range(min(len(text), len(self._stop) - 1), -1, -1)
    end = len(text) - next(n for n in lengths if text.endswith(self._stop[:n]))
    self._held = text[end:]
    return text[:end]


def encode(text: str, tokenizer: tokenizers.Tokenizer) -> bytes:
  """Return the UTF-8 of a sampled text; with a byte tokenizer exactly the bytes sampled."""
  return text.encode("utf-8", "surrogateescape" if tokenizer.kind == "byte" else "replace")


def texts(blocks: Iterable[np.ndarray], streams: Sequence[TextStream]) -> Iterator[list[str]]:
  """Yield new pieces of text for blocks of ids [B, N], until every stream has stopped.

  Ids below 0 stand after the end of a text.
  """
  for ids_BxN in blocks:
    yield [stream.push(ids_N[ids_N >= 0]) for stream, ids_N in zip(streams, ids_BxN, strict=True)]
    if all(stream.stopped for stream in streams):
      return
  yield [stream.push([], final=True) for stream in streams]
