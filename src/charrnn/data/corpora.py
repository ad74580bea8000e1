"""Load corpora by name, path or URL: ids mapped from disk, tokenizer, documents and provenance."""

import codecs
import contextlib
import dataclasses
import encodings
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from charrnn import console, errors, files, runtime
from charrnn.data import documents as documents_lib
from charrnn.data import downloads, encoded, sources, splits, tokenizers

_FORMAT = 1  # version of the cache entries
CHUNK = 1 << 16  # maximum number of characters that are tokenized at once
MAX_TRAINING = 1 << 26  # maximum number of characters from which a vocabulary is learned
MAX_DOCUMENTS = 5  # maximum number of documents that a summary names
MIN_PROGRESS = 5_000_000  # number of characters above which progress is shown
_IDS = "ids.bin"
_WORDS = ("positions.bin", "stops.bin", "words.bin")  # the fields of UnknownWords
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
class Corpus(encoded.EncodedText):
  """A text as ids [N], which are memory-mapped from the cache.

  The provenance of a text with a trained vocabulary has `boundaries`, which are pairs (character,
  token): the positions at which splits begin and end, and the end of the text. The provenance of a
  text of documents has `splits`, the spans of each split.
  """

  name: str
  documents: Sequence[Document]
  provenance: dict[str, Any]


class _Documents(Sequence):
  """The documents of a text that is divided into more documents than files.

  They are in the order of their positions. A name is the file and the number of the document in it.
  """

  def __init__(self, bounds: documents_lib.Bounds, names: Sequence[str], counts, order):
    """`names` and `counts` are the name of each file, and the number of its documents."""
    self._bounds, self._names, self._stops, self._numbers = bounds, names, np.cumsum(counts), order

  def __len__(self) -> int:
    return len(self._bounds.starts)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return tuple(self[n] for n in range(*index.indices(len(self))))
    number = int(self._numbers[index])
    file = int(np.searchsorted(self._stops, number, side="right"))
    number -= int(self._stops[file - 1]) if file else 0
    start, stop = (int(positions[index]) for positions in self._bounds)
    return Document(f"{self._names[file]}:{number + 1}", start, stop)


