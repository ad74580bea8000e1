"""Recordings: the text under study, and all states, gates and predictions of a network on it.

The text is read as one stream with carried state, as in training. A recording has N characters and
C feature columns. There is a column for each quantity of each unit of each layer, ordered by layer,
quantity and unit. A unit of a recurrent layer has several columns, and a unit of a transformer one.
`state_files` reads recordings of other models.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors, models
from charrnn.analysis import effects, labels
from charrnn.data import splits
from charrnn.evaluation import score
from charrnn.runs import run as run_lib
from charrnn.sampling import clamps

MIN_CHARACTERS = 5000  # minimum length of a text that is split into two halves


class Text(NamedTuple):
  """A text under study, split into documents."""

  name: str
  ids_N: np.ndarray
  documents: tuple[tuple[int, int], ...]  # spans of the ids
  language: str  # one of `hypotheses.LANGUAGES`
  texts: tuple[str, ...]  # text of each document, with one code point per id


class Column(NamedTuple):
  """A feature column: one quantity of one unit of a layer."""

  layer: int
  quantity: str
  unit: int

  def __str__(self):
    """Return the name of the column in the format of `charrnn sample --clamp`."""
    return f"{self.layer}:{self.quantity}{self.unit}"


class Unit(NamedTuple):
  """A unit of a layer."""

  layer: int
  quantity: str  # the only quantity of the unit; empty if it has several
  number: int

  def __str__(self):
    """Return the name of the unit in the format of `charrnn sample --clamp`."""
    return f"{self.layer}:{self.quantity}{self.number}"

  def clamp(self, value: float) -> clamps.Clamp:
    return clamps.Clamp(self.layer, self.number, value, self.quantity)


class Recording(NamedTuple):
  """The values of C feature columns at N characters of a text, with the predictions if known."""

  columns: tuple[Column, ...]
  units: tuple[Unit, ...]  # the unit of each column
  values: np.ndarray  # float32 [N, C], memory-mapped
  predictions: score.Prediction | None  # [N], of the next character; nats[-1] is NaN


@dataclasses.dataclass(frozen=True)
class Settings:
  """The settings of a study of units."""

  untrained: int = 99
  shifts: int = 199
  ablation: str = "zero"  # one of ablation.ABLATIONS
  seed: int = 0
  extra: Sequence[labels.Hypothesis] = ()


class Subject(NamedTuple):
  """A recording under study: its text, the labels, and the run that was recorded, if known."""

  name: str  # the run directory, or the file of the states
  run: run_lib.Run | None
  text: Text
  settings: Settings
  hypotheses: dict[str, labels.Hypothesis]
  labels: dict[str, labels.Label]
  recording: Recording
  scratch: pathlib.Path  # file for the recordings of other networks
  progress: Callable[[str], Callable]  # starts a phase and returns its callback(done, total)

  def prepare(self, **options) -> tuple[list[effects.Target], effects.Design]:
    hypotheses, seed = list(self.hypotheses.values()), self.settings.seed
    return effects.prepare(hypotheses, self.labels, self.text.documents, seed=seed, **options)


def held_out_text(run: run_lib.Run, characters: int) -> Text:
  """Return the first characters of the validation and test splits of the run's corpus."""
  corpus, split = run.corpus(), run.splits()
  held_out = [*split.valid, *split.test]
  if not held_out:
    raise errors.UserError(f"{run.path} has no held-out text: set the text to study with --text")
  spans = sorted((*span, each.name) for each, *span in splits.intersect(corpus.documents, held_out))
  name = f"{corpus.name} ({'validation and test splits' if split.test else 'validation split'})"
  documents = [(document, corpus.ids[start:stop]) for start, stop, document in spans]
  return _text(name, documents, characters, _points(run))


def text_of_files(
  run: run_lib.Run, files: Sequence[tuple[str, np.ndarray]], characters: int
) -> Text:
  """Return the first characters of files (path, ids). Each file is a document."""
  return _text(_name([path for path, _ in files]), files, characters, _points(run))


