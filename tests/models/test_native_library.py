"""Compilation and loading of the native library, mostly with a source that compiles fast."""

import dataclasses
import errno
import fcntl
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import programs
import psutil
import pytest

from charrnn import cli, errors
from charrnn.models import cells, native_library, rnn

FUNCTION = '{ __attribute__((visibility("default"))) %s() { return %s; } }\n'
SOURCE = 'extern "C" ' + FUNCTION % ("const char* charrnn_instructions", '"none"')
SOURCE += "".join('extern "C" ' + FUNCTION % (f"int {t}", 0) for t in native_library.TARGETS)
COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
needs_compiler = pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")
needs_library = pytest.mark.skipif(
  not COMPILER or native_library.unmeasured() is not None, reason="the scan is used here"
)


class Place:
  """An empty cache and a small source for one test."""

  def __init__(self, folder, monkeypatch, capsys):
    self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
    self.native = folder / "cache/native"
    self.targets = []
    source = folder / "source.cc"
    source.write_text(SOURCE)
    monkeypatch.setattr(native_library, "SOURCE", source)
    monkeypatch.setattr(native_library, "TIMEOUT", 60.0)
    monkeypatch.setattr(
      jax.ffi, "register_ffi_target", lambda name, *_, **__: self.targets.append(name)
    )
    monkeypatch.setenv("CHARRNN_CACHE", str(folder / "cache"))
    monkeypatch.delenv("CHARRNN_CXXFLAGS", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    self.forget()

  def forget(self):
    """Forget the library, as a new process does."""
    for name in ("_attempt", "fallback_reason", "cpu_flags"):
      function = getattr(native_library, name).__wrapped__
      self.monkeypatch.setattr(native_library, name, functools.cache(function))

  def load(self):
    """Load the library as a new process does; return it and the number of compilations."""
    self.forget()
    library = native_library.load()
    return library, self.said().count("compiling the recurrent layers with ")

  def said(self):
    return self.capsys.readouterr().err

  def reason(self):
    """Return the reason why the library cannot be loaded."""
    self.forget()
    with pytest.raises(native_library.UnavailableError) as caught:
      native_library.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)

  def files(self):
    return sorted(path.name for path in self.native.glob("*"))

  def compiler(self, body, name="fake++", version="fake 1.2.3"):
    """Select a shell script that answers --version and otherwise runs `body`."""
    path = self.folder / name
    answer = f'case "$*" in *--version) echo "{version}"; exit;; esac'
    path.write_text(f"#!/bin/sh\n{answer}\n{body}\n")
    path.chmod(0o755)
    self.monkeypatch.setenv("CXX", str(path))
    return path


@pytest.fixture
def place(tmp_path, monkeypatch, capsys):
  return Place(tmp_path, monkeypatch, capsys)


@needs_compiler
def test_the_library_is_compiled_once_and_then_loaded_from_the_cache(place):
  library, count = place.load()
  assert count == 1 and library.instructions == "none"
  assert str(library) == f"native (none, {library.compiler})"
  assert place.targets == list(native_library.TARGETS)
  (name,) = place.files()
  assert place.load() == (library, 0)
  assert native_library.load() is native_library.load()
  assert place.files() == [name]


@needs_compiler
@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b[:-1] + b"?"])
def test_a_damaged_library_is_compiled_again(place, damage):
  library, _ = place.load()
  path = place.native / place.files()[0]
  data = path.read_bytes()
  path.unlink()  # because this process has mapped the file
  path.write_bytes(damage(data))
  assert place.load() == (library, 1)
  assert place.load() == (library, 0)


@needs_compiler
def test_everything_that_changes_the_library_changes_its_file(place):
  place.compiler(f'exec {COMPILER} "$@"')
  changes = [
    lambda: None,
    lambda: place.monkeypatch.setenv("CHARRNN_CXXFLAGS", "-O1 '-DA=B C'"),
    lambda: place.monkeypatch.setenv("CXX", os.environ["CXX"] + " -DOPTION"),
    lambda: place.compiler(f'exec {COMPILER} "$@"', version="fake 1.2.4"),
    lambda: native_library.SOURCE.write_text(SOURCE + "\n"),
    lambda: place.monkeypatch.setattr(native_library.jaxlib, "__version__", "0"),
    lambda: place.monkeypatch.setattr(native_library.platform, "machine", lambda: "other"),
  ]
  for n, change in enumerate(changes):
    change()
    assert place.load()[1] == 1 and len(place.files()) == n + 1
  place.forget()
  place.monkeypatch.setattr(native_library, "cpu_flags", lambda: frozenset({"other"}))
  native_library.load()
  assert len(place.files()) == len(changes) + 1


