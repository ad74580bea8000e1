"""From ids to text as they come, up to a stop text."""

# For a terminal, which obeys C0, DEL and C1: text.translate(VISIBLE).
VISIBLE = {c: f"\\x{c:02x}" for c in (*range(32), *range(0x7F, 0xA0)) if chr(c) not in "\n\t"}


class Reader:
  """One sample's text. It ends just before the first `stop` in what follows the prompt."""

  def __init__(self, tokenizer, prompt_ids=(), stop=None):
    self._decoder = tokenizer.decoder()
    self.prompt = self._decoder.decode(prompt_ids)  # its last bytes may wait for a character's end
    self._stop = stop
    self._held = ""  # may be the beginning of a stop
    self.stopped = False

  def read(self, ids, final=False):
    """The text that is certain by now and was not returned before."""
    if self.stopped:
      return ""
    text = self._held + self._decoder.decode(ids, final)
    if not self._stop:
      return text
    end = text.find(self._stop)
    self.stopped = end >= 0
    if not self.stopped:
      end = len(text) - (0 if final else _begun(text, self._stop))
      self._held = text[end:]
    return text[:end]


def _begun(text, stop):
  """The length of the longest end of `text` that begins `stop`."""
  lengths = range(min(len(text), len(stop) - 1), 0, -1)
  return next((n for n in lengths if text.endswith(stop[:n])), 0)


def texts(blocks, readers):
  """Turns blocks of ids [B, N] into lists of B pieces of text, until every row has stopped.

  A row that has ended has ids below 0.
  """
  for ids_BxN in blocks:
    yield [reader.read(ids_N[ids_N >= 0]) for reader, ids_N in zip(readers, ids_BxN, strict=True)]
    if all(reader.stopped for reader in readers):
      return
  yield [reader.read([], final=True) for reader in readers]
