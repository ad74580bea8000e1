"""The surprisal page: its content, and that hostile text in it has no effect."""

import html.parser
import json
import re

import numpy as np
import pytest

from charrnn.data import tokenizers
from charrnn.evaluation import pages, score

HOSTILE = "a<script>alert(1)</script>&amp;{{data}}\"'>\x00\x1b[2J\u202eover\u0301\ud800 é\t\r\n"
HOSTILE += "</i><!--\u2028"


class Reader(html.parser.HTMLParser):
  """Collect the marks of the text as [class, text], and all other elements."""

  def __init__(self):
    super().__init__()
    self.marks, self.elements, self.legend, self._in = [], [], True, None

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    if tag == "i":
      self.marks.append([attrs.get("class", ""), ""])
      self._in = True
    else:
      self.elements.append((tag, attrs))
      if attrs.get("id") == "text":
        self.marks.clear()

  def handle_endtag(self, tag):
    self._in = None

  def handle_data(self, data):
    if self._in:
      self.marks[-1][1] += data


def build_page(text, nats=None, kind="char", title="how", facts="what"):
  alphabet = tokenizers.Tokenizer.from_text(text, kind)
  ids = alphabet.encode(text)
  n = len(ids)
  nats = np.full(n, np.nan) if nats is None else np.asarray(nats, float)
  ones = np.ones(n, int)
  top = np.tile([0, 1], (n, 1)), np.where(np.isnan(nats)[:, None], np.nan, [0.75, 0.25])
  scores = score.Scores(np.arange(n) + 7, nats, ones, *top)
  shifted = np.concatenate([np.zeros(7, ids.dtype), ids])
  page = pages.surprisal_page(title, facts, alphabet, shifted, scores)
  reader = Reader()
  reader.feed(page)
  data = json.loads(re.search(r'id="scores">(.*?)</script>', page)[1])
  return page, reader, data, alphabet


def test_each_character_has_a_mark_with_a_shade_per_half_bit():
  nats = np.log(2) * np.array([np.nan, 0, 0.2, 0.3, 1, 9.9, 10, 50])
  page, reader, data, _ = build_page("abcdefgh", nats)
  assert reader.marks == [
    *(["first", "a"], ["", "b"], ["", "c"], ["b1", "d"], ["b2", "e"], ["b20", "f"]),
    *(["b20", "g"], ["b20", "h"]),
  ]
  assert all(f".b{n}{{" in page for n in range(1, 21))
  assert data["bits"] == [None, 0, 0.2, 0.3, 1, 9.9, 10, 50]
  assert data["places"] == list(range(7, 15)) and data["top"][:2] == [[], [0, 0.75, 1, 0.25]]


def test_hostile_text_is_escaped():
  page, reader, data, alphabet = build_page(HOSTILE, title=HOSTILE, facts="<script>")
  tags = [tag for tag, _ in reader.elements]
  assert tags.count("script") == 2 and len(reader.marks) == len(HOSTILE)
  text = "".join(text for _, text in reader.marks)
  assert text.startswith(
    "a<script>alert(1)</script>&amp;{{data}}\"'>001b[2J202eover◌\u0301d800 é→←↵"
  )
  page.encode()  # It contains no lone surrogates.
  assert not any(ord(c) < 32 and c != "\n" for c in page) and "\u202e" not in page
  assert [data["symbols"][n] for n in data["ids"]][:3] == ["a", "<", "s"]
  assert data["symbols"][alphabet.tokens.index(" ")] == "␣"


def test_bytes_beyond_ascii_are_shown_as_numbers():
  _, reader, _, _ = build_page("né", kind="byte")
  assert [text for _, text in reader.marks] == ["n", "c3", "a9"]


def test_a_long_text_is_truncated_with_a_note(monkeypatch):
  monkeypatch.setattr(pages, "MAX_CHARACTERS", 50)
  page, reader, data, _ = build_page("ab" * 30)
  assert len(reader.marks) == len(data["ids"]) == len(data["top"]) == 50
  assert "The first 50 of 60 characters are shown." in page
  assert "are shown" not in build_page("ab" * 25)[0]


def test_the_policy_allows_only_the_page_itself():
  page, reader, _, _ = build_page("ab")
  (policy,) = [a["content"] for _, a in reader.elements if a.get("http-equiv")]
  assert policy.startswith("default-src 'none'") and policy.count("sha256-") == 2
  assert not re.search(r"https?:|src=|url\(", page)


@pytest.mark.parametrize(
  ("symbol", "shown"),
  [("\n", "↵"), ("\x85", "85"), ("\u00a0", "a0"), ("\U000e0001", "e0001"), ("~", "~")],
)
def test_invisible_characters_are_shown_as_numbers(symbol, shown):
  assert pages.glyph(symbol) == shown
