"""Training on words and byte pairs: resumed runs, initial weights, and errors at the start."""

import pytest

from charrnn import errors, files
from charrnn.data import tokenizers
from charrnn.runs import metrics
from charrnn.runs import run as run_lib

FAST = ("model.unroll=scan", "log_every=2", "eval_every=2", "checkpoint_every=2", "sample.length=5")


def _read(path):
  return tokenizers.Tokenizer.from_json(files.read_sealed(path), str(path))


def train(main, workdir, *fields):
  fields = [f"--config.{field}" for field in (*FAST, *fields)]
  assert main("--config=tiny.py", f"--workdir={workdir}", *fields) == 0
  return workdir


def losses(workdir):
  names = ("train/loss", "valid/loss", "valid/bits_per_byte")
  return [metrics.curve(metrics.read(workdir), name) for name in names]


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_run_is_resumed_with_its_own_vocabulary(main, tmp_path, capsys, kind):
  size = f"text.vocab_size={ {'word': 9, 'bpe': 270}[kind] }"
  fields = (f"text.tokenizer={kind}", size)
  whole = train(main, tmp_path / "whole", *fields, "max_steps=4")
  if kind == "word":
    assert "unknown   " in capsys.readouterr().err
  parts = train(main, tmp_path / "parts", *fields, "max_steps=2")
  # The size of the vocabulary is not repeated.
  train(main, parts, f"text.tokenizer={kind}", "max_steps=4")
  assert losses(parts) == losses(whole)
  assert all(curve for curve in losses(whole))
  run = run_lib.Run.open(parts)
  assert run.config.text.vocab_size == {"word": 9, "bpe": 270}[kind]
  assert run.tokenizer == run_lib.Run.open(whole).tokenizer == run.corpus().tokenizer
  assert run.status == "finished"


def test_weights_of_another_kind_of_tokens_are_refused(main, tmp_path):
  source = train(main, tmp_path / "source", "text.tokenizer=bpe", "max_steps=2")
  with pytest.raises(errors.UserError) as error:
    train(main, tmp_path / "new", f"init_from={source}", "max_steps=2")
  message = str(error.value)
  assert "has the tokenizer bpe, but this run has char: use --config.text.tokenizer=bpe" in message
  assert "\n" not in message
  fields = (f"init_from={source}", "text.tokenizer=bpe", "text.vocab_size=260", "max_steps=2")
  train(main, tmp_path / "smaller", *fields)
  assert run_lib.Run.open(tmp_path / "smaller").tokenizer.vocab_size == 260


@pytest.mark.parametrize(
  "fields, message",
  [
    (["text.vocab_size=300"], "text.vocab_size=300: only for the tokenizers word and bpe"),
    (["text.tokenizer=bpe", "text.vocab_size=9"], "text.vocab_size=9: must be from 256"),
    (["text.tokenizer=word", "text.split=streams"], "text.split=streams: needs the tokenizer char"),
    (["text.tokenizer=word", "sample.prime=unheard"], "not in the vocabulary: 'unheard'"),
  ],
)
def test_errors_are_one_line(main, tmp_path, fields, message):
  with pytest.raises(errors.UserError) as error:
    train(main, tmp_path / "run", *fields)
  assert message in str(error.value) and "\n" not in str(error.value)


def test_the_kind_of_tokens_cannot_change_on_resume(main, tmp_path):
  run = train(main, tmp_path / "run", "text.tokenizer=bpe", "max_steps=2")
  before = _read(run / "alphabet.json")
  for fields, name in [
    ([], "text.tokenizer"),
    (["text.tokenizer=bpe", "text.vocab_size=300"], "text.vocab_size"),
  ]:
    with pytest.raises(errors.UserError) as error:
      train(main, run, *fields, "max_steps=4")
    assert name in str(error.value) and "\n" not in str(error.value)
  assert _read(run / "alphabet.json") == before
