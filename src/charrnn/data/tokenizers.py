"""Tokenizers: convert text to ids from 0 to V-1, and ids back to text.

A token is a character, a byte, a word, or a piece of text that byte pair encoding (BPE) has found.
KINDS registers one class for each.
"""

import abc
import codecs
import collections
import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from charrnn import errors, files
from charrnn.data import encoded

MAX_NAMED = 8  # maximum number of unknown characters or words to list in an error message
MAX_VOCAB = 1 << 18  # maximum size of a trained vocabulary
MAX_LENGTH = 64  # maximum number of bytes of a token of a trained vocabulary
MIN_COUNT = 2  # a rarer word is not in the vocabulary, so that <UNK> occurs in the training text
UNKNOWN = "<UNK>"  # the token of all words or characters that are not in the vocabulary
END = "<END>"  # the token at the end of a document
END_POINT = 0x110001  # stands for END among code points
_POINTS = {
  UNKNOWN: 0x110000,
  END: END_POINT,
}  # The first number is the first that is no code point.
# How a text is divided into documents (None: not at all), and the text that END stands for.
ENDS = {"none": None, "lines": "\n", "files": "", "blank_lines": "\n\n"}
_WORDS = re.compile(r"[^\W_]+|[\W_]")  # a run of letters and digits, or any other character
_SURROGATES = re.compile("([\ud800-\udfff])")


