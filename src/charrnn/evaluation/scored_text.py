"""What `charrnn eval` scores: a part of a run's corpus, or files."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.evaluation import texts


class Part(NamedTuple):
  """Segments (start, stop) of the ids that are scored under one name."""

  name: str
  segments: list[tuple[int, int]]


class Text(NamedTuple):
  ids: np.ndarray
  parts: list[Part]
  begins: list[int]  # the characters there have nothing before them; 0 is one of these places

  @property
  def segments(self) -> list[tuple[int, int]]:
    return [segment for part in self.parts for segment in part.segments]


def of_files(alphabet, files: Sequence[tuple], *, carried: bool, characters: int | None) -> Text:
  """Files (path, content) one after another, each a document and a part.

  `carried`: what stands before a document counts; `characters`: only so many of each file.
  """
  ids = [texts.encode(alphabet, path, content)[:characters] for path, content in files]
  stops = np.cumsum([len(each) for each in ids]).tolist()
  starts = [0, *stops[:-1]]
  parts = [Part(str(path), [span]) for (path, _), span in zip(files, zip(starts, stops))]
  return Text(np.concatenate(ids), parts, [0] if carried else starts)


def of_split(run, corpus, name: str, *, carried: bool, characters: int | None) -> Text:
  """The train, valid or test part of a run's corpus."""
  segments = getattr(run.splits(), name)
  kind = run.config.text.split
  if not segments:
    raise errors.UserError(f"the {kind} split of this run has no {name} part")
  part = Part(f"{name} ({kind} split)", list(_first(segments, characters)))
  begins = [0] if carried else [document.start for document in corpus.documents]
  return Text(corpus.ids, [part], begins)


def _first(segments, characters):
  """Of segments as much as has so many characters in all."""
  left = sum(stop - start for start, stop in segments) if characters is None else characters
  for start, stop in segments:
    if left > 0:
      yield start, min(stop, start + left)
    left -= stop - start
