"""Two tiny runs of launch.py, and the `charrnn` command in this process."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import pytest

from charrnn import cli

ROOT = pathlib.Path(__file__).parents[2]
SIZES = {"a": ("8", "0.01"), "b": ("6", "0.002")}  # units, learning rate


class Result(NamedTuple):
  code: int
  out: str
  err: str

  @property
  def json(self):
    return json.loads(self.out)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
  jax.devices()  # all there are, for the other tests: the commands keep to the CPU
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("CHARRNN_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = jax.config.jax_platforms
    yield
    jax.config.update("jax_platforms", before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, _cache):
  """Runs `a` and `b`, 20 steps each with checkpoints at 10 and 20: not to be changed."""
  folder = tmp_path_factory.mktemp("runs")
  (folder / "text.txt").write_text("".join(f"{n} green bottles\n" for n in range(700)))
  processes = [
    subprocess.Popen(
      [
        sys.executable,
        "launch.py",
        "--config=experiments/shakespeare.py",
        f"--config.text.source={folder / 'text.txt'}",
        f"--config.model.hidden={hidden}",
        f"--config.optimizer.learning_rate={rate}",
        "--config.batch_size=4",
        "--config.window=16",
        "--config.max_steps=20",
        "--config.eval_every=10",
        "--config.log_every=5",
        "--config.sample.length=0",
        f"--workdir={folder / name}",
      ],
      cwd=ROOT,
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
      stderr=subprocess.PIPE,
      text=True,
    )
    for name, (hidden, rate) in SIZES.items()
  ]
  for process in processes:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
  return {name: folder / name for name in SIZES}


@pytest.fixture(scope="session")
def counted(trained):
  """An n-gram run of the same text: not to be changed."""
  workdir, text = trained["a"].with_name("ngram"), trained["a"].with_name("text.txt")
  subprocess.run(
    [
      sys.executable,
      "launch.py",
      f"--config=experiments/ngram.py:{text}",
      "--config.model.order=5",
      "--config.sample.length=0",
      f"--workdir={workdir}",
    ],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    check=True,
    capture_output=True,
  )
  return workdir


@pytest.fixture
def a(trained, tmp_path):
  """A copy of run `a`, to damage."""
  return pathlib.Path(shutil.copytree(trained["a"], tmp_path / "a"))


@pytest.fixture
def charrnn(capsys):
  def run(*argv):
    code = cli.main([str(arg) for arg in argv])
    return Result(code, *capsys.readouterr())

  return run
