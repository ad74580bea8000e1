"""The `charrnn` command in this process; contestants are processes of their own in any case."""

import json
from typing import NamedTuple

import pytest

from charrnn import cli


class Result(NamedTuple):
  code: int
  out: str
  err: str

  @property
  def json(self):
    return json.loads(self.out)


@pytest.fixture
def bench(capfd, monkeypatch, tmp_path):
  """bench(...) in a folder of its own, on CPUs."""
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.chdir(tmp_path)

  def run(*words):
    code = cli.main(["bench", *map(str, words)])
    return Result(code, *capfd.readouterr())

  return run
