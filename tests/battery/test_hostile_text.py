"""Trial 13: hostile text is inert in terminals, HTML pages, tables, pictures and file names."""

import csv
import html.parser
import io
import json
import pathlib
import re
import shutil
import sys
import warnings

import made_up
import numpy as np
import pytest

from charrnn import cli, console, errors, plotting, process
from charrnn.analysis import explorer
from charrnn.cli import eval as eval_lib
from charrnn.data import tokenizers
from charrnn.evaluation import pages, score
from charrnn.runs import held_out, metrics, status
from charrnn.scorecards import memorization
from charrnn.sweeps import outcomes

pytestmark = pytest.mark.trial(13)

OLD = pathlib.Path(__file__).parents[1] / "data_files" / "runs_of_0.1.0"
HOSTILE = {
  "title": "\x1b]0;owned\x07",
  "clipboard": "\x1b]52;c;cm0gLXJmIC8=\x07",
  "clear": "\x1b[2J\x1b[H",
  "answer": "\x1b[6n\x1b[21t\x05",
  "link": "\x1b]8;;http:evil\x1b\\text\x1b]8;;\x1b\\",
  "C1": "\x9b2J\x90q\x9c\x85",
  "backspace": "ok\b\b\bno\r\x7f",
  "bidi": "\u202eevil\u202c\u2066x\u2069\u200f\u061c",
  "separators": "a\u2028b\u2029c\x0b\x0c\x1c",
  "invisible": "a\u200b\u2060\ufeff\u00ad\U000e0041b",
  "bytes": "\udcff\udc80\udc9b",
  "lines": "ok\ncharrnn: error: a faked line",
  "script": "</script><script>alert(1)</script>",
  "image": "<img src=x onerror=alert(1)>",
  "comment": "<!--<svg onload=alert(1)>-->",
  "attribute": "\" onmouseover=alert(1) x='",
  "entity": "&lt;b&gt;&#x3c;script&#62;",
  "template": "{{7*7}}${alert(1)}`{0}%s%n",
  "markdown": "[x](javascript:alert(1))|*b*`c`",
  "formula": "=cmd|' C calc'!A0",
  "plus": '+HYPERLINK("http:evil")',
  "minus": "-2+3",
  "at": "@SUM(1)",
  "math": "$^$\\frac{1}{",
  "markup": "[red][blink]x[bold]",
  "option": "--help",
  "quotes": "';rm -rf $HOME;`id`#",
}
SHORT = ("title", "bidi", "bytes", "lines", "script", "formula", "math")  # the texts for CI
EACH = pytest.mark.parametrize(
  "text",
  [
    pytest.param(text, id=name, marks=() if name in SHORT else pytest.mark.long)
    for name, text in HOSTILE.items()
  ],
)
UNSAFE = re.compile(
  "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def safe_lines(capsys) -> str:
  """Return the output; check that a terminal shows it as it is."""
  captured = capsys.readouterr()
  output = captured.out + captured.err
  assert not UNSAFE.search(output)
  assert not any(line.startswith("charrnn: error: a faked") for line in output.splitlines())
  return output


def replace_text(value, text):
  """Return JSON data with `text` added to every text that no command needs."""
  if isinstance(value, dict):
    needed = {"sha256", "cell", "kind", "tokenizer", "alphabet", "split", "name", "newlines"}
    needed |= {"compute_dtype", "unroll", "init", "encoding", "time", "devices"}
    return {k: v if k in needed else replace_text(v, text) for k, v in value.items()}
  if isinstance(value, list):
    return [replace_text(each, text) for each in value]
  return f"{text}{value}" if isinstance(value, str) else value


@pytest.fixture
def hostile_run(tmp_path, text):
  """Return a run of 0.1.0, which has no digests, whose name and files contain hostile text."""
  name = f"{text}{'' if text.startswith('-') else ' '}run".replace("/", "_")
  run = tmp_path / name
  shutil.copytree(OLD / "lstm", run)
  for name in ("config.json", "run.json"):
    (run / name).write_text(json.dumps(replace_text(json.loads((run / name).read_text()), text)))
  return run


@EACH
@pytest.mark.parametrize("command", ["inspect", "verify", "compare", "diff", "eval"])
def test_terminal(hostile_run, text, command, capsys, tmp_path, monkeypatch):
  arguments = {
    "diff": [hostile_run, OLD / "lstm"],
    "eval": [hostile_run, tmp_path / text.replace("/", "_")],  # which does not exist
    "compare": [hostile_run, OLD / "lstm", "--out", tmp_path / "out"],
  }.get(command, [hostile_run])
  if command == "compare":
    from charrnn.sweeps import comparison_pictures

    for name in ("curves", "settings", "grid", "sizes"):
      monkeypatch.setattr(comparison_pictures, name, lambda *arguments: None)
  code = cli.main([command, *map(str, arguments)])
  assert code == {"inspect": 0, "compare": 0, "eval": 2}.get(command, code) and code in (0, 1, 2)
  assert safe_lines(capsys)
  if command == "compare":
    check_csv((tmp_path / "out" / "compare.csv").read_text())
    markdown = (tmp_path / "out" / "compare.md").read_text()
    assert not UNSAFE.search(markdown) and "<" not in markdown


def check_csv(text):
  for row in csv.reader(io.StringIO(text, newline="")):
    for cell in row:
      assert not UNSAFE.search(cell)
      assert not cell.startswith(("=", "+", "-", "@")) or is_number(cell)


def is_number(text):
  try:
    float(text)
  except ValueError:
    return False
  return True


@EACH
def test_error_messages(text, capsys):
  def program():
    raise errors.UserError(f"no file {text}")

  assert process.run("charrnn", program) == 2
  assert len(safe_lines(capsys).splitlines()) == 1


@EACH
def test_names_of_files_and_the_text_of_a_corpus(text, capsys, tmp_path, monkeypatch):
  monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
  folder = tmp_path / "corpus" / text.replace("/", "_")
  folder.mkdir(parents=True)
  content = text.encode("utf-8", "surrogateescape")
  (folder / f"{text.replace('/', '_')}.txt").write_bytes(content * 9)
  for tokenizer in ("char", "byte"):
    code = cli.main(["corpus", str(folder.parent), f"--tokenizer={tokenizer}"])
    assert code == 0 or (tokenizer == "char" and "\udcff" in text)
    safe_lines(capsys)


@EACH
def test_sample_on_a_terminal(text, monkeypatch):
  class Terminal(io.TextIOWrapper):
    def isatty(self):
      return True

  from charrnn.cli import sample

  stdout = Terminal(raw := io.BytesIO(), encoding="utf-8")
  monkeypatch.setattr(sys, "stdout", stdout)
  console.set_encodings()
  sample._print(text)
  shown = raw.getvalue().decode()
  assert not UNSAFE.search(shown) and shown.isprintable() == ("\n" not in text)


@EACH
def test_tables(text, tmp_path):
  kind = "byte" if "\udcff" in text else "char"
  tokenizer = tokenizers.Tokenizer.from_text(text, kind)
  ids = tokenizer.encode(text)
  n = len(ids)
  scores = score.Scores(np.arange(n), np.ones(n), np.ones(n, int), *2 * [np.ones((n, 1))])
  check_tsv(eval_lib._table(tokenizer, ids, scores))
  passage = held_out.Passage(text, 0, n)
  training = held_out.Text(text, tokenizer.decode(ids), (passage,))
  texts = {text: [training.text]}
  matches = memorization.match_systems(training.text, texts)
  check_tsv(memorization.tsv(texts, matches, memorization.Sources(training)))
  trial = outcomes.Trial(text, {"text.source": text, text: 3}, tmp_path, [])
  status.write_outcome(tmp_path, status.Outcome(status.RunStatus.FINISHED, 0, 1.0))
  check_csv(outcomes.summary([trial]))


def check_tsv(lines):
  lines = [line.split("\t") for line in lines]
  assert len({len(line) for line in lines}) == 1
  for line in lines:
    for cell in line:
      assert not UNSAFE.search(cell) and "\n" not in cell
      assert not cell.startswith(("=", "+", "-", "@")) or is_number(cell)


@EACH
def test_pictures(text, tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 1, "train/loss": 2}\n{"step": 2, "train/loss": 1}\n'
  )
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    metrics.plot(tmp_path, text)
    with plotting.figure(tmp_path / "a.png", text) as figure:
      plotting.label_rows(figure.subplots(), [text, f"{text}\n{text}"])
  assert (tmp_path / "loss.png").stat().st_size > 1000


