"""The commands of the README run as written; the docs use only existing options."""

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


BLOCKS = pages.blocks(pages.README)
SLOW = ("charrnn cells", "charrnn scorecard", "--sweep")  # These take minutes.


def test_the_first_two_commands_install_and_run_everything():
  first, second = BLOCKS[:2]
  assert first == ("sh", f"{INSTALL} && {TRAIN}\n")
  assert second == ("sh", f"{INSTALL} -e '.[test]' && python -m pytest\n")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
  """Return a folder with the files of a checkout, a text, and a run of a smaller network."""
  folder = tmp_path_factory.mktemp("readme")
  for name in ("launch.py", "experiments"):
    (folder / name).symlink_to(pages.ROOT / name)
  (folder / "book.txt").write_text("It was the best of times, it was the worst of times.\n" * 400)
  fields = "--config.model.hidden=16 --workdir=runs/shakespeare"
  pages.run(folder, "sh", f"{TRAIN}:smoke {fields}")
  return folder


@pytest.mark.parametrize(
  ("language", "code"),
  [
    pytest.param(*block, marks=[pytest.mark.long] if any(each in block[1] for each in SLOW) else [])
    for block in BLOCKS[2:]
  ],
)
def test_a_block_runs_as_written(workplace, language, code):
  pages.run(workplace, language, code)


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
  assert len(COMMANDS) > 10 and len(BLOCKS) > 7
