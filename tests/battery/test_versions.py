"""Trial 19: the supported versions of Python and of the packages, and the successor of pmap.

A case of `test_core_tests_pass` installs its packages from the package index into a temporary
environment. To run one case: pytest tests/battery/test_versions.py -m long -k "oldest and 3.12".
"""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import Mesh, PartitionSpec

from charrnn.training import steps

pytestmark = pytest.mark.trial(19)

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
CORE = (
  *("tests/models", "tests/training", "tests/runs", "tests/sampling"),
  *(
    "tests/launching/test_resume.py",
    "tests/cli/test_old_runs.py",
    "tests/battery/test_versions.py",
  ),
)


def sharded(body, axis_name, *, in_axes, out_axes, donate_argnums, devices=None):
  """Return jax.pmap(...) of the same arguments, made of jit and shard_map.

  On the day pmap is removed, this function moves to training/steps.py, and `jax.pmap` there becomes
  `sharded`.
  """

  def by_axis(if_none, otherwise, axes, *trees):
    """Map trees whose axis is None with one function, and those with an axis with another."""
    return jax.tree.map(
      lambda axis, *tree: (if_none if axis is None else otherwise)(*tree),
      *(axes, *trees),
      is_leaf=lambda axis: axis is None,
    )

  def specs(axes):
    return by_axis(PartitionSpec, lambda: PartitionSpec(axis_name), axes)

  def body_of_share(*arguments):
    def without_axis(tree):
      return jax.tree.map(lambda leaf: leaf[0], tree)

    def with_axis(tree):
      return jax.tree.map(lambda leaf: leaf[None], tree)

    results = body(*by_axis(lambda tree: tree, without_axis, in_axes, arguments))
    return by_axis(lambda tree: tree, with_axis, out_axes, results)

  def step(*arguments):
    mesh = Mesh((devices or jax.devices())[: len(arguments[-1])], (axis_name,))
    layout = {"in_specs": specs(in_axes), "out_specs": specs(out_axes)}
    return jax.shard_map(body_of_share, mesh=mesh, **layout, check_vma=False)(*arguments)

  return jax.jit(step, donate_argnums=donate_argnums)


def assert_equal(actual, expected):
  """Assert that two trees are equal bit for bit."""
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize(
  ("cell", "devices", "accumulate", "remat"),
  [
    ("lstm", 2, 1, 0),
    *(
      pytest.param(*case, marks=pytest.mark.long)
      for case in (
        ("lstm", 1, 1, 0),
        ("lstm", 8, 1, 0),
        ("lstm", 2, 2, 2),
        ("rnn", 4, 2, 0),
        ("gru", 4, 1, 3),
      )
    ),
  ],
)
def test_training_by_shard_map_equals_pmap(monkeypatch, cell, devices, accumulate, remat):
  def run():
    c = tiny.config(window=6, accumulate=accumulate, remat=remat)
    ours = tiny.Steps(tiny.model(cell=cell, dropout=0.3), c, devices=devices)
    return ours.run(ours.initial, 6)

  expected = run()
  monkeypatch.setattr(jax, "pmap", sharded)
  assert_equal(run(), expected)


def test_evaluation_by_shard_map_equals_pmap(monkeypatch):
  net, ids = tiny.model(), tiny.ids(300)
  params = net.init(jax.random.key(0))

  def run():
    step, carry = steps.LossStep(net), None
    x_TxB, y_TxB = ids[:240].reshape(2, 10, 12), ids[1:241].reshape(2, 10, 12)
    for n in range(2):
      nats, carry = step(params, carry, x_TxB[n], y_TxB[n], np.ones((10, 12), np.float32))
    return jax.device_get((nats, carry))

  expected = run()
  monkeypatch.setattr(jax, "pmap", sharded)
  assert_equal(run(), expected)


def requirements(versions):
  """Return the dependencies for pip: the oldest supported, or the newest supported versions."""

  def pin(text):
    name, oldest = re.match(r"([\w-]+)>=([\w.]+)", text).groups()
    return f"{name}=={oldest}" if versions == "oldest" and name in PINNED else text

  jaxlib = [
    pin("jaxlib" + text.removeprefix("jax"))
    for text in PROJECT["dependencies"]
    if text.startswith("jax>")
  ]
  extras = PROJECT["optional-dependencies"]["scorecards"]
  return [
    *map(pin, PROJECT["dependencies"]),
    *jaxlib,
    *extras,
    "pytest>=8,<10",
    "pytest-xdist>=3.7,<4",
  ]


def interpreter(version):
  """Return the command of a version of Python; skip the test if it is not installed."""
  if sys.version_info[:2] == tuple(map(int, version.split("."))):
    return sys.executable
  with contextlib.suppress(OSError, subprocess.CalledProcessError):
    command = [f"python{version}", "-c", "import sys; print(sys.executable)"]
    return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
  pytest.skip(f"needs python{version}")


@pytest.mark.long
@pytest.mark.parametrize("versions", ["oldest", "newest"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_core_tests_pass(python, versions, tmp_path, record_property):
  executable = interpreter(python)
  subprocess.run([executable, "-m", "venv", tmp_path / "venv"], check=True)
  python_of_venv = tmp_path / "venv" / "bin" / "python"
  install = [python_of_venv, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
  subprocess.run([*install, *requirements(versions)], check=True)
  # A path file, and not PYTHONPATH, because some tests set this variable.
  (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
  (packages / "charrnn.pth").write_text(str(ROOT / "src"))
  environment = dict(os.environ)
  environment.pop("CHARRNN_TESTS_NATIVE", None)  # The library is compiled for one jaxlib.
  environment.pop("XLA_FLAGS", None)  # Ours has a flag that older versions do not know.
  # Other versions may have other warnings, and -W default tolerates them.
  tests = [
    python_of_venv,
    "-m",
    "pytest",
    "-n0",
    "-q",
    "-p",
    "no:cacheprovider",
    "-W",
    "default",
    *CORE,
  ]
  done = subprocess.run(
    tests, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
  )
  listing = subprocess.check_output([python_of_venv, "-m", "pip", "freeze"], text=True)
  used = [
    line for line in listing.splitlines() if line.partition("==")[0].replace("_", "-") in PINNED
  ]
  summary = (done.stdout.splitlines() or ["no output"])[-1]
  record_property("note", f"Python {python}, {', '.join(used)}: {summary}")
  assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
