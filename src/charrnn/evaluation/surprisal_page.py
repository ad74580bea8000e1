"""A text coloured by how much each character surprised a model, as one page in one file."""

import html
import math
import unicodedata

import numpy as np

from charrnn import console
from charrnn.evaluation import pages

LIMIT = 20_000  # characters on a page
_STEPS = 20  # shades, of half a bit each
_SIGNS = {"\n": "↵", "\t": "→", "\r": "␍"}


def page(title: str, facts: str, alphabet, ids, scores) -> str:
  """The page of the first LIMIT characters of `scores`, a surprisal.Scores of places in `ids`.

  `facts`: a line about all of them.
  """
  total = len(scores.places)
  places = scores.places[:LIMIT]
  nats, rank, top_ids, top_p = (np.asarray(each[:LIMIT]) for each in scores.predictions)
  bits_N = nats.astype(float) / math.log(2)
  ids_N = np.asarray(ids)[places]
  cut = f"The first {LIMIT:,} of {total:,} characters are shown." if total > LIMIT else ""
  data = {
    "symbols": ["␣" if symbol == " " else shown(alphabet, symbol) for symbol in alphabet.tokens],
    "ids": ids_N.tolist(),
    "places": places.tolist(),
    "bits": [None if math.isnan(bits) else round(bits, 3) for bits in bits_N.tolist()],
    "rank": rank.tolist(),
    "top": [_paired(*each) for each in zip(top_ids.tolist(), top_p.tolist())],
  }
  return pages.page(
    "surprisal.html",
    console.visible(title),
    pages.source("surprisal.css") + _shades(),
    pages.source("surprisal.js"),
    facts=html.escape(facts),
    cut=cut,
    legend="".join(_mark(str(n) if n < 10 else "10+", [], n) for n in range(11)),
    text="".join(_character(alphabet, *each) for each in zip(ids_N.tolist(), bits_N.tolist())),
    data=pages.blocks({"scores": data}),
  )


def shown(alphabet, symbol: str) -> str:
  """A symbol as something that can be seen, and that does nothing to the text around it."""
  if symbol in _SIGNS:
    return _SIGNS[symbol]
  byte = alphabet.kind == "byte" and ord(symbol) > 126
  if byte or not symbol.isprintable():
    return f"{ord(symbol):02x}"
  return f"◌{symbol}" if unicodedata.category(symbol)[0] == "M" else symbol


def _paired(ids, p):
  """id, p, id, p, ...: nothing of a character that nothing stands before."""
  if math.isnan(p[0]):
    return []
  return [value for pair in zip(ids, p) for value in (pair[0], round(pair[1], 4))]


def _character(alphabet, index: int, bits: float) -> str:
  symbol = alphabet.tokens[index]
  text = shown(alphabet, symbol)
  classes = ["first"] if math.isnan(bits) else []
  if symbol in _SIGNS:
    classes += ["sign", "tab"] if symbol == "\t" else ["sign"]
  elif len(text) > 1 and text[0] != "◌":
    classes.append("code")
  end = "\n" if symbol == "\n" else ""
  return _mark(text, classes, 0 if math.isnan(bits) else bits) + end


def _mark(text: str, classes: list[str], bits: float) -> str:
  shade = min(round(2 * bits), _STEPS)
  classes = [*classes, f"b{shade}"] if shade else classes
  attribute = f' class="{" ".join(classes)}"' if classes else ""
  return f"<i{attribute}>{html.escape(text)}</i>"


def _shades() -> str:
  rule = ".b{}{{background:color-mix(in oklab,var(--high) {:.0f}%,transparent)}}"
  return "\n".join(rule.format(n, 100 * n / _STEPS) for n in range(1, _STEPS + 1))
