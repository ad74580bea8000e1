"""The kernel text does not depend on where its source is found; damaged archives are detected."""

import hashlib
import lzma
import os
import shutil
import tarfile

import packages
import pytest

from charrnn import errors
from charrnn.data import corpora, kernel

MAKEFILE = b"# SPDX\nVERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 192\nEXTRAVERSION =\n"
KERNEL = {
  "kernel/fork.c": b"fork();\n",
  "kernel/sched/core.c": b"schedule();\n" * 9,
  "kernel/sched/sched.h": "/* © */\n".encode(),
  "kernel/old.c": b"/* M\xe9 */\n",
}
OTHER_FOLDERS = {
  "drivers/usb/hub.c": b"hub();\n" * 5,
  "drivers/usb/hub.h": b"hub;\n",
  "drivers/usbip/stub.c": b"stub;\n",
  "include/linux/sched.h": b"struct;\n" * 30,
}
OTHER_FILES = {"Makefile": MAKEFILE, "kernel/Makefile": b"VERSION = 7\n", "README": b"no"}
TREE = OTHER_FILES | KERNEL | OTHER_FOLDERS
TAR = packages.tarball({f"linux-6.1/{name}": content for name, content in TREE.items()})
DEB = packages.deb({"./usr/src/linux-source-6.1.tar.xz": TAR})
DPKG_DEB = shutil.which("dpkg-deb") or "/none"

APT = """#!/bin/sh
case "$2" in
  --names-only) printf '%s' "$OFFERED" ;;
  *) echo "$2" >> "$CALLS"; echo "W: a hint" >&2
     [ -z "$FAILS" ] || { printf 'E: %s\\nE: more\\n' "$FAILS" >&2; exit 100; }
     cp "$DEB" "$2_6.1.192-2_all.deb" ;;
esac
"""


@pytest.fixture(autouse=True)
def system(tmp_path, monkeypatch):
  """Replace /usr/src by an empty folder and hide apt-get; return the folder."""
  folder = tmp_path / "src"
  for path in (folder, tmp_path / "bin", tmp_path / "cache"):
    path.mkdir()
  (tmp_path / "bin" / "dpkg-deb").symlink_to(DPKG_DEB)
  monkeypatch.setattr(kernel, "_SYSTEM", folder)
  monkeypatch.setenv("PATH", str(tmp_path / "bin"))
  return folder


@pytest.fixture
def apt(tmp_path, monkeypatch):
  """Install a fake apt-get that offers three packages; return its log of downloads."""
  for name in ("apt-get", "apt-cache"):
    path = tmp_path / "bin" / name
    path.write_text(APT)
    path.chmod(0o755)
  (tmp_path / "the.deb").write_bytes(DEB)
  offered = "".join(f"linux-source-{version} - source\n" for version in ("6.1", "6.12", "6.9"))
  variables = {"OFFERED": offered, "DEB": tmp_path / "the.deb", "CALLS": tmp_path / "calls"}
  for name, value in {**variables, "FAILS": "", "PATH": f"{tmp_path / 'bin'}:/bin"}.items():
    monkeypatch.setenv(name, str(value))
  return tmp_path / "calls"


def _write_tree(folder, files=TREE):
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _whole(corpus):
  return corpus.text(0, len(corpus.ids))


def _documents(source):
  corpus = corpora.load(source)
  return {d.name: corpus.text(d.start, d.stop) for d in corpus.documents}


def test_the_newest_package_is_downloaded_once(apt, cache_folder):
  corpus = corpora.load("linux")
  assert {d.name for d in corpus.documents} == KERNEL.keys()
  assert corpus.provenance["package"] == "linux-source-6.12 6.1.192-2"
  assert corpus.provenance["version"] == "6.1.192"
  corpora.load("linux")
  assert _documents("linux:drivers/usb")["drivers/usb/hub.h"] == "hub;\n"
  assert apt.read_text() == "linux-source-6.12\n"
  assert not list(cache_folder.glob(".building-*"))


