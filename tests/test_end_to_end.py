"""The programs one after another, as a user runs them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CHARRNN = [sys.executable, "-m", "charrnn.cli"]
LAUNCH = [sys.executable, str(ROOT / "launch.py")]
TEXT = "".join(f"{n} green bottles hanging on the wall,\n" for n in range(99, 0, -1)) * 8


def call(*words, code=0, **kwargs):
  """Run a program to its end; return stdout and stderr."""
  done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **kwargs)
  assert done.returncode == code, done.stderr
  assert "Traceback" not in done.stderr
  return done.stdout, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """Return a folder with a text and a run of it with default settings, and the messages."""
  folder = tmp_path_factory.mktemp("place")
  (folder / "song.txt").write_text(TEXT)
  shutil.copytree(ROOT / "experiments", folder / "experiments")
  _, messages = call(*LAUNCH, "--config=experiments/own_text.py:song.txt", cwd=folder)
  return folder, messages


def test_a_run_reports_what_it_does_and_the_next_commands(place):
  folder, messages = place
  for word in ("song.txt", "characters", "parameters", "validation", "loss.png", "charrnn sample"):
    assert word in messages
  assert "by the amount of text" in messages
  run = folder / "runs/own_text-song.txt"
  for name in ("config.json", "run.json", "alphabet.json", "metrics.jsonl", "loss.png"):
    assert (run / name).stat().st_size > 0
  assert list((run / "samples").glob("*.txt")) and list(run.glob("events.out.*"))


def test_it_learned_the_song(place):
  """Greedy text goes on counting bottles; uniform guessing would be log 30, about 3.4 nats."""
  folder, _ = place
  text, _ = call(*CHARRNN, "sample", "runs/own_text-song.txt", "--temperature=0", cwd=folder)
  assert "green bottles hanging on the wall,\n" in text
  out, _ = call(*CHARRNN, "eval", "runs/own_text-song.txt", "--split=test", "--json", cwd=folder)
  assert json.loads(out)["results"][0]["nats"] < 0.4


def test_eval_scores_a_text_the_same_in_many_streams_and_in_one(place):
  folder, _ = place
  nats = []
  for streams in ("1", "8"):
    words = ("eval", "runs/own_text-song.txt", "song.txt", "--json", "--streams", streams)
    out, _ = call(*CHARRNN, *words, cwd=folder)
    result = json.loads(out)["results"][0]
    assert result["characters"] == len(TEXT) - 1
    nats.append(result["nats"])
  assert abs(nats[0] - nats[1]) < 2e-3


def test_the_same_command_again_trains_nothing(place):
  folder, _ = place
  before = (folder / "runs/own_text-song.txt/metrics.jsonl").read_bytes()
  _, messages = call(*LAUNCH, "--config=experiments/own_text.py:song.txt", cwd=folder)
  assert "best validation loss" in messages
  assert (folder / "runs/own_text-song.txt/metrics.jsonl").read_bytes() == before


def test_unknown_characters_are_named(place):
  folder, _ = place
  words = ("sample", "runs/own_text-song.txt", "--prime", "bottles é")
  out, messages = call(*CHARRNN, *words, code=2, cwd=folder)
  assert not out and "'é' (U+00E9)" in messages


def test_inspect_verify_export(place):
  folder, _ = place
  run = "runs/own_text-song.txt"
  facts = json.loads(call(*CHARRNN, "inspect", run, "--json", cwd=folder)[0])
  assert facts
  call(*CHARRNN, "verify", run, cwd=folder)
  call(*CHARRNN, "diff", run, run, cwd=folder)
  call(*CHARRNN, "export", run, "song.safetensors", cwd=folder)
  assert (folder / "song.safetensors").stat().st_size > 1000


def test_corpus_shows_a_text(place):
  folder, _ = place
  out, _ = call(*CHARRNN, "corpus", "song.txt", cwd=folder)
  assert "green bottles" in out and f"{len(TEXT):,}" in out
  listed, _ = call(*CHARRNN, "corpus", cwd=folder)
  assert "shakespeare" in listed


@pytest.mark.parametrize(
  ("words", "names"),
  [
    ((), "--config"),
    (("--config=experiments/none.py",), "experiments/none.py"),
    (("--config=experiments/own_text.py:none.txt",), "none.txt"),
    (("--config=experiments/own_text.py:song.txt", "--config.batch_size=1.5"), "batch_size"),
    (("--config=experiments/own_text.py:song.txt", "--config.no_such_field=1"), "no_such_field"),
    (("--config=experiments/own_text.py:song.txt", "--config.model.cell=lst"), "lstm"),
  ],
)
def test_bad_input_is_one_line(place, words, names):
  folder, _ = place
  _, messages = call(*LAUNCH, *words, code=2, cwd=folder, env=os.environ | {"PYTHONWARNINGS": ""})
  assert names in messages and len(messages.strip().splitlines()) <= 2
