"""The README's commands are the ones that work: each option that it names exists."""

import pathlib
import re
import shlex

import pytest

from charrnn import cli, config

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = re.findall(r"^(?:charrnn|python launch\.py) .*$", (ROOT / "README.md").read_text(), re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_readme_parses(command, monkeypatch):
  monkeypatch.chdir(ROOT)
  words = shlex.split(command, comments=True)
  if words[0] == "charrnn":
    cli.parser().parse_args(words[1:])
  else:
    import launch

    monkeypatch.syspath_prepend(ROOT)
    config.parse(words[1:], launch.define)


def test_there_are_commands_to_test():
  assert len(COMMANDS) > 10