def test_files_that_are_not_utf8_are_read_as_latin1(system):
  _write_tree(system / "linux-6.1")
  documents = _documents("linux")
  assert documents["kernel/sched/sched.h"] == "/* © */\n"
  assert documents["kernel/old.c"] == "/* Mé */\n"


def test_a_tree_a_tarball_and_a_package_give_the_same_text(system, cache_folder):
  (cache_folder / "linux-source-6.1_6.1.192-2_all.deb").write_bytes(DEB)
  sources = ("linux", "linux:all", "linux:paper")
  by_deb = [corpora.load(source) for source in sources]
  (system / "linux-source-6.1.tar.xz").write_bytes(TAR)
  by_tarball = [corpora.load(source) for source in sources]
  _write_tree(system / "linux-6.1.192")
  by_tree = [corpora.load(source) for source in sources]
  for source, *corpora_ in zip(sources, by_deb, by_tarball, by_tree):
    assert len({corpus.provenance["sha256"] for corpus in corpora_}) == 1, source
    assert len({corpus.documents for corpus in corpora_}) == 1, source
  origins = [corpus[0].provenance.get("origin") for corpus in (by_deb, by_tarball, by_tree)]
  assert origins == [None, f"{system}/linux-source-6.1.tar.xz", f"{system}/linux-6.1.192"]


def test_the_newest_tree_is_used_and_headers_are_ignored(system):
  for version in ("6.9", "6.12", "6.2"):
    _write_tree(system / f"linux-{version}", {**KERNEL, "kernel/fork.c": version.encode()})
  _write_tree(system / "linux-headers-7.0", {"kernel/bounds.h": b""})
  assert _documents("linux")["kernel/fork.c"].strip() == "6.12"


def test_a_part_is_a_folder_or_the_whole_tree(system):
  (system / "linux-6.1.tar.xz").write_bytes(TAR)
  usb = {"drivers/usb/hub.c", "drivers/usb/hub.h"}
  assert _documents("linux:drivers/usb").keys() == usb
  assert corpora.load("linux:/drivers/usb/").name == "linux:drivers/usb"
  assert _documents("linux:all").keys() == KERNEL.keys() | OTHER_FOLDERS.keys()
  assert corpora.load("linux:kernel").name == corpora.load("linux:").name == "linux"


def test_links_in_a_tree_are_skipped(system):
  _write_tree(system / "linux-6.1")
  (system / "linux-6.1/kernel/again.c").symlink_to("fork.c")
  assert _documents("linux").keys() == KERNEL.keys()


@pytest.mark.parametrize("part", ["nope", "drivers/us", "kernel/fork.c", "..", "../linux-6.1"])
@pytest.mark.parametrize("tree", [False, True])
def test_an_unknown_part_is_reported_and_leaves_no_files(system, cache_folder, part, tree):
  if tree:
    _write_tree(system / "linux-6.1")
  else:
    (system / "linux-6.1.tar.xz").write_bytes(TAR)
  with pytest.raises(
    errors.UserError, match=r"has no folder .*use linux:all for the whole tree"
  ) as caught:
    corpora.load(f"linux:{part}")
  assert "\n" not in str(caught.value)
  assert not list(cache_folder.iterdir())


@pytest.fixture
def plain(system):
  """Write a tarball of 50 ASCII files to /usr/src; return the folder."""
  files = {f"linux-6.1/lib/{n}.c": f"{n};\n".encode() * (1 + n % 7) for n in range(50)}
  (system / "linux-6.1.tar.xz").write_bytes(packages.tarball(files))
  return system


@pytest.mark.parametrize("limit", [1, 100, 101, 102, 103, 10**9])
def test_the_papers_text_is_the_beginning_of_all_files(plain, monkeypatch, cache_folder, limit):
  monkeypatch.setattr(kernel, "_PAPER_BYTES", limit)
  paper, everything = corpora.load("linux:paper"), corpora.load("linux:all")
  assert _whole(paper) == _whole(everything)[:limit]
  assert paper.provenance["bytes"] == min(limit, len(everything.ids))
  names = [document.name for document in everything.documents]
  assert names == sorted(names, key=lambda n: hashlib.sha256(f"2015 {n}".encode()).hexdigest())
  unpacked = [len(list(folder.rglob("*.c"))) for folder in cache_folder.glob("unpacked-*")]
  assert sorted(unpacked) == sorted([len(paper.documents), 50])


