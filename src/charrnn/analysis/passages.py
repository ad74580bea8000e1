"""Passages: evenly spaced spans of a text, which a network reads instead of the whole text.

Most of a long text adds little to a comparison of networks, and a network that reads a single row
of text uses a small part of the processor. `read` therefore reads all passages at the same time, in
a row each. The characters before a passage are its warm-up: the network reads them first, so that
its state depends on the text before the passage.

Axes: B rows, T characters of a row, L scored characters of a row.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charrnn.analysis import effects, inference, recording
from charrnn.evaluation import score
from charrnn.models import layers

MAX_WINDOW = 1 << 26  # maximum number of recorded values in a window
IN_MEMORY = 1 << 28  # maximum number of recorded values that are kept in memory


class Passages(NamedTuple):
  """The characters of a text that are read. The first rows are from the first half, and so on."""

  positions_BxT: np.ndarray
  warm_up: int  # number of characters at the start of each row that are not scored
  halves: int  # number of halves

  @property
  def scored(self) -> np.ndarray:
    """The positions of the scored characters, [B * L]."""
    return self.positions_BxT[:, self.warm_up :].ravel()

  def fits_in_memory(self, model) -> bool:
    """Return whether `read` keeps the recording of a model in memory."""
    return len(self.scored) * len(recording.columns(model)) <= IN_MEMORY

  def restrict(
    self, targets: Sequence[effects.Target], design: effects.Design
  ) -> tuple[list[effects.Target], effects.Design]:
    """Return targets and a design for the scored characters, [B * L], without shifts."""
    scored, spans = self.scored, []
    for half in np.split(np.arange(len(scored)), self.halves):
      cuts = np.flatnonzero(np.diff(scored[half]) != 1) + 1
      spans.append(tuple((int(each[0]), int(each[-1]) + 1) for each in np.split(half, cuts)))
    halves = inference.Halves(*spans, *[()] * (2 - self.halves), by=design.halves.by)
    fields = ("values", "mask", "strata")
    parts = [{name: getattr(target, name) for name in fields} for target in targets]
    restricted = [
      target._replace(
        **{name: each if each is None else each[scored] for name, each in part.items()}
      )
      for target, part in zip(targets, parts)
    ]
    return restricted, dataclasses.replace(design, halves=halves, shifts=0)


class Reading(NamedTuple):
  """The result of `read`, for the scored characters of passages."""

  values: np.ndarray  # float32 [B * L, C], all feature columns
  nats: np.ndarray  # float32 [B * L], -log p of the next character; NaN at the end of a row


def choose(
  halves: Sequence[Sequence[inference.Span]], count: int, length: int, warm_up: int
) -> Passages:
  """Return `count` passages of `length` characters in each half, after a warm-up.

  The spans of a half are joined. Passages and warm-up are shorter if a half is short.
  """
  joined = [np.concatenate([np.arange(*span) for span in spans]) for spans in halves]
  shortest = min(map(len, joined))
  warm_up = min(warm_up, shortest // 4)
  T = warm_up + min(length, (shortest - warm_up) // count)
  rows = []
  for positions in joined:
    starts = np.linspace(0, len(positions) - T, count).astype(np.intp)
    rows.append(positions[starts[:, None] + np.arange(T)])
  return Passages(np.concatenate(rows), warm_up, len(halves))


def read(model, params, ids_N: np.ndarray, passages: Passages, path: pathlib.Path) -> Reading:
  """Read passages with a model.

  The values are in memory, or in a file at `path` if there are many.
  """
  (B, T), skip, C = passages.positions_BxT.shape, passages.warm_up, len(recording.columns(model))
  shape = B, T - skip, C
  if passages.fits_in_memory(model):
    values_BxLxC = np.empty(shape, np.float32)
  else:
    recording.check_disk_space(path, 4 * B * (T - skip) * C)
    values_BxLxC = np.memmap(path, np.float32, mode="w+", shape=shape)
  nats_BxL = np.empty(shape[:2], np.float32)
  # A target must follow the last character; 0 stands for it.
  inputs = np.pad(ids_N[passages.positions_BxT], ((0, 0), (0, 1)))
  starts = np.arange(B) * (T + 1)
  spans = [(start + skip + 1, start + T + 1) for start in starts.tolist()]
  window = min(T, max(1, MAX_WINDOW // (B * C)))
  options = {"window": window, "streams": B, "burn_in": skip, "starts": starts, "record": True}
  done = -skip
  for (nats_TxB, recorded), *_ in score.windows(
    model, params, inputs.ravel(), spans, measure=_measure, **options
  ):
    first, last = max(0, done), min(T - skip, done + window)
    new = slice(first - done, last - done)
    if first < last:
      nats_BxL[:, first:last] = nats_TxB[new].T
      column = 0
      for layer, sizes in model.units.items():
        for name, size in sizes.items():
          columns = slice(column, column := column + size)
          values_BxLxC[:, first:last, columns] = recorded[layer][name][new].swapaxes(0, 1)
    done += window
  nats_BxL[:, -1] = np.nan
  return Reading(values_BxLxC.reshape(-1, C), nats_BxL.ravel())


def _measure(logits_TxBxV, y_TxB, recorded):
  return layers.cross_entropy(logits_TxBxV, y_TxB), recorded
