"""Tests of dividing a corpus of several documents into training and held-out text."""

import pathlib

import pytest

from charrnn import config as config_lib
from charrnn import errors
from charrnn.runs import held_out
from charrnn.runs import run as run_lib


@pytest.fixture
def config(tmp_path, monkeypatch):
  monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
  folder = tmp_path / "texts"
  folder.mkdir()
  for name in ("a", "b", "c"):
    lines = (f"{name} line {n}" for n in range(100))
    pathlib.Path(folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
  config = config_lib.default()
  config.text.source = str(folder)
  config.batch_size, config.window = 4, 10
  return config


@pytest.mark.parametrize("kind", ["tail", "middle", "streams"])
@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_texts_and_passages_match_the_corpus(config, kind, tokenizer):
  config.text.split, config.text.tokenizer = kind, tokenizer
  corpus = run_lib.load_corpus(config)
  splits = config_lib.split(config, len(corpus.ids))
  divided = held_out.divide(corpus, splits)
  decoded = corpus.tokenizer.decode(corpus.ids[:])
  for text, spans in (
    (divided.training, splits.train),
    (divided.held_out, [*splits.valid, *splits.test]),
  ):
    assert text.text == "".join(decoded[a:b] for a, b in sorted(spans))
    assert [each.start for each in text.passages[1:]] == [e.stop for e in text.passages[:-1]]
    for passage in text.passages:
      lines = text.text[passage.start : passage.stop].split("\n")
      # The second of several lines is complete. Its text contains its line number, counted from 0.
      if len(lines) > 2:
        name = pathlib.Path(passage.name).stem
        assert lines[1] == f"{name} line {passage.line}"


def test_error_without_held_out_text(config):
  config.text.valid_fraction = config.text.test_fraction = 0.0
  corpus = run_lib.load_corpus(config)
  splits = config_lib.split(config, len(corpus.ids))
  with pytest.raises(errors.UserError, match="has no held-out text"):
    held_out.divide(corpus, splits)
