"""The writer in a headless browser: it computes what Python computes, and is easy to operate."""

import functools
import re

import jax
import made_up
import numpy as np
import pytest
import writers
from browser import BRIGHTNESS, NEEDS_CHROMIUM, expect, launch, pages

from charrnn.analysis import writer
from charrnn.sampling import clamps, sampler

pytestmark = NEEDS_CHROMIUM
NETWORKS = {
  "rnn": {"cell": "rnn"},
  "gru": {"cell": "gru", "hidden": 13},  # a width that is not divisible by 4
  "lstm": {"cell": "lstm"},
  "embedding": {"cell": "lstm", "embed": 5, "layers": 3, "residual": True},
}
LENGTH = 300


@pytest.fixture(scope="module")
def browser():
  with launch() as browser:
    yield browser


@pytest.fixture
def opened(browser, tmp_path):
  """Return a function that opens the page of a run; check afterwards for errors and requests."""
  with pages(browser) as open_page:

    def open_run(run, **options):
      path = tmp_path / "writer.html"
      path.write_text(writer.page(run))
      return open_page(path.as_uri(), **options)

    yield open_run


def predictions(run, ids, prompt="", clamp=()):
  """Return log p [N, V] of each of N ids after a prompt, from Python."""
  prompt_ids = sampler.first_ids(run, run.tokenizer.encode(prompt))
  clamped = clamps.arrays([[clamps.parse(each) for each in clamp]], run.model)
  apply = jax.jit(run.model.apply)
  before, carry, _ = apply(run.params, as_column(prompt_ids), run.model.initial_carry(1))
  after, _, _ = apply(run.params, as_column(ids), carry, clamp=clamped or None)
  return np.asarray(jax.nn.log_softmax(np.concatenate([before[-1], after[:-1, 0]])))


def as_column(ids):
  return np.asarray(ids, np.int32)[:, None]


def start(page, prompt="", temperature="0"):
  """Start to write at full speed."""
  page.locator("#speed").fill("7")
  page.locator("#temperature").fill(temperature)
  page.fill("#prompt", prompt)
  page.click("#write")


def written(page, length=LENGTH):
  """Return the first `length` ids, as soon as the page has written them, and pause it."""
  for _ in range(200):
    if page.evaluate("charrnn.ids().length") >= length:
      break
    page.wait_for_timeout(50)
  page.keyboard.press("Escape")
  return page.evaluate("charrnn.ids()")[:length]


def write(page, length=LENGTH, **options):
  """Write from the beginning; return the first `length` characters of a text of characters."""
  start(page, **options)
  written(page, length)
  return page.evaluate("charrnn.text()")[:length]


@pytest.mark.parametrize(
  "name", ["lstm", "gru", *(pytest.param(n, marks=pytest.mark.long) for n in ("rnn", "embedding"))]
)
def test_log_probabilities_and_greedy_text_equal_those_of_python(opened, name):
  run = writers.run(**NETWORKS[name])
  page = opened(run)
  text = write(page, prompt="abc\n")
  ids = run.tokenizer.encode(text)
  assert predictions(run, ids, "abc\n").argmax(-1).tolist() == ids.tolist()
  text = write(page, temperature="1")
  others = run.tokenizer.encode(text[1:])
  actual = page.evaluate("text => Array.from(charrnn.scores(text))", text)
  log_p = predictions(run, others, text[0])[np.arange(len(others)), others]
  np.testing.assert_allclose(actual, log_p, atol=2e-5)


def test_greedy_text_equals_that_of_the_sampler(opened):
  run = writers.run("lstm")
  options = {"length": LENGTH, "num": 1, "seed": 0, "settings": sampler.Settings(0.0)}
  (sample,) = sampler.sample(run, run.tokenizer.encode("abc"), **options)
  assert write(opened(run), prompt="abc") == sample.text


@pytest.mark.parametrize(
  "clamp",
  [
    pytest.param(["1:3=2.5"], marks=pytest.mark.long),
    ["0:h1=-0.5", "1:0=hold"],
    pytest.param(["1:c3=3", "1:h5=0.9"], marks=pytest.mark.long),
  ],
)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_clamps_equal_those_of_python(opened, cell, clamp):
  if cell == "gru":
    clamp = [each.replace("c", "") for each in clamp if "h5" not in each]
  run = writers.run(cell)
  page = opened(run)
  for each in clamp:
    name, _, value = each.partition("=")
    page.fill("#unit", name)
    page.click("#clamp")
    row = page.locator("#clamps li").last
    if value == "hold":
      row.get_by_label("hold").check()
    else:
      row.locator("input[type=number]").fill(value)
  start(page, prompt="abc", temperature="1")
  check_written(page, run, "abc", clamp)


def check_written(page, run, prompt, clamp):
  """Check that the page computes log p with these clamps, and that they make a difference."""
  written(page)
  ids, log_p = page.evaluate("[charrnn.ids(), charrnn.logP()]")
  expected, unclamped = (
    predictions(run, ids, prompt, each)[np.arange(len(ids)), ids].sum() for each in (clamp, ())
  )
  assert log_p / len(ids) == pytest.approx(expected / len(ids), abs=1e-5)
  assert not clamp or abs(expected - unclamped) / len(ids) > 1e-3


