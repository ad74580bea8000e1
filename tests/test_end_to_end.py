"""The programs, run in sequence as a user would run them."""

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
  """Run a program, check its exit code, and return stdout and stderr."""
  result = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **kwargs)
  assert result.returncode == code, result.stderr
  assert "Traceback" not in result.stderr
  return result.stdout, result.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """Return a folder that contains a text and a run with default settings, and its messages."""
  folder = tmp_path_factory.mktemp("place")
  (folder / "song.txt").write_text(TEXT)
  shutil.copytree(ROOT / "experiments", folder / "experiments")
  _, messages = call(*LAUNCH, "--config=experiments/own_text.py:song.txt", cwd=folder)
  return folder, messages


def test_a_run_reports_what_it_does_and_the_next_commands(place):
  folder, messages = place
  for word in ("song.txt", "characters", "parameters", "validation", "loss.png", "charrnn sample"):
    assert word in messages
  assert "model.hidden=" in messages
  run = folder / "runs/own_text-song.txt"
  for name in ("config.json", "run.json", "alphabet.json", "metrics.jsonl", "loss.png"):
    assert (run / name).stat().st_size > 0
  assert list((run / "samples").glob("*.txt")) and list(run.glob("events.out.*"))


def test_the_model_learned_the_song(place):
  """The greedy sample contains the song. A uniform guess would score log 30, about 3.4 nats."""
  folder, _ = place
  text, _ = call(*CHARRNN, "sample", "runs/own_text-song.txt", "--temperature=0", cwd=folder)
  assert "green bottles hanging on the wall,\n" in text
  out, _ = call(*CHARRNN, "eval", "runs/own_text-song.txt", "--split=test", "--json", cwd=folder)
  assert json.loads(out)["results"][0]["nats"] < 0.4


@pytest.mark.long
def test_the_score_of_a_text_does_not_depend_on_the_number_of_streams(place):
  folder, _ = place
  nats = []
  for streams in ("1", "8"):
    words = ("eval", "runs/own_text-song.txt", "song.txt", "--json", "--streams", streams)
    out, _ = call(*CHARRNN, *words, cwd=folder)
    result = json.loads(out)["results"][0]
    assert result["characters"] == len(TEXT) - 1
    nats.append(result["nats"])
  assert abs(nats[0] - nats[1]) < 2e-3


def test_a_finished_run_is_not_trained_again(place):
  folder, _ = place
  before = (folder / "runs/own_text-song.txt/metrics.jsonl").read_bytes()
  _, messages = call(*LAUNCH, "--config=experiments/own_text.py:song.txt", cwd=folder)
  assert "best validation loss" in messages
  assert (folder / "runs/own_text-song.txt/metrics.jsonl").read_bytes() == before


def test_unknown_characters_are_reported(place):
  folder, _ = place
  words = ("sample", "runs/own_text-song.txt", "--prime", "bottles é")
  out, messages = call(*CHARRNN, *words, code=2, cwd=folder)
  assert not out and "'é' (U+00E9)" in messages


@pytest.mark.long  # A test of the README runs these commands as programs too.
def test_inspect_verify_diff_and_export(place):
  folder, _ = place
  run = "runs/own_text-song.txt"
  facts = json.loads(call(*CHARRNN, "inspect", run, "--json", cwd=folder)[0])
  assert facts
  call(*CHARRNN, "verify", run, cwd=folder)
  call(*CHARRNN, "diff", run, run, cwd=folder)
  call(*CHARRNN, "export", run, "song.safetensors", cwd=folder)
  assert (folder / "song.safetensors").stat().st_size > 1000


def test_corpus_describes_a_text_and_lists_names(place):
  folder, _ = place
  out, _ = call(*CHARRNN, "corpus", "song.txt", cwd=folder)
  assert "green bottles" in out and f"{len(TEXT):,}" in out
  out, _ = call(*CHARRNN, "corpus", cwd=folder)
  assert "shakespeare" in out


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
def test_bad_input_is_reported_briefly(place, words, names):
  folder, _ = place
  _, messages = call(*LAUNCH, *words, code=2, cwd=folder, env=os.environ | {"PYTHONWARNINGS": ""})
  assert names in messages and len(messages.strip().splitlines()) <= 2
