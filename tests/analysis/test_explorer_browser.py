"""The explorer in a headless browser, operated with the mouse and the keyboard."""

import http.server
import json
import re
import threading

import browser as browser_lib
import made_up
import numpy as np
import pytest
from browser import BRIGHTNESS, expect

from charrnn.analysis import explorer, rates

pytestmark = browser_lib.NEEDS_CHROMIUM
TEXT = made_up.prose(3000) + made_up.HOSTILE
BLUE, ORANGE = "l", "h"  # CSS classes of low and high values
COMPLETE = "html[data-complete]"  # all rows of the text are divided, and all views are filled
EXPLAINED = made_up.explanation()


@pytest.fixture(scope="module")
def browser():
  with browser_lib.launch() as browser:
    yield browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp("explorer") / "explorer.html"
  study = made_up.study()
  study["notes"].append(made_up.HOSTILE)
  study["steering"][0]["excerpts"]["zero"] = made_up.HOSTILE
  study["emergence"][0]["score"][3] = None
  study["ablations"][0] |= {
    "inside": None,
    "p": None,
    "p_corrected": None,
    "controls": {"inside": [], "outside": []},
  }
  next(each for each in study["findings"] if each["significant"] is False)["confounded"] = True
  # Too small for all quantities of all units.
  whole = explorer.write(path, study, made_up.excerpt(TEXT))
  explorer.write(path, study, made_up.excerpt(TEXT), whole - 200_000, [EXPLAINED])
  return path


@pytest.fixture
def opened(browser, path):
  """Return a function that opens the page; check afterwards for errors and other requests."""
  with browser_lib.pages(browser) as open_page:

    def open_address(address="", **options):
      return open_page(path.as_uri() + address, **{"ready": COMPLETE} | options)

    yield open_address


@pytest.fixture
def page(opened):
  return opened()


def _shade(page, t):
  """Return the side and the strength of the color of character t."""
  match = re.search(r" ([lh])(\d+)", page.locator("#text .ch").nth(t).get_attribute("class"))
  return (match[1], int(match[2])) if match else ("", 0)


def _classes(page, t):
  return page.locator("#text .ch").nth(t).get_attribute("class").split()


