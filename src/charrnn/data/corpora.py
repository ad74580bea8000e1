"""Corpora by name, path or URL: ids on disk, vocabulary, documents and provenance."""

import codecs
import dataclasses
import encodings
import hashlib
import io
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from charrnn import console, errors, runtime
from charrnn.data import downloads, sources, tokenizers

_FORMAT = 1  # version of the cache entries
_NEWLINE = ord("\n")


class Document(NamedTuple):
  name: str
  start: int
  stop: int


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
  """A text as ids [N], which are mapped from the cache and never read as a whole."""

  name: str
  ids: np.memmap
  tokenizer: tokenizers.Tokenizer
  documents: tuple[Document, ...]
  provenance: dict[str, Any]

  def text(self, start: int, stop: int) -> str:
    return self.tokenizer.decode(self.ids[start:stop])


class _Reader(NamedTuple):
  """A source as code points, block by block. A byte tokenizer reads bytes as Latin-1."""

  source: sources.Source
  tokenizer: str
  encoding: str
  newlines: str
  limit: int  # characters; 0: all

  def points(self) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the file, code points uint32[n]) up to the limit."""
    left = self.limit or math.inf
    for number, points in self._joined():
      yield number, points[: min(left, len(points))]
      left -= len(points)
      if left <= 0:
        return

  def _joined(self) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the code points of all files, with a line end after each that another follows."""
    last, owner = _NEWLINE, 0
    for number, file in enumerate(self.source.files):
      for text in self._texts(file):
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        if number != owner and last != _NEWLINE:
          yield owner, np.array([_NEWLINE], "<u4")
        yield number, points
        last, owner = points[-1], number

  def _texts(self, file: downloads.File) -> Iterator[str]:
    """Yield the text of one file in pieces that are not empty."""
    encoding = "latin-1" if self.tokenizer == "byte" else self.encoding
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    if self.newlines == "lf":
      decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
    size = 0
    try:
      for block in self.source.blocks(file):
        size += len(block)
        if text := decoder.decode(block):
          yield text
      if text := decoder.decode(b"", final=True):
        yield text
    except UnicodeError as error:
      offset = 0  # a UnicodeError without a place: UTF-16 text has no byte order mark
      if isinstance(error, UnicodeDecodeError):
        # error.object is the block, after the bytes that the decoder kept of the one before.
        offset = size - len(error.object) + error.start
      raise errors.UserError(
        f"{file.path}: byte {offset} is not {self.encoding} text\n"
        "use --config.text.tokenizer=byte, or name the encoding, as --config.text.encoding=latin-1"
      ) from error


def load(
  source: str,
  *,
  tokenizer: str = "char",
  encoding: str = "utf-8",
  newlines: str = "keep",
  limit: int = 0,
) -> Corpus:
  """Load the corpus that a name, path, folder, glob or URL[#sha256=HEX] refers to.

  Files are concatenated as they are; a line end is inserted after a file that has none at its end.
  Nothing else is altered: byte order marks, NULs and CRLFs are text, unless newlines='lf' turns
  CRLF and CR into LF. The first load streams the text twice, to count and to write; later ones only
  hash the sources. With a `limit` the text ends after this many characters, and so does the
  vocabulary. Raise UserError for what cannot be found, read or decoded.
  """
  for name, value, choices in (
    ("tokenizer", tokenizer, tokenizers.KINDS),
    ("newlines", newlines, ("keep", "lf")),
  ):
    if value not in choices:
      raise errors.UserError(f"--config.text.{name}={value}: use {' or '.join(choices)}")
  _check_encoding(encoding)
  resolved = sources.resolve(source)
  parts = [_FORMAT, resolved.preparation, (tokenizer, encoding, newlines)]
  parts += [[file.sha256 for file in resolved.files]] + ([limit] if limit else [])
  key = "corpus-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
  reader = _Reader(resolved, tokenizer, encoding, newlines, limit)
  ids, vocabulary, sizes = _read(runtime.cache_folder() / key) or _build(reader, key)
  stops = np.cumsum(sizes).tolist()
  spans = zip(resolved.files, [0, *stops[:-1]], stops)
  documents = tuple(Document(file.name, start, stop) for file, start, stop in spans if start < stop)
  is_cut = len(ids) == limit  # a limit beyond the end of the text changes nothing
  digest = hashlib.sha256(f"{limit} characters of {resolved.sha256}".encode()).hexdigest()
  options = {"encoding": encoding, "newlines": newlines}
  provenance = {
    "source": source,
    "kind": resolved.kind,
    **resolved.facts,
    "files": len(resolved.files),
    "bytes": sum(file.size for file in resolved.files),
    "characters": len(ids),
    "sha256": digest if is_cut else resolved.sha256,
    "alphabet": {"kind": tokenizer, "size": vocabulary.vocab_size},
    "options": options | ({"limit": limit} if is_cut else {}),
  }
  return Corpus(resolved.name, ids, vocabulary, documents, provenance)


