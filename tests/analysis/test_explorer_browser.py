"""The explorer in a headless browser, operated with the mouse and the keyboard."""

import functools
import re

import browser as browser_lib
import made_up
import numpy as np
import pytest
from browser import BRIGHTNESS, expect

from charrnn.analysis import explorer

pytestmark = browser_lib.NEEDS_CHROMIUM
TEXT = made_up.prose(3000) + made_up.HOSTILE
BLUE, ORANGE = "l", "h"  # CSS classes of low and high values


@pytest.fixture(scope="module")
def browser():
  with browser_lib.launch() as browser:
    yield browser


@pytest.fixture(scope="module")
def url(tmp_path_factory):
  path = tmp_path_factory.mktemp("explorer") / "explorer.html"
  study = made_up.study()
  study["notes"].append(made_up.HOSTILE)
  study["steering"][0]["excerpts"]["zero"] = made_up.HOSTILE
  study["emergence"][0]["score"][3] = None
  study["ablations"][0] |= {"inside": None, "p": None, "controls": {"inside": [], "outside": []}}
  next(each for each in study["findings"] if each["significant"] is False)["confounded"] = True
  # Too small for all quantities of all units.
  whole = explorer.write(path, study, made_up.excerpt(TEXT))
  explorer.write(path, study, made_up.excerpt(TEXT), whole - 200_000)
  return path.as_uri()


@pytest.fixture
def opened(browser, url):
  """Return a function that opens the page; check afterwards for errors and other requests."""
  with browser_lib.pages(browser) as open_page:
    yield functools.partial(open_page, url)


@pytest.fixture
def page(opened):
  return opened()


def _shade(page, t):
  """Return the side and the strength of the color of character t."""
  match = re.search(r" ([lh])(\d+)", page.locator("#text .ch").nth(t).get_attribute("class"))
  return (match[1], int(match[2])) if match else ("", 0)


def _classes(page, t):
  return page.locator("#text .ch").nth(t).get_attribute("class").split()


def _heading(page):
  return page.locator("#shown").inner_text()


def test_the_page_opens_with_the_best_finding_its_label_and_colors(page):
  assert _heading(page) == "Unit 1:3, tanh(c): best of 16 units for in-quotes"
  assert "AUROC 0.97" in page.locator("#verdict").inner_text()
  assert "✓ Significant." in page.locator("#verdict").inner_text()
  quote = TEXT.index('"')
  assert "u4" in _classes(page, quote + 3) and "u4" not in _classes(page, quote - 3)
  assert _shade(page, quote + 3)[0] == ORANGE and _shade(page, quote - 3)[0] == BLUE
  assert page.locator("#text .ch").count() == len(TEXT)


def test_selecting_a_hypothesis_and_a_unit(page):
  page.select_option("#hypothesis", "line-position")
  expect(page.locator("#shown")).to_contain_text("0:5, tanh(c): best of 16")
  early, late = (TEXT.index("\n", 200) + n for n in (3, 48))
  assert _shade(page, early)[0] == BLUE and _shade(page, late)[0] == ORANGE
  page.fill("#search", "1:2")
  assert page.locator("#cells-body tr").count() == 1
  page.keyboard.press("Enter")
  expect(page.locator("#shown")).to_have_text("Unit 1:2, tanh(c), for line-position")
  page.fill("#search", "QUOTES")
  page.keyboard.press("Enter")
  expect(page.locator("#shown")).to_contain_text("1:3, tanh(c): best of 16")


def test_sorting_and_filtering_the_table(page):
  first = page.locator("#cells-body tr td:first-child")
  scores = made_up.study()["scores"]["in-quotes"]
  best = sorted(range(16), key=lambda index: -abs(scores[index]))
  assert [name.strip() for name in first.all_inner_texts()] == [f"{i // 8}:{i % 8}" for i in best]
  page.get_by_role("button", name="Unit", exact=True).click()
  assert first.first.inner_text().strip() == "0:0"
  page.get_by_role("button", name="Unit ↓").click()
  assert first.first.inner_text().strip() == "1:7"
  page.select_option("#layer", "0")
  assert first.first.inner_text().strip() == "0:7" and first.count() == 8
  first.first.click()
  expect(page.locator("#shown")).to_contain_text("Unit 0:7")


