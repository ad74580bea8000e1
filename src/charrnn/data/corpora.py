"""A corpus by name, path or URL: ids on disk, its alphabet, its documents, and where it is from."""

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
from charrnn.data import cache, files, sources, tokenizers

_FORMAT = 1  # of a cache entry
_NEWLINE = ord("\n")

names = sources.names


class Document(NamedTuple):
  name: str
  start: int
  stop: int


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
  """The ids [N] are mapped from the cache, never read as a whole."""

  name: str
  ids: np.memmap
  tokenizer: tokenizers.Tokenizer
  documents: tuple[Document, ...]
  provenance: dict[str, Any]

  def text(self, start: int, stop: int) -> str:
    return self.tokenizer.decode(self.ids[start:stop])


@dataclasses.dataclass(frozen=True)
class _Reading:
  """How bytes become characters. A byte alphabet reads bytes as they are: as Latin-1."""

  tokenizer: str
  encoding: str
  newlines: str

  def __post_init__(self):
    if self.tokenizer not in tokenizers.KINDS:
      raise errors.UserError(f"--config.text.tokenizer={self.tokenizer}: use char or byte")
    if self.newlines not in ("keep", "lf"):
      raise errors.UserError(f"--config.text.newlines={self.newlines}: use keep or lf")
    if not _is_encoding(self.encoding):
      raise errors.UserError(
        f"--config.text.encoding={self.encoding}: Python knows no such encoding of text; "
        "try utf-8, latin-1 or utf-16"
      )

  def decoder(self) -> tuple[codecs.IncrementalDecoder, io.IncrementalNewlineDecoder | None]:
    encoding = "latin-1" if self.tokenizer == "byte" else self.encoding
    # None: it takes text already decoded. It holds back a CR until it sees what follows.
    lines = io.IncrementalNewlineDecoder(None, translate=True) if self.newlines == "lf" else None
    return codecs.getincrementaldecoder(encoding)("strict"), lines


def _is_encoding(name: str) -> bool:
  # Python's own codecs alone are asked: a package may register one that answers to every name.
  try:
    codec = encodings.search_function(name.lower())
    "a".encode(name)  # refuses hex and its like, which are not of text
  except (LookupError, ValueError):
    return False
  return codec is not None and codec.incrementaldecoder is not None


class _Entry(NamedTuple):
  """What the cache holds: all that follows from the bytes and the reading, and no names."""

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
  """The corpus that a name, path, folder, glob or URL[#sha256=HEX] leads to.

  Several files are put one after another exactly as they are, with a line end between two only
  where the first of them has none. Nothing is altered: a byte order mark, NUL or CRLF is text
  like any other, unless newlines='lf' makes CRLF and CR into LF. The first load streams the text
  twice, to count and to write; later ones only hash the sources. With a `limit` the text ends
  after so many characters, and its alphabet has those alone that occur up to there.
  """
  reading = _Reading(tokenizer, encoding, newlines)
  found = sources.resolve(source)
  key = _key(found, reading, limit)
  entry = _read(runtime.cache_folder() / key) or _build(found, reading, key, limit)
  stops = np.cumsum(entry.sizes).tolist()
  starts = [0, *stops[:-1]]
  documents = [Document(file.name, *span) for file, *span in zip(found.files, starts, stops)]
  return Corpus(
    found.name,
    entry.ids,
    entry.tokenizer,
    tuple(document for document in documents if document.start < document.stop),
    _provenance(source, found, reading, entry, limit),
  )


def _provenance(
  source: str, found: sources.Source, reading: _Reading, entry: _Entry, limit: int
) -> dict:
  cut = len(entry.ids) == limit  # a limit that the text does not come to changes nothing
  beginning = hashlib.sha256(f"{limit} characters of {found.sha256}".encode()).hexdigest()
  return {
    "source": source,
    "kind": found.kind,
    **found.facts,
    "files": len(found.files),
    "bytes": sum(file.size for file in found.files),
    "characters": len(entry.ids),
    "sha256": beginning if cut else found.sha256,
    "alphabet": {"kind": entry.tokenizer.kind, "size": entry.tokenizer.vocab_size},
    "options": {"encoding": reading.encoding, "newlines": reading.newlines}
    | ({"limit": limit} if cut else {}),
  }


