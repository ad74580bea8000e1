"""Training on words and byte pairs: resumed runs, initial weights, and errors at the start."""

import numpy as np
import pytest

from charrnn import config as config_lib
from charrnn import errors, files
from charrnn.data import tokenizers
from charrnn.runs import checkpoints, metrics, weights
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


@pytest.mark.parametrize("kind", [pytest.param("word", marks=pytest.mark.long), "bpe"])
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


@pytest.mark.long
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


def exported(workdir, path):
  run = run_lib.Run.open(workdir)
  meta = {"config": config_lib.to_json(run.config), "tokenizer": run.tokenizer.to_json(), "step": 2}
  weights.write(path, checkpoints.flatten(run.params), meta)
  return path


@pytest.mark.long
def test_an_export_starts_a_run_like_the_run_itself(main, tmp_path):
  source = train(main, tmp_path / "source", "max_steps=2")
  path = exported(source, tmp_path / "x.safetensors")
  runs = []
  for name, value in (("run", source), ("file", path)):
    train(main, tmp_path / name, f"init_from={value}", "max_steps=2")
    runs.append(run_lib.Run.open(tmp_path / name))
  assert losses(runs[0].path) == losses(runs[1].path)
  assert runs[0].origin["weights"] == runs[1].origin["weights"]
  path.unlink()  # A run that is resumed does not need it.
  train(main, tmp_path / "file", f"init_from={path}", "max_steps=4")


@pytest.mark.parametrize(
  "kind", ["bpe", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("char", "word"))]
)
def test_a_run_can_keep_the_vocabulary_of_its_source(main, folder, tmp_path, kind):
  new = tmp_path / "new.txt"
  new.write_text("To be, and then: " * 60)
  fields = [f"text.tokenizer={kind}", "max_steps=2"]
  source = train(main, tmp_path / "source", *fields)
  fields += [f"text.source={new}", f"init_from={source}", "text.vocabulary=init_from"]
  workdir = train(main, tmp_path / "tuned", *fields)
  train(main, workdir, *fields[:1], "max_steps=4", *fields[2:])  # resumed
  old, run = run_lib.Run.open(source).tokenizer, run_lib.Run.open(workdir)
  added = {*"T,:d"} if kind == "char" else set()  # Other kinds can read all texts.
  assert set(run.tokenizer.tokens) == {*old.tokens, *added}
  corpus = run.corpus()
  assert corpus.tokenizer == run.tokenizer and len(run.metrics) > 2
  if kind == "char":
    assert run.tokenizer.decode(corpus.ids) == new.read_text()
    assert list(run.tokenizer.tokens) == sorted(run.tokenizer.tokens)


def test_weights_without_a_vocabulary_need_as_many_tokens(main, folder, tmp_path, capsys):
  source = train(main, tmp_path / "source", "max_steps=2")
  params = run_lib.Run.open(source).params
  layer, head = params["layer_0"], params["head"]
  arrays = {"lstm.weight_ih_l0": layer["W_xh"].T, "lstm.weight_hh_l0": layer["W_hh"].T}
  arrays |= {"lstm.bias_ih_l0": layer["b_h"], "lstm.bias_hh_l0": np.zeros_like(layer["b_h"])}
  arrays |= {"head.weight": head["W_hy"].T, "head.bias": head["b_y"]}
  path = tmp_path / "torch.npz"
  np.savez(path, **arrays)
  for name, value in (("run", source), ("torch", path)):
    train(main, tmp_path / name, f"init_from={value}", "max_steps=2")
  assert "warning: " in capsys.readouterr().err
  assert losses(tmp_path / "run") == losses(tmp_path / "torch")
  (tmp_path / "other.txt").write_text("abc " * 300)
  with pytest.raises(errors.UserError, match="tokens and no vocabulary, but this corpus has 4"):
    train(main, tmp_path / "x", f"init_from={path}", f"text.source={tmp_path / 'other.txt'}")


@pytest.mark.parametrize(
  "fields, message",
  [
    (["text.vocab_size=300"], "text.vocab_size=300: only for the tokenizers word and bpe"),
    (["text.tokenizer=bpe", "text.vocab_size=9"], "text.vocab_size=9: must be from 256"),
    (["text.tokenizer=word", "text.split=streams"], "text.split=streams: needs the tokenizer char"),
    (["text.vocabulary=init_from"], "needs --config.init_from"),
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
