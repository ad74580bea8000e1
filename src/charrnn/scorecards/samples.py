"""Samples to compare: real text in pieces of a size, and text with its words in disorder."""

import bisect
import random
import re


def trimmed(text: str, boundary: re.Pattern) -> str:
  """Up to the last boundary: what a sample's end cut off is no fault of who wrote it."""
  stop = max((match.end() for match in boundary.finditer(text)), default=len(text))
  return text[:stop]


def pieces(text: str, size: int, boundary: re.Pattern) -> list[str]:
  """Samples of a text, cut as those of a model are: `size` characters from a boundary, `trimmed`.

  What is left of a text that is shorter than half of that is none.
  """
  found, start = [], 0
  starts = [match.end() for match in boundary.finditer(text)]
  while len(text) - start >= size / 2:
    found.append(trimmed(text[start : start + size], boundary))
    start += len(found[-1])
    after = bisect.bisect_left(starts, start)
    start = starts[after] if after < len(starts) else start
  return found


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
