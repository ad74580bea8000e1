"""Documents: what they are, and how they are shuffled, split, packed into streams and scored."""

import collections

import numpy as np
import pytest

from charrnn import errors
from charrnn.data import batches, corpora, documents, downloads

NAMES = [f"{'abc'[n % 3]}{n:o}" for n in range(200)]
TEXTS = {  # text: its documents for each kind
  "a\nbb\n\nc d\n": {"lines": ["a", "bb", "c d"], "blank_lines": ["a\nbb", "c d"]},
  "\n\na\r\n\r\n\r\nb": {"lines": ["a", "b"], "blank_lines": ["a", "b"]},
  "a\n \t\n\n  b\n c\n\n": {"lines": ["a", " \t", "  b", " c"], "blank_lines": ["a", "  b\n c"]},
  "a\n  \n": {"lines": ["a", "  "], "blank_lines": ["a"]},
  " \n\r\r\n\n \t": {"lines": [" ", "\r", " \t"], "blank_lines": [" "]},
  "ä 😀 ": {"lines": ["ä 😀 "], "blank_lines": ["ä 😀 "]},
}


def _load(tmp_path, texts, **options):
  for number, text in enumerate(texts):
    (tmp_path / f"{number}.txt").write_bytes(text.encode())
  return corpora.load(str(tmp_path), **options)


def _documents(corpus) -> list[str]:
  """Return the texts of the documents in their order in the source, without their ends."""
  ends = len(corpus.tokenizer.texts[corpus.tokenizer.end_id])
  texts = {
    each.name: corpus.text(each.start, each.stop)[: -ends or None] for each in corpus.documents
  }
  return [texts[name] for name in sorted(texts, key=lambda name: int(name.rpartition(":")[2]))]


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("tokenizer", ["char", "byte"])
@pytest.mark.parametrize("kind", ["lines", "blank_lines"])
def test_documents_do_not_depend_on_the_block_size(tmp_path, monkeypatch, kind, tokenizer, block):
  monkeypatch.setattr(downloads, "BLOCK", block)
  for number, (text, expected) in enumerate(TEXTS.items()):
    (folder := tmp_path / str(number)).mkdir()
    split = ("tail", 0.0, 0.0)
    corpus = _load(folder, [text], documents=kind, tokenizer=tokenizer, split=split)
    assert _documents(corpus) == expected[kind], text
    ids, end_id = corpus.ids, corpus.tokenizer.end_id
    assert ids[0] == ids[-1] == end_id and corpus.documents[-1].stop == len(ids)
    assert not np.any((ids[1:] == end_id) & (ids[:-1] == end_id))  # There is no empty document.
    assert corpus.tokenizer.counts[end_id] == len(expected[kind]) + 1
    assert corpora.tokenizers.Tokenizer.from_json(corpus.tokenizer.to_json()) == corpus.tokenizer
    read = documents.read(corpus.tokenizer, corpora.read_text(str(folder / "0.txt")), kind)
    texts = corpus.tokenizer.decode(read.ids[1:])
    assert texts == "".join(each + corpus.tokenizer.end for each in expected[kind])


@pytest.mark.parametrize("kind", ["lines", "blank_lines", "files"])
@pytest.mark.parametrize("text", [*TEXTS, "", "\n \n"])
def test_the_documents_of_a_text(text, kind):
  expected = TEXTS.get(text, {}).get(kind) if kind != "files" else [text] * bool(text)
  if expected is not None:
    assert documents.texts(text, kind) == expected
  assert documents.texts("", kind) == documents.texts("\n", "lines") == []


def test_files_are_documents_without_a_separator(tmp_path):
  corpus = _load(tmp_path, ["a\nb\n", "", "c"], documents="files", split=("tail", 0.5, 0.0))
  assert sorted(corpus.text(each.start, each.stop) for each in corpus.documents) == ["a\nb\n", "c"]
  assert {each.name for each in corpus.documents} == {"0.txt:1", "2.txt:1"}