class _Reader(NamedTuple):
  """Reader of a source as blocks of code points, or of bytes for a byte tokenizer."""

  source: sources.Source
  tokenizer: str
  encoding: str
  newlines: str
  limit: int  # maximum number of characters; 0: no limit
  options: str  # see `load`
  documents: str  # one of documents_lib.KINDS
  groups: list[int]  # number of files of each source

  def totals(self, of_files: Sequence[int]) -> list[int]:
    """Return the sum of the numbers of each source."""
    stops = np.cumsum([0, *of_files])[np.cumsum([0, *self.groups])]
    return np.diff(stops).tolist()

  def points(self) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (file number, code points as uint32 [n]) up to the limit.

    A text of documents begins with END_POINT, and each document ends with one, also at the limit.
    """
    remaining = self.limit or math.inf
    for number, points in self._joined() if self.documents == "none" else self._separate():
      yield number, points[: min(remaining, len(points))]
      remaining -= len(points)
      if remaining <= 0:
        if self.documents != "none" and points[remaining - 1] != tokenizers.END_POINT:
          yield number, documents_lib.END
        return

  def _separate(self) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (file number, code points), with END_POINT before and after each document."""
    yield 0, documents_lib.END
    for number, file in enumerate(self.source.files):
      for points in documents_lib.separate(self._texts(file), self.documents):
        yield number, points

  def chunks(self, cuts: list[int], size: int) -> Iterator[tuple[int, str]]:
    """Yield (position, text): chunks of at most `size` characters that do not cross a cut.

    The last cut is the end of the text. The ends of the chunks do not depend on the blocks in which
    the files are read. Raise UserError if the text has another length than before.
    """
    buffer, position, cuts = "", 0, sorted(cuts, reverse=True)
    for _, points in self.points():
      buffer += points.tobytes().decode("utf-32-le", "surrogatepass")
      while buffer:
        while cuts and cuts[-1] == position:
          cuts.pop()
        if not cuts:
          raise self.changed()
        room = cuts[-1] - position
        if len(buffer) <= min(size, room - 1):
          break  # The chunk may be longer than what has been read.
        chunk = tokenizers.chunk(buffer[:room], size)
        yield position, chunk
        buffer, position = buffer[len(chunk) :], position + len(chunk)
    if any(cut > position for cut in cuts):
      raise self.changed()

  def changed(self) -> errors.UserError:
    """Return the error for a source that changes while it is read several times."""
    return errors.UserError(f"{self.source.name} changed while it was read: run again")

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
    """Yield the decoded text of one file in non-empty chunks."""
    encoding = "latin-1" if tokenizers.KINDS[self.tokenizer].reads_bytes else self.encoding
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
  if tokenizers.KINDS[tokenizer].reads_bytes:
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
  """Yield the text of a file in non-empty chunks; see `load` for `newlines` and `options`."""
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
  vocab_size: int | None = None,
  min_count: int = 0,
  split: tuple[str, float, float] = ("tail", 0.05, 0.05),
  documents: str = "none",
  valid_source: str = "",
  test_source: str = "",
  known: tokenizers.Tokenizer | None = None,
  keeps: bool = False,
  options: str = "--config.text.",
) -> Corpus:
  """Load the corpus of a name, file, folder, glob or URL[#sha256=HEX].

  Files are concatenated unchanged, except that a line end is inserted between two files if the
  first does not end with one. Byte order marks, NULs and CRLFs are part of the text;
  newlines='lf' converts CRLF and CR to LF. The first load reads the text twice, to count the
  characters and to write the ids. Later loads only hash the source. With a `limit`, the text and
  its vocabulary end after this many characters.

  The vocabulary of the tokenizers `word` and `bpe` has at most `vocab_size` tokens (None: chosen
  from the length). It is learned from the training split: `split` is its kind and the fractions of
  validation and test. `known` is used instead of a tokenizer of its kind that would be learned.
  With `keeps`, a vocabulary of characters has those of `known` and of the text. A character or word
  that occurs less often than `min_count` in the training split becomes <UNK> (0: never for
  characters, and tokenizers.MIN_COUNT for words).

  `documents` divides the text into documents: see `documents.separate`. They are shuffled, always
  in the same way, so that the splits do not depend on their order in the source. `valid_source` and
  `test_source` are sources of a whole split. They follow the text of `source`, which then has no
  such split.

  Raise UserError if the source is missing, unreadable or undecodable. `options` precedes the names
  of these arguments in messages; it begins with a dash if the user can set them as options.
  """
  for name, value, choices in (
    ("tokenizer", tokenizer, tuple(tokenizers.KINDS)),
    ("newlines", newlines, ("keep", "lf")),
    ("documents", documents, documents_lib.KINDS),
  ):
    if value not in choices:
      raise errors.UserError(f"{options}{name}={value}: use {' or '.join(choices)}")
  _check_encoding(encoding, options)
  kind = tokenizers.KINDS[tokenizer]
  tokenizers.check_size(tokenizer, vocab_size, options)
  tokenizers.check_min_count(tokenizer, min_count, options)
  tokenizers.check_documents(tokenizer, documents, options)
  if kind.reads_bytes and encoding != "utf-8":
    console.say(
      f"warning: {options}encoding={encoding} has no effect: the tokenizer {tokenizer} reads "
      "bytes, which are not decoded"
    )
  held_out = {"valid": valid_source, "test": test_source}
  held_out = {name: each for name, each in held_out.items() if each}
  _check_held_out(held_out, tokenizer, limit, split[0], options)
  joined = [sources.resolve(each) for each in (source, *held_out.values())]
  resolved, groups = sources.join(joined), [len(each.files) for each in joined]
  parts: list[Any] = [_FORMAT, resolved.preparation, (tokenizer, encoding, newlines)]
  parts += [[file.sha256 for file in resolved.files]] + ([limit] if limit else [])
  parts += ([] if documents == "none" else [documents, documents_lib.FORMAT]) + (
    [groups] if held_out else []
  )
  reader = _Reader(resolved, tokenizer, encoding, newlines, limit, options, documents, groups)
  settings: dict[str, Any] = {"encoding": encoding, "newlines": newlines}
  settings |= {} if documents == "none" else {"documents": documents}
  settings |= {"vocab_size": vocab_size} if kind.is_trained else {}
  settings |= {"min_count": min_count} if min_count else {}
  if kind.is_trained or min_count:
    settings |= {"split": list(split)}
    parts += [settings]
  if not (kind.is_trained or keeps) or (known and known.kind != tokenizer):
    known = None
  entry = _load_entry(reader, parts, _Vocabulary(vocab_size, min_count, known, split, held_out))
  stops = np.cumsum(entry.sizes).tolist()
  spans = zip(resolved.files, [0, *stops[:-1]], stops)
  named = tuple(Document(file.name, start, stop) for file, start, stop in spans if start < stop)
  length = entry.characters
  is_cut = 0 < limit <= length  # a limit that exceeds the length of the text has no effect
  digest = hashlib.sha256(f"{limit} characters of {resolved.sha256}".encode()).hexdigest()
  provenance = {
    "source": source,
    "kind": resolved.kind,
    **resolved.facts,
    "files": len(resolved.files),
    "bytes": sum(file.size for file in resolved.files),
    "characters": length,
    "sha256": digest if is_cut else resolved.sha256,
    "alphabet": {"kind": tokenizer, "size": entry.tokenizer.vocab_size},
    "options": settings | ({"limit": limit} if is_cut else {}),
  }
  if kind.is_trained:
    provenance["options"]["vocab_size"] = vocab_size or kind.default_size(length)
    provenance |= {"tokens": len(entry.ids), "boundaries": entry.boundaries}
  if documents != "none":
    bounds = documents_lib.Bounds.of(entry.ids, entry.tokenizer.end_id)
    order = documents_lib.order(reader.totals(entry.documents))
    named = _Documents(bounds, [file.name for file in resolved.files], entry.documents, order)
  if documents != "none" or held_out:
    provenance["splits"] = _divide(reader, entry, split, held_out)._asdict()
  content = entry.tokenizer, entry.ids, entry.unknown
  return Corpus(*content, resolved.name, named, provenance)