def test_the_pointer_and_the_keys_select_a_character(page):
  excerpt = made_up.excerpt(TEXT)
  look = page.locator("#look")
  page.locator("#text .ch").nth(20).hover()
  value = excerpt.recording[20, excerpt.columns.index((1, "f", 3))]
  row = look.locator("dt", has_text=re.compile("^f$")).locator("+ dd")
  expect(row).to_have_text(f"{value:.3f}")
  expect(look).to_contain_text(f"loss {excerpt.nats[20]:.2f} nats")
  assert look.locator(".predictions li").count() == (excerpt.top_p[20] * 65535 >= 0.5).sum()
  page.locator("#text .ch").nth(20).click()
  page.keyboard.press("t")
  for key, place in (("ArrowRight", 21), ("Home", 13), ("Control+End", len(TEXT) - 1)):
    page.keyboard.press(key)
    assert "caret" in _classes(page, place)
  expect(look).to_contain_text("The text ends here.")
  page.keyboard.press("Control+Home")
  page.keyboard.press("ArrowDown")
  assert "caret" in _classes(page, TEXT.index("\n") + 1)


def test_switching_quantities_and_units_that_have_only_one(page):
  quantity = page.locator("#quantity")
  assert quantity.locator("option").all_inner_texts() == ["tanh(c)", "h", "c", "i", "f", "g", "o"]
  before = [_shade(page, t) for t in range(40)]
  quantity.select_option("i")
  expect(page.locator("#shown")).to_contain_text("Unit 1:3, i")
  assert [_shade(page, t) for t in range(40)] != before
  page.locator("#cells-body tr", has=page.locator("button:not(.fine)")).first.click()
  expect(page.locator("#look")).to_contain_text("This page contains only tanh(c) of this unit")
  assert quantity.is_disabled()


def test_full_contrast_reaches_the_darkest_shades(page):
  dark = page.locator(":is(.l14, .l15, .l16, .h14, .h15, .h16):visible")
  assert dark.count() == 0  # the planted unit stays between -0.8 and 0.8
  page.keyboard.press("c")
  expect(dark).not_to_have_count(0)
  expect(page.locator("#legend")).not_to_contain_text("1.0")


def test_predictions_are_shown_under_the_visible_text(page):
  guesses = page.locator("#text .guesses")
  page.keyboard.press("p")
  assert guesses.first.inner_text().replace("\n", "")
  assert 0 < guesses.count() < len(TEXT)
  assert "came" in page.locator("#text .guesses i", has_text="I").first.get_attribute("class")
  page.keyboard.press("p")
  assert guesses.count() == 0


def test_finding_similar_places_of_a_keyboard_selection(page):
  quote = TEXT.index('"')
  page.locator("#text .ch").nth(quote - 2).click()
  page.keyboard.press("t")
  for _ in range(5):
    page.keyboard.press("Shift+ArrowRight")
  assert page.locator("#text .sel").count() == 6
  page.keyboard.press("s")
  places = page.locator(".places button")
  assert places.count() == 12
  # The planted unit switches at quotes, so similar places contain quotes.
  assert all('"' in place for place in places.locator("mark").all_inner_texts())
  places.nth(3).click()
  assert "sel" not in _classes(page, quote)
  assert page.locator("#text .sel").count() == 6
  page.keyboard.press("Escape")
  assert page.locator("#text .sel").count() == 0


def test_finding_similar_places_of_a_mouse_selection(page):
  start, stop = (page.locator("#text .ch").nth(t).bounding_box() for t in (20, 30))
  page.mouse.move(start["x"] + 1, start["y"] + 8)
  page.mouse.down()
  page.mouse.move(stop["x"] + 1, stop["y"] + 8, steps=4)
  page.mouse.up()
  assert page.locator("#text .sel").count() in (10, 11)
  page.get_by_role("button", name="Find places similar to these").click()
  assert page.locator(".places button").count() == 12


