"""The commands of the README run as written, in order; those of the docs name existing options."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from charrnn import cli

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.M | re.S)
COMMANDS = [
  command
  for page in PAGES
  for language, code in BLOCK.findall(page.read_text())
  for command in re.findall(r"^(?:charrnn|python launch\.py) .*$", code, re.M)
  if "config.json" not in command  # of a run that does not exist here
]
INSTALL = "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt"
TRAIN = "python launch.py --config=experiments/shakespeare.py"


def paste(language: str, code: str, folder: pathlib.Path):
  """Run a block of code in a folder as a reader would, with this interpreter first on the path."""
  program = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
  path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
  process = subprocess.run(
    [*program, code],
    check=False,
    cwd=folder,
    env={**os.environ, "PATH": path, "JAX_PLATFORMS": "cpu"},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    errors="replace",
  )
  assert process.returncode == 0, f"{code}\n{process.stdout}\n{process.stderr}"


def test_readme_commands_run_in_order(tmp_path):
  for name in ("launch.py", "experiments"):
    (tmp_path / name).symlink_to(ROOT / name)
  (tmp_path / "book.txt").write_text("It was the best of times, it was the worst of times.\n" * 400)
  (_, first), (_, second), *others = BLOCK.findall(README)
  assert first == f"{INSTALL} && {TRAIN}\n"  # long; a smaller network takes its place below
  assert second == f"{INSTALL} -e '.[test]' && python -m pytest\n"
  paste("sh", f"{TRAIN}:smoke --workdir=runs/shakespeare", tmp_path)
  assert len(others) > 5
  for language, code in others:
    paste(language, code, tmp_path)


def test_readme_is_short():
  assert len(README.splitlines()) <= 155


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command, monkeypatch):
  monkeypatch.chdir(ROOT)
  words = shlex.split(command.replace("$'", "'"), comments=True)
  if words[0] == "charrnn":
    cli.parser(words[1]).parse_args(words[2:])
  else:
    monkeypatch.syspath_prepend(ROOT)
    import launch

    launch.parse(words[1:])


def test_there_are_commands_to_test():
  assert len(COMMANDS) > 10