def _divide(
  reader: _Reader, entry: "_Entry", split: tuple[str, float, float], held_out: Iterable[str]
) -> splits.Splits:
  """Return the splits of a text of documents, or with the separate sources `held_out`."""
  kind, *fractions = split
  fractions = [0 if name in held_out else f for name, f in zip(("valid", "test"), fractions)]
  sizes = reader.totals(entry.sizes)
  if reader.documents == "none":
    divided = splits.split(sizes[0], kind, *fractions)
  else:
    bounds = documents_lib.Bounds.of(entry.ids, entry.tokenizer.end_id)
    count = reader.totals(entry.documents)[0]
    divided = documents_lib.split(bounds.select(np.arange(count)), kind, *fractions)
  edges = np.cumsum(sizes).tolist()
  spans = map(splits.Span, edges, edges[1:])
  return divided._replace(**{name: (span,) for name, span in zip(held_out, spans)})


def _check_held_out(held_out, tokenizer: str, limit: int, split: str, options: str):
  """Raise UserError if separate sources of splits do not fit the other arguments."""
  for name, source in held_out.items():
    option = f"{options}{name}_source={source}"
    if tokenizers.is_trained(tokenizer):
      raise errors.UserError(f"{option}: needs the tokenizer char or byte, not {tokenizer}")
    if limit:
      raise errors.UserError(f"{option}: cannot be combined with {options}limit={limit}")
    if split == "streams":
      raise errors.UserError(f"{option}: cannot be combined with {options}split=streams: use tail")