def test_jumping_between_layers(page):
  page.keyboard.press("l")
  expect(page.locator("#shown")).to_contain_text("Unit 0:3")
  page.keyboard.press("b")
  expect(page.locator("#shown")).to_contain_text("Unit 1:3")
  scores = made_up.study()["scores"]["in-quotes"][:8]
  best = max(range(8), key=lambda index: abs(scores[index]))
  page.get_by_role("button", name="best unit in layer 0").click()
  expect(page.locator("#shown")).to_contain_text(f"Unit 0:{best}")


def test_all_views_have_content_and_link_to_units(page):
  page.keyboard.press("2")
  assert page.locator(".findings tbody tr").count() == len(made_up.NAMES)
  assert "not scored: only one value" in page.locator(".findings").inner_text()
  verdicts = page.locator(".findings tbody td:last-child .yes, .findings tbody td:last-child .no")
  assert "confounded" in verdicts.all_inner_texts()
  fraction = page.locator(".fraction").inner_text()
  assert "12.5% of units follow a hypothesis that does not look ahead: 2 of 16" in fraction
  page.get_by_role("tab", name="Findings").press("ArrowRight")
  ablation = page.locator("#view-ablation")
  assert ablation.locator(".card").count() == 3
  assert ablation.locator(".mark.control").count() == 2 * 19 + 3 * 4
  page.keyboard.press("4")
  assert page.locator("circle.gate").count() == 3 * 16
  page.keyboard.press("5")
  assert page.locator("#view-emergence figure").count() == 3
  page.keyboard.press("6")
  assert "The data are synthetic" in page.locator("#view-notes").inner_text()
  page.keyboard.press("4")
  page.locator("circle.gate[data-cell='0:2']").first.click(force=True)
  expect(page.locator("#shown")).to_contain_text("Unit 0:")
  assert page.locator("#text").is_visible()


def test_hostile_text_is_shown_as_visible_characters(page):
  start = len(TEXT) - len(made_up.HOSTILE)
  shown = page.locator("#text .ch").all_text_contents()[start:]
  assert "".join(shown).startswith("</script><script>alert(1)</script><!-- ")
  signs = dict(zip(made_up.HOSTILE, shown, strict=True))
  expected = {"\u2028": "2028", "\x00": "␀", "\x1b": "␛", "\x7f": "␡", "\x85": "0085"}
  expected |= {"\r": "←", "\t": "→", "\ud800": "D800", "\u202e": "202E"}
  expected |= {"\u200b": "200B", "\u0301": "◌\u0301", "😀": "😀"}
  assert signs | expected == signs


def test_a_study_in_which_only_hypotheses_that_look_ahead_are_scored(browser, tmp_path):
  study, messages = made_up.study(), []
  ahead = [each["name"] for each in study["hypotheses"] if each["predicts"]]
  for name, scores in study["scores"].items():
    if name not in ahead:
      study["scores"][name] = [None] * len(scores)
  explorer.write(tmp_path / "a.html", study, made_up.excerpt(made_up.prose(500)))
  page = browser.new_page()
  page.on("pageerror", lambda error: messages.append(str(error)))
  page.goto((tmp_path / "a.html").as_uri())
  page.wait_for_selector("html[data-ready]")
  for key in "jjjkb123456":
    page.keyboard.press(key)
  page.close()
  assert ahead and messages == []


def test_the_units_of_a_transformer(browser, tmp_path):
  """A unit has one quantity, and its color scale is centered at its mean."""
  study, messages = made_up.study(cell="transformer"), []
  study["saturation"] = []
  excerpt = made_up.excerpt(made_up.prose(500), cell="transformer")
  excerpt.recording[:, excerpt.columns.index((1, "h", 3))] += 20
  explorer.write(tmp_path / "t.html", study, excerpt)
  page = browser.new_page()
  page.on("pageerror", lambda error: messages.append(str(error)))
  page.goto((tmp_path / "t.html").as_uri())
  page.wait_for_selector("html[data-ready]")
  assert "8 transformer, step 7,394" in page.locator("#about").inner_text()
  assert _heading(page) == "Unit 1:h3: best of 80 units for in-quotes"
  quote = excerpt.text.index('"')
  assert _shade(page, quote + 3)[0] == ORANGE and _shade(page, quote - 3)[0] == BLUE
  page.keyboard.press("l")
  expect(page.locator("#shown")).to_have_text("Unit 0:h3, for in-quotes")
  page.fill("#search", "1:m31")
  page.keyboard.press("Enter")
  expect(page.locator("#shown")).to_have_text("Unit 1:m31, for in-quotes")
  assert page.locator("#quantity option").all_inner_texts() == ["m"]
  page.locator("#cells-body").click()
  for key in "jkb23456":
    page.keyboard.press(key)
  assert page.locator("#view-findings .link.cell").first.text_content() == "1:h3"
  assert "no gates" in page.locator("#view-gates").text_content()
  page.close()
  assert messages == []


