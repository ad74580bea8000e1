"""The text that a network is studied on: whole documents that it was not trained on, or files."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.data import splits
from charrnn.runs import run as run_lib

FEWEST = 5000  # characters, of which two halves can be made


class Material(NamedTuple):
  name: str
  ids_N: np.ndarray
  documents: tuple[tuple[int, int], ...]  # start and stop of each in the ids
  language: str  # of `hypotheses.LANGUAGES`
  texts: tuple[str, ...]  # of each document, one code point for each id

  @property
  def text(self) -> str:
    return "".join(self.texts)


def held_out(run: run_lib.Run, characters: int) -> Material:
  """The first so many characters of the validation and test parts of the run's own corpus."""
  corpus = run.corpus()
  parts = run.splits()
  wanted = [*parts.valid, *parts.test]
  if not wanted:
    raise errors.UserError(f"{run.path} was trained on all of its text: give another with --text")
  found = splits.intersect(corpus.documents, wanted)
  pieces = sorted((start, stop, document.name) for document, start, stop in found)
  pieces = list(_first(pieces, characters))
  ids = [np.asarray(corpus.ids[start:stop]) for start, stop, _ in pieces]
  name = f"{corpus.name} (valid and test part)" if parts.test else f"{corpus.name} (valid part)"
  return _material(run, name, ids, [piece[2] for piece in pieces])


def of_files(
  run: run_lib.Run, texts: Sequence[tuple[str, np.ndarray]], characters: int
) -> Material:
  """Files as (path, ids), each a document."""
  spans, stop = [], 0
  for path, ids in texts:
    spans.append((stop, stop + len(ids), path))
    stop += len(ids)
  kept = list(_first(spans, characters))
  ids = [array[: stop - start] for (start, stop, _), (_, array) in zip(kept, texts)]
  name = texts[0][0] if len(texts) == 1 else f"{texts[0][0]} and {len(texts) - 1} more"
  return _material(run, name, ids, [path for path, _ in texts])


def _material(run, name, ids, names) -> Material:
  if sum(map(len, ids)) < FEWEST:
    raise errors.UserError(
      f"{name}: {sum(map(len, ids))} characters are too few to study, give {FEWEST} or more"
    )
  stops = np.cumsum([len(each) for each in ids]).tolist()
  documents = tuple(zip([0, *stops[:-1]], stops))
  points = np.array([ord(symbol) for symbol in run.tokenizer.tokens], "<u4")
  # Of a byte alphabet each byte is a character: labels are of what the network reads.
  texts = tuple(points[each].tobytes().decode("utf-32-le", "surrogatepass") for each in ids)
  return Material(name, np.concatenate(ids), documents, _language(names), texts)


def _language(names) -> str:
  """C where most of the documents are named so."""
  c = sum(pathlib.Path(name).suffix.lower() in (".c", ".h") for name in names)
  return "c" if c > len(names) / 2 else "prose"


def _first(pieces, characters):
  """Pieces (start, stop, name) up to so many characters in all."""
  left = characters
  for start, stop, name in pieces:
    if left > 0:
      yield start, min(stop, start + left), name
    left -= stop - start