def _key(parts: list[Any], known: tokenizers.Tokenizer | None = None) -> str:
  """Return the name of the cache entry of a text and its options.

  `known` is the vocabulary of the entry, if the text alone does not determine it.
  """
  parts = [*parts, files.digest(known.to_json() | {"counts": ()})] if known else parts
  return "corpus-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


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


class _Vocabulary(NamedTuple):
  """The arguments of `load` that determine the vocabulary of a new cache entry."""

  size: int | None
  min_count: int
  known: tokenizers.Tokenizer | None
  split: tuple[str, float, float]
  held_out: Iterable[str]  # the splits that have a source of their own


class _Entry(NamedTuple):
  """A cache entry. Its key depends on the content of the files and on the options, not on names."""

  ids: np.memmap
  tokenizer: tokenizers.Tokenizer
  sizes: list[int]  # number of tokens of each file
  characters: int
  boundaries: list[list[int]]  # see Corpus
  unknown: encoded.UnknownWords
  documents: list[int]  # number of documents of each file, if the text is divided into documents


def _load_entry(reader: _Reader, parts: list[Any], vocabulary: _Vocabulary) -> _Entry:
  """Return the cache entry of a text, and build it if it is missing. See `_key` for `parts`."""
  known, entry = vocabulary.known, _read(_key(parts))
  # Another version of a package may learn another vocabulary.
  if known and not (entry and entry.tokenizer == known):
    entry = _read(_key(parts, known))
  build = _build_trained if tokenizers.is_trained(reader.tokenizer) else _build
  return entry or build(reader, parts, vocabulary)


class _Output:
  """The files of the tokens of a text in a new cache entry."""

  def __init__(self, folder: pathlib.Path, stack: contextlib.ExitStack):
    self._files = [stack.enter_context((folder / name).open("wb")) for name in (_IDS, *_WORDS)]
    self.tokens = self.words = self.letters = 0

  def write(self, chunk: encoded.EncodedText):
    """Append the next part of the text."""
    unknown = chunk.unknown
    shifted = unknown.positions + self.tokens, unknown.stops + self.letters
    for file, array in zip(self._files, (chunk.ids, *shifted, unknown.content)):
      file.write(array.data)
    self.tokens += len(chunk.ids)
    self.words += len(unknown.positions)
    self.letters += len(unknown.content)


def _build(reader: _Reader, parts: list[Any], vocabulary: _Vocabulary) -> _Entry:
  """Tokenize a source, write its cache entry, and return the entry.

  The vocabulary has the tokens of the source and of `vocabulary.known`, or <UNK> for rare ones.
  """
  counts, sizes = np.zeros(tokenizers.END_POINT + 1, np.int64), [0] * len(reader.source.files)
  for number, points in reader.points():
    block_counts = np.bincount(points)
    counts[: len(block_counts)] += block_counts
    sizes[number] += len(points)
  end = tokenizers.ENDS[reader.documents]
  if sum(sizes) <= (end is not None):
    raise errors.UserError(f"{reader.source.name} is empty: use a source that contains text")
  tokenizer = tokenizers.KINDS[reader.tokenizer].from_counts(counts, end)
  if known := vocabulary.known:
    tokenizer = tokenizer.extended(known.tokens)
    if not vocabulary.min_count and (entry := _read(_key(parts, tokenizer))):
      return entry
  documents = [0] * len(sizes)
  with downloads.building() as folder:
    built = folder / "built"
    built.mkdir()
    with open(built / _IDS, "wb") as file:
      for number, points in reader.points():
        file.write(tokenizer.encode_points(points).data)
        documents[number] += int((points == tokenizers.END_POINT).sum())
    meta: dict[str, Any] = {"sizes": sizes}
    if end is not None:
      documents[0] -= 1  # the END before the first document
      _shuffle(built / _IDS, tokenizer, reader.totals(documents))
      meta["documents"] = documents
    if vocabulary.min_count:
      ids = _map(built / _IDS, tokenizer.dtype, sum(sizes))
      entry = _Entry(ids, tokenizer, sizes, len(ids), [], encoded.UnknownWords.of(), documents)
      train = _divide(reader, entry, vocabulary.split, vocabulary.held_out).train
      tokenizer, meta["unknown"] = _replace_rare(built, entry, train, vocabulary)
    return _publish(reader, built, meta, _key(parts, tokenizer if known else None), tokenizer)


