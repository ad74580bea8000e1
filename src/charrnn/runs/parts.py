"""The text of a run, apart: what it was trained on, and what it never saw."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from charrnn import errors
from charrnn.data import alphabet as alphabet_lib
from charrnn.data import corpora, splits
from charrnn.runs import runs


class Passage(NamedTuple):
  """A document in a text, or as much of it as a part of the corpus has."""

  name: str
  start: int  # in the text
  stop: int
  line: int = 1  # of the document, that the passage begins in


class Part(NamedTuple):
  name: str
  text: str
  passages: tuple[Passage, ...]


class Parts(NamedTuple):
  """A corpus with its split, and the two parts as texts; `held_out` is validation and test."""

  corpus: corpora.Corpus
  split: splits.Splits
  training: Part
  held_out: Part


def load(config, alphabet: alphabet_lib.Alphabet, run: Any = None) -> Parts:
  """Of the corpus that a config names; if it is that of a `run` directory, it must be unchanged."""
  corpus = runs.load_corpus(config) if run is None else runs.load_same_corpus(run, config)
  split = runs.split(config, len(corpus.ids))
  if not split.valid + split.test:
    raise errors.UserError(f"{corpus.name} is all training text: there is none to compare with")
  unseen = "valid and test part" if split.test else "valid part"
  return Parts(
    corpus,
    split,
    _part(f"{corpus.name} (training part)", corpus, alphabet, split.train),
    _part(f"{corpus.name} ({unseen})", corpus, alphabet, [*split.valid, *split.test]),
  )


def spans(documents: Sequence, segments: Sequence[tuple[int, int]]):
  """What of each document lies in segments, in order: (document, start, stop)."""
  for document, (start, stop) in itertools.product(documents, joined(segments)):
    if max(document.start, start) < min(document.stop, stop):
      yield document, max(document.start, start), min(document.stop, stop)


def joined(segments: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
  """Segments in order, those that touch as one."""
  found: list[tuple[int, int]] = []
  for start, stop in sorted(segments):
    if found and found[-1][1] == start:
      found[-1] = found[-1][0], stop
    else:
      found.append((start, stop))
  return found


def _part(name, corpus, alphabet, segments) -> Part:
  texts, passages, length = [], [], 0
  for document, start, stop in spans(corpus.documents, segments):
    text = alphabet.decode(np.asarray(corpus.ids[start:stop]))
    before = alphabet.decode(np.asarray(corpus.ids[document.start : start]))
    line = 1 + before.count("\n")
    passages.append(Passage(document.name, length, length + len(text), line))
    texts.append(text)
    length += len(text)
  return Part(name, "".join(texts), tuple(passages))
