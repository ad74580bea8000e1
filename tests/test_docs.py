"""The documentation site: it builds without warnings and works without a network."""

import functools
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import pytest

pytest.importorskip("material", reason="needs mkdocs-material (the docs extra)")

ROOT = pathlib.Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """Return the folder of the built site. A warning, for example of a broken link, is an error."""
  folder = tmp_path_factory.mktemp("site")
  done = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
    cwd=ROOT,
    env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return folder


def test_every_page_is_in_the_site(site):
  for page in (ROOT / "docs").glob("*.md"):
    name = "" if page.stem == "index" else page.stem
    assert (site / name / "index.html").is_file()


def test_the_home_page_links_every_page():
  home = (ROOT / "docs" / "index.md").read_text()
  for page in (ROOT / "docs").glob("*.md"):
    assert page.stem == "index" or f"]({page.name})" in home


def test_the_site_loads_nothing_from_the_network(site):
  for page in site.rglob("*.html"):
    text = page.read_text()
    loaded = re.findall(
      r"<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)=[\"']?([^\"'> ]+)", text
    )
    assert loaded and not [each for each in loaded if each.startswith(("http:", "https:", "//"))]


def test_the_search_index_contains_the_words_of_the_pages(site):
  index = json.loads((site / "search" / "search_index.json").read_text())
  pages = {each["location"].partition("#")[0] for each in index["docs"] if "cudnn" in each["text"]}
  assert "config/" in pages


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_search_works_without_a_network(site):
  sync_api = pytest.importorskip("playwright.sync_api")
  handler = functools.partial(_QuietHandler, directory=site)
  with (
    http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
    sync_api.sync_playwright() as playwright,
  ):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page = browser.new_page()
    blocked = []
    page.route(
      lambda url: not url.startswith(address), lambda route: (blocked.append(route), route.abort())
    )
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("kneser")
    page.wait_for_selector(".md-search-result__item")
    assert "Kneser" in page.inner_text(".md-search-result__list")
    assert not blocked
    browser.close()
    server.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *arguments):
    pass
