"""Tests of the explorer's HTML file: security policy, size, data, and hostile text."""

import base64
import hashlib
import html.parser
import json
import math
import re
import zlib

import made_up
import numpy as np
import pytest

from charrnn import errors
from charrnn.analysis import explorer
from charrnn.analysis import study as study_lib
from charrnn.evaluation import pages


class _Page(html.parser.HTMLParser):
  """The elements of a page, and the text of its scripts, styles and title."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.raw, self.open = [], [], None
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag in ("script", "style", "title"):
      self.open = [tag, dict(attrs), ""]

  def handle_data(self, data):
    if self.open:
      self.open[2] += data

  def handle_endtag(self, tag):
    if self.open and tag == self.open[0]:
      self.raw.append(tuple(self.open))
      self.open = None

  def texts(self, tag, **attributes):
    return [t for name, a, t in self.raw if name == tag and attributes.items() <= a.items()]


def _written(tmp_path, text=None, study=None, **sizes):
  study = study or made_up.study(**sizes)
  excerpt = made_up.excerpt(text or made_up.prose(900), **sizes)
  path = tmp_path / "explorer.html"
  size = explorer.write(path, study, excerpt)
  data = path.read_bytes()
  assert size == len(data)
  return _Page(data.decode()), excerpt


def _block(page, name):
  (text,) = page.texts("script", type="application/json", id=name)
  return json.loads(text)


def _codes(page):
  (first,), (rest,) = (
    page.texts("script", type="text/plain", id=name) for name in ("first", "rest")
  )
  return first + rest


def _stream(text, dtype):
  return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def _values(trace, codes):
  codes = _stream(codes[slice(*trace["at"])], np.uint8)
  codes = np.cumsum(codes, dtype=np.uint8) if trace["steps"] else codes
  return trace["low"] + codes * (trace["high"] - trace["low"]) / (trace["levels"] - 1)


def _policy(page):
  (policy,) = [
    attrs["content"]
    for tag, attrs in page.elements
    if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
  ]
  return dict(part.split(maxsplit=1) for part in policy.split("; "))


def test_the_policy_allows_only_the_script_and_the_style_of_the_page(tmp_path):
  page, _ = _written(tmp_path)
  policy = _policy(page)
  assert policy["default-src"] == "'none'"
  for tag, directive in (("script", "script-src"), ("style", "style-src")):
    (code,) = page.texts(tag, **({"type": "module"} if tag == "script" else {}))
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert policy[directive] == f"'sha256-{digest}'"
    assert code.strip()


def test_the_page_has_no_external_references_and_no_inline_handlers(tmp_path):
  page, _ = _written(tmp_path)
  for tag, attributes in page.elements:
    assert tag not in ("link", "img", "iframe", "object", "base", "form")
    assert not {"src", "href", "action", "style"} & set(attributes)
    assert not any(name.startswith("on") for name in attributes)
  (script,), (style,) = page.texts("script", type="module"), page.texts("style")
  assert not re.search(r"\b(eval|Function|innerHTML|outerHTML|insertAdjacentHTML|fetch)\b", script)
  assert not re.search(r"@import|url\(", style)


@pytest.mark.parametrize("cell", made_up.QUANTITIES)
def test_traces_are_accurate_to_half_a_level(tmp_path, cell):
  page, excerpt = _written(tmp_path, cell=cell)
  codes = _codes(page)
  packed, units = _block(page, "traces"), sorted(set(excerpt.units))
  assert packed["main"] == ("c" if cell == "lstm" else "h")
  assert _block(page, "study")["units"] == [str(unit) for unit in units]
  squash = np.tanh if cell == "lstm" else np.asarray
  for unit, coarse in zip(units, packed["coarse"], strict=True):
    main = unit.quantity or packed["main"]
    fine = packed["fine"][str(unit)]  # all quantities of this small network fit
    assert {*fine, main} == set(unit.quantity or made_up.QUANTITIES[cell])
    checked = [(quantity, trace, np.asarray) for quantity, trace in fine.items()]
    for quantity, trace, function in [(main, coarse, squash), *checked]:
      column = excerpt.columns.index((unit.layer, quantity, unit.number))
      truth = function(excerpt.recording[:, column].astype(float))
      step = (trace["high"] - trace["low"]) / (trace["levels"] - 1)
      assert trace["levels"] == explorer.FINE
      np.testing.assert_allclose(_values(trace, codes), truth, atol=0.51 * step + 1e-4)


def test_predictions_and_labels_are_stored_accurately(tmp_path):
  text = made_up.HOSTILE + made_up.prose(500)
  page, excerpt = _written(tmp_path, text)
  block = _block(page, "excerpt")
  points = _stream(block["text"], "<u4")
  assert "".join(map(chr, points)) == text
  assert block["symbols"] == excerpt.symbols
  np.testing.assert_array_equal(_stream(block["top_ids"], "<u2").reshape(-1, 5), excerpt.top_ids)
  p = _stream(block["top_p"], "<u2").reshape(-1, 5) / 65535
  np.testing.assert_allclose(p, excerpt.top_p, atol=1e-5)
  np.testing.assert_array_equal(_stream(block["nats"], "<f4"), excerpt.nats)
  for name, (values, mask) in excerpt.labels.items():
    stored = _stream(block["labels"][name], "<f4")
    np.testing.assert_array_equal(stored, np.where(mask, values, np.nan))


def test_hostile_text_does_not_change_the_page(tmp_path):
  study = made_up.study()
  hostile = made_up.HOSTILE
  study["run"], study["notes"] = hostile, [hostile]
  study["hypotheses"][0]["about"] = hostile
  study["steering"][0]["excerpts"]["free"] = hostile
  plain, _ = _written(tmp_path)
  page, _ = _written(tmp_path, hostile * 3 + made_up.prose(300), study)
  # Elements and script are the same for any data.
  assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
  assert page.texts("script", type="module") == plain.texts("script", type="module")
  assert _block(page, "study")["notes"] == [json.loads(json.dumps(hostile))]
  for name in ("study", "excerpt", "explanations", "traces"):
    (text,) = page.texts("script", id=name)
    assert text.isascii()
    assert "<" not in text


def test_nan_and_infinity_become_null(tmp_path):
  study = made_up.study()
  study["scores"]["speaker"] = np.full(16, np.nan)
  study["findings"][0]["confirmation"]["p"] = math.inf
  page, _ = _written(tmp_path, study=study_lib.plain(study))
  block = _block(page, "study")
  assert block["scores"]["speaker"] == [None] * 16
  assert block["findings"][0]["confirmation"]["p"] is None


def test_20000_characters_of_two_layers_of_512_fit_the_limit(tmp_path):
  """The units of findings are stored first, and most of the limit is used."""
  n, hidden, stride = 20_000, 512, 97
  columns, units = made_up.columns_and_units(2, hidden, "lstm")
  # Columns are windows of one long random walk with a memory of 20 characters.
  walk = made_up.walks(np.random.default_rng(0), n + stride * len(columns), 1)[:, 0]
  recording = np.lib.stride_tricks.sliding_window_view(walk, n)[::stride][: len(columns)].T
  study = made_up.study(2, hidden)
  path = tmp_path / "explorer.html"
  excerpt = made_up.excerpt(made_up.prose(n))
  excerpt = excerpt._replace(columns=columns, units=units, recording=recording)
  size = explorer.write(path, study, excerpt)
  assert 9_000_000 < size == path.stat().st_size <= 10_000_000
  packed = _block(_Page(path.read_text()), "traces")
  assert len(packed["coarse"]) == 1024
  assert min(trace["levels"] for trace in packed["coarse"]) >= 6
  assert {each["unit"] for each in study["findings"] if each["scored"]} <= set(packed["fine"])


@pytest.mark.long
def test_a_page_of_10000_units_of_a_transformer_fits(tmp_path):
  sizes = {"layers": 4, "hidden": 512, "cell": "transformer"}
  excerpt = made_up.excerpt(made_up.prose(2000), **sizes)
  size = explorer.write(tmp_path / "x.html", made_up.study(**sizes), excerpt)
  assert size <= explorer.UNIT_BYTES * 10_240
  packed = _block(_Page((tmp_path / "x.html").read_text()), "traces")
  assert len(packed["coarse"]) == 10_240 and packed["fine"]


def test_a_smaller_limit_reduces_levels_until_it_raises(tmp_path):
  path, study, excerpt = tmp_path / "x.html", made_up.study(), made_up.excerpt(made_up.prose(4000))
  whole = explorer.write(path, study, excerpt)
  page = _Page(path.read_text())
  size = len(_codes(page)) + len(page.texts("script", id="traces")[0])
  rest = whole - size
  levels, featured = [], []
  for room in (size + 5000, size // 2, 60_000):
    assert explorer.write(path, study, excerpt, rest + room) <= rest + room
    packed = _block(_Page(path.read_text()), "traces")
    levels.append(min(each["levels"] for each in packed["coarse"]))
    featured.append(len(packed["fine"]))
  assert levels[0] == levels[1] == explorer.FINE > levels[2]
  assert featured[0] == 16 > featured[1] > featured[2]
  with pytest.raises(errors.UserError, match="4000 characters of 16 units exceed the size limit"):
    explorer.write(path, study, excerpt, rest + 5_000)


def test_values_that_are_not_finite_raise(tmp_path):
  study, excerpt = made_up.study(), made_up.excerpt(made_up.prose(300))
  path = tmp_path / "x.html"
  excerpt.recording[7, excerpt.columns.index((0, "c", 0))] = np.nan
  with pytest.raises(errors.UserError, match="diverged"):
    explorer.write(path, study, excerpt)
  assert not path.exists()


def test_explanations_of_a_page_are_replaced(tmp_path):
  path, excerpt = tmp_path / "x.html", made_up.excerpt(made_up.prose(300))
  entries = [made_up.explanation(1, 3), made_up.explanation(0, 5), made_up.explanation(0, 12)]
  entries[0]["summary"] = made_up.HOSTILE + "</script>"
  explorer.write(path, made_up.study(), excerpt)
  before = path.read_text()
  explorer.write(path, made_up.study(), excerpt, explanations=entries)
  whole = path.read_text()
  block = _block(_Page(whole), "explanations")
  assert block["weights"] == made_up.WEIGHTS
  assert list(block["units"]) == ["0:5", "0:12", "1:3"]
  assert block["units"]["1:3"]["summary"] == json.loads(json.dumps(entries[0]["summary"]))
  assert block["units"]["0:5"]["excerpt"]["unit"] == pytest.approx(
    entries[1]["excerpt"]["unit"], rel=1e-4
  )
  assert explorer.with_explanations(before, made_up.WEIGHTS, entries) == whole
  assert explorer.with_explanations(whole, made_up.WEIGHTS, []) == before


def test_rates_of_a_page_are_replaced(tmp_path):
  path, excerpt, found = tmp_path / "x.html", made_up.excerpt(made_up.prose(300)), made_up.rates()
  found["groups"][1]["hypotheses"]["if-condition"]["emergence"]["step"]["max"] = 123_456.0
  assert (found["own"], found["network"]) == (1, 3)
  explorer.write(path, made_up.study(), excerpt)
  before = path.read_text()
  explorer.write(path, made_up.study(), excerpt, rates=found)
  whole = path.read_text()
  block = _block(_Page(whole), "rates")
  assert block["weights"] == made_up.WEIGHTS
  assert [group["label"] for group in block["rates"]["groups"]] == ["gru 1 x 20", "lstm 1 x 20"]
  emergence = block["rates"]["groups"][1]["hypotheses"]["if-condition"]["emergence"]
  assert emergence["step"]["max"] == 123_456
  assert explorer.with_rates(before, made_up.WEIGHTS, found) == whole
  assert explorer.with_rates(whole, made_up.WEIGHTS, None) == before
  assert explorer.with_rates(before, made_up.WEIGHTS | {"step": 7395}, found) is None
  assert explorer.with_rates(before.replace('"rates"', '"older"'), made_up.WEIGHTS, found) is None


def test_explanations_of_other_weights_or_of_other_pages_are_not_added(tmp_path):
  path, excerpt = tmp_path / "x.html", made_up.excerpt(made_up.prose(300))
  explorer.write(path, made_up.study(), excerpt)
  page, entry = path.read_text(), made_up.explanation()
  assert explorer.with_explanations(page, made_up.WEIGHTS | {"step": 7395}, [entry]) is None
  assert (
    explorer.with_explanations(page.replace('"explanations"', '"older"'), made_up.WEIGHTS, [])
    is None
  )
  damaged = page.replace('"explanations">{', '"explanations">{{')
  assert explorer.with_explanations(damaged, made_up.WEIGHTS, []) is None


@pytest.mark.parametrize("name", ["rnn", "transformer", "states"])
def test_pages_of_units_that_cannot_be_explained_have_no_explanations(tmp_path, name):
  cell = "lstm" if name == "states" else name
  study = made_up.study(cell=cell)
  study = made_up.without_network(study) if name == "states" else study
  page, _ = _written(tmp_path, study=study, cell=cell)
  assert _block(page, "explanations") is None


def test_a_block_of_a_page_is_the_first_with_its_name():
  text = pages.blocks({"a": {"b": "</script>"}, "c": [1]})
  assert pages.read_block(text, "a") == {"b": "</script>"}
  assert pages.read_block(text, "b") is None
  new = pages.replace_block(text, "a", r"\1<\g<0>")
  assert pages.read_block(new, "a") == r"\1<\g<0>" and pages.read_block(new, "c") == [1]
