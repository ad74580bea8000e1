"""The reference of commands: complete, and the same in every terminal."""

import argparse
import importlib
import pathlib

import pytest

from charrnn import cli
from charrnn.cli import reference

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "commands.md"
REGENERATE = (
  'python -c "import launch; from charrnn.cli import reference; '
  "print(reference.documentation(launch.__doc__), end='')\" > docs/commands.md"
)


@pytest.fixture(scope="module")
def documentation():
  return reference.documentation(importlib.import_module("launch").__doc__)


def test_the_page_is_up_to_date(documentation):
  assert PAGE.read_text() == documentation, f"regenerate docs/commands.md: {REGENERATE}"


def test_the_reference_does_not_depend_on_the_terminal(documentation, monkeypatch):
  monkeypatch.setenv("COLUMNS", "40")
  assert reference.documentation(importlib.import_module("launch").__doc__) == documentation


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_reference_lists_every_option_that_help_shows(documentation, command):
  section = documentation.partition(f"## charrnn {command}\n")[2].partition("\n## ")[0]
  for action in cli.parser(command)._actions:
    is_shown = action.help != argparse.SUPPRESS and action.dest != "help"
    for option in action.option_strings:
      assert (f"`{option}`:" in section or f"`{option} " in section) == is_shown


def test_the_reference_lists_every_option_of_launch(documentation):
  section = documentation.partition("## launch.py\n")[2].partition("\n## ")[0]
  for name in (*importlib.import_module("launch").SWEEP_FLAGS, "config", "workdir", "distributed"):
    assert f"`--{name}`" in section
