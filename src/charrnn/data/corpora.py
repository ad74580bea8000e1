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

NEWLINES = ("keep", "lf")
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


@dataclasses.dataclass(frozen=True)
class _Reading:
  """The conversion of bytes to characters. A byte tokenizer reads bytes as Latin-1."""

  tokenizer: str
  encoding: str
  newlines: str

  def __post_init__(self):
    for name, choices in (("tokenizer", tokenizers.KINDS), ("newlines", NEWLINES)):
      if (value := getattr(self, name)) not in choices:
        raise errors.UserError(f"--config.text.{name}={value}: use {' or '.join(choices)}")
    if not _is_encoding(self.encoding):
      raise errors.UserError(
        f"--config.text.encoding={self.encoding}: Python has no such text encoding; "
        "try utf-8, latin-1 or utf-16"
      )

  def decode(self, source: sources.Source, file: downloads.File) -> Iterator[str]:
    """Yield the text of one file in pieces that are not empty."""
    encoding = "latin-1" if self.tokenizer == "byte" else self.encoding
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    if self.newlines == "lf":
      decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
    size = 0
    try:
      for block in source.blocks(file):
        size += len(block)
        if text := decoder.decode(block):
          yield text
      if text := decoder.decode(b"", final=True):
        yield text
    except UnicodeDecodeError as error:
      # error.object is the block, after the bytes that the decoder kept of the one before.
      offset = size - len(error.object) + error.start
      raise errors.UserError(
        f"{file.path}: byte {offset} is not {self.encoding} text\n"
        "use --config.text.tokenizer=byte, or name the encoding, as --config.text.encoding=latin-1"
      ) from error


def _is_encoding(name: str) -> bool:
  # Only Python's own codecs: a package may have registered one that answers to every name.
  try:
    codec = encodings.search_function(name.lower())
    "a".encode(name)  # refuses codecs such as hex, which are not for text
  except (LookupError, ValueError):
    return False
  return codec is not None and codec.incrementaldecoder is not None


class _Entry(NamedTuple):
  """A cache entry. It depends on the bytes and the reading alone, not on names."""

  ids: np.memmap
  tokenizer: tokenizers.Tokenizer
  sizes: list[int]  # characters of each file


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
  reading = _Reading(tokenizer, encoding, newlines)
  resolved = sources.resolve(source)
  parts = [_FORMAT, resolved.preparation, dataclasses.astuple(reading)]
  parts += [[file.sha256 for file in resolved.files]] + ([limit] if limit else [])
  key = "corpus-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
  entry = _read(runtime.cache_folder() / key) or _build(resolved, reading, key, limit)
  stops = np.cumsum(entry.sizes).tolist()
  spans = zip([0, *stops[:-1]], stops)
  documents = [Document(file.name, *span) for file, span in zip(resolved.files, spans)]
  return Corpus(
    resolved.name,
    entry.ids,
    entry.tokenizer,
    tuple(document for document in documents if document.start < document.stop),
    _provenance(source, resolved, reading, entry, limit),
  )


def _provenance(
  source: str, resolved: sources.Source, reading: _Reading, entry: _Entry, limit: int
) -> dict[str, Any]:
  is_cut = len(entry.ids) == limit  # a limit beyond the end of the text changes nothing
  digest = hashlib.sha256(f"{limit} characters of {resolved.sha256}".encode()).hexdigest()
  return {
    "source": source,
    "kind": resolved.kind,
    **resolved.facts,
    "files": len(resolved.files),
    "bytes": sum(file.size for file in resolved.files),
    "characters": len(entry.ids),
    "sha256": digest if is_cut else resolved.sha256,
    "alphabet": {"kind": entry.tokenizer.kind, "size": entry.tokenizer.vocab_size},
    "options": {"encoding": reading.encoding, "newlines": reading.newlines}
    | ({"limit": limit} if is_cut else {}),
  }


def _code_points(
  source: sources.Source, reading: _Reading, limit: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yield (number of the file, code points uint32[n]) up to the limit, block by block."""
  left = limit or math.inf
  for number, points in _joined(source, reading):
    yield number, points[: min(left, len(points))]
    left -= len(points)
    if left <= 0:
      return


def _joined(source: sources.Source, reading: _Reading) -> Iterator[tuple[int, np.ndarray]]:
  """Yield the code points of all files, with a line end after each that another follows."""
  last, owner = _NEWLINE, 0
  for number, file in enumerate(source.files):
    for text in reading.decode(source, file):
      points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
      if number != owner and last != _NEWLINE:
        yield owner, np.array([_NEWLINE], "<u4")
      yield number, points
      last, owner = points[-1], number


def _build(source: sources.Source, reading: _Reading, key: str, limit: int) -> _Entry:
  counts, sizes = np.zeros(0x110000, np.int64), [0] * len(source.files)
  for number, points in _code_points(source, reading, limit):
    block_counts = np.bincount(points)
    counts[: len(block_counts)] += block_counts
    sizes[number] += len(points)
  if not sum(sizes):
    raise errors.UserError(f"{source.name} is empty: there is no text to learn from")
  tokenizer = tokenizers.Tokenizer.from_counts(reading.tokenizer, counts)
  with downloads.building() as folder:
    built = folder / key
    built.mkdir()
    with open(built / "ids.bin", "wb") as file:
      for _, points in _code_points(source, reading, limit):
        file.write(tokenizer.encode_points(points).data)
    meta = {"alphabet": tokenizer.to_json(), "sizes": sizes}
    (built / "corpus.json").write_text(json.dumps({"sha256": _digest(meta), **meta}))
    entry = _read(built)  # mapped before it is moved: the map stays valid
    downloads.publish(built, key)
  if entry is None:
    raise errors.UserError(f"{source.name} changed while it was read: try again")
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
    ids = np.memmap(path, tokenizer.dtype, mode="r", shape=(length,))
  except (OSError, ValueError, KeyError, TypeError, AttributeError, errors.UserError):
    return None
  return _Entry(ids, tokenizer, meta["sizes"])


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
