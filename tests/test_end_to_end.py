"""The real programs, one after another, as a person would run them."""

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
  """Runs a program to its end and returns (stdout, stderr)."""
  done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **kwargs)
  assert done.returncode == code, done.stderr
  assert "Traceback" not in done.stderr
  return done.stdout, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with a text and a run trained on it with nothing else set."""
  folder = tmp_path_factory.mktemp("place")
  (folder / "song.txt").write_text(TEXT)
  shutil.copytree(ROOT / "experiments", folder / "experiments")
  _, said = call(*LAUNCH, "--config=experiments/own_text.py:song.txt", cwd=folder)
  return folder, said


def test_a_run_says_what_it_does_and_what_comes_next(place):
  folder, said = place
  for word in ("song.txt", "characters", "parameters", "validation", "loss.png", "charrnn sample"):
    assert word in said
  assert "by the amount of text" in said
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
  _, said = call(*LAUNCH, "--config=experiments/own_text.py:song.txt", cwd=folder)
  assert "best validation loss" in said
  assert (folder / "runs/own_text-song.txt/metrics.jsonl").read_bytes() == before


def test_unknown_characters_are_named(place):
  folder, _ = place
  words = ("sample", "runs/own_text-song.txt", "--prime", "bottles é")
  out, said = call(*CHARRNN, *words, code=2, cwd=folder)
  assert not out and "'é' (U+00E9)" in said


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
  _, said = call(*LAUNCH, *words, code=2, cwd=folder, env=os.environ | {"PYTHONWARNINGS": ""})
  assert names in said and len(said.strip().splitlines()) <= 2
