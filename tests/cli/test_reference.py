"""The reference of commands: complete, and the same in every terminal."""

import argparse
import importlib
import pathlib

import pytest

from charrnn import cli, errors
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


@pytest.mark.parametrize("value", ["-- a comment", "--a = b", "--", "-- --x"])
def test_text_that_begins_with_dashes_is_a_value(value):
  parser = cli.parser("sample")
  words = [["--prime", value]] if " " in value else []
  for argv in [*words, [f"--prime={value}"]]:
    assert parser.parse_args(["runs/x", *argv]).prime == value


def test_words_after_two_dashes_are_no_options():
  args = cli.parser("eval").parse_args(["--json", "--", "runs/x", "--odd.txt", "--split"])
  assert (args.run, args.files, args.split) == ("runs/x", ["--odd.txt", "--split"], None)


@pytest.mark.parametrize("word", ["--prme", "--prme=a b", "--prme=--"])
def test_a_misspelled_option_is_an_error(word):
  with pytest.raises(errors.UserError, match=r"^unknown option --prme: did you mean --prime\?"):
    cli.parser("sample").parse_args(["runs/x", word])


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
