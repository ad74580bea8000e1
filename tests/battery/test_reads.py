"""Trial 18: reading a run while it trains never reports damage that is not there."""

import contextlib
import shutil

import programs
import pytest

from charrnn.runs import run as run_lib

pytestmark = pytest.mark.trial(18)

READS = 500
# The trainer saves and deletes checkpoints all the time, for hours if it is not stopped.
OPTIONS = ("--config.max_steps=10000000", "--config.epochs=100000", "--config.checkpoint_every=2")


@pytest.fixture(scope="module")
def workdir(folder):
  """Return the directory of a run that trains meanwhile."""
  workdir = folder / "reads"
  command = (folder, "--config=tiny.py", f"--workdir={workdir.name}", *OPTIONS)
  process = programs.start(*command, "--config.keep=2")
  programs.wait_for_step(process, workdir, 10)
  yield workdir
  process.terminate()
  code, err = programs.finish(process)
  assert code == 75, err
  shutil.rmtree(workdir)


def read_best(run):
  """Read the best checkpoint, like charrnn sample and charrnn eval."""
  run.load()


def read_all(run):
  """Read the arrays of all checkpoints, like charrnn verify."""
  for step in run.steps:
    with contextlib.suppress(run_lib.DeletedError):
      assert not run.arrays(step).damaged


def read_oldest(run):
  """Read the checkpoint that is deleted next, like charrnn export --step."""
  with contextlib.suppress(run_lib.DeletedError):
    run.checkpoint(run.steps[0], "params")


@pytest.mark.parametrize(
  "number", [pytest.param(n, marks=pytest.mark.long if n >= 6 else ()) for n in range(READS)]
)
def test_reading_beside_a_trainer(workdir, number):
  run = run_lib.Run.open(workdir)
  (read_best, read_all, read_oldest)[number % 3](run)
  assert run.status == "running"
