"""Every test has a cache folder of its own, and asks no proxy."""

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
  folder = tmp_path / "cache"
  monkeypatch.setenv("CHARRNN_CACHE", str(folder))
  monkeypatch.setenv("no_proxy", "*")
  return folder
