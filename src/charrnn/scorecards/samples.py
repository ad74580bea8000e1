"""Samples to compare: real text in pieces of a size, and text with its words in disorder."""

import random
import re


def trimmed(text: str, boundary: re.Pattern) -> str:
  """Up to the last boundary: what a sample's end cut off is no fault of who wrote it."""
  stop = max((match.end() for match in boundary.finditer(text)), default=len(text))
  return text[:stop]


def pieces(text: str, size: int, boundary: re.Pattern) -> list[str]:
  """The text in pieces that end at the first boundary after `size` characters.

  A last one of less than half of that goes with the piece before it.
  """
  stops, start = [], 0
  for match in boundary.finditer(text):
    if match.end() - start >= size:
      stops.append(match.end())
      start = match.end()
  if stops and len(text) - start < size / 2:
    stops.pop()
  spans = zip([0, *stops], [*stops, len(text)])
  return [text[start:stop] for start, stop in spans if start < stop]


def shuffled(text: str, pattern: re.Pattern, seed: int = 0) -> str:
  """Every group `token` of the pattern in the place of another; all else stays where it is.

  The control of a scorecard: the words of the text and its layout, and nothing that made it a text.
  """
  spans = [m.span("token") for m in pattern.finditer(text) if m["token"] is not None]
  tokens = [text[start:stop] for start, stop in spans]
  random.Random(seed).shuffle(tokens)
  parts, end = [], 0
  for (start, stop), token in zip(spans, tokens):
    parts += [text[end:start], token]
    end = stop
  return "".join([*parts, text[end:]])