def test_removing_a_clamp_and_clamping_with_the_slider(opened):
  run = writers.run("lstm")
  page = opened(run)
  page.fill("#unit", "1:3")
  page.click("#clamp")
  page.get_by_label("Value of 1:3").first.fill("-3")
  assert page.locator("#clamps input[type=number]").input_value() == "-3"
  page.click("#clamp")  # does not clamp the unit twice
  assert page.locator("#clamps li").count() == 1
  start(page, temperature="1")
  check_written(page, run, "", ["1:3=-3"])
  page.get_by_role("button", name="Remove the clamp of 1:3").click()
  page.click("#again")
  check_written(page, run, "", [])


def test_filters_equal_those_of_python(opened):
  page = opened(writers.run("rnn"))
  logits_N = np.round(np.random.default_rng(1).normal(size=30), 1)  # with ties
  for T, k, p in ((0.0, None, 1), (0.5, None, 1), (1.0, 5, 1), (2.0, None, 0.7), (0.8, 9, 0.5)):
    filtered = sampler.filter_logits(np.float32(logits_N), T, k, p)
    settings = {"temperature": T, "topK": k, "topP": p}
    kept = page.evaluate(
      "([logits, settings]) => charrnn.filtered(Float64Array.from(logits), settings)",
      [logits_N.tolist(), settings],
    )
    actual = np.zeros(30)
    actual[kept["ids"]] = np.array(kept["p"]) / np.sum(kept["p"])
    np.testing.assert_allclose(actual, jax.nn.softmax(filtered), atol=1e-6)


def test_sampled_frequencies_follow_the_probabilities(opened):
  run = writers.run("rnn", scale=0.0)  # the distribution is the same at every step
  p_V = np.asarray(jax.nn.softmax(run.params["head"]["b_y"]))
  text = write(opened(run), 4000, temperature="1")
  counts_V = np.bincount(run.tokenizer.encode(text), minlength=len(p_V))
  errors_V = (counts_V / len(text) - p_V) / np.sqrt(p_V * (1 - p_V) / len(text))
  assert np.abs(errors_V).max() < 4.5


@pytest.mark.parametrize("kind", ["byte", "word", "bpe"])
def test_other_tokenizers(opened, kind):
  text = (
    "The sea's 12 waves,\n\n\tand don't  stop; é 😀 waves, é.\n  The sea\u2028and 12 😀 the " * 3
  )
  run = writers.run("lstm", text=text, kind=kind, embed=6)
  page = opened(run)
  for prompt in ("The waves  and\n\n The", "12 \u2028\t😀 é", "sea's" if kind != "word" else "sea"):
    ids = run.tokenizer.encode(prompt)
    assert page.evaluate("text => charrnn.encode(text)", prompt) == ids.tolist()
  start(page, prompt="The sea", temperature="1")
  written(page)
  ids, shown = page.evaluate("[charrnn.ids(), charrnn.text()]")
  # A browser replaces bytes that are not UTF-8 by U+FFFD, and waits for incomplete characters.
  text = re.sub("[\udc80-\udcff]", "", run.tokenizer.decode(ids))
  assert len(text) > 50 and text.startswith(shown.replace("\ufffd", "")[:-4])


def test_documents_begin_without_a_state(opened):
  run = writers.run("lstm", text=writers.TEXT.replace("\n", ""), end="\n\n")
  run.params["head"]["b_y"][run.tokenizer.end_id] += 3
  page = opened(run)
  start(page, prompt="abc", temperature="1")
  check_written(page, run, "abc", ())
  ids, text = page.evaluate("[charrnn.ids(), charrnn.text()]")
  assert text == run.tokenizer.decode(ids)
  ends = ids.count(run.tokenizer.end_id)
  assert ends == page.locator("#text .document").count() == text.count("\n\n") > 3


def test_words_without_a_text_are_never_written(opened):
  run = writers.run("rnn", text="one two one two three four", kind="word")
  run.params["head"]["b_y"][0] = 50.0  # <UNK>
  start(page := opened(run), temperature="1")
  assert 0 not in written(page)


def test_text_depends_only_on_prompt_settings_and_seed(opened):
  page = opened(writers.run("lstm"))
  first = write(page, prompt="abc", temperature="1")
  page.click("#write")  # continues after the pause
  assert written(page, 3 * LENGTH) and page.evaluate("charrnn.text()")[:LENGTH] == first
  page.click("#again")
  written(page)
  assert page.evaluate("charrnn.text()")[:LENGTH] == first
  page.click("#another")
  written(page)
  assert page.evaluate("charrnn.text()")[:LENGTH] != first
  assert page.locator("#seed").input_value() == "2"
  page.fill("#seed", "1")
  assert write(page, prompt="abc", temperature="1") == first


