"""Build small archives: tarballs, and Debian packages."""

import io
import tarfile


def tarball(files, mode="w:xz"):
  """Return a tarball of files {name: content}; the content None is a link to /etc/passwd."""
  packed = io.BytesIO()
  with tarfile.open(fileobj=packed, mode=mode) as tar:
    for name, content in files.items():
      member = tarfile.TarInfo(name)
      if content is None:
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
      else:
        member.size = len(content)
      tar.addfile(member, io.BytesIO(content or b""))
  return packed.getvalue()


def deb(files, data="data.tar.xz", mode="w:xz"):
  """Return a Debian package that installs files {name: content}: ar(5) with three members."""
  members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", data: tarball(files, mode)}
  return b"!<arch>\n" + b"".join(_member(*member) for member in members.items())


def _member(name, content):
  header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
  return header + content + b"\n" * (len(content) % 2)