def test_an_incomplete_character_at_the_papers_limit_is_dropped(system, monkeypatch):
  _write_tree(system / "linux-6.1", {"kernel/fork.c": "é😀".encode()})
  for limit, text in ((2, "é"), (3, "é"), (5, "é"), (6, "é😀")):
    monkeypatch.setattr(kernel, "_PAPER_BYTES", limit)
    assert _whole(corpora.load("linux:paper")) == text


def test_a_changed_archive_with_the_same_name_is_unpacked_again(system):
  path = system / "linux-source-6.1.tar.xz"
  path.write_bytes(TAR)
  assert "fork" in _documents("linux")["kernel/fork.c"]
  path.write_bytes(packages.tarball({"linux-6.1/kernel/fork.c": b"clone();\n"}))
  assert _documents("linux") == {"kernel/fork.c": "clone();\n"}


def test_an_unchanged_archive_is_unpacked_only_once(system):
  path = system / "linux-source-6.1.tar.xz"
  path.write_bytes(TAR)
  before, status = _documents("linux"), path.stat()
  path.write_bytes(b"x" * status.st_size)
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
  assert _documents("linux") == before
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
  with pytest.raises(errors.UserError, match="cannot read the archive"):
    corpora.load("linux")


@pytest.mark.parametrize("size", [0, 100, len(TAR) - 8])
def test_a_damaged_archive_is_reported_and_leaves_no_files(cache_folder, size):
  path = cache_folder / "linux-source-6.1.tar.xz"
  path.write_bytes(TAR[:size])
  with pytest.raises(errors.UserError, match=r"cannot read the archive .*remove it") as caught:
    corpora.load("linux")
  assert "\n" not in str(caught.value)
  assert list(cache_folder.iterdir()) == [path]


@pytest.mark.parametrize(
  "variable, value, message",
  [
    ("PATH", "/nowhere", "no apt-get .*; download a tarball of it: curl -L "),
    ("OFFERED", "", "offers no linux-source package; run sudo apt-get update, or download a"),
    ("FAILS", "no net", "E: no net; run sudo apt-get install linux-source-6.12, or download"),
  ],
)
def test_a_missing_source_is_reported(apt, monkeypatch, cache_folder, variable, value, message):
  monkeypatch.setenv(variable, value)
  with pytest.raises(errors.UserError, match=message) as caught:
    corpora.load("linux")
  assert str(cache_folder) in str(caught.value)
  assert not list(cache_folder.iterdir())


