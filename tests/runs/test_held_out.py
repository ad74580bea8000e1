"""The training part and the held-out part of a corpus of several documents."""

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
def test_the_parts_are_the_corpus_and_know_their_places(config, kind, tokenizer):
  config.text.split, config.text.tokenizer = kind, tokenizer
  corpus = run_lib.load_corpus(config)
  found = held_out.divide(corpus, config_lib.split(config, len(corpus.ids)), corpus.tokenizer)
  whole = corpus.tokenizer.decode(corpus.ids[:])
  for part, segments in (
    (found.training, found.splits.train),
    (found.held_out, [*found.splits.valid, *found.splits.test]),
  ):
    assert part.text == "".join(whole[a:b] for a, b in sorted(segments))
    assert [each.start for each in part.passages[1:]] == [e.stop for e in part.passages[:-1]]
    for passage in part.passages:
      lines = part.text[passage.start : passage.stop].split("\n")
      # The second line is whole, if there is one: it says its number, which counts from 0.
      if len(lines) > 2:
        name = pathlib.Path(passage.name).stem
        assert lines[1] == f"{name} line {passage.line}"


def test_no_held_out_text_is_one_line(config):
  config.text.valid_fraction = config.text.test_fraction = 0.0
  corpus = run_lib.load_corpus(config)
  splits = config_lib.split(config, len(corpus.ids))
  with pytest.raises(errors.UserError, match="all training text"):
    held_out.divide(corpus, splits, corpus.tokenizer)
