"""JAX's settings, and the stopwatch that measures the startup time."""

import os
import pathlib
import pwd
import subprocess
import sys
import threading

import jax
import pytest

from charrnn import errors, runtime

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_stopwatch_starts_when_the_process_is_created(monkeypatch):
  before = runtime._IMPORTED
  assert 0 < before - runtime._process_start() < 600
  monkeypatch.setattr(runtime.pathlib.Path, "read_text", lambda path: "elsewhere")
  assert runtime._process_start() == before


def test_phases_are_reported_in_order_and_followed_by_their_total(monkeypatch):
  seconds = iter([12.0, 12.5, 15.0])
  monkeypatch.setattr(runtime, "_process_start", lambda: 10.0)
  monkeypatch.setattr(runtime.time, "monotonic", lambda: next(seconds))
  watch = runtime.Stopwatch()
  for phase in ("b", "c", "a"):
    watch.mark(phase)
  assert list(watch.seconds().items()) == [("b", 2.0), ("c", 0.5), ("a", 2.5), ("total", 5.0)]


OTHER = {
  "jax_numpy_rank_promotion": "raise",
  "jax_numpy_dtype_promotion": "strict",
  "jax_default_prng_impl": "rbg",
  "jax_random_seed_offset": 1,
  "jax_legacy_prng_key": "error",
  **{name: "disallow" for name in runtime.JAX_SETTINGS if "transfer_guard" in name},
}


@pytest.mark.parametrize("name", runtime.JAX_SETTINGS)
def test_settings_of_jax_that_change_results_are_reset_and_named(name, capsys):
  if name not in jax.config.values:
    pytest.skip("this version of JAX has no such setting")
  runtime.reset_settings()
  before, value = getattr(jax.config, name), runtime.JAX_SETTINGS[name]
  assert not capsys.readouterr().err
  jax.config.update(name, OTHER.get(name, not value))
  runtime.reset_settings()
  assert getattr(jax.config, name) == before
  assert f"warning: ignoring {name.upper()}=" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("variable", "value"),
  [
    ("JAX_NUM_CPU_DEVICES", "3"),
    ("XLA_FLAGS", "--xla_one --xla_force_host_platform_device_count=3"),
  ],
)
def test_numbers_of_cpu_devices_in_the_environment_are_named(variable, value, monkeypatch, capsys):
  monkeypatch.setattr(jax.config, "update", lambda *arguments: None)
  monkeypatch.setenv(variable, value)
  runtime.set_cpu_devices(2, 8, 1)
  text = f"{value.split()[-1]}: training uses 2; set --config.cpu_devices to change it"
  assert text in capsys.readouterr().err
  runtime.set_cpu_devices(3, 9, 1)
  assert not capsys.readouterr().err


def test_a_limit_of_threads_is_one_line(monkeypatch):
  before, begin = threading.active_count(), threading.Thread.start
  runtime.check_threads()
  assert threading.active_count() == before

  def start(thread):
    if threading.active_count() >= before + 3:
      raise RuntimeError("can't start new thread")
    begin(thread)

  monkeypatch.setattr(threading.Thread, "start", start)
  with pytest.raises(errors.UserError, match=r"only 3 more threads.*\(ulimit -u\)"):
    runtime.check_threads()
  assert threading.active_count() == before


def test_a_user_without_a_home_directory_gets_one_line(monkeypatch, tmp_path):
  for name in ("CHARRNN_CACHE", "HOME", "XDG_CACHE_HOME"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a user id without a name
  with pytest.raises(errors.UserError, match="no home directory is known for the cache: set"):
    runtime.cache_folder()
  monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path))
  assert runtime.cache_folder() == tmp_path


@pytest.mark.parametrize("command", [["launch.py"], ["-m", "charrnn.cli", "sample", "RUN"]])
def test_a_platform_without_devices_gets_one_line(command, folder, trained, tmp_path):
  if command[0] == "launch.py":
    command = [str(ROOT / "launch.py"), "--config=tiny.py", f"--workdir={tmp_path / 'run'}"]
  command = [str(trained["a"]) if word == "RUN" else word for word in command]
  environment = os.environ | {"JAX_PLATFORMS": "xyz"}
  result = subprocess.run(
    [sys.executable, *command],
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
  assert "JAX cannot use xyz: " in result.stderr and "JAX_PLATFORMS=cpu" in result.stderr
