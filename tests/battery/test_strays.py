"""Trial 6: stray folders, files and leftovers in a run directory are ignored or removed."""

import shutil

import programs
import pytest
import tiny

from charrnn.runs import checkpoints

pytestmark = pytest.mark.trial(6)

# The names use step 7 and 9999, which are before and after all steps of the run.
STRAYS = (
  *("checkpoints/0999", "checkpoints/²", "checkpoints/٩٩٩٩", "checkpoints/-5", "checkpoints/+9999"),
  *("checkpoints/1e3", "checkpoints/1_000", "checkpoints/ 9999", "checkpoints/9999 (copy)"),
  *("checkpoints/step_9999", "checkpoints/.DS_Store", "checkpoints/lost+found", "checkpoints/tmp"),
  *("checkpoints/metadata", "checkpoints/7.bak", "checkpoints/9", "checkpoints/9999"),
  *("checkpoints/9999999999999999999999", "checkpoints/9999.orbax-checkpoint-tmp"),
  *("checkpoints/7.orbax-checkpoint-tmp-1700000000", "checkpoints/.deleted-7"),
  *("damaged/9999", ".tmp-0123456789abcdef", "samples/.tmp-0123", "__pycache__", "notes"),
)


# What training removes, because it looks like leftovers of a killed process, or moves to damaged/.
LEFTOVERS = {
  *("checkpoints/9999.orbax-checkpoint-tmp", "checkpoints/7.orbax-checkpoint-tmp-1700000000"),
  *("checkpoints/.deleted-7", "checkpoints/9999", ".tmp-0123456789abcdef"),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
  """Return a run that has stopped after 6 of 12 steps."""
  workdir = tmp_path_factory.mktemp("strays") / "stopped"
  train(workdir, 6)
  return workdir


@pytest.fixture(scope="module")
def finished(stopped):
  """Return the result of this run after 12 steps."""
  workdir = shutil.copytree(stopped, stopped.with_name("finished"))
  train(workdir, 12)
  return result(workdir)


def train(workdir, steps):
  trainer = tiny.trainer(workdir, tiny.config(max_steps=steps, schedule__name="constant"))
  trainer.train(trainer.restore())


def result(workdir):
  """Return the arrays, the losses and the steps of a run."""
  existing = checkpoints.steps(workdir / "checkpoints")
  lines = programs.metrics.read(workdir)
  names = ("step", "train/loss", "valid/loss")
  meta = checkpoints.read_meta(workdir / "checkpoints", existing[-1])
  return existing, meta["arrays"], [[line.get(name) for name in names] for line in lines]


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=() if name in STRAYS[:3] else pytest.mark.long) for name in STRAYS],
)
def test_a_stray_changes_no_result(stopped, finished, tmp_path, name, kind):
  workdir = shutil.copytree(stopped, tmp_path / "run")
  stray = workdir / name
  (stray if kind == "folder" else stray.parent).mkdir(parents=True, exist_ok=True)
  (stray / "content" if kind == "folder" else stray).write_text("not a checkpoint")
  train(workdir, 12)
  steps, arrays, losses = result(workdir)
  assert (sorted({*steps} - {9}), arrays, losses) == finished
  # A damaged step above the one that training resumes from is moved to the folder `damaged`.
  moved = workdir / "damaged" / stray.name
  content = [path / "content" if kind == "folder" else path for path in (stray, moved)]
  assert name in LEFTOVERS or any(path.is_file() for path in content)