def test_a_study_of_states_without_a_network(browser, tmp_path):
  excerpt = made_up.excerpt(TEXT)
  none = {"symbols": [], "top_ids": np.empty((len(TEXT), 0)), "top_p": np.empty((len(TEXT), 0))}
  excerpt = excerpt._replace(**none, nats=np.full(len(TEXT), np.nan))
  explorer.write(tmp_path / "s.html", made_up.without_network(made_up.study()), excerpt)
  with browser_lib.pages(browser) as open_page:
    page = open_page((tmp_path / "s.html").as_uri())
    assert page.locator("#about").inner_text() == "states of 16 units · made up (valid and test)"
    tabs = page.locator("#tabs button").all_inner_texts()
    assert tabs == ["Units in text", "Findings", "Gates", "How to read"]
    assert not page.locator("#guesses").is_visible()
    look = page.locator("#look").inner_text()
    assert "Actual next character" in look and "Predicted" not in look
    for key in "pu12356":
      page.keyboard.press(key)
    assert page.locator("#view-gates").is_visible()
    assert "ntrained" not in page.locator("#view-findings").text_content()


def test_shortcuts_are_listed_and_inactive_in_the_search_field(page):
  page.keyboard.press("?")
  assert "next, previous unit" in page.locator("#keys").inner_text()
  page.keyboard.press("Escape")
  page.keyboard.press("/")
  page.keyboard.type("2p")
  assert page.locator("#search").input_value() == "2p"
  assert page.locator("#text").is_visible() and not page.locator("#guesses").is_checked()


def test_another_unit_changes_only_the_classes_of_visible_rows(opened):
  """The cost of a color change must depend on the screen, not on the length of the text."""
  page = opened(viewport={"width": 1280, "height": 300})
  page.evaluate(
    """() => {
      window.changes = [];
      const options = {subtree: true, childList: true, characterData: true, attributes: true};
      const watch = new MutationObserver((records) => window.changes.push(...records));
      watch.observe(document.querySelector("#text"), options);
    }"""
  )
  before = _heading(page)
  page.keyboard.press("j")
  expect(page.locator("#shown")).not_to_have_text(before)
  changes = page.evaluate("changes.map((each) => [each.type, each.attributeName])")
  assert {tuple(each) for each in changes} == {("attributes", "class")}
  recolored = page.evaluate("new Set(changes.map((each) => each.target)).size")
  assert 0 < recolored < len(TEXT)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_dark_and_print_colors(opened, tmp_path, scheme):
  page = opened(color_scheme=scheme)
  page.screenshot(path=tmp_path / f"{scheme}.png")
  assert (page.evaluate(BRIGHTNESS) > 128) == (scheme == "light")
  page.keyboard.press("d")
  page.screenshot(path=tmp_path / f"{scheme}-switched.png")
  assert (page.evaluate(BRIGHTNESS) > 128) == (scheme == "dark")
  page.emulate_media(media="print")
  assert page.evaluate(BRIGHTNESS) == 255
  assert page.locator("#view-findings").is_visible() and not page.locator(".chooser").is_visible()


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_no_view_is_wider_than_the_screen(opened, tmp_path, width):
  page = opened(viewport={"width": width, "height": 800})
  for key in "123456":
    page.keyboard.press(key)
    page.screenshot(path=tmp_path / f"{width}-{key}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
