"""What a kind of text is judged by, and columns of texts judged together."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from charrnn import errors
from charrnn.runs import held_out
from charrnn.scorecards import c_source, card, memorization, pronunciation, samples, shakespeare

PIECES = 200  # of the real text, at most


class Kind(NamedTuple):
  """A kind of text: `reader` takes the training text and gives what reads a sample."""

  figures: tuple[card.Figure, ...]
  reader: Callable[[str], Callable[[str], Any]]
  boundary: re.Pattern  # after it a sample may begin or end
  tokens: re.Pattern  # what the control shuffles
  prompt: str  # as if such a boundary had just been read
  source: str | None  # a corpus of the kind


def _plays(training: str):
  pronunciation.stresses()  # missing? then now, not after the work
  reference = shakespeare.reference(training)
  return lambda text: shakespeare.read(text, reference)


KINDS = {
  "shakespeare": Kind(
    shakespeare.FIGURES,
    _plays,
    shakespeare.BOUNDARY,
    shakespeare.TOKENS,
    prompt="\n\n",
    source="shakespeare",
  ),
  "c": Kind(
    c_source.FIGURES,
    lambda training: c_source.read,
    c_source.BOUNDARY,
    c_source.TOKENS,
    prompt="\n}\n\n",
    source="linux",
  ),
}


# Of any text: what needs no figures of its own.
ANY = Kind(
  (), lambda training: str, re.compile(r"\n"), re.compile(r"(?P<token>\w+)"), prompt="", source=None
)


def real(kind: Kind, part: held_out.Text, size: int) -> list[str]:
  """Samples of the documents, evenly spread over all of them."""
  documents = (part.text[each.start : each.stop] for each in part.passages)
  cuts = [piece for text in documents for piece in samples.pieces(text, size, kind.boundary)]
  found = samples.complete(cuts, kind.boundary)
  if len(found) < 2:
    found = cuts  # a text of another kind, that hardly ever has such ends
  if len(found) < 2:
    longest = max((each.stop - each.start for each in part.passages), default=0)
    most = longest // 3 if len(part.passages) < 2 else longest
    remedy = f"try --length {max(1, min(most, size // 2))}"
    raise errors.UserError(f"{part.name} has no two samples of {size:,} characters: {remedy}")
  keep = min(PIECES, len(found))
  return [found[i * len(found) // keep] for i in range(keep)]


def pieces(kind: Kind, text: str, size: int) -> list[str]:
  """Samples of a text, of which a short one is its own only sample; of any kind: all of it."""
  if kind is ANY:
    return [text]
  return samples.complete(samples.pieces(text, size, kind.boundary) or [text], kind.boundary)


def shuffled(kind: Kind, texts: Sequence[str], seed: int) -> list[str]:
  """The control: the words or tokens of each text in disorder."""
  return [samples.shuffled(text, kind.tokens, seed + n) for n, text in enumerate(texts)]


def judge(
  kind: Kind,
  read: Callable[[str], Any],
  training: held_out.Text,
  columns: Mapping[str, Sequence[str]],
  seed: int = 0,
) -> dict[str, Any]:
  """`card.card` of columns of samples, of which "real" is held-out text, and what they copied."""
  every = [text for texts in columns.values() for text in texts]
  found = iter(memorization.matches(training.text, every))
  measured, copies = {}, {}
  for name, texts in columns.items():
    matches = [next(found) for _ in texts]
    measured[name] = card.measure(kind.figures, [read(text) for text in texts])
    measured[name] |= card.measure(memorization.FIGURES, matches)
    found_copies = memorization.longest(texts, matches, training)
    copies[name] = [copy._asdict() for copy in found_copies]
  figures = (*kind.figures, *memorization.FIGURES)
  return card.card(figures, measured, seed=seed) | {"copies": copies}
