"""Symbols: what an automaton reads in place of characters, and the tokens as sequences of symbols.

Characters that no constraint distinguishes are one class, and a symbol is a class. A token can also
contain a part of a character: bytes that only form UTF-8 together with the bytes of other tokens.
Such bytes are symbols too. A decoder of UTF-8 with a few states maps them to classes. Bytes that
are not UTF-8 are read as surrogates, as in the text that is shown ("surrogateescape").

C: classes of characters, Y: symbols, V: tokens, K: distinct sequences of symbols of the tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from charrnn.data import tokenizers

ESCAPES = range(0xDC80, 0xDD00)  # surrogates that represent the bytes from 0x80 on
# Ranges that UTF-8 treats differently begin at these code points.
_UTF8 = {0, 0x80, 0x800, 0xD800, 0xDC80, 0xDD00, 0xE000, 0x10000}
END = 0x110000  # the end of all code points
START = 0  # the state of the decoder between two characters
_INVALID = -1


class _State(NamedTuple):
  """A state of the decoder: the beginning of a character."""

  escapes: tuple[int, ...]  # classes of its bytes, if no character follows
  # For each continuation byte: a class, or -2 - n for the state n, or _INVALID.
  after: tuple[int, ...]


class Symbols:
  """The symbols that a set of labels distinguishes in the tokens of a vocabulary.

  `labels` are character classes of greenery, and `single` are characters that are distinguished
  from all others.
  """

  def __init__(self, labels: Sequence, single: str, tokenizer: tokenizers.Tokenizer):
    self._has_bytes = tokenizer.represents_bytes
    edges = _UTF8 | {*(ord(c) + n for c in single for n in (0, 1))}
    for label in labels:
      edges |= {edge for low, high in label.ord_ranges for edge in (low, high + 1)}
    self._starts = np.array(sorted(edges - {END}), np.int64)  # intervals of code points
    texts = list(tokenizer.texts)
    if tokenizer.end_id is not None:
      texts[tokenizer.end_id] = ""
    lengths_V = np.array([len(text) for text in texts])
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    used = np.zeros(len(self._starts), bool)
    used[self._interval(points)] = True
    if self._has_bytes:
      is_surrogate = (self._starts >= 0xD800) & (self._starts < 0xE000)
      used |= ~is_surrogate | np.isin(self._starts, ESCAPES)
    firsts = [chr(start) for start in self._starts]
    has_LxI = np.array([[label.accepts(c) for c in firsts] for label in labels], bool)
    is_single_SxI = np.array([[c == each for c in firsts] for each in dict.fromkeys(single)], bool)
    rows = np.concatenate([each.reshape(-1, len(firsts)) for each in (has_LxI, is_single_SxI)])
    self._class_of_I = np.full(len(firsts), -1)
    unique, classes = np.unique(rows[:, used], axis=1, return_inverse=True)
    self._class_of_I[used] = classes.ravel()
    self.classes = unique.shape[1]  # C
    self._members = dict(zip(labels, unique[: len(labels)]))
    self._make_tokens(tokenizer, points, lengths_V)

  def members(self, label) -> list[int]:
    """Return the classes of the characters that a label accepts."""
    return np.flatnonzero(self._members[label]).tolist()

  def classes_of(self, text: str) -> list[int]:
    """Return the classes of the characters of a text; -1 for one that no token contains."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return self._class_of_I[self._interval(points)].tolist()

  @property
  def count(self) -> int:
    """The number of symbols Y. The first C are classes, all others are bytes."""
    return self.classes + len(self._byte_rows)

  def read(self, state: int, symbol: int) -> tuple[tuple[int, ...], int]:
    """Return the classes that the decoder completes when it reads a symbol, and its new state."""
    if symbol < self.classes:
      return (*self.flush(state), symbol), START
    return self._read_byte(state, self._byte_rows[symbol - self.classes])

  def flush(self, state: int) -> tuple[int, ...]:
    """Return the classes of the bytes of an incomplete character at the end of a text."""
    return self._states[state].escapes

  def _interval(self, points: np.ndarray) -> np.ndarray:
    return np.searchsorted(self._starts, points, side="right") - 1

  def _class_of(self, point: int) -> int:
    return int(self._class_of_I[np.searchsorted(self._starts, point, side="right") - 1])

  def _make_tokens(self, tokenizer, points, lengths_V):
    """Set `class_of_V` and `symbols_KxL`: a row for each distinct sequence, padded with Y.

    A token that cannot be written consists of the symbol Y + 1, and END of the symbol Y + 2.
    """
    symbols = self._class_of_I[self._interval(points)]
    self._byte_rows: list[int] = []  # a byte of each byte symbol
    is_byte = (points >= ESCAPES.start) & (points < ESCAPES.stop)
    if self._has_bytes:
      self._make_decoder()
      by_behavior: dict[Any, int] = {}
      symbol_of_byte = np.zeros(256, np.int64)
      for byte in np.unique(points[is_byte] - 0xDC00).tolist():
        behavior = tuple(self._read_byte(state, byte) for state in range(len(self._states)))
        if behavior not in by_behavior:
          by_behavior[behavior] = len(self._byte_rows)
          self._byte_rows.append(byte)
        symbol_of_byte[byte] = self.classes + by_behavior[behavior]
      symbols[is_byte] = symbol_of_byte[points[is_byte] - 0xDC00]
    rows_VxL = np.full((len(lengths_V), max(1, lengths_V.max())), self.count, np.int32)
    rows_VxL[np.arange(rows_VxL.shape[1]) < lengths_V[:, None]] = symbols
    if tokenizer.writable is not None:
      rows_VxL[~tokenizer.writable] = self.count + 1
    if tokenizer.end_id is not None:
      rows_VxL[tokenizer.end_id, 0] = self.count + 2
    self.symbols_KxL, inverse = np.unique(rows_VxL, axis=0, return_inverse=True)
    self.class_of_V = inverse.ravel()

  def _read_byte(self, state: int, byte: int) -> tuple[tuple[int, ...], int]:
    """Return the completed classes and the new state of the decoder after a byte from 0x80 on."""
    after = self._states[state].after[byte - 0x80] if state and byte < 0xC0 else _INVALID
    if after != _INVALID:
      return ((after,), START) if after >= 0 else ((), -2 - after)
    first, completed = self._firsts.get(byte), self.flush(state)
    if first is None:
      return (*completed, self._class_of(0xDC00 + byte)), START
    return completed, first

  def _make_decoder(self):
    """Set the states of the decoder, and `_firsts`: the state after each first byte."""
    self._states = [_State((), ())]
    self._numbers: dict[_State, int] = {}
    escapes = {byte: self._class_of(0xDC00 + byte) for byte in range(0x80, 0x100)}
    # Bytes of a continuation are the same if they belong to the same class on their own.
    by_class: dict[int, int] = {}
    self._representatives = [by_class.setdefault(escapes[n], n) for n in range(0x80, 0xC0)]
    begins = [(range(0xC2, 0xE0), 0x1F, 1), (range(0xE0, 0xF0), 0x0F, 2), (range(0xF0, 0xF5), 7, 3)]
    self._firsts = {
      byte: self._add((byte,), (byte & mask) << 6 * missing, missing)
      for first_bytes, mask, missing in begins
      for byte in first_bytes
    }

  def _add(self, read: tuple[int, ...], low: int, missing: int) -> int:
    """Add the state after the bytes `read` of the characters from `low` on; return its number.

    `missing` bytes are missing.
    """
    size, part = 1 << 6 * missing, 1 << 6 * (missing - 1)
    first, last = np.searchsorted(self._starts, (low, low + size - 1), "right")
    if missing == 1:
      after = self._class_of_I[self._interval(np.arange(low, low + size))].tolist()
    elif first == last and low + size <= END:  # All these characters are valid and in one class.
      numbers = {byte: self._add((*read, byte), low, missing - 1) for byte in self._representatives}
      after = [-2 - numbers[byte] for byte in self._representatives]
    else:
      minimum = {2: 0x800, 3: 0x10000}[missing + len(read) - 1]
      lows = [low + n * part for n in range(64)]
      valid = [minimum <= n < END and not 0xD800 <= n < 0xE000 for n in lows]
      after = [
        -2 - self._add((*read, 0x80 + n), each, missing - 1) if ok else _INVALID
        for n, (each, ok) in enumerate(zip(lows, valid))
      ]
    state = _State(tuple(self._class_of(0xDC00 + byte) for byte in read), tuple(after))
    if state not in self._numbers:
      self._numbers[state] = len(self._states)
      self._states.append(state)
    return self._numbers[state]
