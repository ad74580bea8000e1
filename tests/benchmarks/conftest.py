"""A fixture that runs `charrnn bench` in this process. Implementations run in other processes."""

import pytest
from commands import Result

from charrnn import cli


@pytest.fixture
def bench(capfd, monkeypatch, tmp_path):
  """Return a function that runs `charrnn bench ...` in an empty folder, on CPUs."""
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.chdir(tmp_path)

  def run(*words):
    code = cli.main(["bench", *map(str, words)])
    return Result(code, *capfd.readouterr())

  return run
