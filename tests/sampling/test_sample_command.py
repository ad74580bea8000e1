"""`charrnn sample`, with a model that recites the alphabet in place of a run."""

import argparse
import io
import json
import pathlib
import sys
import types

import numpy as np
import pytest
import toys

from charrnn import errors, startup
from charrnn.commands import sample
from charrnn.text import alphabet as alphabet_lib
from charrnn.training import runs

RECITED = "\nabcdefgh"


@pytest.fixture
def use(monkeypatch):
  """use(alphabet) makes it that of every run; the model counts through its ids."""

  def use(alphabet, params=None):
    def load(path, step=None):
      return types.SimpleNamespace(
        path=pathlib.Path(path),
        model=toys.Chain(),
        params=toys.cycle(alphabet.size) if params is None else params,
        alphabet=alphabet,
        config=None,
        step=step or 500,
        meta={"valid_loss": 1.25},
      )

    monkeypatch.setattr(runs, "load", load)
    monkeypatch.setattr(startup, "import_jax", lambda: None)  # would cache in the user's folder

  use(alphabet_lib.Alphabet.of_text(RECITED))
  return use


def run(*args):
  parser = argparse.ArgumentParser()
  sample.add_arguments(parser)
  assert not sample.run(parser.parse_args(["runs/x", *args]))


def test_without_a_prompt_a_line_end_stands_before_the_text(use, capsys):
  run("--length=20", "--seed=5")
  out, err = capsys.readouterr()
  assert out == (RECITED * 3)[1:21]
  first, last = err.splitlines()
  assert first == "runs/x: step 500, validation loss 1.2500, --seed=5"
  assert last.startswith("20 characters in ")


def test_the_text_begins_with_the_prompt(use, capsys):
  run("--prime=cab", "--length=3", "--quiet", "--step=7")
  assert capsys.readouterr() == ("cabcde", "")
  run("--prime=cab", "--length=0", "--quiet")
  assert capsys.readouterr() == ("cab", "")


def test_a_random_seed_is_said_and_repeats_the_text(use, capsys):
  use(alphabet_lib.Alphabet.of_text(RECITED), params=np.zeros((9, 9), np.float32))
  run("--length=40")
  text, err = capsys.readouterr()
  run("--length=40", "--quiet", err.splitlines()[0].split(", ")[-1])
  assert capsys.readouterr().out == text


def test_stop(use, capsys):
  run("--prime=abc", "--stop=abc", "--length=200", "--quiet")
  assert capsys.readouterr().out == "abcdefgh\n"


def test_samples_come_one_after_another(use, capsys):
  run("--num=3", "--prime=a", "--length=2")
  out, err = capsys.readouterr()
  assert out == "abc\n\nabc\n\nabc"
  assert [line for line in err.splitlines() if line.startswith("---")] == [
    f"--- sample {n} of 3" for n in (1, 2, 3)
  ]


def test_json(use, capsys):
  run("--json", "--num=2", "--prime=a", "--stop=\n", "--top-k=3", "--seed=1")
  lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  shared = {"text": "bcdefgh", "prime": "a", "seed": 1, "step": 500, "temperature": 1.0}
  shared |= {"top_k": 3, "top_p": None, "clamp": [], "stopped": True}
  assert lines == [shared | {"sample": n} for n in (1, 2)]


def test_a_prompt_from_a_file_or_stdin_is_not_altered(use, capsys, tmp_path, monkeypatch):
  use(alphabet_lib.Alphabet.of_text("a\r\n"))
  (tmp_path / "prompt").write_bytes(b"\r\na\r")
  run(f"--prime-file={tmp_path / 'prompt'}", "--length=1", "--quiet")
  assert capsys.readouterr().out == "\r\na\ra"
  monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\r\n")))
  run("--prime-file=-", "--length=0", "--quiet")
  assert capsys.readouterr().out == "\r\n"


def test_a_byte_alphabet_reads_any_file(use, capsys, tmp_path):
  use(alphabet_lib.Alphabet.of_text("x", "byte"))
  (tmp_path / "prompt").write_bytes("é".encode() + b"\xff\xc3")
  run(f"--prime-file={tmp_path / 'prompt'}", "--length=0", "--quiet")
  assert capsys.readouterr().out == "é\ufffd\ufffd"


@pytest.mark.parametrize(
  "args, message",
  [
    (["--temperature=-1"], "--temperature=-1.0: must be 0"),
    (["--top-k=0"], "--top-k=0: must be"),
    (["--top-p=nan"], "--top-p=nan: must be"),
    (["--length=-1"], "--length=-1: must be"),
    (["--num=0"], "--num=0: must be"),
    (["--seed=-1"], "--seed=-1: must be"),
    (["--stop="], "--stop: the text is empty"),
    (["--stop=az"], "--stop: would never come, not in the run's alphabet: 'z'"),
    (["--prime=az"], "not in the alphabet: 'z'"),
    (["--prime-file=/nowhere/x"], "--prime-file=/nowhere/x: No such file"),
  ],
)
def test_bad_arguments_are_named(use, capsys, args, message):
  with pytest.raises(errors.UserError) as error:
    run(*args)
  assert str(error.value).startswith(message)
  assert capsys.readouterr() == ("", "")


def test_a_prompt_file_that_is_not_text_is_named(use, tmp_path):
  (tmp_path / "prompt").write_bytes(b"ab\xff")
  with pytest.raises(errors.UserError, match="not UTF-8 at byte 2"):
    run(f"--prime-file={tmp_path / 'prompt'}")


class Terminal(io.TextIOWrapper):
  def isatty(self):
    return True


def printed(monkeypatch, file_type, *args):
  raw = io.BytesIO()
  monkeypatch.setattr("sys.stdout", file_type(raw, encoding="utf-8"))
  run("--quiet", *args)
  sys.stdout.flush()
  return raw.getvalue().decode()


def test_a_terminal_is_not_given_control_characters(use, monkeypatch):
  use(alphabet_lib.Alphabet.of_text("\t\n\r\x1bé\x9b\ud800"))
  text = "\n\r\x1b\x9bé?\t"
  assert printed(monkeypatch, io.TextIOWrapper, "--prime=\t", "--length=7") == "\t" + text
  shown = "\t\n\\x0d\\x1b\\x9bé?\t\n"
  assert printed(monkeypatch, Terminal, "--prime=\t", "--length=7") == shown