def _replace_rare(
  built: pathlib.Path, entry: _Entry, train: Iterable[splits.Span], vocabulary: _Vocabulary
) -> tuple[tokenizers.Tokenizer, list[int]]:
  """Replace the characters that are rare in the training split, in an entry that is being built.

  Return the new vocabulary, and the number of replaced characters and of their bytes.
  """
  old, counts = entry.tokenizer, np.zeros(entry.tokenizer.vocab_size, np.int64)
  for start, stop in train:
    for low in range(start, stop, CHUNK):
      counts += np.bincount(entry.ids[low : min(low + CHUNK, stop)], minlength=len(counts))
  known = vocabulary.known.tokens if vocabulary.known else ()
  tokenizer = old.without_rare(counts, vocabulary.min_count, known)
  folder = built / "new"
  folder.mkdir()
  with contextlib.ExitStack() as stack:
    output = _Output(folder, stack)
    for low in range(0, len(entry.ids), CHUNK):
      output.write(tokenizer.read_points(old.points(entry.ids[low : low + CHUNK])))
  for file in folder.iterdir():
    file.replace(built / file.name)
  folder.rmdir()
  return tokenizer, [output.words, output.letters]


def _shuffle(path: pathlib.Path, tokenizer: tokenizers.Tokenizer, counts: list[int]):
  """Shuffle the documents in a file of ids; see `documents.order` for `counts`."""
  ids = np.memmap(path, tokenizer.dtype, mode="r")
  bounds = documents_lib.Bounds.of(ids, tokenizer.end_id)
  order = documents_lib.order(counts)
  shuffled = path.with_name("shuffled.bin")
  with open(shuffled, "wb") as file:
    file.write(ids[:1].data)
    for first in range(0, len(order), CHUNK):
      part = bounds.select(order[first : first + CHUNK])
      file.write(ids[part.positions()].data)
  shuffled.replace(path)


def _build_trained(reader: _Reader, parts: list[Any], vocabulary: _Vocabulary) -> _Entry:
  """Learn the vocabulary of a source, tokenize it, and write and return its cache entry.

  Documents and splits are tokenized separately, so that no token is in two of them.
  """
  sizes = [0] * len(reader.source.files)
  for number, points in reader.points():
    sizes[number] += len(points)
  if not (length := sum(sizes)):
    raise errors.UserError(f"{reader.source.name} is empty: use a source that contains text")
  divided = splits.split(length, *vocabulary.split)
  edges = sorted({0, length, *(edge for spans in divided for span in spans for edge in span)})
  stops = np.cumsum(sizes).tolist()
  cuts = [*edges, *stops]
  with console.Progress() if length > MIN_PROGRESS else contextlib.nullcontext() as progress:
    kind = tokenizers.KINDS[reader.tokenizer]
    update = progress("learning the vocabulary") if progress else lambda *_: None
    texts = _training_text(reader, cuts, divided.train, update)
    size, min_count = vocabulary.size or kind.default_size(length), vocabulary.min_count
    tokenizer = vocabulary.known or kind.train(texts, size, min_count or tokenizers.MIN_COUNT)
    update = progress("tokenizing") if progress else lambda *_: None
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    tokens = {0: 0}  # number of tokens before each cut
    with downloads.building() as folder, contextlib.ExitStack() as stack:
      built = folder / "built"
      built.mkdir()
      output = _Output(built, stack)
      for position, text in reader.chunks(cuts, CHUNK):
        chunk = tokenizer.read(text)
        output.write(chunk)
        if _is_inside(position, divided.train):
          counts += np.bincount(chunk.ids, minlength=len(counts))
        tokens[position + len(text)] = output.tokens
        update(position + len(text), length)
      stack.close()
      tokenizer = dataclasses.replace(tokenizer, counts=tuple(counts.tolist()))
      ends = [tokens[stop] for stop in stops]
      meta = {
        "sizes": np.diff(ends, prepend=0).tolist(),
        "characters": length,
        "boundaries": [[edge, tokens[edge]] for edge in edges],
        "unknown": [output.words, output.letters],
      }
      return _publish(reader, built, meta, _key(parts, vocabulary.known), tokenizer)


