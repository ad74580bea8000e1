"""Single-file HTML pages that need no network, and the page of a text colored by surprisal.

The content security policy of a page allows only its own script and style, by their digests. All
other content is JSON data or escaped text.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from charrnn import console, files

MAX_CHARACTERS = 20_000  # maximum number of tokens on a surprisal page
SHADES = 20  # number of shades; each covers half a bit
_START, _END = '<script type="application/json" id="{}">', "</script>"
SIGNS = {"\n": "↵", "\t": "→", "\r": "←"}


def page(template: str, title: str, style: str, script: str, **parts: str) -> str:
  """Return a template from the folder `page` with {{title}} and all other parts filled in."""
  parts |= {
    "title": html.escape(console.visible(title)),
    "policy": _policy(style, script),
    "style": style,
    "script": script,
  }
  # All parts are filled in by one pass, so that braces inside a part are not replaced.
  return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], source(template))


def source(name: str) -> str:
  """Return the text of a file in the folder `page`."""
  return (importlib.resources.files("charrnn.analysis") / "page" / name).read_text("utf-8")


def sources(names: Sequence[str], suffix: str) -> str:
  """Return the concatenation of files in the folder `page`."""
  return "\n".join(source(f"{name}.{suffix}") for name in names)


def _policy(style: str, script: str) -> str:
  style, script = (
    f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
    for part in (style, script)
  )
  return (
    f"default-src 'none'; script-src {script}; style-src {style}; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'"
  )


def blocks(values: Mapping[str, Any]) -> str:
  """Return one script element per value, with its id and the value as inert JSON."""
  return "\n".join(
    f"{_START.format(name)}{plain_json(value)}{_END}" for name, value in values.items()
  )


def text_block(name: str, text: str) -> str:
  """Return a script element with an id and inert text, which must not contain `<`."""
  return f'<script type="text/plain" id="{name}">{text}</script>'


def read_block(page: str, name: str) -> Any:
  """Return the value of a block of a page; None if the page has no such block."""
  match = _block(name).search(page)
  try:
    return files.parse_json(match[1].encode()) if match else None
  except (ValueError, RecursionError):
    return None


def replace_block(page: str, name: str, value) -> str:
  """Return a page with another value in a block."""
  start, end = _block(name).search(page).span(1)
  return page[:start] + plain_json(value) + page[end:]


def _block(name: str) -> re.Pattern:
  # The text around the first match is the page's own, because JSON in a page has no `<`.
  return re.compile(f"{_START.format(name)}([^<]*){_END}")


def plain_json(value) -> str:
  """Return ASCII JSON without `<`, so that no HTML parser can find a tag in it."""
  return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def surprisal_page(title: str, facts: str, tokenizer, ids, scores) -> str:
  """Return a page of the first MAX_CHARACTERS tokens of `scores`.

  `scores` is a score.Scores of positions in `ids`. `facts` is a line about the whole text.
  """
  total = len(scores.positions)
  positions, nats, rank, top_ids, top_p = (np.asarray(each[:MAX_CHARACTERS]) for each in scores[:5])
  bits_N = nats.astype(float) / math.log(2)
  ids_N = np.asarray(ids)[positions]
  note = f"The first {len(positions):,} of {total:,} {tokenizer.unit}s are shown."
  data = {
    "unit": tokenizer.unit,
    "symbols": ["␣" if text == " " else glyph(text) for text in tokenizer.texts],
    "ids": ids_N.tolist(),
    "places": positions.tolist(),
    "bits": [None if math.isnan(bits) else round(bits, 3) for bits in bits_N.tolist()],
    "rank": rank.tolist(),
    "top": [_pairs(*each) for each in zip(top_ids.tolist(), top_p.tolist())],
  }
  rule = ".b{}{{background:color-mix(in oklab,var(--high) {:.0f}%,transparent)}}"
  shades = "\n".join(rule.format(n, 100 * n / SHADES) for n in range(1, SHADES + 1))
  return page(
    "surprisal.html",
    title,
    sources(("theme", "surprisal"), "css") + shades,
    source("surprisal.js"),
    facts=html.escape(console.visible(facts)),
    note=note if total > len(positions) else "",
    legend="".join(_mark(str(n) if n < 10 else "10+", [], n) for n in range(11)),
    text="".join(_character(tokenizer, *each) for each in zip(ids_N.tolist(), bits_N.tolist())),
    data=blocks({"scores": data}),
  )


def glyph(text: str) -> str:
  """Return a visible form of the text of a token that does not affect the text around it."""
  return "".join(map(_glyph, text))


def _glyph(character: str) -> str:
  if character in SIGNS:
    return SIGNS[character]
  if not character.isprintable():
    byte = ord(character) - 0xDC00  # of a surrogate that represents a byte
    return f"{byte if 0x80 <= byte <= 0xFF else ord(character):02x}"
  return f"◌{character}" if unicodedata.category(character)[0] == "M" else character


def _pairs(ids, p) -> list:
  """Return [id, p, id, p, ...]; an empty list for a token without a prediction."""
  return [] if math.isnan(p[0]) else [each for i, q in zip(ids, p) for each in (i, round(q, 4))]


def _character(tokenizer, index: int, bits: float) -> str:
  token = tokenizer.texts[index]
  text = glyph(token)
  classes = ["first"] if math.isnan(bits) else []
  if token in SIGNS:
    classes += ["sign", "tab"] if token == "\t" else ["sign"]
  elif len(token) == 1 and len(text) > 1 and text[0] != "◌":
    classes.append("code")
  elif len(token) > 1:
    text = text.replace(SIGNS["\n"], SIGNS["\n"] + "\n")
  end = "\n" if token == "\n" else ""
  return _mark(text, classes, 0 if math.isnan(bits) else bits) + end


def _mark(text: str, classes: list[str], bits: float) -> str:
  shade = min(round(2 * bits), SHADES)
  classes = [*classes, f"b{shade}"] if shade else classes
  attribute = f' class="{" ".join(classes)}"' if classes else ""
  return f"<i{attribute}>{html.escape(text)}</i>"
