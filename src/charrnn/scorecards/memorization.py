"""Memorization: the longest match with the training text from every position of a text.

One suffix array sorts the suffixes of both texts. For each suffix of the text, the training suffix
with the longest common prefix is the nearest training suffix before or after it in this order.
"""

import bisect
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from charrnn import console, plotting
from charrnn.runs import held_out
from charrnn.scorecards import metrics
from charrnn.scorecards import systems as systems_lib

METRICS: dict[str, metrics.Metric] = {}
SIZES = (5, 10, 15, 20, 30)  # numbers of characters in the n-grams of the metrics
CURVE = (*range(1, 21), 25, 30, 40, 50, 75, 100)  # lengths in the picture, in characters
QUANTILES = {"median": 0.5, "p95": 0.95, "longest": 1.0}
_TRAINING_END, _TEXT_END, _FIRST = 0, 1, 2  # codes; the ends of texts match nothing

_metric = functools.partial(metrics.register, METRICS)


class Matches(NamedTuple):
  """The length of the longest match from each position of a text, and a place where it occurs.

  Both are int [N]. A place is a position in the training text, or -1 if the length is 0.
  """

  lengths: np.ndarray
  places: np.ndarray


class Copy(NamedTuple):
  """A span of a sample that the training text contains, and its source."""

  text: str
  length: int
  position: int  # position in the sample
  place: int  # position in the training text
  document: str
  line: int  # number of the line, from 1
  sample: int = 1  # number of the sample, from 1


def match(training: str, texts: Sequence[str]) -> list[Matches]:
  """Return the matches of each text. Pass all texts at once to sort the training text only once.

  Five million characters, mostly training text, take about one second and 50 bytes of memory per
  character. With more than 254 distinct characters they take two seconds.
  """
  lengths, places = _longest(_encode([training, *texts]), len(training))
  stops = np.cumsum([len(text) + 1 for text in texts]).tolist()
  spans = [slice(stop - len(text) - 1, stop - 1) for text, stop in zip(texts, stops)]
  return [Matches(lengths[span], places[span]) for span in spans]


def match_systems(training: str, systems: Mapping[str, Sequence[str]]) -> dict[str, list[Matches]]:
  """Return the matches of the samples of each system."""
  matches = iter(match(training, [text for texts in systems.values() for text in texts]))
  return {name: [next(matches) for _ in texts] for name, texts in systems.items()}


def _encode(texts: Sequence[str]) -> np.ndarray:
  """Return the codes of all texts, each followed by a code of its end, in the smallest dtype."""
  points = [_points(text) for text in texts]
  used = np.unique(np.concatenate([np.unique(each) for each in points]))
  dtype = np.min_scalar_type(len(used) + _FIRST - 1)
  codes = []
  for n, each in enumerate(points):
    codes += [(np.searchsorted(used, each) + _FIRST).astype(dtype)]
    codes += [np.array([_TEXT_END if n else _TRAINING_END], dtype)]
  return np.concatenate(codes)


def _points(text: str) -> np.ndarray:
  return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _longest(codes: np.ndarray, training: int) -> tuple[np.ndarray, np.ndarray]:
  """Return lengths and places of the matches of all codes after the end of the training text."""
  import pydivsufsort  # installed by the optional extra `scorecards`

  order = pydivsufsort.divsufsort(codes)
  inside = order < training
  ranks = np.arange(len(order), dtype=order.dtype)
  below = np.maximum.accumulate(np.where(inside, ranks, -1))
  above = np.minimum.accumulate(np.where(inside, ranks, len(order))[::-1])[::-1]
  rows = np.flatnonzero(order > training)
  places = np.full((2, len(codes) - training - 1), -1, np.int64)
  for neighbors, side in zip((below, above), places):
    near = neighbors[rows]
    exists = (near >= 0) & (near < len(order))
    side[order[rows[exists]] - training - 1] = order[near[exists]]
  lengths = np.array([_agreement(codes, training + 1, side) for side in places])
  best = lengths.argmax(0), np.arange(lengths.shape[1])
  return lengths[best], np.where(lengths[best] > 0, places[best], -1)


def _agreement(codes: np.ndarray, start: int, places: np.ndarray) -> np.ndarray:
  """Return for each i the length of the common prefix of the suffixes at start + i and places[i].

  The length at i + 1 is at least the length at i minus one (Kasai et al. 2001), so this takes
  linear time.
  """
  values, lengths, length = codes.data, np.zeros(len(places), np.int64), 0
  for i, place in enumerate(places.tolist()):
    length = max(length - 1, 0) if place >= 0 else 0
    if place >= 0:
      position = start + i
      while values[position + length] == values[place + length]:
        length += 1
    lengths[i] = length
  return lengths


def novel(matches: Matches, size: int) -> np.ndarray:
  """Return which n-grams of `size` characters are not in the training text: bool [N - size + 1]."""
  return matches.lengths[: max(0, len(matches.lengths) - size + 1)] < size


@_metric("longest match", "mean", "mean length of the longest match per position, in characters")
def _lengths(matches: Matches) -> np.ndarray:
  return matches.lengths


for _n in SIZES:
  _meaning = f"share of {_n}-character sequences not in the training text"
  _metric(f"novel {_n}-grams", "share", _meaning, _n)(novel)


