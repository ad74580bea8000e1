"""Settings that must precede the start of JAX, and runs that several tests share.

JAX gets eight CPU devices and a temporary cache folder. The whole suite runs in several processes
(`-n 0`: in one). Each process has a separate cache and separate shared runs.
"""

import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from charrnn import runtime

# Programs that the tests start would otherwise compile their modules each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# JAX reads these variables when it is imported. This process and its subprocesses share a
# compilation cache, also for programs that compile quickly.
_cache = tempfile.TemporaryDirectory(prefix="charrnn-tests-")
# Only the compiled native library is in the user's cache, because compiling it takes a minute.
_native = os.environ.setdefault("CHARRNN_TESTS_NATIVE", str(runtime.cache_folder() / "native"))
os.makedirs(_native, exist_ok=True)
os.symlink(_native, f"{_cache.name}/native")
os.environ["CHARRNN_CACHE"] = _cache.name
os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_cache.name}/jax"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax  # noqa: E402
import programs  # noqa: E402
import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
SIZES = {"a": ("8", "0.01"), "b": ("6", "0.002")}  # run: (hidden units, learning rate)
CHECK_EVERY = 10  # tests between two checks of the number of memory mappings
MAX_MAPPINGS = 15_000

sys.path.insert(0, str(ROOT))
# A shell ignores SIGINT in background jobs, and programs inherit this setting.
signal.signal(signal.SIGINT, signal.default_int_handler)
runtime.correct_sums()
jax.config.update("jax_num_cpu_devices", 8)
runtime.keep_memory = lambda: None  # Return freed memory to the system in this process.


def pytest_xdist_auto_num_workers(config):
  """Return one worker per core, at most four; 0 if the command names paths of tests."""
  paths = config.args_source == pytest.Config.ArgsSource.ARGS
  return 0 if paths else min(4, len(runtime.cores()))


_finished = itertools.count(1)  # tests


@pytest.fixture(autouse=True)
def _few_programs():
  """Free the compiled programs of this process if there are many.

  A training step for eight devices takes about 400 memory mappings. Linux allows a process 65,530;
  without more, XLA crashes.
  """
  yield
  if next(_finished) % CHECK_EVERY == 0 and pathlib.Path("/proc/self/maps").exists():
    with open("/proc/self/maps", "rb") as file:
      if file.read().count(b"\n") > MAX_MAPPINGS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  """Return a folder with a text and the experiment tiny.py."""
  return programs.prepare(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def whole(folder):
  """Return a run of tiny.py that was not interrupted."""
  code, err = programs.finish(programs.start(folder, "--config=tiny.py", "--workdir=whole"))
  assert code == 0, err
  return folder / "whole"


@pytest.fixture
def main(folder, monkeypatch):
  """Return a function that runs launch.py's main in this process, in the folder."""
  import launch

  monkeypatch.chdir(folder)
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)
  return lambda *arguments: launch.main(["launch.py", *arguments])


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
  """Return runs `a` and `b` with 20 steps and checkpoints at 10 and 20. Do not modify them."""
  folder = tmp_path_factory.mktemp("runs")
  (folder / "text.txt").write_text("".join(f"{n} green bottles\n" for n in range(700)))
  processes = [
    programs.start(
      ROOT,
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
      environment={"JAX_PLATFORMS": "cpu"},
    )
    for name, (hidden, rate) in SIZES.items()
  ]
  for process in processes:
    code, err = programs.finish(process)
    assert code == 0, err
  return {name: folder / name for name in SIZES}


@pytest.fixture(scope="session")
def counted(trained):
  """Return an n-gram run on the same text. Do not modify it."""
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
  """Return a copy of run `a` that the test may modify."""
  return pathlib.Path(shutil.copytree(trained["a"], tmp_path / "a"))