def _check_encoding(name: str):
  # Only Python's own codecs: a package may have registered one that answers to every name.
  try:
    codec = encodings.search_function(name.lower())
    "a".encode(name)  # refuses codecs such as hex, which are not for text
  except (LookupError, ValueError):
    codec = None
  if codec is None or codec.incrementaldecoder is None:
    raise errors.UserError(
      f"--config.text.encoding={name}: Python has no such text encoding; "
      "try utf-8, latin-1 or utf-16"
    )


# A cache entry is ids, the tokenizer, and the number of characters of each file. It depends on the
# bytes and the options alone, not on names.
_Entry = tuple[np.memmap, tokenizers.Tokenizer, list[int]]


def _build(reader: _Reader, key: str) -> _Entry:
  counts, sizes = np.zeros(0x110000, np.int64), [0] * len(reader.source.files)
  for number, points in reader.points():
    block_counts = np.bincount(points)
    counts[: len(block_counts)] += block_counts
    sizes[number] += len(points)
  if not sum(sizes):
    raise errors.UserError(f"{reader.source.name} is empty: there is no text to learn from")
  tokenizer = tokenizers.Tokenizer.from_counts(reader.tokenizer, counts)
  with downloads.building() as folder:
    built = folder / key
    built.mkdir()
    with open(built / "ids.bin", "wb") as file:
      for _, points in reader.points():
        file.write(tokenizer.encode_points(points).data)
    meta = {"alphabet": tokenizer.to_json(), "sizes": sizes}
    (built / "corpus.json").write_text(json.dumps({"sha256": _digest(meta), **meta}))
    entry = _read(built)  # mapped before it is moved: the map stays valid
    downloads.publish(built)
  if entry is None:
    raise errors.UserError(f"{reader.source.name} changed while it was read: try again")
  return entry


def _digest(meta: dict) -> str:
  return hashlib.sha256(json.dumps(meta).encode()).hexdigest()


def _read(folder: pathlib.Path) -> _Entry | None:
  """Read a cache entry; return None if it is missing or damaged."""
  try:
    meta = json.loads((folder / "corpus.json").read_bytes())
    if meta.pop("sha256") != _digest(meta):
      return None
    tokenizer = tokenizers.Tokenizer.from_json(meta["alphabet"])
    path, length = folder / "ids.bin", sum(meta["sizes"])
    if os.path.getsize(path) != length * tokenizer.dtype.itemsize:
      return None
    return np.memmap(path, tokenizer.dtype, mode="r", shape=(length,)), tokenizer, meta["sizes"]
  except (OSError, ValueError, KeyError, TypeError, AttributeError, errors.UserError):
    return None


def describe(corpus: Corpus, lines: int = 10) -> str:
  """Return provenance, documents, vocabulary and beginning of a corpus, safe for any terminal."""
  facts = {key: _format(value) for key, value in corpus.provenance.items()}
  names = [document.name for document in corpus.documents[:5]]
  more = len(corpus.documents) - len(names)
  facts["documents"] = ", ".join(names) + (f" and {more} more" if more else "")
  tokens = [t for t, count in zip(corpus.tokenizer.tokens, corpus.tokenizer.counts) if count]
  facts["tokens"] = " ".join("space" if t == " " else console.visible(t) for t in tokens[:200])
  table = [f"  {key:<12}{console.visible(value)}" for key, value in facts.items()]
  excerpt = corpus.text(0, 200 * lines).split("\n")[:lines]
  quoted = [f"  | {console.visible(line[:96])}" for line in excerpt]
  return "\n".join([console.visible(corpus.name), *table, "", *quoted])


def _format(value) -> str:
  if isinstance(value, dict):
    return ", ".join(f"{key} {_format(item)}" for key, item in value.items())
  return f"{value:,}" if isinstance(value, int) else str(value)
