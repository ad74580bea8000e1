"""The corpus of a run, split into training text and held-out text."""

from typing import NamedTuple

from charrnn import errors
from charrnn.data import corpora
from charrnn.data import splits as splits_lib
from charrnn.runs import run as run_lib


class Passage(NamedTuple):
  """The span of a `Text` that comes from one document of the corpus."""

  name: str  # name of the document
  start: int  # position of the first character in the text
  stop: int
  line: int = 1  # number of the line in the document at which the passage starts


class Text(NamedTuple):
  """The concatenated passages of a corpus that belong to some spans."""

  name: str
  text: str
  passages: tuple[Passage, ...]


class DividedCorpus(NamedTuple):
  """A corpus, its splits, and two texts. `held_out` has the validation and test splits."""

  corpus: corpora.Corpus
  splits: splits_lib.Splits
  training: Text
  held_out: Text


def load(run: run_lib.Run) -> DividedCorpus:
  """Load the corpus of a run and return it divided; raise UserError if it has changed."""
  return divide(run.corpus(), run.splits())


def divide(corpus: corpora.Corpus, splits: splits_lib.Splits) -> DividedCorpus:
  """Divide a corpus by its splits; raise UserError if it has no validation or test split."""
  if not splits.valid + splits.test:
    raise errors.UserError(
      f"{corpus.name} has no held-out text: use a run with a validation or test split"
    )
  names = "validation and test splits" if splits.test else "validation split"
  return DividedCorpus(
    corpus,
    splits,
    _text(f"{corpus.name} (training split)", corpus, splits.train),
    _text(f"{corpus.name} ({names})", corpus, [*splits.valid, *splits.test]),
  )


def _text(name, corpus, spans) -> Text:
  """Return the text of `spans`, with one passage for each document that they intersect."""
  texts, passages, length = [], [], 0
  for document, start, stop in splits_lib.intersect(corpus.documents, spans):
    text = corpus.text(start, stop)
    line = 1 + corpus.text(document.start, start).count("\n")
    passages.append(Passage(document.name, length, length + len(text), line))
    texts.append(text)
    length += len(text)
  return Text(name, "".join(texts), tuple(passages))
