"""What differs between operating systems is known in a few modules, and nothing else needs it."""

import ast
import pathlib
import subprocess
import sys

import pytest

import charrnn

ROOT = pathlib.Path(charrnn.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
HOMES = {"files.py", "process.py", "runtime.py"}  # the only modules with facts about a system
# Modules of Python that Windows lacks, and some that only it has.
MODULES = {"fcntl", "grp", "msvcrt", "posix", "pty", "pwd", "resource", "termios", "tty", "winreg"}
# Attributes that some systems lack, and systems without them must not notice.
ATTRIBUTES = {
  "os": ("O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_CLOEXEC", "O_SYNC", "fork", "getuid"),
  "signal": ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "setitimer", "pthread_sigmask"),
}
ATTRIBUTES["os"] += ("set_blocking", "sched_getaffinity", "sched_setaffinity", "getloadavg")
ATTRIBUTES["os"] += ("killpg", "setsid", "statvfs", "sysconf", "uname", "fchmod", "posix_fallocate")
PROGRAM = f"""
import importlib, os, pkgutil, signal, sys
import charrnn

def modules():
  walk = pkgutil.walk_packages(charrnn.__path__, "charrnn.")
  return [each.name for each in walk if not each.name.endswith("__main__")]

for name in modules():  # and all packages of others, which may use what is hidden below
  importlib.import_module(name)
names = modules()
for name in [*sys.modules]:
  if name == "charrnn" or name.startswith("charrnn."):
    del sys.modules[name]
for name in {sorted(MODULES)!r}:
  sys.modules[name] = None
for module, attributes in {ATTRIBUTES!r}.items():
  for name in attributes:
    vars(sys.modules[module]).pop(name, None)
sys.platform = sys.argv[1]
import charrnn
for name in names:
  importlib.import_module(name)
{{after}}
print("imported", len(names))
"""


def run(platform, after=""):
  """Run a program after it has imported charrnn on a system that lacks much; return its stdout."""
  program = PROGRAM.replace("{after}", after)
  command = [sys.executable, "-c", program, platform]
  result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
  assert result.returncode == 0, result.stderr
  return result.stdout


def imported():
  """Return the output of the program when it imports every module and package."""
  modules = [path for path in FILES if path.name not in ("__init__.py", "__main__.py")]
  packages = [path for path in FILES if path.name == "__init__.py"]
  return f"imported {len(modules) + len(packages) - 1}\n"


def test_every_module_can_be_imported_on_macos():
  assert run("darwin") == imported()


def test_modules_are_imported_and_runs_are_written_without_what_windows_lacks(tmp_path):
  out = run(
    "win32",
    f"""
import pathlib
from charrnn import files, process, runtime
from charrnn.data import downloads
from charrnn.runs import lock
folder = pathlib.Path({str(tmp_path)!r})
with lock.hold(folder / "run"):
  assert not lock.is_held(folder / "run")
  files.write_json(folder / "run" / "x.json", {{"a": 1}})
  with files.append(folder / "run" / "x.json") as file:
    file.write(b"")
  assert files.read_json(folder / "run" / "x.json") == {{"a": 1}}
with downloads._lock(folder) as is_locked:
  assert not is_locked
assert process.call([sys.executable, "-c", "print(5)"], 60).stdout.strip() == b"5"
try:
  process.call([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
except TimeoutError as error:
  print(error.strerror.partition(" took ")[2])
with process.StopRequest() as stop:
  signal.raise_signal(signal.SIGTERM)
assert stop.is_requested and runtime.cores() and runtime.peak_memory()
process.use_cores([0])
""",
  )
  assert out == "more than 0.5 s\n" + imported()


def uses(tree):
  """Yield the line and the name of every use of a fact about a system in a syntax tree."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, each.name) for each in node.names if each.name in MODULES)
    elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
      yield node.lineno, node.module
    elif isinstance(node, ast.Constant) and str(node.value).startswith(("/proc", "/sys")):
      yield node.lineno, node.value
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      name = f"{node.value.id}.{node.attr}"
      if name in NAMES:
        yield node.lineno, name


NAMES = {f"os.{name}" for name in ATTRIBUTES["os"]}
# os.getloadavg is guarded where it is used.
ALLOWED = {("benchmarks/rounds.py", "os.getloadavg")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_facts_about_a_system_are_in_few_modules(path):
  name = path.relative_to(ROOT).as_posix()
  found = {(line, use) for line, use in uses(ast.parse(path.read_text()))}
  found = {f"{name}, line {line}: {use}" for line, use in found if (name, use) not in ALLOWED}
  assert name in HOMES or not found