def _training_text(reader: _Reader, cuts: list[int], spans, update) -> Iterator[str]:
  """Yield the text from which a vocabulary is learned: at most MAX_TRAINING characters."""
  remaining, total = MAX_TRAINING, min(MAX_TRAINING, sum(stop - start for start, stop in spans))
  for position, text in reader.chunks(cuts, CHUNK):
    if _is_inside(position, spans):
      yield text[:remaining]
      remaining -= len(text)
      update(min(total - remaining, total), total)
      if remaining <= 0:
        return


def _is_inside(position: int, spans) -> bool:
  return any(start <= position < stop for start, stop in spans)


def _publish(
  reader: _Reader,
  built: pathlib.Path,
  meta: dict[str, Any],
  key: str,
  tokenizer: tokenizers.Tokenizer,
) -> _Entry:
  """Complete a cache entry with its metadata, publish it under a name, and return it."""
  meta |= {"alphabet": tokenizer.to_json()}
  built = built.rename(built.with_name(key))
  (built / "corpus.json").write_text(json.dumps({"sha256": _digest(meta), **meta}))
  entry = _read(built)  # The memory maps stay valid when the files are moved.
  downloads.publish(built)
  if entry is None:
    raise reader.changed()
  return entry


def _digest(meta: dict) -> str:
  return hashlib.sha256(json.dumps(meta).encode()).hexdigest()


def _read(key: str | pathlib.Path) -> _Entry | None:
  """Return a cache entry, or None if it is missing or damaged."""
  try:
    folder = runtime.cache_folder() / key
    meta = json.loads((folder / "corpus.json").read_bytes())
    if meta.pop("sha256") != _digest(meta):
      return None
    tokenizer = tokenizers.Tokenizer.from_json(meta["alphabet"])
    length = sum(meta["sizes"])
    ids = _map(folder / _IDS, tokenizer.dtype, length)
    words, letters = meta.get("unknown", (0, 0))
    dtypes = (np.int64, words), (np.int64, words), (np.uint8, letters)
    unknown = [_map(folder / name, *each) for name, each in zip(_WORDS, dtypes)]
    characters, boundaries = meta.get("characters", length), meta.get("boundaries", [])
    unknown, documents = encoded.UnknownWords(*unknown), meta.get("documents", [])
    return _Entry(ids, tokenizer, meta["sizes"], characters, boundaries, unknown, documents)
  except (OSError, ValueError, KeyError, TypeError, AttributeError, errors.UserError):
    return None


def _map(path: pathlib.Path, dtype, length: int) -> np.ndarray:
  """Return a file as an array of `length` numbers; raise ValueError if its size differs."""
  if not length:  # An empty file cannot be mapped.
    return np.zeros(0, dtype)
  if os.path.getsize(path) != length * np.dtype(dtype).itemsize:
    raise ValueError(path)
  return np.memmap(path, dtype, mode="r", shape=(length,))


class Layout(NamedTuple):
  """The number of tokens of a corpus, and where its splits may be; see `Corpus.provenance`."""

  tokens: int
  boundaries: list[tuple[int, int]]
  splits: splits.Splits | None


def layout(provenance: dict[str, Any]) -> Layout:
  """Return the layout of a corpus, from its provenance."""
  boundaries, divided = provenance.get("boundaries", []), provenance.get("splits")
  if divided:
    divided = splits.Splits(
      *(tuple(splits.Span(*span) for span in divided[name]) for name in splits.Splits._fields)
    )
  tokens = boundaries[-1][1] if boundaries else provenance["characters"]
  return Layout(tokens, boundaries, divided)


