"""Eight CPU devices and a cache folder of the session, both before JAX starts; shared runs."""

import os
import pathlib
import sys
import tempfile

import jax
import programs
import pytest

from charrnn import runtime

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
jax.config.update("jax_num_cpu_devices", 8)
_cache = tempfile.TemporaryDirectory(prefix="charrnn-tests-")
os.environ["CHARRNN_CACHE"] = _cache.name
runtime.keep_memory = lambda: None  # for this process: freed memory goes back to the system


def pytest_configure(config):
  # ml_collections reads experiment files with it.
  config.addinivalue_line("filterwarnings", r"ignore:the load_module\(\) method:DeprecationWarning")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  """A folder with a text and the experiment tiny.py."""
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