class Sources:
  """Map from positions in the training text to documents and lines."""

  def __init__(self, training: held_out.Text):
    self._passages = training.passages
    self._starts = [each.start for each in training.passages]
    self._newlines = np.flatnonzero(_points(training.text) == ord("\n")).tolist()

  def find(self, place: int) -> tuple[str, int]:
    """Return the name of the document, and the line in the document."""
    passage = self._passages[bisect.bisect(self._starts, place) - 1]
    lines = bisect.bisect_left(self._newlines, place)
    return passage.name, passage.line + lines - bisect.bisect_left(self._newlines, passage.start)


def longest_copies(
  texts: Sequence[str], matches: Sequence[Matches], sources: Sources, count: int = 5
) -> list[Copy]:
  """Return the `count` longest copies in all samples, without duplicates."""
  copies = []
  for sample, pair in enumerate(zip(texts, matches), 1):
    copies += [copy._replace(sample=sample) for copy in copies_in(*pair, sources, count)]
  by_text: dict[str, Copy] = {}
  for copy in sorted(copies, key=lambda copy: (-copy.length, copy.sample, copy.position)):
    by_text.setdefault(copy.text, copy)
  return list(by_text.values())[:count]


def copies_in(text: str, matches: Matches, sources: Sources, count: int = 5) -> list[Copy]:
  """Return the `count` longest copies in one sample that do not overlap.

  If a copy occurs several times in the training text, its source is any one of these places.
  """
  covered, copies = np.zeros(len(text), bool), []
  for start in np.argsort(-matches.lengths, kind="stable").tolist():
    length, place = int(matches.lengths[start]), int(matches.places[start])
    if len(copies) == count or not length:
      break
    # Earlier copies are at least as long, so one that overlaps covers an end of this copy.
    if not covered[start] and not covered[start + length - 1]:
      covered[start : start + length] = True
      copy = text[start : start + length]
      copies.append(Copy(copy, length, start, place, *sources.find(place)))
  return copies


def measure(
  systems: Mapping[str, Sequence[str]],
  matches: Mapping[str, Sequence[Matches]],
  sources: Sources,
  copies: int,
) -> dict[str, Any]:
  """Return, for each system, match length quantiles, novelty by length, and the longest copies."""
  result = {}
  for name, texts in systems.items():
    lengths = np.concatenate([each.lengths for each in matches[name]])
    result[name] = {
      "samples": len(texts),
      "characters": len(lengths),
      "match": {key: float(np.quantile(lengths, q)) for key, q in QUANTILES.items()},
      "novelty": [_novelty(matches[name], size) for size in CURVE],
      "copies": [c._asdict() for c in longest_copies(texts, matches[name], sources, copies)],
    }
  return result


def _novelty(matches: Sequence[Matches], size: int) -> dict[str, Any]:
  value = metrics.summary("share", [novel(each, size).astype(np.float64) for each in matches])
  return {"size": size, "share": value["value"], "interval": value["interval"]}


def plot(systems: dict[str, Any], reference: str, path, title: str):
  """Plot the share of sequences not in the training text against length, one line per system."""
  with plotting.figure(path, title, figsize=(7.5, 4.6)) as figure:
    axes = figure.subplots()
    for number, (name, system) in enumerate(systems.items()):
      points = [each for each in system["novelty"] if each["share"] is not None]
      sizes = [each["size"] for each in points]
      shares = [100 * each["share"] for each in points]
      is_reference = name == reference
      color, width = (plotting.REAL, 2.5) if is_reference else (plotting.color(number - 1), 1.5)
      label = plotting.plain(systems_lib.title(name))
      axes.plot(sizes, shares, color=color, lw=width, label=label)
      if all(each["interval"] for each in points):
        ends = np.array([each["interval"] for each in points]).T * 100
        # The intervals of 0% and 100% are much wider than those of values close to them.
        is_between = [0 < share < 100 for share in shares]
        axes.fill_between(sizes, *ends, where=is_between, color=color, alpha=0.18, lw=0)
    axes.set(ylabel="sequences that the training text does not contain, %", ylim=(-2, 102))
    axes.set_xlabel("length of the sequences, characters (log scale)")
    axes.set_xscale("log")
    plotting.log_ticks(axes.xaxis)
    axes.grid()
    handles, _ = axes.get_legend_handles_labels()
    label = "95% interval over samples"
    handles.append(axes.fill_between([], [], color=plotting.GRAY, alpha=0.4, lw=0, label=label))
    axes.legend(handles=handles, loc="lower right")


def tsv(
  systems: Mapping[str, Sequence[str]], matches: Mapping[str, Sequence[Matches]], sources: Sources
) -> Iterator[str]:
  """Yield the lines of a TSV file: the longest match from every character, and its source."""
  yield "system\tsample\tposition\tcharacter\tlength\tdocument\tline"
  for name, texts in systems.items():
    for sample, (text, each) in enumerate(zip(texts, matches[name]), 1):
      for i, (character, length, place) in enumerate(zip(text, *map(np.ndarray.tolist, each))):
        source = sources.find(place) if length else ("", "")
        cells = (name, sample, i, character, length, *source)
        yield "\t".join(str(console.cell(each)) for each in cells)