@dataclasses.dataclass(frozen=True)
class Tokenizer(abc.ABC):
  """The V tokens of a vocabulary, and how often each occurs.

  A subclass defines a kind of tokens. Its constructor takes `counts` and what it needs to encode.
  """

  counts: tuple[int, ...]  # in the whole corpus; of a trained vocabulary: in the training split
  # How often each byte occurs in the training split, and for words the number of tokens; empty if
  # the vocabulary does not have <UNK>.
  letters: tuple[int, ...] = dataclasses.field(default=(), kw_only=True)
  kind: ClassVar[str]
  unit: ClassVar[str] = "token"  # the name of a token in messages
  is_trained: ClassVar[bool] = False  # whether it is a `_Trained`
  has_documents: ClassVar[bool] = False  # whether the vocabulary can have the token END
  represents_bytes: ClassVar[bool] = False  # whether there is a token for every byte
  reads_bytes: ClassVar[bool] = False  # whether files are read as bytes, whatever their encoding

  @property
  @abc.abstractmethod
  def tokens(self) -> tuple[str, ...]:
    """The tokens as distinct strings, which identify them in other vocabularies."""

  @property
  def texts(self) -> tuple[str, ...]:
    """The text of each token. Bytes that are not UTF-8 are surrogates ("surrogateescape")."""
    return self.tokens

  @property
  def vocab_size(self) -> int:
    return len(self.counts)

  @property
  def dtype(self) -> np.dtype:
    """The smallest unsigned integer type that can represent every id."""
    return np.min_scalar_type(self.vocab_size - 1)

  @functools.cached_property
  def sizes(self) -> np.ndarray:
    """The number of UTF-8 bytes of each token, int64 [V]; 0 for <UNK>."""
    sizes = np.array([len(_to_bytes(text)) for text in self.texts], np.int64)
    return sizes if self.unknown_id is None else sizes * self.writable

  @functools.cached_property
  def writable(self) -> np.ndarray | None:
    """Which tokens may be sampled, bool [V]; None if all may."""
    return None if self.unknown_id is None else np.arange(self.vocab_size) != self.unknown_id

  @property
  def unknown_id(self) -> int | None:
    """The id of <UNK>; None if the vocabulary does not have it."""
    return None

  @property
  def end_id(self) -> int | None:
    """The id of END; None if the text is not divided into documents."""
    return None

  @property
  def has_characters(self) -> bool:
    """True if every token is a single character, or a byte that counts as one."""
    return False

  @property
  def other_tokens(self) -> str:
    """A clause that says which tokens are not characters, if not `has_characters`."""
    if not self.has_documents:
      return f"the tokens are not characters (tokenizer {self.kind})"
    fields = {UNKNOWN: "text.min_count", END: "text.documents"}
    names = [f"{name} ({field})" for name, field in fields.items() if name in self.tokens]
    return f"{' and '.join(names)} {'are not characters' if names[1:] else 'is not a character'}"

  @staticmethod
  def from_text(text: str, kind: str = "char", vocab_size: int = 1000) -> "Tokenizer":
    """Return the tokenizer of a text."""
    if KINDS[kind].is_trained:
      tokenizer = KINDS[kind].train([text], vocab_size)
      counts = np.bincount(tokenizer.read(text).ids, minlength=tokenizer.vocab_size)
      return dataclasses.replace(tokenizer, counts=tuple(counts.tolist()))
    return KINDS[kind].from_counts(np.bincount(_points(text, KINDS[kind].reads_bytes)))

  @abc.abstractmethod
  def encode(self, text: str) -> np.ndarray:
    """Return the ids of a text; raise UserError if no ids represent it exactly."""

  def skip_unknown(self, text: str) -> tuple[str, dict[str, int]]:
    """Return a text without the characters or words that `encode` refuses, and their counts."""
    return text, {}

  def read(self, text: str) -> encoded.EncodedText:
    """Return a text for scoring. If the vocabulary has <UNK>, it replaces what is not in it."""
    return encoded.EncodedText(self, self.encode(text), encoded.UnknownWords.of())

  @functools.cached_property
  def _nats(self) -> np.ndarray:
    """The nats of each byte, and of the end of a word: [257]. Each count is increased by one."""
    counts = np.array(self.letters, float) + 1
    return -np.log(counts / counts.sum())

  def spelling(self, unknown: bytes) -> float:
    """Return the nats that spell an unknown word or character by the frequencies of the training.

    Its bytes are independent. An end mark, which is as frequent as tokens are, follows a word. The
    bytes of a character show where it ends.
    """
    return float(self._nats[np.frombuffer(unknown, np.uint8)].sum() + self._nats[256:].sum())

  def decode(self, ids) -> str:
    """Return the text of ids, from which `encode` restores them if they were encoded.

    Bytes that are not valid UTF-8 become surrogates (Python's error handler "surrogateescape").
    """
    return self.decoder().decode(ids, final=True)

  @abc.abstractmethod
  def decoder(self) -> "Decoder":
    """Return a new decoder."""

  def default_id(self) -> int:
    """Return the id to use as an empty prompt: END, the line end, or the most frequent token."""
    if self.end_id is not None:
      return self.end_id
    counts = dict(zip(self.tokens, self.counts))
    counts.pop(UNKNOWN, None)
    start = "\n" if counts.get("\n") else max(counts, key=counts.get)
    return self.tokens.index(start)

  def to_json(self) -> dict[str, Any]:
    value = {"kind": self.kind, "tokens": self.tokens, "counts": self.counts}
    return value | ({"letters": self.letters} if self.letters else {})

  @classmethod
  @abc.abstractmethod
  def parse(cls, value: dict[str, Any]) -> "Tokenizer":
    """Return the tokenizer from JSON; raise an error of any common type if it is damaged."""

  @staticmethod
  def from_json(value: dict[str, Any], name: str = "the vocabulary") -> "Tokenizer":
    """Return the tokenizer from the output of `to_json`; raise UserError if it is damaged.

    The former key "symbols" is accepted as an alias of "tokens". `name` identifies the source in
    the error message.
    """
    try:
      if "symbols" in value:
        value = {"tokens": value["symbols"], **value}
      counts = value["counts"]
      tokenizer = KINDS[value["kind"]].parse(value)
      valid = isinstance(counts, list | tuple) and 0 < len(tokenizer.tokens) == len(counts)
      valid = valid and all(type(count) is int and 0 <= count < 1 << 62 for count in counts)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
      valid = False
    if not valid:
      raise errors.UserError(f"{name} is damaged: restore it from a copy of the run")
    return tokenizer

  def save(self, path: str | os.PathLike):
    # The ASCII escapes of JSON can represent lone surrogates; UTF-8 cannot.
    files.write_text(pathlib.Path(path), json.dumps(files.seal(self.to_json())))


