"""A headless Chromium, for the tests of pages; tests that import this are skipped without one."""

import contextlib
import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the test extra)")
CHROMIUM = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH")
ARGUMENTS = [
  "--no-sandbox",
  "--disable-quic",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
]
TIMEOUT = 10_000  # ms
expect = sync_api.expect
# JavaScript that returns the red component of the background, 0 to 255.
BRIGHTNESS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  canvas.fillStyle = getComputedStyle(document.body).backgroundColor;
  canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data[0];
}"""


@contextlib.contextmanager
def launch():
  """Yield a browser, and close it at the end."""
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    yield browser
    browser.close()


@contextlib.contextmanager
def pages(browser):
  """Yield a function that opens a page; check at the end for errors and for other requests."""
  messages, requests, contexts, urls = [], [], [], []

  def open_page(url, ready="html[data-ready]", script="", **options):
    # `script` is JavaScript that runs before the page.
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
    contexts.append(context)
    urls.append(url.partition("#")[0])
    page = context.new_page()
    page.add_init_script(script)
    page.set_default_timeout(TIMEOUT)
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    page.wait_for_selector(ready)
    return page

  yield open_page
  for context in contexts:
    context.close()
  assert messages == []
  assert requests == urls
