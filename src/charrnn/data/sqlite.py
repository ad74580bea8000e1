"""SQLite's library as one file of C, the amalgamation, of a version that stays the same."""

import pathlib
import shutil
import subprocess

from charrnn import errors, runtime
from charrnn.data import archives, cache, downloads
from charrnn.data import files as files_lib

VERSION = "3.44.2"
URL = "https://sqlite.org/2023/sqlite-autoconf-3440200.tar.gz"
_URL_SHA256 = "1c6719a148bc41cf0f2bbbe3926d7ce3f5ca09d878f1246fcc20767b175bb407"
_SHA256 = "16e8a29fc022b8e80a6ebb376250a1b8e786b839b44840b0fe86e94159b84ae6"  # of sqlite3.c
_NPM = "sqlite3@5.1.7"  # carries the same archive


def find() -> pathlib.Path:
  """sqlite3.c, in the cache."""
  target = runtime.cache_folder() / f"sqlite3-{VERSION}.c"
  if target.is_file() and files_lib.fingerprint(target, target.name).sha256 == _SHA256:
    return target
  archive = _archive()
  with cache.building() as folder:
    built = folder / target.name
    _unpack(archive, "/sqlite3.c", built)
    cache.publish(built, target.name)
  return target


def _archive() -> pathlib.Path:
  """SQLite's own release, by URL, or where that cannot be reached by npm."""
  name = pathlib.PurePosixPath(URL).name
  try:
    return downloads.fetch(URL, _URL_SHA256, name)
  except errors.UserError as error:
    if not shutil.which("npm"):
      raise
    with cache.building() as folder:
      command = ["npm", "pack", _NPM]
      subprocess.run(command, cwd=folder, capture_output=True, check=False)
      package = folder / f"{_NPM.replace('@', '-')}.tgz"
      if not package.is_file():
        raise error
      _unpack(package, f"/{name}", folder / name)
      digest = files_lib.fingerprint(folder / name, name).sha256
      downloads.check_digest(f"{name} of npm's {_NPM}", digest, _URL_SHA256)
      cache.publish(folder / name, name)
    return runtime.cache_folder() / name


def _unpack(archive: pathlib.Path, ending: str, target: pathlib.Path):
  """Writes the one file of an archive whose name ends so."""
  for _, content in archives.members(archive, (ending,)):
    target.write_bytes(content)
  if not target.is_file():
    raise errors.UserError(f"{archive} has no {ending}: remove it, and it is fetched again")
