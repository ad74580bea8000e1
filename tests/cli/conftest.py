"""A fixture that runs the `charrnn` command in the test process."""

import sys

import jax
import pytest
from commands import Result

from charrnn import cli


@pytest.fixture(scope="session", autouse=True)
def _platforms():
  """Start all devices before commands restrict JAX to the CPU. Undo the restriction at the end."""
  jax.devices()
  before = jax.config.jax_platforms
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "unraisablehook", sys.unraisablehook)
    yield
  jax.config.update("jax_platforms", before)


@pytest.fixture
def charrnn(capsys):
  """Return a function that runs the command with its arguments and returns its `Result`."""

  def run(*argv):
    code = cli.main([str(arg) for arg in argv])
    return Result(code, *capsys.readouterr())

  return run
