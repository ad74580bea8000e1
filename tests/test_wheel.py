"""The wheel, in a fresh folder: the command `charrnn`, and launching experiments by name."""

import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long
ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("src", "experiments")
FILES = ("launch.py", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


def run(*command, cwd, **environment):
  """Run a program; return its stdout."""
  result = subprocess.run(
    list(map(str, command)),
    cwd=cwd,
    env=os.environ | environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """Return a folder into which pip has installed the wheel, without a network."""
  if importlib.util.find_spec("pip") is None or importlib.util.find_spec("setuptools") is None:
    pytest.skip("needs pip and setuptools")
  if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
    pytest.skip("needs setuptools 77: run pip install -U setuptools")
  folder = tmp_path_factory.mktemp("wheel")
  source, pip = folder / "source", (sys.executable, "-m", "pip", "--disable-pip-version-check")
  source.mkdir()
  for name in FILES:
    shutil.copy(ROOT / name, source)
  for name in FOLDERS:
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / name, source / name, ignore=ignored)
  run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder)
  (wheel,) = folder.glob("*.whl")
  target = folder / "target"
  run(*pip, "install", "--no-deps", "--no-index", "--target", target, wheel, cwd=folder)
  shutil.rmtree(source)
  return target


def test_the_wheel_contains_every_file_that_is_read_at_run_time(installed):
  def names(folder, pattern="*"):
    paths = (path for path in folder.rglob(pattern) if path.is_file())
    return {path.relative_to(folder) for path in paths if "__pycache__" not in path.parts}

  launcher = installed / "charrnn" / "launcher"
  assert names(installed / "charrnn") - names(launcher.parent, "launcher/**/*") == (
    names(ROOT / "src" / "charrnn")
  )
  assert names(launcher / "experiments") == names(ROOT / "experiments")
  assert (launcher / "launch.py").read_bytes() == (ROOT / "launch.py").read_bytes()


def test_experiments_run_by_name_and_commands_read_the_run(installed, tmp_path):
  (tmp_path / "text.txt").write_text("".join(f"{n} green bottles\n" for n in range(700)))
  environment = {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
  arguments = ("--config.max_steps=2", "--config.model.hidden=8", "--config.model.unroll=scan")
  where = run(
    sys.executable, "-c", "import charrnn; print(charrnn.__file__)", cwd=tmp_path, **environment
  )
  assert pathlib.Path(where.strip()).is_relative_to(installed)
  launch, command = installed / "bin" / "charrnn-launch", installed / "bin" / "charrnn"
  assert f"{installed}/charrnn/launcher/experiments/gpt.py" in run(
    launch, "--help", cwd=tmp_path, **environment
  )
  run(
    launch,
    "--config=experiments/own_text.py:text.txt",
    *arguments,
    "--workdir=run",
    cwd=tmp_path,
    **environment,
  )
  assert run(command, "verify", "run", cwd=tmp_path, **environment)
  assert run(command, "sample", "run", "--length", "5", cwd=tmp_path, **environment)
  listed = run(
    launch, "--config=experiments/seeds.py:2", "--sweep", "--dry_run", cwd=tmp_path, **environment
  )
  assert (
    listed.count(f"{installed}/charrnn/launcher/launch.py --config=experiments/seeds.py:2") == 2
  )
