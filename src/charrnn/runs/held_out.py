"""The corpus of a run, divided into training text and held-out text."""

from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.data import corpora, tokenizers
from charrnn.data import splits as splits_lib
from charrnn.runs import run as run_lib


class Passage(NamedTuple):
  """A document, or as much of it as is in the text."""

  name: str
  start: int  # position in the text
  stop: int
  line: int = 1  # line of the document in which the passage begins


class Text(NamedTuple):
  """Passages of a corpus, joined."""

  name: str
  text: str
  passages: tuple[Passage, ...]


class DividedCorpus(NamedTuple):
  """A corpus, its splits, and two texts; `held_out` is validation and test text."""

  corpus: corpora.Corpus
  splits: splits_lib.Splits
  training: Text
  held_out: Text


def load(run: run_lib.Run) -> DividedCorpus:
  """Load and divide the corpus of a run; raise UserError if it has changed."""
  return divide(run.corpus(), run.splits(), run.tokenizer)


def divide(
  corpus: corpora.Corpus, parts: splits_lib.Splits, tokenizer: tokenizers.Tokenizer
) -> DividedCorpus:
  """Divide a corpus; raise UserError if all of it is training text."""
  if not parts.valid + parts.test:
    raise errors.UserError(f"{corpus.name} is all training text: there is none to compare with")
  unseen = "validation and test part" if parts.test else "validation part"
  return DividedCorpus(
    corpus,
    parts,
    _text(f"{corpus.name} (training part)", corpus, tokenizer, parts.train),
    _text(f"{corpus.name} ({unseen})", corpus, tokenizer, [*parts.valid, *parts.test]),
  )


def _text(name, corpus, tokenizer, spans) -> Text:
  texts, passages, length = [], [], 0
  for document, start, stop in splits_lib.intersect(corpus.documents, spans):
    text = tokenizer.decode(np.asarray(corpus.ids[start:stop]))
    line = 1 + tokenizer.decode(np.asarray(corpus.ids[document.start : start])).count("\n")
    passages.append(Passage(document.name, length, length + len(text), line))
    texts.append(text)
    length += len(text)
  return Text(name, "".join(texts), tuple(passages))