class Decoder:
  """Decodes ids block by block; buffers the bytes of a character until it is complete."""

  def __init__(self, convert: Callable[[np.ndarray], bytes], encoding: str, on_error: str):
    self._convert = convert
    self._codec = codecs.getincrementaldecoder(encoding)(on_error)

  def decode(self, ids, final: bool = False) -> str:
    """Return the text of the next ids; with `final`, also of the bytes that are still buffered."""
    return self._codec.decode(self._convert(np.asarray(ids, np.int64)), final)


@dataclasses.dataclass(frozen=True)
class _Points(Tokenizer):
  """The code points (or bytes) of a corpus in ascending order, and END if it has documents."""

  tokens: tuple[str, ...] = ()
  end: str | None = None  # the text that END stands for; None if the text has no documents
  has_documents = True

  @classmethod
  @abc.abstractmethod
  def from_counts(cls, counts: np.ndarray, end: str | None = None) -> "_Points":
    """Return the tokenizer of a corpus in which code point (or byte) i occurs counts[i] times.

    `end` is the text between two documents, whose ends are counted as END_POINT; None if the corpus
    is not divided into documents.
    """

  @property
  def texts(self) -> tuple[str, ...]:
    return self.tokens if self.end is None else (*self.tokens[:-1], self.end)

  @property
  def end_id(self) -> int | None:
    return None if self.end is None else self.vocab_size - 1

  def extended(self, tokens: Iterable[str]) -> "_Points":
    """Return this vocabulary with further characters, which do not occur in the corpus."""
    added = (token for token in tokens if token not in _POINTS)
    counts = dict.fromkeys(added, 0) | dict(zip(self.tokens, self.counts))
    names = sorted(counts, key=_point)
    return dataclasses.replace(self, counts=tuple(map(counts.get, names)), tokens=tuple(names))

  @property
  def has_characters(self) -> bool:
    return self.end is None

  @functools.cached_property
  def _point_of_id(self) -> np.ndarray:
    return np.array([*map(_point, self.tokens)], "<u4")

  @functools.cached_property
  def _id_of_point(self) -> np.ndarray:
    """Table from code point to id; V marks unknown points. The last entry is for higher points."""
    table = np.full(self._point_of_id[-1] + 2, self.vocab_size, np.uint32)
    table[self._point_of_id] = np.arange(self.vocab_size)
    return table

  def points(self, ids: np.ndarray) -> np.ndarray:
    """Return the code points (or bytes) of ids; a number above all code points for END."""
    return self._point_of_id[ids]

  def encode_points(self, points: np.ndarray) -> np.ndarray:
    """Return the ids, with type `dtype`, of code points or (for a byte tokenizer) of bytes."""
    content = self.read_points(points)
    if len(places := content.unknown.positions):
      raise self._unknown_error(points, places)
    return content.ids

  def read_points(self, points: np.ndarray) -> encoded.EncodedText:
    """Return code points or bytes for scoring; see `read`."""
    table = self._id_of_point
    ids = table[np.minimum(points, np.uint32(len(table) - 1))]
    places = np.flatnonzero(ids == self.vocab_size)
    if len(places):
      if self.unknown_id is None:
        raise self._unknown_error(points, places)
      ids[places] = self.unknown_id
    content = [chr(point).encode("utf-8", "surrogatepass") for point in points[places].tolist()]
    unknown = encoded.UnknownWords.of(places, content)
    return encoded.EncodedText(self, ids.astype(self.dtype), unknown)

  def _unknown_error(self, points: np.ndarray, places: np.ndarray) -> errors.UserError:
    is_rare = self.unknown_id is not None
    return errors.UserError(_unknown_message(points[places], int(places[0]), is_rare))

  def _decoder(self, points: np.ndarray, encoding: str, on_error: str) -> Decoder:
    """Return a decoder to `points`, an array whose bytes are text in an encoding."""
    if self.end is None and self.unknown_id is None:
      return Decoder(lambda ids: points[ids].tobytes(), encoding, on_error)
    pieces = [text.encode("utf-8", on_error) for text in self.texts]
    return Decoder(lambda ids: b"".join([pieces[n] for n in ids]), "utf-8", on_error)

  def to_json(self) -> dict[str, Any]:
    return super().to_json() | ({} if self.end is None else {"end": self.end})

  @classmethod
  def parse(cls, value: dict[str, Any]) -> "_Points":
    letters = _parse_letters(value["letters"], 256) if "letters" in value else ()
    fields = tuple(value["counts"]), tuple(value["tokens"]), value.get("end")
    tokenizer = cls(*fields, letters=letters)
    points = tokenizer._point_of_id.tolist()
    if points != sorted(set(points)):
      raise ValueError("the tokens are not in order")
    if (UNKNOWN in tokenizer.tokens) != bool(letters):
      raise ValueError("the counts of bytes are those of a vocabulary with <UNK>")
    if tokenizer.end not in ENDS.values() or (END in tokenizer.tokens) != (
      tokenizer.end is not None
    ):
      raise ValueError("the token of the end of a document is not valid")
    return tokenizer


