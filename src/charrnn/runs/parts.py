"""The text of a run, apart: what it was trained on, and what it never saw."""

from typing import Any, NamedTuple

import numpy as np

from charrnn import errors
from charrnn.data import corpora, splits, tokenizers
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


def load(config, alphabet: tokenizers.Tokenizer, run: Any = None) -> Parts:
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


def _part(name, corpus, alphabet, segments) -> Part:
  texts, passages, length = [], [], 0
  for document, start, stop in splits.intersect(corpus.documents, segments):
    text = alphabet.decode(np.asarray(corpus.ids[start:stop]))
    before = alphabet.decode(np.asarray(corpus.ids[document.start : start]))
    line = 1 + before.count("\n")
    passages.append(Passage(document.name, length, length + len(text), line))
    texts.append(text)
    length += len(text)
  return Part(name, "".join(texts), tuple(passages))
