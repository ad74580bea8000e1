"""The stopwatch that measures the startup time."""

import sys

import pytest

from charrnn import runtime


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_stopwatch_starts_when_the_process_is_created(monkeypatch):
  before = runtime._IMPORTED
  assert 0 < before - runtime._process_start() < 600
  monkeypatch.setattr(runtime.pathlib.Path, "read_text", lambda path: "elsewhere")
  assert runtime._process_start() == before


def test_phases_are_reported_in_order_and_followed_by_their_total(monkeypatch):
  seconds = iter([12.0, 12.5, 15.0])
  monkeypatch.setattr(runtime, "_process_start", lambda: 10.0)
  monkeypatch.setattr(runtime.time, "monotonic", lambda: next(seconds))
  watch = runtime.Stopwatch()
  for phase in ("b", "c", "a"):
    watch.mark(phase)
  assert list(watch.seconds().items()) == [("b", 2.0), ("c", 0.5), ("a", 2.5), ("total", 5.0)]