class Characters(_Points):
  """One token per distinct character of the corpus, or per frequent one and <UNK> for the rest."""

  kind, unit = "char", "character"

  @property
  def unknown_id(self) -> int | None:
    return self.vocab_size - 1 - (self.end is not None) if self.letters else None

  @property
  def has_characters(self) -> bool:
    return self.end is None and self.unknown_id is None

  @classmethod
  def from_counts(cls, counts: np.ndarray, end: str | None = None) -> "Characters":
    points = np.flatnonzero(counts)
    tokens = tuple(END if point == END_POINT else chr(point) for point in points.tolist())
    return cls(tuple(counts[points].tolist()), tokens, end)

  def encode(self, text: str) -> np.ndarray:
    return self.encode_points(_points(text))

  def read(self, text: str) -> encoded.EncodedText:
    return self.read_points(_points(text))

  def without_rare(self, counts: np.ndarray, min_count: int, known: Iterable[str]) -> "Characters":
    """Return this vocabulary with <UNK> instead of rare characters.

    `counts` [V] are those of the training split. A character is rare if it occurs there less often
    than `min_count` and is not in `known`. Raise UserError if all are.
    """
    known, kept = {END, *known}, dict(zip(self.tokens, self.counts))
    for token, count in zip(self.tokens, counts.tolist()):
      if count < min_count and token not in known:
        del kept[token]
    rest = sum(self.counts) - sum(kept.values())
    if not kept.keys() - {END}:
      raise errors.UserError(
        f"no character occurs {min_count} times in the training split: use a lower "
        "--config.text.min_count"
      )
    kept[UNKNOWN] = rest
    letters = np.zeros(256, np.int64)
    for token, count in zip(self.tokens, counts.tolist()):
      if token != END:
        content = token.encode("utf-8", "surrogatepass")
        letters += count * np.bincount(np.frombuffer(content, np.uint8), minlength=256)
    names = sorted(kept, key=_point)
    fields = tuple(map(kept.get, names)), tuple(names), self.end
    return Characters(*fields, letters=tuple(letters.tolist()))

  def skip_unknown(self, text: str) -> tuple[str, dict[str, int]]:
    return _skip(text, self.tokens)

  def decoder(self) -> Decoder:
    return self._decoder(self._point_of_id, "utf-32-le", "surrogatepass")


