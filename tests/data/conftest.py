"""Fixtures for the tests of charrnn.data: a cache folder for each test, and a local web server."""

import threading
from http import server

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
  """Give each test a separate cache folder, and disable proxies."""
  folder = tmp_path / "cache"
  monkeypatch.setenv("CHARRNN_CACHE", str(folder))
  monkeypatch.setenv("no_proxy", "*")
  return folder


@pytest.fixture
def site():
  """Run an HTTP server; yield its address and a dict of the pages to serve: path -> bytes.

  A page that ends with CUT is sent without these bytes, as if the connection had broken. A page may
  also be a function of the request handler.
  """
  pages = {}

  class Handler(server.BaseHTTPRequestHandler):
    def do_GET(self):
      if callable(page := pages[self.path]):
        page(self)
        return
      self.send_response(200)
      self.send_header("Content-Length", str(len(pages[self.path])))
      self.end_headers()
      self.wfile.write(pages[self.path].removesuffix(b"CUT"))

    def log_message(self, *_):
      pass

  # Threads, because a page may take long, and a redirect may be followed meanwhile.
  with server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
    http_server.daemon_threads, http_server.block_on_close = True, False
    thread = threading.Thread(target=http_server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http_server.server_port}", pages
    http_server.shutdown()
    thread.join()
