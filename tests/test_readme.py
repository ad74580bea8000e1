"""The commands of the README run as written, in order; the docs use only existing options."""

import re
import shlex

import pages
import pytest

from charrnn import cli

COMMANDS = [
  command
  for page in (pages.README, *pages.DOCS)
  for _, code in pages.blocks(page)
  for command in re.findall(r"^(?:charrnn|python launch\.py) .*$", code, re.M)
  if "config.json" not in command  # its run does not exist in this test
]
COMMANDS += pages.table_commands(pages.ROOT / "docs" / "tasks.md")
INSTALL = "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt"
TRAIN = "python launch.py --config=experiments/shakespeare.py"


def test_readme_commands_run_in_order(tmp_path):
  for name in ("launch.py", "experiments"):
    (tmp_path / name).symlink_to(pages.ROOT / name)
  (tmp_path / "book.txt").write_text("It was the best of times, it was the worst of times.\n" * 400)
  (_, first), (_, second), *others = pages.blocks(pages.README)
  assert first == f"{INSTALL} && {TRAIN}\n"  # takes minutes; a smaller network replaces it below
  assert second == f"{INSTALL} -e '.[test]' && python -m pytest\n"
  pages.run(tmp_path, "sh", f"{TRAIN}:smoke --workdir=runs/shakespeare")
  assert len(others) > 5
  for language, code in others:
    pages.run(tmp_path, language, code)


def test_readme_is_short():
  assert len(pages.README.read_text().splitlines()) <= 160


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command, monkeypatch):
  monkeypatch.chdir(pages.ROOT)
  command = re.sub(r" > \S+$", "", command.replace("$'", "'"))  # without a redirection
  words = shlex.split(command, comments=True)
  if words[0] == "charrnn":
    cli.parser(words[1]).parse_args(words[2:])
  else:
    monkeypatch.syspath_prepend(pages.ROOT)
    import launch

    launch.parse(words[1:] if words[0] == "python" else words)


def test_there_are_commands_to_test():
  assert len(COMMANDS) > 10