class Bytes(_Points):
  """One token per byte value, so that every text can be encoded. The token of byte i is chr(i)."""

  kind, unit = "byte", "byte"
  represents_bytes = reads_bytes = True

  @classmethod
  def from_counts(cls, counts: np.ndarray, end: str | None = None) -> "Bytes":
    ends = () if end is None else (int(counts[END_POINT]),)
    counts = np.pad(counts, (0, 256))[:256]
    return cls((*counts.tolist(), *ends), (*map(chr, range(256)), *(END for _ in ends)), end)

  @property
  def texts(self) -> tuple[str, ...]:
    ends = () if self.end is None else (self.end,)
    return (*(bytes([byte]).decode("utf-8", "surrogateescape") for byte in range(256)), *ends)

  def encode(self, text: str) -> np.ndarray:
    return self.encode_points(_points(text, as_bytes=True))

  def decoder(self) -> Decoder:
    return self._decoder(self._point_of_id.astype(np.uint8), "utf-8", "surrogateescape")

  @classmethod
  def parse(cls, value: dict[str, Any]) -> "Bytes":
    tokenizer = super().parse(value)
    if tokenizer._point_of_id.tolist() not in ([*range(256)], [*range(256), END_POINT]):
      raise ValueError("there is not one token per byte")
    return tokenizer


class _Trained(Tokenizer):
  """A vocabulary that is learned from the training split, with at most `text.vocab_size` tokens.

  The vocabularies of all other tokenizers consist of what occurs in the whole corpus.
  """

  is_trained = True
  min_size: ClassVar[int]  # minimum value of `text.vocab_size`

  @classmethod
  @abc.abstractmethod
  def default_size(cls, characters: int) -> int:
    """Return the default of `text.vocab_size` for a text of this length."""

  @classmethod
  @abc.abstractmethod
  def train(cls, texts: Iterable[str], vocab_size: int, min_count: int = MIN_COUNT) -> "_Trained":
    """Return the tokenizer of at most `vocab_size` tokens that is learned from a text.

    `texts` are chunks of the text, at whose ends no token continues. A token occurs in them at
    least `min_count` times. The counts of the tokens are not valid until the text is encoded.
    """


@dataclasses.dataclass(frozen=True)
class Words(_Trained):
  """The most frequent words and signs of the training split, and <UNK> for all others.

  A word is a run of letters and digits. Every other character is a token by itself, so the tokens
  of a text concatenate to the text.
  """

  tokens: tuple[str, ...] = ()  # <UNK>, then by descending frequency
  kind, min_size, unknown_id = "word", 2, 0

  @classmethod
  def default_size(cls, characters: int) -> int:
    return _power_of_two(8 * math.sqrt(characters), 1 << 10, 1 << 16)

  @classmethod
  def train(cls, texts: Iterable[str], vocab_size: int, min_count: int = MIN_COUNT) -> "Words":
    counter: collections.Counter[str] = collections.Counter()
    for text in texts:
      counter.update(_WORDS.findall(text))
    letters = np.zeros(257, np.int64)
    for word, count in counter.items():
      content = _to_bytes(word)
      letters[:256] += count * np.bincount(np.frombuffer(content, np.uint8), minlength=256)
      letters[256] += count
    known = ((word, n) for word, n in counter.items() if n >= min_count and _is_short(word))
    words = sorted(known, key=lambda pair: (-pair[1], pair[0]))[: vocab_size - 1]
    if not words:
      raise errors.UserError(
        f"no word occurs {min_count} times in the training split, so there is no vocabulary: "
        "use a longer text, a lower --config.text.min_count, or --config.text.tokenizer=char"
      )
    names, counts = zip(*words)
    rest = counter.total() - sum(counts)
    return cls((rest, *counts), (UNKNOWN, *names), letters=tuple(letters.tolist()))

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {word: n for n, word in enumerate(self.tokens) if n}

  def read(self, text: str) -> encoded.EncodedText:
    words, ids = _WORDS.findall(text), self._ids
    ids_N = np.fromiter((ids.get(word, 0) for word in words), self.dtype, len(words))
    places = np.flatnonzero(ids_N == 0)
    content = [words[n].encode("utf-8", "surrogatepass") for n in places.tolist()]
    unknown = encoded.UnknownWords.of(places, content)
    return encoded.EncodedText(self, ids_N, unknown)

  def encode(self, text: str) -> np.ndarray:
    content = self.read(text)
    if len(content.unknown.positions):
      unknown = dict.fromkeys(word for word in _WORDS.findall(text) if word not in self._ids)
      names = errors.some([repr(word) for word in unknown], MAX_NAMED)
      raise errors.UserError(
        f"not in the vocabulary: {names}: use other words, a larger --config.text.vocab_size, or "
        "another --config.text.tokenizer"
      )
    return content.ids

  def skip_unknown(self, text: str) -> tuple[str, dict[str, int]]:
    return _skip(_WORDS.findall(text), self._ids)

  def decoder(self) -> Decoder:
    pieces = [text.encode("utf-8", "surrogatepass") for text in self.tokens]
    return Decoder(lambda ids: b"".join([pieces[n] for n in ids]), "utf-8", "surrogatepass")

  @classmethod
  def parse(cls, value: dict[str, Any]) -> "Words":
    tokens, letters = tuple(value["tokens"]), _parse_letters(value["letters"], 257)
    valid = tokens[:1] == (UNKNOWN,) and len(set(tokens)) == len(tokens) <= MAX_VOCAB
    valid = valid and all(_WORDS.fullmatch(word) and _is_short(word) for word in tokens[1:])
    if not valid:
      raise ValueError("these are not words")
    return cls(tuple(value["counts"]), tokens, letters=letters)


