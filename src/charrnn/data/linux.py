"""The Linux kernel's C source: where the machine has it, or gets it, and which part is read."""

import codecs
import hashlib
import heapq
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from charrnn import errors, runtime
from charrnn.data import archives, cache

DEFAULT_PART = "kernel"
_SYSTEM = pathlib.Path("/usr/src")
_UNPACKING = 1  # version of what is unpacked, and how
_SEED = 2015  # of the order of the files
_PAPER_BYTES = 6_206_996  # as in arXiv 1506.02078


class Tree(NamedTuple):
  root: pathlib.Path
  files: list[tuple[str, int]]  # names relative to the root, and how many bytes of each
  facts: dict[str, str]


def find(part: str) -> Tree:
  """The .c and .h files of a folder of the kernel's tree, of `all` of it, or the `paper`'s.

  Files are shuffled, so that the parts that losses are measured on are of all folders: they are in
  the order of the SHA-256 of "2015 NAME", which is the same everywhere. `paper` is what the 2015
  paper describes: all files shuffled, put one after another and cut after 6,206,996 bytes.
  """
  origin = _newest(_SYSTEM) or _newest(runtime.cache_folder()) or _downloaded()
  root = origin if origin.is_dir() else _unpacked(origin, part)
  files = [(name, size) for name, size in _sizes(root) if _belongs(name, part)]
  files.sort(key=lambda file: _rank(file[0]))
  if part == "paper":
    files = list(_cut(files))
  if not files:
    raise _no_such_part(part, origin)
  return Tree(root, files, _facts(origin, root))


def _no_such_part(part: str, origin: pathlib.Path) -> errors.UserError:
  return errors.UserError(
    f"linux:{part}: {origin.name} has no folder {part} with .c or .h files; "
    "linux:all is the whole tree, linux:drivers/usb one of its folders"
  )


def _belongs(name: str, part: str) -> bool:
  return part in ("all", "paper") or name.startswith(f"{part}/")


def _newest(folder: pathlib.Path) -> pathlib.Path | None:
  """The tree or archive of the kernel in a folder that has the highest version in its name."""
  found = [path for path in folder.glob("linux*") if _is_archive(path) or _is_tree(path)]
  return max(found, key=lambda path: _version(path.name), default=None)


def _is_archive(path: pathlib.Path) -> bool:
  source = path.suffix != ".deb" or path.name.startswith("linux-source")
  return source and path.name.endswith(archives.SUFFIXES) and path.is_file()


def _is_tree(path: pathlib.Path) -> bool:
  return (path / "kernel" / "fork.c").is_file()  # not of headers alone


def _version(name: str) -> list[int]:
  return [int(number) for number in re.findall(r"\d+", name)]


def _downloaded() -> pathlib.Path:
  """The newest linux-source package that apt-get offers, in the cache."""
  if not shutil.which("apt-get"):
    raise _missing("this machine has no apt-get to download it")
  search = ["apt-cache", "search", "--names-only", r"^linux-source-[0-9.]+$"]
  offered = subprocess.run(search, capture_output=True, text=True, check=False).stdout.split("\n")
  names = [line.partition(" ")[0] for line in offered if line]
  if not names:
    raise _missing("apt-get offers no linux-source package", "sudo apt-get update")
  package = max(names, key=_version)
  with cache.building() as folder:
    # Its progress goes where ours does; what it has to say about a failure, into our message.
    command = ["apt-get", "download", package]
    done = subprocess.run(
      command, cwd=folder, stdout=2, stderr=subprocess.PIPE, text=True, check=False
    )
    debs = list(folder.glob("*.deb"))
    if done.returncode or len(debs) != 1:
      said = [line for line in done.stderr.splitlines() if line.startswith("E:")]
      raise _missing((said or ["E: nothing came"])[0], f"sudo apt-get install {package}")
    cache.publish(debs[0], debs[0].name)
  return runtime.cache_folder() / debs[0].name


def _missing(reason: str, command: str = "") -> errors.UserError:
  run = f"run {command}, or " if command else ""
  return errors.UserError(
    f"the corpus linux needs the kernel's source: {reason}\n"
    f"{run}put a tarball of it into the cache:\n"
    f"curl -L --create-dirs -o {runtime.cache_folder()}/linux-6.12.tar.xz "
    "https://cdn.kernel.org/pub/linux/kernel/v6.x/linux-6.12.tar.xz"
  )


def _unpacked(archive: pathlib.Path, part: str) -> pathlib.Path:
  """A folder in the cache with the files of the archive that a part needs, and the Makefile."""
  status = archive.stat()
  key = f"{_UNPACKING} {archive.name} {status.st_size} {status.st_mtime_ns} {part}"
  target = runtime.cache_folder() / f"unpacked-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
  if target.is_dir():
    return target
  with cache.building() as folder:
    built = folder / target.name
    members = archives.members(archive, (".c", ".h", "/Makefile"))
    for name, content in _first(members) if part == "paper" else members:
      if name == "Makefile" or (_is_c(name) and _belongs(name, part)):
        path = built / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if next(_sizes(built), None) is None:
      raise _no_such_part(part, archive)
    cache.publish(built, target.name)
  return target


def _is_c(name: str) -> bool:
  return name.endswith((".c", ".h"))


def _sizes(root: pathlib.Path) -> Iterator[tuple[str, int]]:
  """The C files below a folder with their sizes in bytes, links apart."""
  for folder, _, names in os.walk(root):
    for path in (pathlib.Path(folder, name) for name in names if _is_c(name)):
      if not path.is_symlink():
        yield path.relative_to(root).as_posix(), path.stat().st_size


def _rank(name: str) -> int:
  """A file's place in the shuffled order."""
  return int(hashlib.sha256(f"{_SEED} {name}".encode()).hexdigest(), 16)


def _first(members: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
  """Of files in any order those that the paper's text is cut from, and the Makefile."""
  heap, total = [], 0  # the last in the shuffled order on top
  for name, content in members:
    if name == "Makefile":
      yield name, content
    if not _is_c(name):
      continue
    heapq.heappush(heap, (-_rank(name), name, content))
    total += len(content)
    while total - len(heap[0][2]) >= _PAPER_BYTES:
      total -= len(heapq.heappop(heap)[2])
  yield from ((name, content) for _, name, content in heap)


def _cut(files: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
  """Files in order up to the paper's number of bytes."""
  left = _PAPER_BYTES
  for name, size in files:
    if left > 0:
      yield name, min(size, left)
      left -= size


def _facts(origin: pathlib.Path, root: pathlib.Path) -> dict[str, str]:
  """The Debian package or the path that the source is from, and the kernel's own version."""
  package, _, rest = origin.stem.partition("_")
  deb = origin.suffix == ".deb"
  facts = {"package": f"{package} {rest.rpartition('_')[0]}"} if deb else {"origin": str(origin)}
  makefile = root / "Makefile"
  text = makefile.read_text(errors="replace") if makefile.is_file() else ""
  if numbers := re.findall(r"^(?:VERSION|PATCHLEVEL|SUBLEVEL) *= *(\d+)", text, re.MULTILINE):
    facts["version"] = ".".join(numbers)
  return facts


def utf8(content: bytes) -> bytes:
  """A file as UTF-8: those of old kernels that are not are Latin-1.

  What is left of a character that the paper's cut went through is dropped.
  """
  try:
    return codecs.getincrementaldecoder("utf-8")().decode(content).encode()
  except UnicodeDecodeError:
    return content.decode("latin-1").encode()
