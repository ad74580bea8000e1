"""Texts to score: files that users name, and splits of a run's corpus."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import config as config_lib
from charrnn import errors
from charrnn.data import batches


class Part(NamedTuple):
  """Spans of a text that are scored under one name."""

  name: str
  spans: list[tuple[int, int]]


class Text(NamedTuple):
  ids: np.ndarray
  parts: list[Part]
  starts: list[int]  # of documents: the tokens there have no context; 0 is one of them

  @property
  def spans(self) -> list[tuple[int, int]]:
    return [span for part in self.parts for span in part.spans]

  def count(self, part: Part) -> int:
    """Return the number of tokens of a part that can be scored."""
    return sum(stop - first for first, stop in batches.scorable_spans(part.spans, self.starts))


def read(path: str, text) -> str | bytes:
  """Return the content of a file: bytes for a byte tokenizer, else text.

  `text` is `config.text` of the run, whose encoding and newlines apply.
  """
  is_bytes = text.tokenizer == "byte"
  try:
    content = pathlib.Path(path).read_bytes().decode("latin-1" if is_bytes else text.encoding)
  except OSError as error:
    raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f"{path} is not {text.encoding} at byte {error.start}, as the run's text was: convert it"
    ) from error
  if text.newlines == "lf":
    content = content.replace("\r\n", "\n").replace("\r", "\n")
  if len(content) < 2:
    raise errors.UserError(f"{path} has fewer than two characters: there is nothing to predict")
  return content.encode("latin-1") if is_bytes else content


def encode(tokenizer, path: str, content: str | bytes) -> np.ndarray:
  """Return the ids of a file's content; raise UserError for unknown characters."""
  try:
    if isinstance(content, bytes):
      return tokenizer.encode_points(np.frombuffer(content, np.uint8))
    return tokenizer.encode(content)
  except errors.UserError as error:
    raise errors.UserError(f"{path}: {error}") from error


def from_files(
  tokenizer, files: Sequence[tuple[str, str | bytes]], *, carried: bool, characters: int | None
) -> Text:
  """Return files (path, content) as one text, each a document and a part.

  `carried`: earlier documents are context. `characters`: use only so many of each file.
  """
  ids = [encode(tokenizer, path, content)[:characters] for path, content in files]
  stops = np.cumsum([len(each) for each in ids]).tolist()
  starts = [0, *stops[:-1]]
  parts = [Part(str(path), [span]) for (path, _), span in zip(files, zip(starts, stops))]
  return Text(np.concatenate(ids), parts, [0] if carried else starts)


def from_split(run, corpus, name: str, *, carried: bool, characters: int | None) -> Text:
  """Return the train, valid or test split of a run's corpus."""
  spans = getattr(config_lib.split(run.config, len(corpus.ids)), name)
  kind = run.config.text.split
  if not spans:
    raise errors.UserError(f"the {kind} split of this run has no {name} part")
  part = Part(f"{name} ({kind} split)", list(_truncate(spans, characters)))
  starts = [0] if carried else [document.start for document in corpus.documents]
  return Text(corpus.ids, [part], starts)


def _truncate(spans, characters: int | None) -> Iterator[tuple[int, int]]:
  """Yield the beginning of spans, up to a number of characters in all."""
  left = sum(stop - start for start, stop in spans) if characters is None else characters
  for start, stop in spans:
    if left > 0:
      yield start, min(stop, start + left)
    left -= stop - start