@dataclasses.dataclass(frozen=True)
class Pieces(_Trained):
  """Byte pair encoding of UTF-8, by the package `tokenizers`.

  Ids below 256 are bytes, so that every text can be encoded. Merge n replaces the pair of ids
  merges[n] by one id. A text is first split into words and runs of signs, as in GPT-2.
  """

  merges: tuple[tuple[int, int], ...] = ()
  kind, min_size = "bpe", 256
  represents_bytes = True

  @classmethod
  def default_size(cls, characters: int) -> int:
    return _power_of_two(math.sqrt(characters), 1 << 9, 1 << 15)

  @classmethod
  def train(cls, texts: Iterable[str], vocab_size: int, min_count: int = MIN_COUNT) -> "Pieces":
    from tokenizers import Tokenizer as Encoder
    from tokenizers import models, pre_tokenizers, trainers

    # Threads would make the process unsafe to fork, which charrnn does to run git.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    encoder = Encoder(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    trainer = trainers.BpeTrainer(
      vocab_size=vocab_size,
      min_frequency=min_count,
      show_progress=False,
      initial_alphabet=list(_byte_signs()),
      max_token_length=MAX_LENGTH,
    )
    valid = (_SURROGATES.sub(" ", text) for text in texts)
    encoder.train_from_iterator(valid, trainer)
    byte_of_sign = {sign: byte for byte, sign in enumerate(_byte_signs())}
    ids, merges = {bytes([byte]): byte for byte in range(256)}, []
    for pair in json.loads(encoder.to_str())["model"]["merges"]:
      left, right = (bytes(byte_of_sign[sign] for sign in side) for side in pair)
      merges.append((ids[left], ids[right]))
      ids.setdefault(left + right, len(ids))
    return cls((0,) * len(ids), tuple(merges))

  @functools.cached_property
  def _pieces(self) -> list[bytes]:
    """The bytes of each token. Two merges may result in the same token."""
    pieces = {bytes([byte]): None for byte in range(256)}
    listed = list(pieces)
    for left, right in self.merges:
      piece = listed[left] + listed[right]
      if len(piece) > MAX_LENGTH or min(left, right) < 0:
        raise ValueError("the token is too long")
      if piece not in pieces:
        pieces[piece] = None
        listed.append(piece)
    return listed

  @functools.cached_property
  def tokens(self) -> tuple[str, ...]:
    return tuple(piece.decode("utf-8", "surrogateescape") for piece in self._pieces)

  @functools.cached_property
  def sizes(self) -> np.ndarray:
    return np.array([len(piece) for piece in self._pieces], np.int64)

  @functools.cached_property
  def _encoder(self):
    from tokenizers import Tokenizer as Encoder
    from tokenizers import models, pre_tokenizers

    signs = _byte_signs()
    names = ["".join(signs[byte] for byte in piece) for piece in self._pieces]
    merges = [(names[left], names[right]) for left, right in self.merges]
    encoder = Encoder(models.BPE(vocab={name: n for n, name in enumerate(names)}, merges=merges))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    return encoder

  def encode(self, text: str) -> np.ndarray:
    ids = []
    for part in _SURROGATES.split(text) if _SURROGATES.search(text) else [text]:
      if _SURROGATES.fullmatch(part):
        if not 0xDC80 <= ord(part) <= 0xDCFF:
          raise errors.UserError(_unknown_message([ord(part)], text.index(part)))
        ids.append(ord(part) - 0xDC00)
      else:
        ids += self._encoder.encode(part).ids
    return np.array(ids, self.dtype)

  def decoder(self) -> Decoder:
    pieces = self._pieces
    return Decoder(lambda ids: b"".join([pieces[n] for n in ids]), "utf-8", "surrogateescape")

  def to_json(self) -> dict[str, Any]:
    return {"kind": self.kind, "merges": self.merges, "counts": self.counts}

  @classmethod
  def parse(cls, value: dict[str, Any]) -> "Pieces":
    merges = value["merges"]
    if len(merges) > 2 * MAX_VOCAB:
      raise ValueError("there are too many merges")
    if any(len(pair) != 2 or not all(type(n) is int for n in pair) for pair in merges):
      raise ValueError("these are not pairs of ids")
    return cls(tuple(value["counts"]), tuple(map(tuple, merges)))