def _key(found: sources.Source, reading: _Reading, limit: int) -> str:
  digests = [file.sha256 for file in found.files]
  parts = [_FORMAT, found.preparation, dataclasses.astuple(reading), digests]
  parts += [limit] if limit else []
  return "corpus-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _beginning(
  found: sources.Source, reading: _Reading, limit: int
) -> Iterator[tuple[int, np.ndarray]]:
  """`_code_points` up to a limit; 0: all."""
  left = limit or math.inf
  for number, points in _code_points(found, reading):
    yield number, points[: min(left, len(points))]
    left -= len(points)
    if left <= 0:
      return


def _code_points(found: sources.Source, reading: _Reading) -> Iterator[tuple[int, np.ndarray]]:
  """The text as (number of its file, code points uint32[n]), a block at a time."""
  last, owner = _NEWLINE, 0
  for number, file in enumerate(found.files):
    for text in _decoded(found, file, reading):
      points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
      if number != owner and last != _NEWLINE:
        yield owner, np.array([_NEWLINE], "<u4")
      yield number, points
      last, owner = points[-1], number


def _decoded(found: sources.Source, file: files.File, reading: _Reading) -> Iterator[str]:
  """The text of one file in pieces that are not empty."""
  decoder, lines = reading.decoder()
  read = 0
  try:
    for block in found.blocks(file):
      read += len(block)
      text = decoder.decode(block)
      if text := lines.decode(text) if lines else text:
        yield text
    text = decoder.decode(b"", final=True)
    if text := lines.decode(text, final=True) if lines else text:
      yield text
  except UnicodeDecodeError as error:
    # error.object is the block with what the decoder kept of the one before.
    offset = read - len(error.object) + error.start
    raise errors.UserError(
      f"{file.path}: byte {offset} is not {reading.encoding} text\n"
      "use --config.text.tokenizer=byte, or name the encoding, as --config.text.encoding=latin-1"
    ) from error


def _build(found: sources.Source, reading: _Reading, key: str, limit: int) -> _Entry:
  counts, sizes = np.zeros(0x110000, np.int64), [0] * len(found.files)
  for number, points in _beginning(found, reading, limit):
    block_counts = np.bincount(points)
    counts[: len(block_counts)] += block_counts
    sizes[number] += len(points)
  if not sum(sizes):
    raise errors.UserError(f"{found.name} is empty: there is no text to learn from")
  tokenizer = tokenizers.Tokenizer.from_counts(reading.tokenizer, counts)
  with cache.building() as folder:
    built = folder / key
    built.mkdir()
    with open(built / "ids.bin", "wb") as file:
      for _, points in _beginning(found, reading, limit):
        file.write(tokenizer.encode_points(points).data)
    meta = {"alphabet": tokenizer.to_json(), "sizes": sizes}
    (built / "corpus.json").write_text(json.dumps({"sha256": _digest(meta), **meta}))
    entry = _read(built)  # mapped before it is moved: the map outlives any name
    cache.publish(built, key)
  if entry is None:
    raise errors.UserError(f"{found.name} changed while it was read: try again")
  return entry


def _digest(meta: dict) -> str:
  return hashlib.sha256(json.dumps(meta).encode()).hexdigest()


def _read(folder: pathlib.Path) -> _Entry | None:
  """A cache entry; None if there is none, or a damaged one."""
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
  """Where a corpus is from, what it is made of and how it begins, safe for any terminal."""
  facts = {key: _plain(value) for key, value in corpus.provenance.items()}
  shown = [document.name for document in corpus.documents[:5]]
  more = len(corpus.documents) - len(shown)
  facts["documents"] = ", ".join(shown) + (f" and {more} more" if more else "")
  occurring = [s for s, count in zip(corpus.tokenizer.tokens, corpus.tokenizer.counts) if count]
  facts["symbols"] = " ".join("space" if s == " " else console.visible(s) for s in occurring[:200])
  table = [f"  {key:<12}{console.visible(value)}" for key, value in facts.items()]
  excerpt = corpus.text(0, 200 * lines).split("\n")[:lines]
  quoted = [f"  | {console.visible(line[:96])}" for line in excerpt]
  return "\n".join([console.visible(corpus.name), *table, "", *quoted])


def _plain(value) -> str:
  if isinstance(value, dict):
    return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
  return f"{value:,}" if isinstance(value, int) else str(value)
