"""The dependencies between packages, checked in the source."""

import ast
import pathlib
import subprocess
import sys

import pytest

import charrnn
from charrnn import cli

ROOT = pathlib.Path(charrnn.__file__).parent
# A package imports only from itself and from packages above it.
PACKAGES = [
  "errors",
  "console",
  "process",
  "files",
  "plotting",
  "runtime",
  "data",
  "config",
  "command_line",
  "models",
  "runs",
  "training",
  "sampling",
  "evaluation",
  "analysis",
  "scorecards",
  "sweeps",
  "benchmarks",
  "launching",
  "api",
  "cli",
]
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
NAMES = [path.relative_to(ROOT).with_suffix("").as_posix() for path in FILES]
EACH = [pytest.param(name, path, id=name) for name, path in zip(NAMES, FILES)]


def imports(path):
  """Yield the full name of every module that a file imports, also inside functions."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path} has a relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("name", "path"), EACH)
def test_imports_only_from_packages_above(name, path):
  package = name.partition("/")[0]
  assert package in PACKAGES
  allowed = PACKAGES[: PACKAGES.index(package) + 1]
  for module in imports(path):
    if module.startswith("charrnn."):
      other = module.split(".")[1]
      assert other in allowed or other == "__version__", f"{name} imports {module}"


@pytest.mark.parametrize(("name", "path"), EACH)
def test_only_training_steps_and_runtime_use_the_device_layout(name, path):
  if name in ("training/steps", "runtime"):
    return
  words = {"pmap", "shard_map", "pmean", "psum", "axis_index"}
  counts = {"devices", "local_devices", "device_count", "local_device_count"}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Attribute):
      assert node.attr not in words, f"{name}, line {node.lineno}: {node.attr}"
      is_jax = isinstance(node.value, ast.Name) and node.value.id == "jax"
      assert not (is_jax and node.attr in counts), f"{name}, line {node.lineno}: {node.attr}"


def test_help_and_bad_commands_do_not_import_jax():
  program = """import contextlib, io, sys
from charrnn import cli
for argv in (["--help"], ["smaple"], []):
  with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    cli.main(argv)
print(sorted({"jax", "scipy", "matplotlib"} & {m.split(".")[0] for m in sys.modules}))"""
  command = [sys.executable, "-c", program]
  result = subprocess.run(command, capture_output=True, text=True, check=True)
  assert result.stdout == "[]\n"
  assert "did you mean sample?" in result.stderr


def test_commands_that_only_read_report_a_missing_run_without_jax():
  program = """import sys
from charrnn import cli
for argv in (["inspect", "x"], ["verify", "x"], ["diff", "x", "x"], ["export", "x", "y"]):
  assert cli.main(argv) == 2
assert cli.main(["compare", "x"]) == 2
print("jax" in sys.modules)"""
  command = [sys.executable, "-c", program]
  result = subprocess.run(command, capture_output=True, text=True, check=True)
  assert result.stdout == "False\n"


def test_every_command_has_a_module_and_every_module_is_a_command():
  modules = {path.stem for path in (ROOT / "cli").glob("*.py")}
  assert modules == set(cli.COMMANDS) | {"__init__", "__main__", "arguments", "reference"}
