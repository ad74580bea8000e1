"""Downloads end within limits, are what was asked for, and start only if they are allowed."""

import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from charrnn import errors
from charrnn.data import corpora, downloads, kernel, sources

TEXT = b"a text\n" * 9


def answer(status=200, body=TEXT, **headers):
  """Return a page with a status and headers."""

  def page(handler):
    handler.send_response_only(status, headers.pop("reason", None))
    for name, value in ({"Content_Length": len(body)} | headers).items():
      handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)

  return page


def slowly(handler, parts, seconds=0.02):
  """Send parts with pauses, until the client closes the connection."""
  try:
    for part in parts:
      handler.wfile.write(part)
      handler.wfile.flush()
      time.sleep(seconds)
  except OSError:
    pass


def endless(handler):
  handler.send_response(200)
  handler.end_headers()
  slowly(handler, iter(lambda: bytes(1 << 16), b""), 0)


def drip(handler):
  handler.send_response(200)
  handler.end_headers()
  slowly(handler, [b"x"] * 500)


def drip_headers(handler):
  slowly(handler, [b"HTTP/1.1 200 OK\r\n", *[b"x"] * 500])


def silent(handler):
  time.sleep(10)


def redirect(url):
  return answer(302, b"", Location=url)


BAD = {
  "no content": (answer(204, b""), "the server answered 204 No Content"),
  "missing": (answer(404), "the server answered 404 Not Found"),
  "escapes in the reason": (answer(500, reason="\x1b[2J"), "the server answered 500"),
  "a page": (answer(Content_Type="text/html; charset=utf-8"), "is a web page, not a text"),
  "a page without a type": (answer(body=b"\n<!DOCTYPE html><html>Log in"), "is a web page"),
  "empty": (answer(body=b""), "the answer is empty"),
  "cut": (TEXT + b"CUT", "the last 3 bytes are missing"),
  "too large by its header": (answer(Content_Length=10**15), "it is larger than 0.001 GB"),
  "a wrong length": (answer(Content_Length="-1"), None),
  "a length that is no number": (answer(Content_Length="many"), None),
  "a length of 5000 digits": (answer(Content_Length="9" * 5000), "it is larger than 0.001 GB"),
  "a compressed text": (answer(Content_Encoding="gzip"), "the answer is compressed"),
  "a bad chunk": (answer(Transfer_Encoding="chunked"), "the answer is incomplete"),
  "endless": (endless, "it is larger than 0.001 GB"),
  "slow": (drip, "it took longer than 1 s"),
  "slow headers": (drip_headers, "it took longer than 1 s"),
  "silent": (silent, "it took longer than 1 s"),
  "a redirect to ftp": (redirect("ftp://localhost/x"), "which is not a web address"),
  "a redirect to a file": (redirect("file:///etc/passwd"), "is not allowed"),
  "a redirect to itself": (redirect("/a.txt"), "redirect"),
}


@pytest.fixture
def limits(monkeypatch):
  monkeypatch.setattr(downloads, "MAX_BYTES", 10**6)
  monkeypatch.setattr(downloads, "DOWNLOAD_SECONDS", 1.0)


@pytest.mark.parametrize("page, message", BAD.values(), ids=BAD.keys())
def test_a_bad_answer_is_one_line_within_the_limits_and_is_not_cached(
  site, cache_folder, limits, page, message
):
  address, pages = site
  pages["/a.txt"] = page
  start = time.monotonic()
  if message is None:  # The header is ignored.
    assert len(corpora.load(f"{address}/a.txt").ids) == len(TEXT)
    return
  with pytest.raises(errors.UserError, match=f"cannot download .*{message}") as caught:
    corpora.load(f"{address}/a.txt")
  assert time.monotonic() - start < 5
  assert not any(
    word in str(caught.value) for word in ("urlopen", "int()", "Error(", "Read(", "sys.", "\n")
  )
  assert not list(cache_folder.iterdir())
  pages["/a.txt"] = TEXT
  assert len(corpora.load(f"{address}/a.txt").ids) == len(TEXT)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_and_reported(site, capsys, code):
  address, pages = site
  pages["/a.txt"], pages["/b"] = answer(code, b"", Location="/b"), TEXT
  assert corpora.load(f"{address}/a.txt").name == "a.txt"
  assert capsys.readouterr().err == f"{address}/a.txt redirects to {address}/b\n"


def test_a_page_is_accepted_if_it_was_asked_for(site):
  address, pages = site
  body = b"<html>a text</html>"
  pages["/a.html"] = pages["/b"] = answer(body=body, Content_Type="text/html")
  assert len(corpora.load(f"{address}/a.html").ids) == len(body)
  assert corpora.load(f"{address}/b#sha256={hashlib.sha256(body).hexdigest()}").name == "b"


def test_modes(site, cache_folder, monkeypatch):
  address, pages = site
  url = f"{address}/a.txt"
  pages["/a.txt"] = TEXT
  refused = pytest.raises(errors.UserError, match=f"^{url} is not in the cache folder.*--fetch")
  with downloads.mode(downloads.Mode.NONE), refused:
    corpora.load(url)
  assert len(corpora.load(url).ids) == len(TEXT)
  pages["/a.txt"] = b"new"
  for mode, size in (("NONE", len(TEXT)), ("MISSING", len(TEXT)), ("ALL", 3), ("NONE", 3)):
    with downloads.mode(downloads.Mode[mode]):
      assert len(corpora.load(url).ids) == size


@pytest.mark.parametrize(
  "name", ["tinyshakespeare", "warandpeace", "mobydick", "sqlite", "linux", "http://127.0.0.1:9/x"]
)
def test_no_corpus_is_downloaded_if_that_is_not_allowed(name, monkeypatch, tmp_path):
  def refuse(*arguments, **options):
    raise AssertionError("a program or a connection was started")

  monkeypatch.setattr(subprocess, "Popen", refuse)
  monkeypatch.setattr("socket.socket.connect", refuse)
  monkeypatch.setattr(kernel, "_SYSTEM", tmp_path)
  with downloads.mode(downloads.Mode.NONE), pytest.raises(errors.UserError, match="--fetch"):
    sources.resolve(name)


PROGRAM = """
import sys, time
from charrnn.data import downloads
with downloads.building() as folder:
  (folder / "half").write_bytes(b"x")
  print(folder, flush=True)
  time.sleep(60)
"""


def test_builds_of_killed_processes_are_removed_and_others_are_kept(cache_folder, monkeypatch):
  monkeypatch.setattr(downloads, "OLD_BUILD_SECONDS", 0.0)
  processes = [
    subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    for _ in range(2)
  ]
  folders = [pathlib.Path(process.stdout.readline().strip()) for process in processes]
  processes[0].send_signal(signal.SIGKILL)
  processes[0].wait()
  with downloads.building():
    assert [folder.exists() for folder in folders] == [False, True]
  processes[1].send_signal(signal.SIGINT)
  processes[1].wait()
  assert not list(cache_folder.glob(".building-*"))
  for process in processes:
    process.stdout.close()


def test_a_young_build_is_kept(cache_folder):
  (cache_folder / ".building-young").mkdir(parents=True)
  (cache_folder / ".building-old").mkdir()
  os.utime(cache_folder / ".building-old", (0, 0))
  with downloads.building():
    pass
  assert [path.name for path in cache_folder.glob(".building-*")] == [".building-young"]