# To add a kind of tokens, write a class and register it here.
KINDS: dict[str, type[Tokenizer]] = {each.kind: each for each in (Characters, Bytes, Words, Pieces)}


def unit(kind: str) -> str:
  """Return what a token of a tokenizer of this kind is called in losses and lengths."""
  return KINDS[kind].unit if kind in KINDS else Tokenizer.unit


def is_trained(kind: str) -> bool:
  """Return whether a kind of tokens has a vocabulary that is learned from the training split."""
  return kind in KINDS and KINDS[kind].is_trained


def check_kind(kind: str, expected: str, source: str):
  """Raise UserError if the tokenizer of the initial weights is not of the kind that is expected."""
  if kind != expected:
    raise errors.UserError(
      f"--config.init_from={source} has the tokenizer {kind}, but this run has {expected}: use "
      f"--config.text.tokenizer={kind}"
    )


def check_size(kind: str, vocab_size: int | None, options: str = "--config.text."):
  """Raise UserError for a maximum size of the vocabulary that the kind of tokens does not accept.

  `options` precedes `vocab_size` in the message.
  """
  name = f"{options}{'vocab-size' if options == '--' else 'vocab_size'}={vocab_size}"
  if vocab_size is None:
    return
  if not KINDS[kind].is_trained:
    names = " and ".join(each for each in KINDS if is_trained(each))
    raise errors.UserError(f"{name}: only for the tokenizers {names}: remove it")
  if not KINDS[kind].min_size <= vocab_size <= MAX_VOCAB:
    limits = f"must be from {KINDS[kind].min_size} to {MAX_VOCAB}"
    raise errors.UserError(f"{name}: {limits} with the tokenizer {kind}")


def check_min_count(kind: str, min_count: int, options: str = "--config.text."):
  """Raise UserError for a minimum count that the kind of tokens does not accept.

  See `check_size` for `options`.
  """
  name = f"{options}{'min-count' if options == '--' else 'min_count'}={min_count}"
  if min_count < 0:
    raise errors.UserError(f"{name}: must be at least 1, or 0 for the default")
  if min_count and kind not in (kinds := (Characters.kind, Words.kind)):
    raise errors.UserError(f"{name}: only for the tokenizers {' and '.join(kinds)}: remove it")


