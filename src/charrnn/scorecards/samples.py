"""Samples to compare: real text in pieces of a size, and text with its words in disorder."""

import bisect
import random
import re
from collections.abc import Iterable


def trimmed(text: str, boundary: re.Pattern) -> str:
  """Up to the last boundary; "" if there is none."""
  return text[: max((match.end() for match in boundary.finditer(text)), default=0)]


def complete(texts: Iterable[str], boundary: re.Pattern) -> list[str]:
  """Texts, each `trimmed`: what its end cut off is no fault of who wrote it.

  Those without a boundary are left out, be they real or not; if none has one, all stay as they are.
  """
  texts = list(texts)
  return [short for text in texts if (short := trimmed(text, boundary))] or texts


def pieces(text: str, size: int, boundary: re.Pattern) -> list[str]:
  """A text cut as a model's samples are: `size` characters from a boundary on, to be `complete`.

  What is left of a text that is shorter than half of that is none.
  """
  found, start = [], 0
  starts = [match.end() for match in boundary.finditer(text)]
  while len(text) - start >= size / 2:
    found.append(text[start : start + size])
    start += len(trimmed(found[-1], boundary) or found[-1])
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