def _plain(text):
  return text.replace("\N{MINUS SIGN}", "-")


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
  assert page.locator("#view-probes figure").count() == 5
  page.keyboard.press("5")
  ablation = page.locator("#view-ablation")
  assert ablation.locator(".card").count() == 2 + 2 + 1
  assert ablation.locator(".mark.control").count() == 2 * 19 + 2 * 19 + 3 * 4
  interchange = ablation.locator(".card").nth(2)
  assert "Share of the difference between the labels: 60%." in interchange.inner_text()
  title = interchange.locator(".mark.bar title").first
  assert title.text_content() == "difference between the labels: 0.150 nats"
  expect(ablation.locator(".card").nth(3)).to_contain_text("No share: the difference")
  page.keyboard.press("6")
  assert page.locator("circle.gate").count() == 3 * 16
  page.keyboard.press("7")
  assert page.locator("#view-emergence figure").count() == 3
  page.keyboard.press("8")
  assert "The data are synthetic" in page.locator("#view-notes").inner_text()
  page.keyboard.press("6")
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
  page.wait_for_selector(COMPLETE)
  for key in "jjjkb12345678":
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
  page.wait_for_selector(COMPLETE)
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
  for key in "jkb234567e":
    page.keyboard.press(key)
  assert page.locator("#tab-explanations").count() == 0
  assert page.locator("#view-probes figure").count() == 2 * 5
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
    page = open_page((tmp_path / "s.html").as_uri(), COMPLETE)
    assert page.locator("#about").inner_text() == "states of 16 units · made up (valid and test)"
    tabs = page.locator("#tabs button").all_inner_texts()
    assert tabs == ["Units in text", "Findings", "Probes", "Gates", "How to read"]
    assert not page.locator("#guesses").is_visible()
    look = page.locator("#look").inner_text()
    assert "Actual next character" in look and "Predicted" not in look
    for key in "pu123564":
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
  page.keyboard.press("4")  # The best unit has no explanation; the explained unit is linked.
  page.get_by_role("button", name="0:5", exact=True).last.click()
  for key in "12345678":
    page.keyboard.press(key)
    page.screenshot(path=tmp_path / f"{width}-{key}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_address_follows_what_is_shown_and_opens_it_again(page, opened):
  page.select_option("#hypothesis", "line-position")
  page.locator("#text .ch").nth(20).click()
  expect(page).to_have_url(re.compile("#unit=0:5&hypothesis=line-position&character=20$"))
  page.select_option("#quantity", "f")
  expect(page.locator("#shown")).to_contain_text("0:5, f")
  page.locator("#text .ch").nth(20).click()
  page.keyboard.press("j")
  expect(page.locator("#shown")).not_to_contain_text("0:5")
  heading = _heading(page)
  page.get_by_role("tab", name="Findings").click()
  name = re.search(r"Unit (\S+), ", heading)[1]
  address = f"#unit={name}&hypothesis=line-position&quantity=f&tab=findings&character=20"
  expect(page).to_have_url(re.compile(f"{address}$"))
  other = opened(address)
  assert other.locator("#view-findings").is_visible() and not other.locator("#text").is_visible()
  other.keyboard.press("1")
  assert _heading(other) == heading and "caret" in _classes(other, 20)


def test_back_and_forward_open_the_views_and_units_before(page):
  before = _heading(page)
  page.keyboard.press("j")
  expect(page.locator("#shown")).not_to_have_text(before)
  first = _heading(page)
  page.keyboard.press("2")
  page.locator(".findings .link.cell", has_text="0:5").click()
  expect(page.locator("#shown")).to_contain_text("Unit 0:5")
  page.go_back()
  expect(page.locator("#view-findings")).to_be_visible()
  page.go_back()
  expect(page.locator("#shown")).to_have_text(first)
  assert page.locator("#text").is_visible()
  page.go_forward()
  page.go_forward()
  expect(page.locator("#shown")).to_contain_text("Unit 0:5")
  assert page.locator("#text").is_visible()


def test_a_link_to_a_unit_opens_the_hypothesis_that_it_is_best_for(opened):
  page = opened("#unit=0:5")
  assert _heading(page) == "Unit 0:5, tanh(c): best of 16 units for line-position"
  page.evaluate("location.hash = '#hypothesis=in-quotes'")
  expect(page.locator("#shown")).to_have_text("Unit 1:3, tanh(c): best of 16 units for in-quotes")
  page.evaluate("location.hash = '#unit=0:1&hypothesis=speaker&character=999'")
  expect(page.locator("#shown")).to_have_text("Unit 0:1, tanh(c), for speaker")
  expect(page.locator("#text .caret")).to_be_in_viewport()
  assert page.evaluate("document.querySelector('#text .caret').at") == 999


@pytest.mark.parametrize(
  ("address", "message"),
  [
    ("unit=9:1", "This page has no unit 9:1: its units are 0:0 to 1:7."),
    ("unit=" + 50 * "x", f"This page has no unit {40 * 'x'}: its units are 0:0 to 1:7."),
    ("unit=0:1&tab=rates", "This page has no tab rates: its tabs are text, findings, probes, "),
    ("hypothesis=poetry", "This page has no hypothesis poetry: choose one from the list."),
    ("character=99999", "This page has no character 99999: the text has the characters 0 to "),
    ("unit=0:1&quantity=zz", "This page has no quantity zz: use tanh(c)"),
    ("unit=%3Cb%3E%00%E2%80%AE", "This page has no unit <b>␀202E: "),
    ("%%&=&&x", ""),
  ],
)
def test_a_wrong_address_is_reported_in_one_line(opened, address, message):
  page = opened(f"#{address}", viewport={"width": 1600, "height": 800})
  problem = page.locator("#problem")
  assert problem.inner_text().startswith(message) and problem.is_visible() == bool(message)
  assert problem.evaluate("node => node.clientHeight") < 40
  assert "Unit " in _heading(page)
  before = _heading(page)
  page.keyboard.press("j")
  expect(page.locator("#shown")).not_to_have_text(before)
  expect(problem).to_be_hidden()


def test_the_explanation_of_a_unit_and_the_command_that_makes_one(page):
  page.keyboard.press("e")
  view = page.locator("#view-explanations")
  command = "charrnn cells runs/made-up --explain 1:3 --step 7394"
  expect(view.locator(".command")).to_have_text(command)
  view.get_by_role("button", name="0:5").click()
  expect(view.locator("h2").first).to_have_text("Unit 0:5")
  text = view.inner_text()
  assert view.locator(".command").count() == 0 and EXPLAINED["summary"] in text
  tables = [_plain(table.inner_text()) for table in view.locator("table").all()]
  assert "↵\tresets the unit\t700\t0.020 c - 1.200\t-1.200\t0.100" in tables[0]
  assert "changes it by +0.040 on average" in tables[0]
  rows = view.locator("table").nth(1).locator("tbody tr")
  assert rows.count() == len(EXPLAINED["characters"])
  assert "predicted\t48.2\t59.7\t1.239" in tables[2] and "1.200 to 1.280" in tables[2]
  assert view.locator("path.line").count() == 2 + 3 + 1
  assert view.locator("line.event").count() == EXPLAINED["excerpt"]["text"].count("\n")
  assert "forget gate f, mean 0.60" in text and "41%" in text
  page.keyboard.press("j")
  expect(view.locator("h2").first).not_to_have_text("Unit 0:5")
  view.get_by_role("button", name="0:5").click()
  view.get_by_role("button", name="1:h6").first.click()
  expect(page.locator("#shown")).to_contain_text("Unit 1:6")
  link = page.get_by_role("button", name="explanation", exact=True)
  assert link.count() == 0
  page.fill("#search", "0:5")
  page.keyboard.press("Enter")
  link.click()
  expect(view.locator("h2").first).to_have_text("Unit 0:5")


@pytest.mark.parametrize(
  "change",
  [
    {"edit": None, "edit_reason": "a line end does not reset the unit"},
    {"kind": None, "reason": "low", "summary": "no explanation: low", "edit": None, "events": []},
    {"memory": None, "readers": {"spread": 0.1, "saturated": None, "logits": None, "units": []}},
    {"others": EXPLAINED["others"] | {"change": None}},
  ],
)
def test_explanations_of_other_units(browser, tmp_path, change):
  """No part of an explanation that may be missing is needed."""
  entry = json.loads(json.dumps(EXPLAINED)) | change
  if entry["edit"]:
    entry["edit"]["alone"] = dict.fromkeys(("plain", "edited", "ratio"))
    entry["edit"]["measured"] |= {"low": None, "high": None}
  path = tmp_path / "x.html"
  excerpt = made_up.excerpt(made_up.prose(400))
  explorer.write(path, made_up.study(), excerpt, explanations=[entry])
  with browser_lib.pages(browser) as open_page:
    page = open_page(f"{path.as_uri()}#unit=0:5&tab=explanations")
    view = page.locator("#view-explanations")
    expect(view).to_contain_text(entry["summary"])
    expect(view).to_contain_text("What reads the unit")
    expect(view).to_contain_text(change.get("edit_reason") or "Edit of the weights")


def test_rates_of_networks_that_differ_in_their_seed(browser, tmp_path):
  path, excerpt = tmp_path / "x.html", made_up.excerpt(made_up.prose(400))
  explorer.write(path, made_up.study(), excerpt, rates=made_up.rates())
  with browser_lib.pages(browser) as open_page:
    page = open_page(f"{path.as_uri()}#tab=rates", ready=COMPLETE)
    view = page.locator("#view-rates")
    expect(view).to_contain_text("This network is one of 10 networks (lstm 1 x 20)")
    head = view.locator("table.rates").first.locator("thead th").all_inner_texts()
    assert head == [
      "Networks with a significant unit for",
      "gru 1 x 20",
      "lstm 1 x 20 (this network’s group)",
    ]
    families = view.locator("table.rates").first.locator("tbody tr").first.inner_text()
    assert re.split(r"\s*[\t\n]+\s*", families) == [
      *("if condition", "10 of 10", "72% to 100%", "8 of 10", "49% to 94%")
    ]
    row = view.locator("table.rates").nth(1).locator("tbody tr").first
    expect(row).to_contain_text("0.850 to 0.895")
    assert row.locator(".mark.control").count() == 9
    assert row.locator(".mark").last.locator("title").text_content() == "this network 0.865"
    assert "≤ 10" in row.inner_text()
    dots = view.locator(".strips .mark.control, .strips .mark.confirmation")
    assert dots.count() == 20
    own = view.locator(".strips .mark.confirmation title").text_content()
    assert own == "this network: 13.0%"


def test_the_rates_of_a_single_network_say_so(browser, tmp_path):
  group = rates.aggregate({"a": made_up.network()}) | {"label": "gru 1 x 20"}
  group["families"] = {}
  found = rates.around({"characters": 9000, "groups": [group]}, made_up.WEIGHTS)
  path = tmp_path / "x.html"
  explorer.write(path, made_up.study(), made_up.excerpt(made_up.prose(400)), rates=found)
  with browser_lib.pages(browser) as open_page:
    view = open_page(f"{path.as_uri()}#tab=rates", ready=COMPLETE).locator("#view-rates")
    expect(view).to_contain_text("No network that differs from this one (gru 1 x 20)")
    assert "interval of their share" not in view.inner_text()


def test_probes_are_plotted_and_listed(page):
  page.keyboard.press("3")
  view = page.locator("#view-probes")
  entries = made_up.study()["probes"]
  assert view.locator("figure").count() == view.locator("tbody").count() == len(entries)
  first = view.locator("figure").first
  assert first.locator("path.line").count() == 4 and first.locator("path.band").count() == 1
  ticks = [tick.text_content() for tick in first.locator(".tick[text-anchor=middle]").all()]
  assert ticks == ["1", "2", "4", "8", "16"]
  row = view.locator("tbody tr").first.inner_text().split("\t")
  assert row == [
    *(entries[0]["hypothesis"], "units"),
    *(f"{score:.3f}" for score in entries[0]["units"]),
  ]
  first.get_by_role("button", name="0:h0").click()
  shown = f"Unit 0:0, tanh(c), for {entries[0]['hypothesis']}"
  expect(page.locator("#shown")).to_contain_text(shown)


def test_the_text_is_colored_before_the_browser_has_read_the_page(browser, tmp_path, monkeypatch):
  """Codes of units with lower scores are not needed; they are at the end of the page."""
  monkeypatch.setattr(explorer, "FIRST", 60_000)
  path, arrived = tmp_path / "x.html", threading.Event()
  explorer.write(path, made_up.study(), made_up.excerpt(TEXT))
  page_bytes = path.read_bytes()
  cut = page_bytes.index(b'id="rest"') + 100
  assert len(page_bytes) > 2 * cut

  class Slow(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(200)
      self.send_header("Content-Type", "text/html")
      self.end_headers()
      self.wfile.write(page_bytes[:cut])
      arrived.wait()
      self.wfile.write(page_bytes[cut:])

    def log_message(self, *arguments):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
    threading.Thread(target=server.serve_forever).start()
    page = browser.new_page()
    try:
      page.goto(f"http://127.0.0.1:{server.server_port}", wait_until="commit")
      page.wait_for_selector("html[data-ready]")
      page.wait_for_selector("#text .caret")  # The rows in view are colored together.
      assert page.evaluate("document.readyState") == "loading"
      quote = TEXT.index('"')
      assert [_shade(page, quote + shift)[0] for shift in (-3, 3)] == [BLUE, ORANGE]
      before = _heading(page)
      worst = page.locator("#cells-body tr").last.locator("button")
      worst.click()
      assert _heading(page) == before
      arrived.set()
      expect(page.locator("#shown")).to_contain_text(f"Unit {worst.inner_text().strip()}")
    finally:
      arrived.set()
      page.close()
      server.shutdown()


def test_only_the_traces_of_the_chosen_unit_are_decoded(opened, path):
  script = """
    window.decoded = [];
    const decode = atob;
    window.atob = (text) => {
      window.decoded.push(text);
      return decode(text);
    };
  """
  page = opened(script=script)
  blocks = dict(re.findall(r'<script type="[a-z/]+" id="(\w+)">([^<]*)<', path.read_text()))
  excerpt, traces = json.loads(blocks["excerpt"]), json.loads(blocks["traces"])
  names = json.loads(blocks["study"])["units"]
  codes = blocks["first"] + blocks["rest"]
  shown = {excerpt[key] for key in ("text", "top_ids", "top_p", "nats")}
  shown.add(excerpt["labels"]["in-quotes"])
  for each in (traces["coarse"][names.index("1:3")], *traces["fine"]["1:3"].values()):
    shown.add(codes[slice(*each["at"])])
  assert set(page.evaluate("decoded")) == shown


def test_rows_out_of_view_are_plain_text_when_the_page_is_ready(opened):
  script = """
    new MutationObserver(() => {
      window.divided = document.querySelectorAll("#text .ch").length;
      window.text = document.querySelector("#text").textContent;
    }).observe(document, {subtree: true, attributeFilter: ["data-ready"]});
  """
  page = opened(script=script, viewport={"width": 1280, "height": 300})
  assert page.evaluate("divided") < len(TEXT)
  assert page.locator("#text .ch").count() == len(TEXT)
  assert page.locator("#text").text_content() == page.evaluate("text")
