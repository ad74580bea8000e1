"""Load corpora by name, path or URL: ids mapped from disk, tokenizer, documents and provenance."""

import codecs
import dataclasses
import encodings
import hashlib
import io
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from charrnn import console, errors, files, runtime
from charrnn.data import downloads, sources, tokenizers

_FORMAT = 1  # version of the cache entries
_NEWLINE = ord("\n")
# The first bytes of files that are often mistaken for UTF-8 text, and their encodings or formats.
_SIGNATURES = {
  codecs.BOM_UTF32_LE: "utf-32",
  codecs.BOM_UTF32_BE: "utf-32",
  codecs.BOM_UTF16_LE: "utf-16",
  codecs.BOM_UTF16_BE: "utf-16",
  b"\x1f\x8b": "a gzip archive",
  b"BZh": "a bzip2 archive",
  b"\xfd7zXZ": "an xz archive",
  b"\x28\xb5\x2f\xfd": "a zstd archive",
  b"7z\xbc\xaf\x27\x1c": "a 7z archive",
  b"PK\x03\x04": "a zip archive (or a document in one, for example .docx or .epub)",
  b"%PDF": "a PDF document",
  b"\xd0\xcf\x11\xe0": "a Microsoft Office document",
  b"\x89PNG": "a PNG picture",
  b"\xff\xd8\xff": "a JPEG picture",
}
# Codecs of Python that transform text, rather than encode it.
_TRANSFORMATIONS = {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
_LABELS = {"alphabet": "vocabulary"}  # an old key of the provenance, and the term that is shown


class Document(NamedTuple):
  """A named document of a corpus, from token `start` to `stop`."""

  name: str
  start: int
  stop: int


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
  """A text as ids [N], which are memory-mapped from the cache."""

  name: str
  ids: np.memmap
  tokenizer: tokenizers.Tokenizer
  documents: tuple[Document, ...]
  provenance: dict[str, Any]

  def text(self, start: int, stop: int) -> str:
    """Return the decoded text of the tokens from `start` to `stop`; see Tokenizer.decode."""
    return self.tokenizer.decode(self.ids[start:stop])


class _Reader(NamedTuple):
  """Reader of a source as blocks of code points, or of bytes for a byte tokenizer."""

  source: sources.Source
  tokenizer: str
  encoding: str
  newlines: str
  limit: int  # maximum number of characters; 0: no limit
  options: str  # see `load`

  def points(self) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (file number, code points as uint32 [n]) up to the limit."""
    remaining = self.limit or math.inf
    for number, points in self._joined():
      yield number, points[: min(remaining, len(points))]
      remaining -= len(points)
      if remaining <= 0:
        return

  def _joined(self) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (file number, code points); insert missing line ends between files."""
    last, owner = _NEWLINE, 0
    for number, file in enumerate(self.source.files):
      for text in self._texts(file):
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        if number != owner and last != _NEWLINE:
          yield owner, np.array([_NEWLINE], "<u4")
        yield number, points
        last, owner = points[-1], number

  def _texts(self, file: downloads.File) -> Iterator[str]:
    """Yield the decoded text of one file in non-empty pieces."""
    encoding = "latin-1" if self.tokenizer == "byte" else self.encoding
    blocks = self.source.blocks(file)
    return _decode(blocks, str(file.path), encoding, self.newlines, options=self.options)


def read_text(
  name: str,
  content: bytes | None = None,
  *,
  tokenizer: str = "char",
  encoding: str = "utf-8",
  newlines: str = "keep",
) -> str:
  """Return the text of a file that a user names, or of content that has been read from `name`.

  All commands read such files with this function. The text is decoded like a corpus with these
  settings. For a byte tokenizer, bytes that are not UTF-8 become surrogates, from which
  `Tokenizer.encode` restores them. Otherwise they raise UserError with their position.
  """
  blocks = [files.read_input(name) if content is None else content]
  if tokenizer == "byte":
    return "".join(_decode(blocks, name, "utf-8", newlines, "surrogateescape"))
  _check_encoding(encoding, "text.")
  return "".join(_decode(blocks, name, encoding, newlines))


def _decode(
  blocks: Iterable[bytes],
  name: str,
  encoding: str,
  newlines: str,
  on_error: str = "strict",
  options: str = "",
) -> Iterator[str]:
  """Yield the text of a file in non-empty pieces; see `load` for `newlines` and `options`."""
  decoder = codecs.getincrementaldecoder(encoding)(on_error)
  if newlines == "lf":
    decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
  size, beginning = 0, b""
  try:
    for block in blocks:
      size, beginning = size + len(block), beginning or block
      if text := decoder.decode(block):
        yield text
    if text := decoder.decode(b"", final=True):
      yield text
  except UnicodeError as error:
    # A plain UnicodeError has no position: the byte order mark of UTF-16 text is missing.
    offset = 0
    if isinstance(error, UnicodeDecodeError):
      # error.object contains the undecoded bytes of the previous block, then this block.
      offset = size - len(error.object) + error.start
    raise errors.UserError(
      f"{name}: byte {offset} is not {encoding} text: {_remedy(beginning, encoding, options)}"
    ) from error


def _remedy(beginning: bytes, encoding: str, options: str) -> str:
  """Return how to use a file whose bytes are not text in the encoding."""
  kind = next((_SIGNATURES[each] for each in _SIGNATURES if beginning.startswith(each)), "")
  if kind and not kind.startswith("utf"):
    return f"it is {kind}; extract its text to a file, and use that file"
  if not options.startswith("-"):
    return f"it is {kind}; convert it to {encoding}" if kind else f"convert it to {encoding}"
  if kind:
    return f"use {options}encoding={kind}"
  return f"set its encoding (for example {options}encoding=latin-1), or use {options}tokenizer=byte"


def load(
  source: str,
  *,
  tokenizer: str = "char",
  encoding: str = "utf-8",
  newlines: str = "keep",
  limit: int = 0,
  options: str = "--config.text.",
) -> Corpus:
  """Load the corpus of a name, file, folder, glob or URL[#sha256=HEX].

  Files are concatenated unchanged, except that a line end is inserted between two files if the
  first does not end with one. Byte order marks, NULs and CRLFs are part of the text;
  newlines='lf' converts CRLF and CR to LF. The first load reads the text twice, to count the
  characters and to write the ids. Later loads only hash the source. With a `limit`, the text and
  its vocabulary end after this many characters. Raise UserError if the source is missing,
  unreadable or undecodable. `options` precedes the names of these arguments in messages; it begins
  with a dash if the user can set them as options.
  """
  for name, value, choices in (
    ("tokenizer", tokenizer, tokenizers.KINDS),
    ("newlines", newlines, ("keep", "lf")),
  ):
    if value not in choices:
      raise errors.UserError(f"{options}{name}={value}: use {' or '.join(choices)}")
  _check_encoding(encoding, options)
  if tokenizer == "byte" and encoding != "utf-8":
    console.say(
      f"warning: {options}encoding={encoding} has no effect: the tokenizer byte reads bytes, which "
      "are not decoded"
    )
  resolved = sources.resolve(source)
  parts = [_FORMAT, resolved.preparation, (tokenizer, encoding, newlines)]
  parts += [[file.sha256 for file in resolved.files]] + ([limit] if limit else [])
  key = "corpus-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
  reader = _Reader(resolved, tokenizer, encoding, newlines, limit, options)
  ids, vocabulary, sizes = _read(runtime.cache_folder() / key) or _build(reader, key)
  stops = np.cumsum(sizes).tolist()
  spans = zip(resolved.files, [0, *stops[:-1]], stops)
  documents = tuple(Document(file.name, start, stop) for file, start, stop in spans if start < stop)
  is_cut = len(ids) == limit  # a limit that exceeds the length of the text has no effect
  digest = hashlib.sha256(f"{limit} characters of {resolved.sha256}".encode()).hexdigest()
  settings = {"encoding": encoding, "newlines": newlines}
  provenance = {
    "source": source,
    "kind": resolved.kind,
    **resolved.facts,
    "files": len(resolved.files),
    "bytes": sum(file.size for file in resolved.files),
    "characters": len(ids),
    "sha256": digest if is_cut else resolved.sha256,
    "alphabet": {"kind": tokenizer, "size": vocabulary.vocab_size},
    "options": settings | ({"limit": limit} if is_cut else {}),
  }
  return Corpus(resolved.name, ids, vocabulary, documents, provenance)


def _check_encoding(name: str, options: str):
  """Raise UserError unless Python has a text encoding of this name."""
  # Look up Python's own codecs only: a package may register a codec that accepts every name.
  try:
    codec = encodings.search_function(name.lower())
    "a".encode(name)  # raises for binary codecs, for example hex
  except (LookupError, ValueError):
    codec = None
  if codec is None or codec.incrementaldecoder is None or codec.name in _TRANSFORMATIONS:
    raise errors.UserError(
      f"{options}encoding={name}: Python has no text encoding of this name; "
      "use, for example, utf-8, latin-1 or utf-16"
    )


# A cache entry: ids, tokenizer, and the number of characters in each file. Its key depends on the
# content of the files and on the options, not on file names.
_Entry = tuple[np.memmap, tokenizers.Tokenizer, list[int]]


def _build(reader: _Reader, key: str) -> _Entry:
  """Tokenize a source, write its cache entry, and return the entry."""
  counts, sizes = np.zeros(0x110000, np.int64), [0] * len(reader.source.files)
  for number, points in reader.points():
    block_counts = np.bincount(points)
    counts[: len(block_counts)] += block_counts
    sizes[number] += len(points)
  if not sum(sizes):
    raise errors.UserError(f"{reader.source.name} is empty: use a source that contains text")
  tokenizer = tokenizers.Tokenizer.from_counts(reader.tokenizer, counts)
  with downloads.building() as folder:
    built = folder / key
    built.mkdir()
    with open(built / "ids.bin", "wb") as file:
      for _, points in reader.points():
        file.write(tokenizer.encode_points(points).data)
    meta = {"alphabet": tokenizer.to_json(), "sizes": sizes}
    (built / "corpus.json").write_text(json.dumps({"sha256": _digest(meta), **meta}))
    entry = _read(built)  # The memory map stays valid when the file is moved.
    downloads.publish(built)
  if entry is None:
    raise errors.UserError(f"{reader.source.name} changed while it was read: run again")
  return entry


def _digest(meta: dict) -> str:
  return hashlib.sha256(json.dumps(meta).encode()).hexdigest()


def _read(folder: pathlib.Path) -> _Entry | None:
  """Return a cache entry, or None if it is missing or damaged."""
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


def describe(corpus: Corpus, lines: int = 10) -> list[str]:
  """Return the lines of a summary: provenance, documents, tokens and the first `lines` lines."""
  facts = {_LABELS.get(key, key): _format(value) for key, value in corpus.provenance.items()}
  facts["documents"] = errors.some([document.name for document in corpus.documents], 5)
  tokens = [t for t, count in zip(corpus.tokenizer.tokens, corpus.tokenizer.counts) if count]
  facts["tokens"] = " ".join("space" if token == " " else token for token in tokens[:200])
  table = [f"  {key:<12}{value}" for key, value in facts.items()]
  excerpt = corpus.text(0, 200 * lines).split("\n")[:lines]
  return [corpus.name, *table, "", *(f"  | {line[:96]}" for line in excerpt)]


def _format(value) -> str:
  if isinstance(value, dict):
    return ", ".join(f"{key} {_format(item)}" for key, item in value.items())
  return f"{value:,}" if isinstance(value, int) else str(value)
