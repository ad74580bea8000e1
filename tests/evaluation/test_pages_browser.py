"""The surprisal page of a text, in a headless browser."""

import browser
import numpy as np
import pytest

from charrnn.data import tokenizers
from charrnn.evaluation import pages, score

pytestmark = browser.NEEDS_CHROMIUM
TEXT = "O Romeo\n<b>&\u202e "


@pytest.fixture(scope="module")
def url(tmp_path_factory):
  alphabet = tokenizers.Tokenizer.from_text(TEXT)
  ids, n = alphabet.encode(TEXT), len(TEXT)
  nats = np.full(n, np.log(8))
  nats[0] = np.nan
  likely = alphabet.encode("eo")
  top = np.tile(likely, (n, 1)), np.tile([0.5, 0.25], (n, 1))
  scores = score.Scores(np.arange(n), nats, np.full(n, 3), *top)
  path = tmp_path_factory.mktemp("page") / "page.html"
  path.write_text(pages.surprisal_page("a <b>title", "figures", alphabet, ids, scores))
  return path.as_uri()


@pytest.fixture
def page(url):
  """Yield the open page; check afterwards that it had no errors and requested no other files."""
  with browser.launch() as chromium, browser.pages(chromium) as open_page:
    yield open_page(url, ready="#look", viewport={"width": 900, "height": 700})


def test_hovering_shows_the_predictions_at_a_character(page):
  look = page.locator("#look")
  assert "Point at the text" in look.inner_text()
  page.locator("#text i").nth(2).hover()  # the R, which is not among the most probable tokens
  assert [row.split() for row in look.locator("tr").all_inner_texts()] == [
    ["e", "50.0%"],
    ["o", "25.0%"],
    ["R", "12.5%"],
  ]
  assert look.locator("dd").all_inner_texts() == ["3.00 bits", "0.125", "3"]
  page.locator("#text i").nth(6).hover()  # an o, which is among them
  assert look.locator("tr.came").inner_text().split() == ["o", "25.0%"]
  page.locator("#text i").nth(0).hover()
  assert "The first token of a document has no prediction" in look.inner_text()


def test_the_arrow_keys_move_and_the_text_has_visible_characters(page):
  assert page.locator("#text i").all_inner_texts() == [*"O Romeo↵<b>&", "202e", " "]
  assert page.title() == page.locator("h1").inner_text() == "a <b>title"
  page.locator("#text").focus()
  for _ in range(9):
    page.keyboard.press("ArrowRight")
  page.keyboard.press("ArrowLeft")
  assert page.locator("#look h2").inner_text().startswith("↵")
  assert page.locator("#text .here").count() == 1