PROGRAM = """
import pathlib, sys
import jax
from charrnn.models import native_library
jax.ffi.register_ffi_target = lambda *_, **__: None
native_library.SOURCE = pathlib.Path(sys.argv[1])
from charrnn import process
def program():
  print(native_library.load())
code = process.run("charrnn", program, ends_process=True)
if code:
  sys.exit(code)
jax.config.update("jax_num_cpu_devices", 3)  # an error if JAX has been initialized
print(jax.device_count())
"""


@needs_compiler
def test_processes_that_start_at_the_same_time_compile_once(place):
  place.compiler(f"""
sleep 1
exec {COMPILER} "$@"
""")
  processes = [start_program() for _ in range(4)]
  errors_of_all = ""
  for process in processes:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == "native (none, fake++ 1.2.3)\n3\n"
    errors_of_all += err
  assert errors_of_all.count("\n") == 1
  assert errors_of_all.startswith("compiling the recurrent layers with fake++ 1.2")
  assert len(place.files()) == 1
  assert place.load()[1] == 0


def start_program():
  command = [sys.executable, "-c", PROGRAM, str(native_library.SOURCE)]
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)


@needs_compiler
def test_a_process_that_was_killed_while_it_compiled_delays_no_other(place):
  started = place.folder / "started"
  place.compiler(f"touch {started}\nsleep 60\n")
  process = start_program()
  while not started.exists():
    assert process.poll() is None
    time.sleep(0.05)
  process.kill()
  process.communicate()
  place.compiler(f'exec {COMPILER} "$@"\n')
  place.monkeypatch.setattr(native_library, "MAX_WAIT", 1000.0)
  assert place.load()[1] == 1


@needs_compiler
def test_a_process_that_hangs_while_it_compiles_delays_others_for_a_limited_time(place):
  place.native.mkdir(parents=True)
  place.monkeypatch.setattr(native_library, "MAX_WAIT", 0.5)
  descriptor = os.open(place.native, os.O_RDONLY)
  fcntl.flock(descriptor, fcntl.LOCK_EX)
  assert place.load()[1] == 1
  os.close(descriptor)


@needs_compiler
def test_leftovers_of_killed_processes_are_removed(place):
  for name in ("compiling-old", "compiling-new"):
    (place.native / name).mkdir(parents=True)
    (place.native / name / "native.so").write_bytes(b"half")
  # Like a folder that another process removes at this moment.
  (place.native / "compiling-gone").symlink_to("nowhere")
  os.utime(place.native / "compiling-old", (0, 0))
  _, count = place.load()
  assert count == 1 and "compiling-new" in place.files()
  assert "compiling-old" not in place.files()


@needs_compiler
def test_temporary_files_of_the_compiler_are_in_the_folder_that_is_removed(place):
  place.compiler(f'echo "$TMPDIR" > {place.folder}/tmpdir; exec {COMPILER} "$@"')
  place.load()
  folder = pathlib.Path((place.folder / "tmpdir").read_text().strip())
  assert folder.parent == place.native and not folder.exists()


@pytest.mark.parametrize(
  ("body", "reason"),
  [
    (
      "echo 'In file x:' >&2; echo 'a.cc:1: error: no such thing' >&2; echo more >&2; exit 3",
      r"ended with exit code 3 \(a.cc:1: error: no such thing\): correct this, or set CXX",
    ),
    ("exit 1", r"ended with exit code 1 \(no message\)"),
    ("echo last >&2; echo ' ' >&2; exit 1", r"exit code 1 \(last\)"),
    (
      "head -c 1000000 /dev/zero | tr '\\000' x >&2; exit 1",
      r"exit code 1 \(x{300}\.\.\.\): correct this",
    ),
    (
      "echo 'ld: final link failed: No space left on device' >&2; echo 'error: ld' >&2; exit 1",
      r"cannot store .*cache/native \(No space left on device\): .* set CHARRNN_CACHE",
    ),
    ("kill -9 $$", r"ended with exit code -9"),
    ('while [ "$1" != -o ]; do shift; done; echo junk > "$2"', "cannot be loaded .*: set CXX"),
    ("exit 0", "wrote no library: set CXX to another compiler"),
  ],
)
def test_a_compiler_that_fails(place, body, reason):
  place.compiler(body)
  assert re.search(reason, place.reason())
  assert place.files() == []
  place.said()
  if COMPILER:
    place.monkeypatch.delenv("CXX")
    assert place.load()[1] == 1


def test_a_compiler_that_hangs_is_killed_with_its_subprocesses(place):
  place.compiler(f"sleep 100 & echo $! > {place.folder}/pid; wait")
  place.monkeypatch.setattr(native_library, "TIMEOUT", 1.0)
  start = time.monotonic()
  assert "took more than 1 s: set CXX to another compiler" in place.reason()
  wait_for_end(int((place.folder / "pid").read_text()))
  assert time.monotonic() - start < 60 and place.files() == []


