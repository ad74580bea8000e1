"""`charrnn corpus`: the list of named corpora, and the description of a corpus."""

import argparse
import json

import pytest

from charrnn.cli import corpus
from charrnn.data import sources


def run(*args):
  parser = argparse.ArgumentParser()
  corpus.add_arguments(parser)
  corpus.run(parser.parse_args([str(arg) for arg in args]))


def test_names_are_listed(capsys):
  run("--json")
  assert json.loads(capsys.readouterr().out) == sources.names()
  run()
  assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*sources.names()]


@pytest.mark.parametrize("option", ["--tokenizer=byte", "--alphabet=byte"])
def test_json_has_the_former_names_too(tmp_path, capsys, option):
  (tmp_path / "a.txt").write_bytes(b"a\xff")
  run(tmp_path / "a.txt", option, "--json")
  shown = json.loads(capsys.readouterr().out)
  assert shown["alphabet"]["kind"] == "byte"
  assert shown["alphabet"]["tokens"] == shown["alphabet"]["symbols"]
  assert shown["documents"] == [{"name": "a.txt", "start": 0, "stop": 2}]


def test_a_description_names_the_source(tmp_path, capsys):
  (tmp_path / "a.txt").write_text("first\nsecond\n")
  run(tmp_path / "a.txt")
  out = capsys.readouterr().out
  assert out.startswith("a.txt\n") and "| second" in out
