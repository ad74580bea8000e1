"""The page of a text coloured by surprisal: what it holds, and that it runs nothing but its own."""

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
  """The marks of the text as (class, shown text), and the names of all other elements."""

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


def made(text, nats=None, kind="char", title="how", facts="what"):
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


def test_a_mark_a_character_coloured_by_half_bits():
  nats = np.log(2) * np.array([np.nan, 0, 0.2, 0.3, 1, 9.9, 10, 50])
  page, reader, data, _ = made("abcdefgh", nats)
  assert reader.marks == [
    *(["first", "a"], ["", "b"], ["", "c"], ["b1", "d"], ["b2", "e"], ["b20", "f"]),
    *(["b20", "g"], ["b20", "h"]),
  ]
  assert all(f".b{n}{{" in page for n in range(1, 21))
  assert data["bits"] == [None, 0, 0.2, 0.3, 1, 9.9, 10, 50]
  assert data["places"] == list(range(7, 15)) and data["top"][:2] == [[], [0, 0.75, 1, 0.25]]


def test_hostile_text_is_only_shown():
  page, reader, data, alphabet = made(HOSTILE, title=HOSTILE, facts="<script>")
  tags = [tag for tag, _ in reader.elements]
  assert tags.count("script") == 2 and len(reader.marks) == len(HOSTILE)
  shown = "".join(text for _, text in reader.marks)
  assert shown.startswith(
    "a<script>alert(1)</script>&amp;{{data}}\"'>001b[2J202eover◌\u0301d800 é→␍↵"
  )
  page.encode()  # no lone surrogate is left
  assert not any(ord(c) < 32 and c != "\n" for c in page) and "\u202e" not in page
  assert [data["symbols"][n] for n in data["ids"]][:3] == ["a", "<", "s"]
  assert data["symbols"][alphabet.tokens.index(" ")] == "␣"


def test_bytes_that_are_no_ascii_are_shown_as_numbers():
  _, reader, _, _ = made("né", kind="byte")
  assert [text for _, text in reader.marks] == ["n", "c3", "a9"]


def test_a_long_text_is_cut_and_the_page_says_so(monkeypatch):
  monkeypatch.setattr(pages, "MAX_CHARACTERS", 50)
  page, reader, data, _ = made("ab" * 30)
  assert len(reader.marks) == len(data["ids"]) == len(data["top"]) == 50
  assert "The first 50 of 60 characters are shown." in page
  assert "are shown" not in made("ab" * 25)[0]


def test_the_policy_names_what_is_there_and_nothing_is_fetched():
  page, reader, _, _ = made("ab")
  (policy,) = [a["content"] for _, a in reader.elements if a.get("http-equiv")]
  assert policy.startswith("default-src 'none'") and policy.count("sha256-") == 2
  assert not re.search(r"https?:|src=|url\(", page)


@pytest.mark.parametrize(
  ("symbol", "shown"),
  [("\n", "↵"), ("\x85", "85"), ("\u00a0", "a0"), ("\U000e0001", "e0001"), ("~", "~")],
)
def test_what_cannot_be_seen_is_shown_by_its_number(symbol, shown):
  assert pages.glyph(tokenizers.Tokenizer.from_text(symbol), symbol) == shown