def wait_for_end(pid):
  start = time.monotonic()
  while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
    assert time.monotonic() - start < 60
    time.sleep(0.05)


@pytest.mark.parametrize(
  "signals", [["SIGTERM"], ["SIGINT", "SIGINT"], ["SIGTERM", "SIGKILL"], ["SIGKILL"]], ids="+".join
)
def test_no_compiler_outlives_a_process_that_a_signal_ends(place, signals):
  pids, new = place.folder / "pids", place.folder / "new"
  place.compiler(f"sleep 100 & echo $! $$ > {new}; mv {new} {pids}; wait")
  child = start_program()
  while not pids.exists():
    assert child.poll() is None
    time.sleep(0.05)
  for name in signals:
    child.send_signal(getattr(signal, name))
  child.communicate(timeout=60)
  for pid in pids.read_text().split():
    wait_for_end(int(pid))


@pytest.mark.parametrize(
  ("variable", "value", "reason"),
  [
    ("CXX", "/nonexistent", "no C++ compiler found (/nonexistent): install g++ or clang++, or set"),
    ("CXX", "'g++", "CXX='g++: No closing quotation: correct the variable"),
    ("PATH", "/nonexistent", "no C++ compiler found (g++, clang++, c++): install g++"),
  ],
)
def test_no_compiler(place, variable, value, reason):
  place.monkeypatch.setenv(variable, value)
  assert reason in place.reason()
  assert place.said() == ""


def test_a_file_that_is_no_program(place):
  path = place.compiler("")
  path.write_bytes(b"\x00\x01")
  assert "cannot run " in (reason := place.reason()) and "Exec format error" in reason


@needs_compiler
def test_wrong_flags(place):
  place.monkeypatch.setenv("CHARRNN_CXXFLAGS", "'-O2")
  assert "CHARRNN_CXXFLAGS='-O2: No closing quotation" in place.reason()
  place.monkeypatch.setenv("CHARRNN_CXXFLAGS", "-march=nothing")
  assert "error: " in (reason := place.reason()) and "nothing" in reason


@needs_compiler
def test_a_cache_that_cannot_be_written(place):
  (place.folder / "file").write_text("")
  place.monkeypatch.setenv("CHARRNN_CACHE", str(place.folder / "file"))
  assert "or set CHARRNN_CACHE to another folder" in (reason := place.reason())
  assert str(place.folder / "file") in reason
  assert place.said() == ""


@needs_compiler
@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_full_or_read_only_cache(place, code):
  def fail(*arguments, **options):
    raise OSError(code, os.strerror(code))

  _, count = place.load()
  assert count == 1
  place.monkeypatch.setattr(native_library.tempfile, "TemporaryDirectory", fail)
  assert place.load()[1] == 0  # A compiled library needs no space.
  (place.native / place.files()[0]).unlink()
  assert f"({os.strerror(code)}): correct this, or set CHARRNN_CACHE" in place.reason()


def test_no_headers(place):
  place.monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(place.folder))
  assert "jaxlib has no file xla/ffi/api/ffi.h in " in place.reason()


@pytest.mark.parametrize(
  ("name", "version", "described"),
  [
    ("g++", "g++ (Debian 12.2.0-14+deb12u1) 12.2.0", "g++ 12.2.0"),
    ("c++", "c++ (GCC) 15.2.1 20250813 (Red Hat 15.2.1-1)", "c++ 15.2.1"),
    ("clang++", "Ubuntu clang version 14.0.0-1ubuntu1.1", "clang++ 14.0.0"),
    ("g++", "Apple clang version 15.0.0 (clang-1500.3.9.4)", "g++ 15.0.0"),
    ("mine", "no version", "mine"),
  ],
)
def test_the_compiler_is_described_by_name_and_version(place, name, version, described):
  path = place.compiler("exit 1", name=name, version=version)
  assert native_library._compiler()[:2] == ([str(path)], described)
  place.monkeypatch.setenv("CXX", f"/usr/bin/env {path} -m64")
  assert native_library._compiler()[:2] == (["/usr/bin/env", str(path), "-m64"], described)


def test_auto_says_once_why_the_scan_is_used(place):
  place.monkeypatch.setenv("CXX", "/nonexistent")
  place.monkeypatch.setattr(native_library, "unmeasured", lambda: None)
  model = rnn.make(7, cell="lstm", layers=1, hidden=4)
  assert place.said() == ""
  reason = "no C++ compiler found (/nonexistent): install g++ or clang++, or set CXX"
  assert model.implementation == model.implementation == f"scan ({reason})"
  assert place.said() == f"the layers are computed by the scan, which is usually slower: {reason}\n"
  assert rnn.make(7, cell="lstm", layers=1, hidden=4, unroll="scan").implementation == "scan"
  own = dataclasses.replace(cells.CELLS["lstm"], native=False)
  place.monkeypatch.setitem(cells.CELLS, "own", own)
  assert rnn.make(7, cell="own", layers=1, hidden=4).implementation == "scan"
  with pytest.raises(errors.UserError, match=r"^--config.model.unroll=native: no C\+\+ compiler"):
    rnn.make(7, cell="lstm", layers=1, hidden=4, unroll="native")


