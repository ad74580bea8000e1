"""The rooms of the house, read from the source: who may import whom, and who knows JAX."""

import ast
import pathlib
import subprocess
import sys

import pytest

import charrnn

ROOT = pathlib.Path(charrnn.__file__).parent
# A room imports only from itself and from rooms above it.
ROOMS = [
  "errors",
  "terminal",
  "config",
  "text",
  "startup",
  "models",
  "training",
  "sampling",
  "analysis",
  "scorecards",
  "launching",
  "benchmarks",
  "commands",
  "cli",
]
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
NAMES = [path.relative_to(ROOT).with_suffix("").as_posix() for path in FILES]
EACH = [pytest.param(name, path, id=name) for name, path in zip(NAMES, FILES)]
ACCELERATED = {"jax", "jaxlib", "flax", "optax", "orbax"}
# Rooms and files that work where JAX is not installed.
WITHOUT_JAX = (
  "errors",
  "terminal",
  "config",
  "text/",
  "analysis/c_labels",
  "analysis/canvas",
  "analysis/chance",
  "analysis/comparison",
  "analysis/comparison_pictures",
  "analysis/confirm",
  "analysis/correlate",
  "analysis/explorer",
  "analysis/findings",
  "analysis/halves",
  "analysis/hypotheses",
  "analysis/labels",
  "analysis/lookup",
  "analysis/match",
  "analysis/loss_curves",
  "analysis/mistakes",
  "analysis/pages",
  "analysis/ngrams",
  "analysis/pictures",
  "analysis/ranks",
  "analysis/scores",
  "analysis/size_laws",
  "analysis/surprisal_page",
  "analysis/targets",
  "scorecards/",
  "launching/job",
  "launching/record",
  "launching/resources",
  "launching/slurm",
  "launching/surroundings",
  "launching/sweep",
  "launching/experiment",
  "launching/plans",
  "launching/search",
  "launching/spaces",
  "launching/trials",
  "models/ngram",
  "models/ngram_counts",
  "models/sizes",
  "sampling/automata",
  "sampling/options",
  "sampling/regexes",
  "sampling/stream",
  "commands/compare",
  "commands/compared_runs",
  "commands/comparison_report",
  "cli",
)


def without_jax(name):
  """Whether a file is listed, or in a room that is: a file's name may begin like another's."""
  return name in WITHOUT_JAX or f"{name.partition('/')[0]}/" in WITHOUT_JAX


def imports(path):
  """Every module that a file imports, also inside of functions, by its full name."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path}: a relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("name", "path"), EACH)
def test_a_room_imports_only_from_rooms_above_it(name, path):
  room = name.partition("/")[0]
  assert room in ROOMS
  allowed = ROOMS[: ROOMS.index(room) + 1]
  for module in imports(path):
    if module.startswith("charrnn."):
      other = module.split(".")[1]
      assert other in allowed or other == "__version__", f"{name} imports {module}"


@pytest.mark.parametrize(("name", "path"), EACH)
def test_only_some_rooms_know_jax(name, path):
  if without_jax(name):
    assert not {module.split(".")[0] for module in imports(path)} & ACCELERATED


@pytest.mark.parametrize(("name", "path"), EACH)
def test_only_the_steps_know_how_many_devices_there_are(name, path):
  if name in ("training/steps", "startup"):
    return
  words = {"pmap", "shard_map", "pmean", "psum", "axis_index"}
  counts = {"devices", "local_devices", "device_count", "local_device_count"}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Attribute):
      assert node.attr not in words, f"{name}, line {node.lineno}: {node.attr}"
      of_jax = isinstance(node.value, ast.Name) and node.value.id == "jax"
      assert not (of_jax and node.attr in counts), f"{name}, line {node.lineno}: {node.attr}"


def test_text_and_settings_load_without_jax():
  modules = [n.replace("/", ".") for n in NAMES if without_jax(n) and n != "cli"]
  modules += ["training.runs", "training.sizing", "launching.train", "launching.count", "startup"]
  lines = [f"import charrnn.{module.removesuffix('.__init__')}" for module in modules]
  check = f"import sys; print(sorted({ACCELERATED} & {{m.split('.')[0] for m in sys.modules}}))"
  program = "\n".join([*lines, check])
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  assert done.stdout == "[]\n"


def test_a_command_line_is_read_without_jax():
  """Nor SciPy, which takes a second, and asks for the number of cores when it is loaded."""
  check = f"""import sys
from charrnn import cli
cli.parser()
print(sorted({ACCELERATED | {"scipy"}} & {{m.split('.')[0] for m in sys.modules}}))"""
  done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
  assert done.stdout == "[]\n"