def plain_text(files: Sequence[tuple[str, str]], characters: int) -> Text:
  """Return the first characters of files (path, text). An id is the rank of a code point."""
  points = [np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4") for _, text in files]
  known = np.unique(np.concatenate(points))
  documents = [(path, np.searchsorted(known, each)) for (path, _), each in zip(files, points)]
  return _text(_name([path for path, _ in files]), documents, characters, known)


def _name(paths: Sequence[str]) -> str:
  return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _points(run: run_lib.Run) -> np.ndarray:
  """Return the code point of each id. In a byte vocabulary, each byte is a character."""
  return np.array([ord(symbol) for symbol in run.tokenizer.tokens], "<u4")


def _text(name, documents, characters, points) -> Text:
  stops = np.minimum(np.cumsum([len(ids) for _, ids in documents]), characters).tolist()
  spans = [(a, b) for a, b in zip([0, *stops], stops) if a < b]
  if stops[-1] < MIN_CHARACTERS:
    raise errors.UserError(
      f"{name}: has {stops[-1]} characters: use a text of at least {MIN_CHARACTERS}"
    )
  parts = [np.asarray(ids[: b - a]) for (_, ids), (a, b) in zip(documents, spans)]
  texts = tuple(points[ids].tobytes().decode("utf-32-le", "surrogatepass") for ids in parts)
  suffixes = [pathlib.Path(path).suffix.lower() for (path, _), _ in zip(documents, spans)]
  is_c = sum(suffix in (".c", ".h") for suffix in suffixes) > len(suffixes) / 2
  return Text(name, np.concatenate(parts), tuple(spans), "c" if is_c else "prose", texts)


def columns(model: models.Model) -> tuple[Column, ...]:
  """Return the feature columns of a model, in the order of a recording."""
  return tuple(
    Column(layer, quantity, unit)
    for layer, sizes in enumerate(model.units.values())
    for quantity, size in sizes.items()
    for unit in range(size)
  )


def units(model: models.Model) -> tuple[Unit, ...]:
  """Return the unit of each feature column of a model."""
  return tuple(
    Unit(layer, "" if model.can_hold else quantity, number)
    for layer, quantity, number in columns(model)
  )


def by_unit(units: Sequence[Unit]) -> dict[Unit, list[int]]:
  """Return the indices of the columns of each unit, in ascending order of the units."""
  groups = {unit: [] for unit in sorted(set(units))}
  for index, unit in enumerate(units):
    groups[unit].append(index)
  return groups


def record(
  model, params, ids_N: Sequence[int], path: pathlib.Path, progress: effects.Progress | None = None
) -> Recording:
  """Record all columns in a file at `path` (8 GB for 500,000 characters and 4,096 columns)."""
  names, N = columns(model), len(ids_N)
  check_disk_space(path, N * len(names) * 4)
  values = np.memmap(path, np.float32, mode="w+", shape=(N, len(names)))
  start, predictions = 0, []
  for predicted, recorded in score.record(model, params, ids_N, measure=_measure):
    stop = start + len(predicted.nats)
    parts = [recorded[layer][name] for layer, sizes in model.units.items() for name in sizes]
    values[start:stop] = np.concatenate(parts, axis=1)
    predictions.append(predicted)
    start = stop
    if progress:
      progress(stop, N)
  predicted = score.Prediction(*map(np.concatenate, zip(*predictions)))
  predicted.nats[-1] = np.nan
  return Recording(names, units(model), values, predicted)


def _measure(logits_TxBxV, y_TxB, recorded):
  return score.predict(logits_TxBxV, y_TxB), recorded


def check_disk_space(path: pathlib.Path, size: int):
  """Raise UserError if there is no space for a file of `size` bytes at `path`."""
  free = shutil.disk_usage(path.parent).free
  if size > free - (1 << 28):
    raise errors.UserError(
      f"{path.parent}: the recording needs {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are "
      "free: set another --out, or reduce --characters"
    )


def read_columns(values, numbers: Sequence[int], rows: int = 4096) -> dict[int, np.ndarray]:
  """Return columns of a recording [N, C] as float64 [N] by number, read in the order on disk."""
  numbers = sorted(set(numbers))
  selected = np.empty((len(numbers), len(values)))
  for row in range(0, len(values), rows):
    selected[:, row : row + rows] = values[row : row + rows][:, numbers].T
  return dict(zip(numbers, selected))