@pytest.mark.parametrize("fractions", [(0.05, 0.05), (0.3, 0.0), (0.0, 0.2), (0.0, 0.0)])
@pytest.mark.parametrize("count", [3, 10, 200])
def test_splits_do_not_cut_documents_and_contain_all_of_them(tmp_path, count, fractions):
  corpus = _load(
    tmp_path, ["\n".join(NAMES[:count])], documents="lines", split=("tail", *fractions)
  )
  layout = corpora.layout(corpus.provenance)
  bounds = documents.Bounds.of(corpus.ids, corpus.tokenizer.end_id)
  edges = [edge for spans in layout.splits for span in spans for edge in span]
  assert {*edges} <= {*bounds.starts.tolist(), *bounds.stops.tolist()}
  sizes = [len(bounds.within(spans).starts) for spans in layout.splits]
  assert sum(sizes) == count
  for size, fraction in zip(sizes[1:], fractions):
    assert (size > 0) == (fraction > 0) and abs(size - fraction * count) <= 2
  with_lists = {
    "splits": {
      name: [[*span] for span in spans] for name, spans in layout.splits._asdict().items()
    },
    "characters": len(corpus.ids),
  }
  assert corpora.is_valid_layout(with_lists) and corpora.layout(with_lists) == layout
  spans = [5, 2], [-1, 2], [5, len(corpus.ids) + 1]
  spoiled = [with_lists["splits"] | {"valid": [span]} for span in spans]
  for wrong in ([], {"train": []}, *spoiled):
    assert not corpora.is_valid_layout(with_lists | {"splits": wrong})


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"documents": "line"}, "documents=line: use none or lines or files or blank_lines"),
    ({"documents": "lines", "tokenizer": "word"}, "documents=lines: only for the tokenizers char"),
    ({"documents": "files"}, "the text is only 1 document, which cannot be divided into 3 splits"),
    ({"documents": "lines", "split": ("tail", 0.5, 0.5)}, "their sum must be below 1"),
  ],
)
def test_errors(tmp_path, options, message):
  with pytest.raises(errors.UserError, match=message):
    _load(tmp_path, ["a\nb\nc\n"], **options)


def test_a_text_without_documents_is_empty(tmp_path):
  with pytest.raises(errors.UserError, match="is empty"):
    _load(tmp_path, ["\n\n\n"], documents="lines")


def test_a_limit_ends_the_last_document(tmp_path):
  corpus = _load(tmp_path, ["aa\nbb\ncc\n"], documents="lines", limit=6, split=("tail", 0, 0))
  assert _documents(corpus) == ["aa", "bb"]
  corpus = _load(tmp_path, ["aa\nbb\ncc\n"], documents="lines", limit=5, split=("tail", 0, 0))
  assert _documents(corpus) == ["aa", "b"] and corpus.provenance["options"]["limit"] == 5


@pytest.fixture(name="text")
def _text():
  """Return ids of 60 documents, their bounds, and the id of END."""
  rng = np.random.default_rng(0)
  lengths = [1, 150, *rng.integers(1, 12, 58)]
  end_id = 9
  ids = np.concatenate([[end_id], *([*rng.integers(0, 9, n), end_id] for n in lengths)])
  return ids, documents.Bounds.of(ids, end_id), end_id


def _windows(text, batch=4, window=5, seed=3, **options):
  ids, bounds, end_id = text
  spans = [(1, int(bounds.stops[49]))]
  return batches.DocumentWindows(ids, spans, batch, window, end_id=end_id, seed=seed, **options)


def _streams(windows, steps):
  """Return the tokens that each stream reads in some steps: x and y, [T, B]."""
  pairs = [windows.window_at(step) for step in range(steps)]
  return [np.concatenate(each) for each in zip(*pairs)]


def _read(text, y_T) -> list[tuple]:
  """Return the complete documents that a stream reads."""
  cuts = np.flatnonzero(y_T == text[2]) + 1
  return [tuple(each.tolist()) for each in np.split(y_T, cuts)[:-1]]


@pytest.mark.parametrize("chunk", [1, 40, 1 << 18])
def test_streams_read_whole_documents_one_after_another(text, monkeypatch, chunk):
  monkeypatch.setattr(batches, "CHUNK", chunk)
  ids, bounds, end_id = text
  x, y = _streams(_windows(text), 120)
  assert (x[0] == end_id).all() and (x[1:] == y[:-1]).all()
  known = {tuple(ids[start:stop].tolist()) for start, stop in zip(*bounds.within([(1, 9999)]))}
  for stream in y.T:
    assert {*_read(text, stream)} <= known


def test_an_epoch_reads_each_document_once_in_an_order_of_its_own(text):
  ids, bounds, _ = text
  training = bounds.select(np.arange(50))
  w = _windows(text, batch=1)
  assert w.steps_per_epoch == training.lengths.sum() / 5
  _, y = _streams(w, round(3 * w.steps_per_epoch))
  read = _read(text, y[:, 0])
  epochs = [read[:50], read[50:100]]
  expected = collections.Counter(tuple(ids[a:b].tolist()) for a, b in zip(*training))
  assert all(collections.Counter(epoch) == expected for epoch in epochs)
  assert epochs[0] != epochs[1]
  other = _read(text, _streams(_windows(text, batch=1, seed=4), 100)[1][:, 0])
  assert other[:20] != read[:20]