def test_colors_are_the_values_of_the_unit(opened):
  run = writers.run("lstm")
  page = opened(run)
  ids = run.tokenizer.encode("abc" + write(page, prompt="abc", temperature="1"))
  apply = jax.jit(functools.partial(run.model.apply, record=True))
  _, _, recorded = apply(run.params, as_column(ids), run.model.initial_carry(1))

  def check(values_T):
    classes = page.locator("#text .ch").evaluate_all("nodes => nodes.map((n) => n.className)")
    shades = [re.search(r"\b([lh])(\d+)\b", each) for each in classes[: len(ids)]]
    shown = [0 if m is None else int(m[2]) * (1 if m[1] == "h" else -1) for m in shades]
    np.testing.assert_allclose(shown, 16 * values_T, atol=0.6)
    assert len(set(shown)) > 5

  for unit, quantity, values in (("1:3", "tanh(c)", "c"), ("0:h7", "h", "h")):
    page.fill("#unit", unit)
    values_T = np.asarray(recorded[f"layer_{unit[0]}"][values])[:, 0, int(unit[-1])]
    check(np.tanh(values_T) if values == "c" else values_T)
    expect(page.locator("#quantity")).to_have_text(quantity)
  page.keyboard.press("Escape")
  page.keyboard.press("]")
  assert page.locator("#unit").input_value() == "0:h8"
  page.fill("#unit", "")
  assert page.locator("#text :is(.h16, .h8, .l8, .l16)").count() == 0


def test_bad_units_and_prompts_are_explained(opened):
  page = opened(writers.run("lstm"))
  for name, message in (
    ("2:0", "no layer 2: the last layer is 1"),
    ("1:12", "no unit 12: the last unit is 11"),
    ("1:i3", "no quantity i: use one of h, c"),
    ("<b>", "use LAYER:UNIT"),
  ):
    page.fill("#unit", name)
    expect(page.locator("#unit-problem")).to_contain_text(message)
  page.fill("#prompt", "aÉb<b>é\u202e")
  page.click("#write")
  problem = "not in the vocabulary: “É” (U+00C9), “<” (U+003C), “>” (U+003E), “é” (U+00E9), “202E”"
  expect(page.locator("#problem")).to_contain_text(problem)
  assert page.locator("#write").inner_text() == "Write"
  assert write(page, 20, prompt="ab")
  assert page.locator("#problem").text_content() == ""


def test_hostile_vocabulary_and_name_are_shown_as_text(opened):
  run = writers.run("rnn", text=made_up.HOSTILE, scale=0.0)
  run.params["head"]["b_y"][:] = 0
  page = opened(run)
  assert page.locator("h1").inner_text() == page.title().partition(":")[0] == "a <b>name"
  start(page, temperature="1")
  written(page, 1500)
  shown = page.locator("#text").inner_text()
  assert all(character in shown for character in ("<", "&", "202E", "200B", "D800", "␛", "␀"))
  assert not {"\u202e", "\u200b", "\x1b", "\x00"} & set(shown)
  assert page.locator("#text :not(div, span)").count() == 0


def test_the_keyboard_operates_the_page(opened):
  page = opened(writers.run("lstm"))
  write_button = page.locator("#write")
  page.keyboard.press("Space")
  expect(write_button).to_have_text("Pause")
  page.keyboard.press("Enter")
  expect(write_button).to_have_text("Write")
  page.keyboard.press("p")
  page.keyboard.type("d c")  # is text here
  page.keyboard.press("Control+Enter")
  expect(write_button).to_have_text("Pause")
  assert page.locator("#prompt").input_value() == "d c"
  page.keyboard.press("Escape")
  page.keyboard.press("n")
  assert page.locator("#seed").input_value() == "2"
  page.keyboard.press("c")
  assert page.locator("#clamps li").count() == 1
  page.keyboard.press("ArrowRight")  # moves the slider, which has the focus
  page.keyboard.press("Space")
  expect(write_button).to_have_text("Write")
  page.keyboard.press("?")
  assert "start over" in page.locator("#keys").inner_text()
  page.keyboard.press("Escape")
  page.locator("#help").focus()
  page.keyboard.press("Space")  # operates the button that has the focus
  assert page.locator("#keys").is_visible()
  unnamed = "nodes => nodes.filter((n) => !n.labels?.length && !n.ariaLabel).map((n) => n.id)"
  assert page.locator("input, textarea").evaluate_all(unnamed) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_colors(opened, scheme):
  page = opened(writers.run("rnn"), color_scheme=scheme)
  assert (page.evaluate(BRIGHTNESS) > 128) == (scheme == "light")
  page.keyboard.press("d")
  assert (page.evaluate(BRIGHTNESS) > 128) == (scheme == "dark")


def test_the_page_is_never_wider_than_the_screen(opened):
  page = opened(writers.run("lstm"))
  page.keyboard.press("c")
  write(page, 100)
  for width in (360, 768, 1920):
    page.set_viewport_size({"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.long
def test_network_of_two_layers_with_256_units_writes_200_characters_per_second(opened):
  page = opened(writers.run("lstm", hidden=256, text="".join(map(chr, range(32, 132)))))
  start(page)
  page.wait_for_timeout(3000)
  assert page.evaluate("charrnn.ids().length") > 600
