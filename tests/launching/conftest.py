import pathlib
import sys

import programs
import pytest

from charrnn import runtime

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  return programs.prepare(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def whole(folder):
  """A run that nothing interrupts."""
  code, err = programs.finish(programs.start(folder, "--config=tiny.py", "--workdir=whole"))
  assert code == 0, err
  return folder / "whole"


@pytest.fixture
def main(folder, monkeypatch):
  """launch.py's main in this process, which has eight devices, in the folder."""
  import launch

  monkeypatch.chdir(folder)
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)
  return lambda *arguments: launch.main(["launch.py", *arguments])