class Elements(html.parser.HTMLParser):
  """Counts the elements of a page, and collects their attributes."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.attributes = [], set()
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes |= {(tag, name) for name, _ in attrs}


def surprisal(text) -> str:
  kind = "byte" if "\udcff" in text else "char"
  tokenizer = tokenizers.Tokenizer.from_text(text, kind)
  ids = tokenizer.encode(text)
  n = len(ids)
  scores = score.Scores(
    np.arange(n), np.ones(n), np.ones(n, int), np.zeros((n, 1), int), np.ones((n, 1))
  )
  return pages.surprisal_page(text, text, tokenizer, ids, scores)


def explored(text, path) -> str:
  study = made_up.study()
  study |= {"run": text, "notes": [text]}
  study["text"]["name"] = study["findings"][0]["reason"] = text
  study["hypotheses"][0]["about"] = text
  study["steering"][0]["excerpts"]["zero"] = text
  explorer.write(path, study, made_up.excerpt(made_up.prose(600) + text))
  return path.read_text()


BASELINE = "abc def"


@EACH
def test_pages_have_no_elements_of_the_text(text, tmp_path):
  for make in (surprisal, lambda each: explored(each, tmp_path / "explorer.html")):
    page, plain = Elements(make(text)), Elements(make(BASELINE))
    assert sorted(set(page.tags)) == sorted(set(plain.tags))
    assert page.tags.count("script") == plain.tags.count("script")
    assert page.attributes == plain.attributes
    assert not any(name.startswith("on") for _, name in page.attributes)


@pytest.mark.long
@EACH
def test_pages_in_a_browser(text, tmp_path):
  sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the test extra)")
  chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
  if chromium is None:
    pytest.skip("needs Chromium or Chrome on the PATH")
  (tmp_path / "surprisal.html").write_text(surprisal(text))
  explored(text, tmp_path / "explorer.html")
  events = []
  arguments = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
    for name in ("surprisal.html", "explorer.html"):
      page, url = browser.new_page(), (tmp_path / name).as_uri()
      page.on("console", lambda message: events.append(message.text))
      page.on("pageerror", lambda error: events.append(str(error)))
      page.on("dialog", lambda dialog: (events.append(dialog.message), dialog.dismiss()))
      page.on("request", lambda request: events.append(request.url))
      page.goto(url)
      page.wait_for_timeout(200)
      assert page.locator("script").count() == Elements((tmp_path / name).read_text()).tags.count(
        "script"
      )
      assert events == [url]
      events.clear()
    browser.close()
