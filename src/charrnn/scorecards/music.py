"""Metrics of tunes in ABC notation: headers, bars, repeats, the last note, and intervals."""

import functools
import importlib.util
import itertools
import re
from collections.abc import Callable
from typing import NamedTuple

from charrnn import errors
from charrnn.data import documents
from charrnn.scorecards import metrics

METRICS: dict[str, metrics.Metric] = {}
_HEADER = {"tune title", "meter", "key"}
_KEY = re.compile(r"^K:.*$", re.MULTILINE)  # the last line of a header
_BLANK_LINE = re.compile(r"^[ \t\r]*\n", re.MULTILINE)
# Text that no tune contains, and that the parser would take too long to read.
_ABSURD = re.compile(r"\d{4}|[<>/]{5}|.{2000}")
_BAR_LENGTH = re.compile(r"bar \d+ has length ")
# The control shuffles notes and rests with their lengths; everything else keeps its place.
_NOTES = re.compile(
  r"""^[A-Za-z]:.*$|"[^"\n]*"|![^!\n]*!|(?P<token>[_=^]{0,2}[A-Ga-gz][,']*\d*/*\d*)""",
  re.MULTILINE,
)

_metric = functools.partial(metrics.register, METRICS)


class Tune(NamedTuple):
  """The facts about a tune that the metrics need."""

  has_header: bool
  is_valid: bool
  has_paired_repeats: bool
  bars: list[bool]  # for each bar with notes, whether it has the length of the meter
  pitches: list[int]  # semitones above middle C
  tonic: int | None  # pitch class of the key; None if there is no key


UNREADABLE = Tune(False, False, False, [], [], None)


def split(text: str) -> list[str]:
  """Return the melodies of a text of tunes: without headers and spaces.

  Two tunes are thus the same if only their titles differ.
  """
  melodies = []
  for tune in documents.texts(text, "blank_lines"):
    _, *music = _KEY.split(tune, maxsplit=1)
    melodies.append("".join("".join(music or [tune]).split()))
  return melodies


def parser(training: str) -> Callable[[str], list[Tune]]:
  """Return a function that parses samples. The training text is not needed."""
  del training
  if importlib.util.find_spec("abcnotes") is None:
    raise errors.UserError(
      "abcnotes, which parses tunes, is missing: run pip install 'abcnotes>=0.1,<0.2'"
    )
  return lambda text: [parse(tune) for tune in documents.texts(text, "blank_lines")]


def parse(text: str) -> Tune:
  """Return the facts about a tune; UNREADABLE if the parser cannot read it."""
  import abcnotes  # installed by the optional extra `music`

  if _ABSURD.search(text):
    return UNREADABLE
  try:
    tune = abcnotes.Tune(abc=text, strict=False)
    messages = [issue.message for issue in tune.validate()]
    bars = [bar for bar in tune.bars if any(map(_is_sound, bar))]
    wrong = sum(bool(_BAR_LENGTH.match(message)) for message in messages)
    key = abcnotes.Key(tune.header["key"]) if "key" in tune.header else None
    return Tune(
      has_header={*tune.header} >= _HEADER,
      is_valid=not messages and bool(tune.notes),
      has_paired_repeats=not abcnotes.check_repeats(tune.bars),
      bars=[n >= wrong for n in range(len(bars))],
      pitches=[note.pitch.abs_value for note in tune.notes if not note.grace],
      tonic=key and key.root.value % 12,
    )
  except Exception:  # The parser raises various exceptions for text that is not ABC notation.
    return UNREADABLE


def _is_sound(token) -> bool:
  return type(token).__name__ in {"Note", "Rest"}


@_metric("valid tunes", "share", "share of tunes without an error in their notation")
def _valid(tunes: list[Tune]) -> list[bool]:
  return [tune.is_valid for tune in tunes]


@_metric("headers", "share", "share of tunes that have a title, a meter and a key")
def _headers(tunes: list[Tune]) -> list[bool]:
  return [tune.has_header for tune in tunes]


@_metric("complete bars", "share", "share of bars that have the length of the meter")
def _complete_bars(tunes: list[Tune]) -> list[bool]:
  return [bar for tune in tunes for bar in tune.bars]


@_metric("paired repeats", "share", "share of tunes whose repeat signs and endings match")
def _paired_repeats(tunes: list[Tune]) -> list[bool]:
  return [tune.has_paired_repeats for tune in tunes]


@_metric("bars", "mean", "mean number of bars per tune")
def _bars(tunes: list[Tune]) -> list[int]:
  return [len(tune.bars) for tune in tunes]


@_metric("ends on tonic", "share", "share of tunes whose last note is the tonic of the key")
def _ends_on_tonic(tunes: list[Tune]) -> list[bool]:
  return [
    tune.pitches[-1] % 12 == tune.tonic for tune in tunes if tune.pitches and tune.tonic is not None
  ]


@_metric("intervals", "distribution", "frequencies of intervals between successive notes")
def _intervals(tunes: list[Tune]) -> list[int]:
  pairs = (pair for tune in tunes for pair in itertools.pairwise(tune.pitches))
  return [after - before for before, after in pairs]


DOMAIN = metrics.Domain(
  METRICS,
  parser,
  boundary=_BLANK_LINE,
  tokens=_NOTES,
  prompt="\n\n",
  source="music",
  documents="blank_lines",
  num=200,
  split=split,
)