def test_nothing_is_compiled_for_an_accelerator(place):
  place.compiler("exit 1")
  place.monkeypatch.setattr(native_library, "unmeasured", lambda: None)
  place.monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert not native_library.is_used("auto")
  with pytest.raises(errors.UserError, match=r"JAX uses a gpu, .*use auto, or set JAX_PLATFORMS"):
    rnn.make(7, cell="lstm", layers=1, hidden=4, unroll="native")
  place.monkeypatch.setattr(native_library.importlib.metadata, "entry_points", lambda group: [1])
  before = jax.config.jax_platforms
  try:
    jax.config.update("jax_platforms", None)
    assert not native_library.is_expected("auto")
    assert place.said() == ""
    jax.config.update("jax_platforms", "cpu")
    assert not native_library.is_expected("auto")
    assert place.said().count("the layers are computed by the scan, which is usually slower: ") == 1
  finally:
    jax.config.update("jax_platforms", before)


@pytest.mark.parametrize(
  ("machine", "flags", "reason"),
  [
    ("x86_64", "avx2 fma", None),
    ("x86_64", "avx2", "without AVX2 and FMA"),
    ("x86_64", "avx2 fma amx_tile", None),
    ("aarch64", "asimd", "on aarch64 with linux"),
  ],
)
def test_auto_uses_the_library_only_where_it_was_measured(monkeypatch, machine, flags, reason):
  monkeypatch.setattr(native_library.platform, "machine", lambda: machine)
  monkeypatch.setattr(native_library.sys, "platform", "linux")
  monkeypatch.setattr(native_library, "cpu_flags", lambda: frozenset(flags.split()))
  text = native_library.unmeasured()
  assert text is None if reason is None else reason in text


def test_tile_registers_are_used_only_with_permission_of_the_kernel(place):
  options = place.folder / "options"
  place.compiler(f'echo "$*" >> {options}; exit 1')
  place.monkeypatch.setattr(native_library, "cpu_flags", lambda: frozenset({"amx_tile"}))
  for is_allowed in (True, False):
    place.monkeypatch.setattr(native_library, "_request_tiles", lambda answer=is_allowed: answer)
    native_library._attempt.cache_clear()
    with pytest.raises(native_library.UnavailableError):
      native_library.load()
  allowed, refused = options.read_text().splitlines()
  assert "-DNO_TILES" not in allowed.split() and "-DNO_TILES" in refused.split()


LAUNCH = ("--config=tiny.py", "--config.max_steps=3", "--config.sample.length=0")


def layers(workdir):
  return [launch["layers"] for launch in json.loads((workdir / "run.json").read_text())["launches"]]


def test_native_layers_without_a_compiler_are_an_error(folder):
  environment = {"CXX": "/nonexistent", "JAX_PLATFORMS": "cpu"}
  arguments = (*LAUNCH, "--config.model.unroll=native", "--workdir=no_compiler")
  code, err = programs.finish(programs.start(folder, *arguments, environment=environment))
  assert (code, err.count("\n")) == (2, 1), err
  assert err.startswith(
    "launch.py: error: --config.model.unroll=native: no C++ compiler found (/no"
  )
  assert not (folder / "no_compiler").exists()


def test_run_json_and_inspect_record_that_auto_fell_back_to_the_scan(folder, capsys):
  environment = {"CXX": "/nonexistent", "JAX_PLATFORMS": "cpu"}
  arguments = (*LAUNCH, "--workdir=fell_back")
  code, err = programs.finish(programs.start(folder, *arguments, environment=environment))
  assert code == 0, err
  (line,) = [line for line in err.splitlines() if line.startswith("the layers are computed by")]
  assert layers(folder / "fell_back") == [f"scan ({line.partition(': ')[2]})"]
  cli.main(["inspect", str(folder / "fell_back")])
  assert "layers: scan (" in capsys.readouterr().out


@needs_library
def test_run_json_and_inspect_record_the_native_layers(folder, capsys):
  arguments = (*LAUNCH, "--workdir=native")
  environment = {"JAX_PLATFORMS": "cpu"}
  code, err = programs.finish(programs.start(folder, *arguments, environment=environment), 600)
  assert code == 0, err
  (path,) = layers(folder / "native")
  assert path.startswith("native (") and "++ " in path
  assert err.count("compiling the recurrent layers") <= 1
  cli.main(["inspect", str(folder / "native")])
  assert f"layers: {path}" in " ".join(capsys.readouterr().out.split())