def test_a_damaged_package_is_reported(apt, tmp_path, cache_folder):
  (tmp_path / "the.deb").write_bytes(DEB[: len(DEB) // 2])
  with pytest.raises(errors.UserError, match=r"cannot read the archive .*_all\.deb"):
    corpora.load("linux")
  assert [path.suffix for path in cache_folder.iterdir()] == [".deb"]


def test_a_misspelled_name_gives_a_hint():
  with pytest.raises(errors.UserError, match="did you mean linux"):
    corpora.load("linus")


FILES = {
  "linux-6.1/a.c": b"int a;\n" * 1000,
  "linux-6.1/deep/b.h": b"\xe9\0\n",
  "linux-6.1/README": b"no",
  "linux-6.1/link.c": None,
  "linux-6.1/../../evil.c": b"no",
  "/etc/c.c": b"1;",
  "top.c": b"no",
}
EXPECTED = [("a.c", b"int a;\n" * 1000), ("deep/b.h", b"\xe9\0\n"), ("etc/c.c", b"1;")]


def _write(path, content):
  path.write_bytes(content)
  return path


@pytest.mark.parametrize("suffix, mode", [("xz", "w:xz"), ("bz2", "w:bz2"), ("gz", "w:gz")])
@pytest.mark.parametrize("in_package", [False, True])
def test_members_are_read_unchanged(tmp_path, suffix, mode, in_package):
  tar = packages.tarball(FILES, mode)
  if in_package:
    installed = {"./usr/share/doc/x.tar.xz": b"no", f"./usr/src/linux-6.1.tar.{suffix}": tar}
    path = _write(tmp_path / "x.deb", packages.deb(installed, f"data.tar.{suffix}", mode))
  else:
    path = _write(tmp_path / f"x.tar.{suffix}", tar)
  assert list(kernel.members(path, (".c", ".h"))) == EXPECTED


def _negative(size: int) -> bytes:
  """Return a tarball whose first member has a negative size (base 256, as in GNU tar)."""
  header = bytearray(tarfile.TarInfo("linux-6.1/a.c").tobuf(tarfile.GNU_FORMAT))
  header[124:136] = b"\xff" + (size % 2**88).to_bytes(11, "big")
  header[148:156] = b" " * 8
  header[148:156] = b"%06o\0 " % sum(header)
  return lzma.compress(bytes(header) * 3 + bytes(1024))


@pytest.mark.parametrize("suffix, mode", [("xz", "w:xz"), ("bz2", "w:bz2"), ("gz", "w:gz")])
@pytest.mark.parametrize("in_package", [False, True])
@pytest.mark.parametrize("count", [1, 100])
def test_an_archive_that_unpacks_to_too_much_is_refused(
  tmp_path, monkeypatch, suffix, mode, in_package, count
):
  monkeypatch.setattr(kernel, "_MIN_BYTES", 1 << 16)
  monkeypatch.setattr(kernel, "_MAX_FILE", 1 << 20)
  zeros = bytes((1 << 21) // count)
  tar = packages.tarball({f"linux-6.1/{n}.c": zeros for n in range(count)}, mode)
  if in_package:
    path = _write(tmp_path / "x.deb", packages.deb({f"./usr/src/l.tar.{suffix}": tar}))
  else:
    path = _write(tmp_path / f"x.tar.{suffix}", tar)
  read = 0
  with pytest.raises(errors.UserError, match=r"unpacks to more than 20 times|is larger than 1 MiB"):
    for _, content in kernel.members(path, (".c",)):
      read += len(content)
  assert read <= 20 * len(tar) + (1 << 16)


WHOLE = packages.tarball(FILES)
PACKAGE = packages.deb({"./usr/src/linux-6.1.tar.xz": WHOLE})
NEGATIVE = PACKAGE[:120] + b"-60       " + PACKAGE[130:]  # the size of the second member


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("a.tar.xz", WHOLE[:-8], "."),
    ("a.tar.xz", WHOLE[: len(WHOLE) // 2], "."),
    ("a.tar.xz", b"", "."),
    ("a.tar.xz", b"not packed", "."),
    ("a.tar.gz", WHOLE, "."),
    ("a.tar.gz", packages.tarball(FILES, "w:gz")[:-4], "."),
    ("a.tar.bz2", packages.tarball(FILES, "w:bz2")[:-4], "."),
    ("a.deb", b"", "."),
    ("a.deb", PACKAGE[:30], "."),
    ("a.deb", PACKAGE[: len(PACKAGE) // 2], "."),
    ("a.deb", PACKAGE.replace(b"data.tar.xz", b"beta.tar.xz"), "."),
    ("a.deb", PACKAGE[:56] + b"size" + PACKAGE[60:], "."),
    ("a.deb", packages.deb({"./usr/bin/x": b""}), "no tarball in /usr/src"),
    ("a.deb", packages.deb({"./usr/src/a.tar.xz": WHOLE[:-8]}), "."),
    ("a.tar.xz", _negative(-1024), "is negative"),
    ("a.tar.xz", _negative(-(2**70)), "."),
    ("a.deb", packages.deb({"./usr/src/a.tar.xz": _negative(-512)}), "."),
    ("a.deb", NEGATIVE, "."),
    ("none.tar.xz", None, "No such file"),
  ],
)
def test_a_malformed_archive_is_reported_in_one_line(tmp_path, name, content, message):
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.UserError, match=message) as caught:
    list(kernel.members(path, (".c",)))
  text = str(caught.value)
  assert str(path) in text and "remove it" in text and "\n" not in text
