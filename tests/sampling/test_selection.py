"""Tests of the selection of distinct and novel texts."""

import types

import numpy as np
import pytest

from charrnn.data import corpora, splits, tokenizers
from charrnn.sampling import sampler, selection
from charrnn.scorecards import memorization

NAMES = ["anna", "joanna", "eli", "bea", "leo", "heli"]


def samples(texts, stopped=True):
  return [sampler.Sample(text, stopped, len(text), 0.0, 0.0) for text in texts]


def select(texts, num, distinct=True, training=None, stopped=True, prompt="", **options):
  selected = selection.Selection(distinct, training, **options)
  chosen = selected.select(samples(texts, stopped), num, prompt=prompt)
  return [each.text for each in chosen], selected


def test_distinct_texts_are_in_the_order_in_which_they_were_drawn():
  texts, selected = select(["b", "a", "b", "b", "c", "d"], 3)
  assert texts == ["b", "a", "c"]
  assert (selected.drawn, selected.repeated, selected.copied) == (5, 2, 0)
  texts, selected = select(["b", "b"], 3)
  assert texts == ["b"] and selected.drawn == 2


def test_every_draw_is_selected_repeated_or_copied():
  rng = np.random.default_rng(0)
  texts = ["".join(rng.choice(list("ab"), 3)) for _ in range(200)]
  training = selection.Training(("abba", "bbb"), None)
  chosen, selected = select(texts, 200, training=training)
  assert set(chosen) == set(texts) - {"abb", "bba", "bbb"} and len(set(chosen)) == len(chosen)
  assert selected.drawn == 200 == len(chosen) + selected.repeated + selected.copied
  repeated, _ = select(texts, 200, distinct=False, training=training)
  assert repeated == [text for text in texts if text in chosen]


def test_the_prompt_is_a_part_of_the_text():
  training = selection.Training(("anna",), None)
  assert select(["na", "no"], 2, training=training, prompt="an")[0] == ["no"]
  assert select(["na", "no"], 2, training=training)[0] == ["no"]
  assert select(["na", "no"], 2, training=training, prompt="x")[0] == ["na", "no"]


@pytest.mark.parametrize("end", range(3, 6))
def test_the_rest_of_a_character_of_the_prompt_is_in_the_samples(monkeypatch, end):
  """The prompt ends before, inside and after the last character of "café"."""
  tokenizer = tokenizers.Tokenizer.from_text("café", "byte")
  prompt = "café".encode()[:end]
  texts = ["é"[len(prompt.decode(errors="ignore")) - 3 :] + rest for rest in ("s", "t")]
  monkeypatch.setattr(sampler, "sample", lambda *_, **__: iter(samples(texts)))
  selected = selection.Selection(True, selection.Training(("cafés ét",), None))
  source = types.SimpleNamespace(tokenizer=tokenizer)
  ids = tokenizer.encode(prompt.decode(errors="surrogateescape"))
  assert len(ids) == end
  (chosen,) = selected.sample(source, ids, num=2, draws=2)
  assert chosen.text == texts[1] and selected.copied == 1


def run_on(tmp_path, monkeypatch, documents):
  """Return an object like a run, whose training split is about half of NAMES."""
  monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
  (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in NAMES))
  corpus = corpora.load(
    str(tmp_path / "names.txt"), documents=documents, split=("tail", 0.25, 0.25)
  )
  parts = corpora.layout(corpus.provenance).splits
  if documents == "none":
    n = len(corpus.ids)
    parts = splits.Splits((splits.Span(0, n // 2),), (splits.Span(n // 2, n),), ())
  return types.SimpleNamespace(
    corpus=lambda: corpus, splits=lambda: parts, tokenizer=corpus.tokenizer
  )


def test_a_text_is_novel_if_the_training_split_does_not_contain_it(tmp_path, monkeypatch):
  pytest.importorskip("pydivsufsort")
  training = selection.Training.of(run_on(tmp_path, monkeypatch, "none"))
  (text,) = training.texts
  whole = "".join(f"{name}\n" for name in NAMES)
  assert text == whole[: len(whole) // 2] and training.documents is None
  texts = ["anna", "joanna", "nnaj", "a\nj", "leo", "heli", "annaa", "zoe"]
  matches = memorization.match(text, texts)
  for each, match in zip(texts, matches):
    assert training.contains(each, True) == (match.lengths[0] == len(each))
  assert training.contains("anna", True) and not training.contains("heli", True)


def test_a_whole_document_is_compared_with_whole_documents(tmp_path, monkeypatch):
  run = run_on(tmp_path, monkeypatch, "lines")
  training = selection.Training.of(run)
  assert training.documents and training.documents < set(NAMES)
  name = max(training.documents, key=len)
  part = name[1:]
  options = {"training": training}
  assert select([name, part], 2, **options)[0] == [part]
  # The model did not end these texts.
  assert select([name, part], 2, stopped=False, **options)[0] == []
  assert select([name, part], 2, has_stop=True, **options)[0] == []


def test_a_text_that_is_cut_does_not_match_across_files(tmp_path, monkeypatch):
  monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
  (tmp_path / "names").mkdir()
  for name in NAMES:
    (tmp_path / "names" / name).write_text(name)
  corpus = corpora.load(str(tmp_path / "names"), documents="files", split=("tail", 0, 0))
  parts = corpora.layout(corpus.provenance).splits
  run = types.SimpleNamespace(
    corpus=lambda: corpus, splits=lambda: parts, tokenizer=corpus.tokenizer
  )
  training = selection.Training.of(run)
  assert training.documents == set(NAMES)
  for a in NAMES:
    assert training.contains(a[1:], False) and training.contains(a, False)
    assert not any(training.contains(a[-2:] + b[:2], False) for b in NAMES)
