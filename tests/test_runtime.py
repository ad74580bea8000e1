"""The stopwatch of a start."""

import sys

import pytest

from charrnn import runtime


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_watch_starts_with_the_process(monkeypatch):
  before = runtime._IMPORTED
  assert 0 < before - runtime._process_start() < 600
  monkeypatch.setattr(runtime.pathlib.Path, "read_text", lambda path: "elsewhere")
  assert runtime._process_start() == before


def test_the_phases_come_in_their_order_and_last_their_total(monkeypatch):
  seconds = iter([12.0, 12.5, 15.0])
  monkeypatch.setattr(runtime, "_process_start", lambda: 10.0)
  monkeypatch.setattr(runtime.time, "monotonic", lambda: next(seconds))
  watch = runtime.Stopwatch()
  for phase in ("b", "c", "a"):
    watch.mark(phase)
  assert list(watch.seconds().items()) == [("b", 2.0), ("c", 0.5), ("a", 2.5), ("total", 5.0)]