def check_documents(kind: str, documents: str, options: str = "--config.text."):
  """Raise UserError if a text with this kind of tokens cannot be divided into documents."""
  if documents != "none" and not KINDS[kind].has_documents:
    names = " and ".join(each for each in KINDS if KINDS[each].has_documents)
    raise errors.UserError(
      f"{options}documents={documents}: only for the tokenizers {names}, not {kind}: use one of "
      "these"
    )


def chunk(text: str, size: int) -> str:
  """Return the first `size` characters of a text, or fewer, so that no token is divided.

  The chunk ends before a space or line end that follows another character. If there is none, a
  token is divided.
  """
  stop = min(size, len(text))
  while len(text) > size and stop > 0:
    stop = max(text.rfind(" ", 0, stop), text.rfind("\n", 0, stop))
    if stop > 0 and not text[stop - 1].isspace():
      return text[:stop]
  return text[:size]


def _power_of_two(value: float, low: int, high: int) -> int:
  """Return the power of two that is nearest to a value, between two limits."""
  return min(max(1 << round(math.log2(max(value, 1))), low), high)


def _is_short(word: str) -> bool:
  return len(word) <= MAX_LENGTH and len(_to_bytes(word)) <= MAX_LENGTH


def _to_bytes(text: str) -> bytes:
  """Return the text of a token as UTF-8. Surrogates that represent bytes become these bytes."""
  try:
    return text.encode("utf-8", "surrogateescape")
  except UnicodeEncodeError:
    return text.encode("utf-8", "surrogatepass")


@functools.cache
def _byte_signs() -> tuple[str, ...]:
  """Return the sign with which the package `tokenizers` represents each byte, as GPT-2 does."""
  kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = itertools.count(256)
  return tuple(chr(byte if byte in kept else next(others)) for byte in range(256))


def _points(text: str, as_bytes: bool = False) -> np.ndarray:
  """Return the code points of a text, or its UTF-8 bytes.

  Python represents undecodable bytes of the command line by surrogates; convert these to bytes.
  """
  if not as_bytes:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
  try:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
  except UnicodeEncodeError as error:
    raise errors.UserError(_unknown_message([ord(text[error.start])], error.start)) from error


def _skip(parts: Iterable[str], known: Iterable[str]) -> tuple[str, dict[str, int]]:
  """Return the known parts of a text as a text, and how often each other part occurs."""
  known, kept = frozenset(known), []
  skipped: collections.Counter[str] = collections.Counter()
  for part in parts:
    if part in known:
      kept.append(part)
    else:
      skipped[part] += 1
  return "".join(kept), dict(skipped)


def describe_skipped(skipped: dict[str, int], unit: str) -> str:
  """Return a line about the characters or words that `Tokenizer.skip_unknown` has removed."""
  names = [f"{each!r} ({count:,})" for each, count in skipped.items()]
  total = errors.plural(sum(skipped.values()), unit)
  return f"skipped {total} not in the vocabulary: {errors.some(names, MAX_NAMED)}"


def _point(token: str) -> int:
  """Return the code point of a token that is a character, or the number that stands for it."""
  return _POINTS[token] if token in _POINTS else ord(token)


def _parse_letters(value: Any, length: int) -> tuple[int, ...]:
  """Return `Tokenizer.letters` from JSON; raise ValueError if they are damaged."""
  letters = tuple(value)
  if len(letters) != length or not all(type(n) is int and 0 <= n < 1 << 50 for n in letters):
    raise ValueError("these are not counts of bytes")
  return letters


def _unknown_message(points, position: int, is_rare: bool = False) -> str:
  """Return the error message for characters; `is_rare`: the vocabulary has <UNK> instead."""
  distinct = [f"{chr(point)!r} (U+{point:04X})" for point in dict.fromkeys(map(int, points))]
  remedy = "train on a text that contains them (--config.init_from=RUN reuses the weights)"
  remedy = "train with a lower --config.text.min_count" if is_rare else remedy
  return (
    f"not in the vocabulary: {errors.some(distinct, MAX_NAMED)}, first at character {position}: "
    f"remove them, {remedy}, or train with --config.text.tokenizer=byte"
  )