def is_valid_layout(provenance: dict[str, Any]) -> bool:
  """Return whether the boundaries and the splits in a provenance from JSON are possible.

  The numbers of characters and tokens must have been checked.
  """
  boundaries, divided = provenance.get("boundaries", []), provenance.get("splits")
  if not _are_pairs(boundaries):
    return False
  characters, tokens = zip(*boundaries) if boundaries else ((), ())
  ascends = list(characters) == sorted(characters) and list(tokens) == sorted(tokens)
  if boundaries and not (ascends and boundaries[0] == [0, 0] and tokens[-1] > 0):
    return False
  if divided is None:
    return True
  if not isinstance(divided, dict) or {*divided} != {*splits.Splits._fields}:
    return False
  spans = [divided[name] for name in splits.Splits._fields]
  if not all(map(_are_pairs, spans)):
    return False
  last = tokens[-1] if boundaries else provenance["characters"]
  edges = [[0, *itertools.chain.from_iterable(pairs), last] for pairs in spans]
  return all(each == sorted(each) for each in edges)


def _are_pairs(value) -> bool:
  """Return whether a value from JSON is a list of pairs of integers."""
  return isinstance(value, list) and all(
    isinstance(pair, list) and len(pair) == 2 and {*map(type, pair)} == {int} for pair in value
  )


def unwritable(corpus: Corpus, divided: splits.Splits) -> str | None:
  """Return a line about the share of the held-out text that the vocabulary cannot write.

  Return None if the tokenizer can write every text.
  """
  if corpus.tokenizer.writable is None:
    return None
  size = corpus.size([*divided.valid, *divided.test])
  tokens, content = size.unknown_tokens / (size.tokens or 1), size.unknown_bytes / (size.bytes or 1)
  return (
    f"{tokens:.2%} of the held-out tokens and {content:.2%} of the held-out bytes are not in the "
    f"vocabulary: the model reads {tokenizers.UNKNOWN} instead, and cannot write them"
  )


def describe(corpus: Corpus, lines: int = 10) -> list[str]:
  """Return the lines of a summary: provenance, documents, tokens and the first `lines` lines."""
  shown = {
    key: value for key, value in corpus.provenance.items() if key not in ("boundaries", "splits")
  }
  facts = {_LABELS.get(key, key): _format(value) for key, value in shown.items()}
  names = [document.name for document in corpus.documents[:MAX_DOCUMENTS]]
  more = len(corpus.documents) - len(names)
  facts["documents"] = ", ".join(names) + (f" and {more} more" if more else "")
  facts["examples" if corpus.tokenizer.is_trained else "tokens"] = _examples(corpus.tokenizer)
  if corpus.tokenizer.writable is not None:
    _, boundaries, divided = layout(corpus.provenance)
    if divided is None:
      divided = splits.split(
        corpus.provenance["characters"], *corpus.provenance["options"]["split"]
      )
      divided = divided.map(dict(boundaries)) if boundaries else divided
    facts["unknown"] = unwritable(corpus, divided)
  table = [f"  {key:<12}{value}" for key, value in facts.items()]
  excerpt = corpus.text(0, 200 * lines).split("\n")[:lines]
  return [corpus.name, *table, "", *(f"  | {line[:96]}" for line in excerpt)]


def _examples(tokenizer: tokenizers.Tokenizer) -> str:
  """Return the tokens that occur in the text, or the most frequent ones of a trained vocabulary."""
  tokens = [text for text, count in zip(tokenizer.texts, tokenizer.counts) if count]
  if tokenizer.has_characters:
    return " ".join("space" if token == " " else token for token in tokens[:200])
  order = np.argsort(-np.array(tokenizer.counts), kind="stable")
  return " ".join(repr(tokenizer.texts[n]) for n in order[:50].tolist())


def _format(value) -> str:
  if isinstance(value, dict):
    return ", ".join(f"{key} {_format(item)}" for key, item in value.items())
  if isinstance(value, list):
    return " ".join(map(str, value))
  return f"{value:,}" if isinstance(value, int) else str(value)
