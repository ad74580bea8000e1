"""The commands of the README and the docs: each option that they name exists."""

import pathlib
import re
import shlex

import pytest

from charrnn import cli

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
  command
  for page in PAGES
  for command in re.findall(r"^(?:charrnn|python launch\.py) .*$", page.read_text(), re.M)
  if "config.json" not in command  # of a run that is not there
]


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