def test_a_batch_depends_only_on_the_seed_and_the_step(text, monkeypatch):
  w = _windows(text)
  expected = [w.window_at(step) for step in range(90)]
  monkeypatch.setattr(batches, "CHUNK", 60)  # The chunks do not matter.
  other = _windows(text)
  for step in (71, 3, 89, 0, 40, 41):
    np.testing.assert_array_equal(other.window_at(step), expected[step])
    rows = slice(1, 3)  # of one of several processes
    np.testing.assert_array_equal(
      other.window_at(step, rows), [each[:, rows] for each in expected[step]]
    )


def test_too_few_tokens_for_a_step(text):
  with pytest.raises(errors.UserError, match="fewer than one step reads"):
    _windows(text, batch=400)


@pytest.mark.parametrize("streams", [1, 3, 7, 100])
@pytest.mark.parametrize("span", [(1, 400), (30, 44), (35, 301)])
def test_scoring_covers_each_token_once_and_streams_begin_at_documents(text, streams, span):
  ids, bounds, end_id = text
  windows = list(batches.scoring_windows(ids, [span], streams, 4, 6, (0,), end_id))
  first, count = windows[0], np.zeros(len(ids), int)
  for x, y, weight, positions in windows:
    np.add.at(count, positions[weight == 1], 1)
    assert (ids[positions[weight == 1]] == y[weight == 1]).all()
    assert (ids[positions[weight == 1] - 1] == x[weight == 1]).all()
  inside = np.zeros(len(ids), int)
  inside[slice(*span)] = 1
  np.testing.assert_array_equal(count, inside)
  begins = {*(bounds.starts.tolist()), span[0]}
  assert {*first.positions[0].tolist()} - {1} <= {*begins, *range(span[0] - 6, span[0] + 1)}
  assert (first.x[0][1:] == end_id).all()


def test_permutations_are_the_same_in_all_versions():
  assert documents.permutation(8, 1, 2).tolist() == [4, 2, 0, 6, 1, 5, 7, 3]


@pytest.mark.parametrize("kind", ["none", "lines"])
@pytest.mark.parametrize("names", [("valid",), ("test",), ("valid", "test")])
def test_splits_from_separate_sources(tmp_path, names, kind):
  texts = {"train": "ab\ncd\nef\n" * 20, "valid": "gh\nij\n" * 3, "test": "kl\n" * 5}
  for name, text in texts.items():
    (tmp_path / f"{name}.txt").write_text(text)
  held_out = {f"{name}_source": str(tmp_path / f"{name}.txt") for name in names}
  fractions = ("tail", 0.2, 0.2)
  path = str(tmp_path / "train.txt")
  corpus = corpora.load(path, documents=kind, split=fractions, **held_out)
  layout = corpora.layout(corpus.provenance)
  found = {
    name: "".join(corpus.text(*span) for span in spans)
    for name, spans in layout.splits._asdict().items()
  }
  for name in names:
    assert sorted(found[name].split("\n")) == sorted(texts[name].split("\n"))
  rest = "".join(found[name] for name in found if name not in names)
  assert sorted(rest.split("\n")) == sorted(texts["train"].split("\n"))
  assert all(found.values())
  if kind == "lines":
    assert len(corpus.documents) == 60 + 6 * ("valid" in names) + 5 * ("test" in names)
    last = corpus.documents[-1]
    assert last.name.startswith(names[-1])
  other = corpora.load(path, documents=kind, split=fractions)
  assert other.provenance["sha256"] != corpus.provenance["sha256"]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"tokenizer": "word"}, "needs the tokenizer char or byte"),
    ({"limit": 3}, "cannot be combined with --config.text.limit=3"),
    ({"split": ("streams", 0.1, 0.1)}, "cannot be combined with --config.text.split=streams"),
  ],
)
def test_separate_sources_that_cannot_be_used(tmp_path, options, message):
  (tmp_path / "a.txt").write_text("ab\n" * 9)
  path = str(tmp_path / "a.txt")
  with pytest.raises(errors.UserError, match=f"valid_source=.*a.txt: {message}") as error:
    corpora.load(path, valid_source=path, **options)
  assert "\n" not in str(error.value)
