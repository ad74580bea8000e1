"""Files come out of an archive as they went in, or one line says what is wrong with it."""

import packages
import pytest

from charrnn import errors
from charrnn.data import archives

FILES = {
  "linux-6.1/a.c": b"int a;\n" * 1000,
  "linux-6.1/deep/b.h": b"\xe9\0\n",
  "linux-6.1/README": b"no",
  "linux-6.1/link.c": None,
  "linux-6.1/../../evil.c": b"no",
  "/etc/c.c": b"1;",
  "top.c": b"no",
}
WANTED = [("a.c", b"int a;\n" * 1000), ("deep/b.h", b"\xe9\0\n"), ("etc/c.c", b"1;")]


def _write(path, content):
  path.write_bytes(content)
  return path


@pytest.mark.parametrize("suffix, mode", [("xz", "w:xz"), ("bz2", "w:bz2"), ("gz", "w:gz")])
@pytest.mark.parametrize("carried", [False, True])
def test_files_come_out_as_they_went_in(tmp_path, suffix, mode, carried):
  tar = packages.tarball(FILES, mode)
  if carried:
    installed = {"./usr/share/doc/x.tar.xz": b"no", f"./usr/src/linux-6.1.tar.{suffix}": tar}
    path = _write(tmp_path / "x.deb", packages.deb(installed, f"data.tar.{suffix}", mode))
  else:
    path = _write(tmp_path / f"x.tar.{suffix}", tar)
  assert list(archives.members(path, (".c", ".h"))) == WANTED


DEB = packages.deb({"./usr/src/linux-6.1.tar.xz": packages.tarball(FILES)})
TAR = packages.tarball(FILES)


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("a.tar.xz", TAR[:-8], "."),
    ("a.tar.xz", TAR[: len(TAR) // 2], "."),
    ("a.tar.xz", b"", "."),
    ("a.tar.xz", b"not packed", "."),
    ("a.tar.gz", TAR, "."),
    ("a.tar.gz", packages.tarball(FILES, "w:gz")[:-4], "."),
    ("a.tar.bz2", packages.tarball(FILES, "w:bz2")[:-4], "."),
    ("a.deb", b"", "not a Debian package"),
    ("a.deb", DEB[:30], "no data.tar"),
    ("a.deb", DEB[: len(DEB) // 2], "."),
    ("a.deb", DEB.replace(b"data.tar.xz", b"data.tar.zs"), "data.tar.zs is not packed with xz"),
    ("a.deb", DEB.replace(b"data.tar.xz", b"beta.tar.xz"), "no data.tar"),
    ("a.deb", DEB[:56] + b"size" + DEB[60:], "invalid literal"),
    ("a.deb", packages.deb({"./usr/bin/x": b""}), "no tarball for /usr/src"),
    ("a.deb", packages.deb({"./usr/src/a.tar.xz": TAR[:-8]}), "."),
    ("none.tar.xz", None, "No such file"),
  ],
)
def test_a_malformed_archive_is_one_line(tmp_path, name, content, message):
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.UserError, match=message) as caught:
    list(archives.members(path, (".c",)))
  said = str(caught.value)
  assert str(path) in said and "remove it" in said and "\n" not in said
