"""What a URL leads to, in the cache."""

import http.client
import pathlib
import urllib.request
from collections.abc import Iterator

from charrnn import errors, runtime
from charrnn.data import cache
from charrnn.data import files as files_lib


def fetch(url: str, digest: str | None, name: str) -> pathlib.Path:
  """The file that a URL leads to, from the cache if it is there (and has the digest)."""
  target = runtime.cache_folder() / name
  if target.is_file() and digest in (None, files_lib.fingerprint(target, name).sha256):
    return target
  with cache.building() as folder:
    built = folder / name
    with open(built, "wb") as file:
      file.writelines(_received(url, target))
    check_digest(url, files_lib.fingerprint(built, name).sha256, digest)
    cache.publish(built, name)
  return target


def check_digest(url: str, actual: str, wanted: str | None):
  if wanted not in (None, actual):
    raise errors.UserError(f"{url} has the SHA-256 {actual}, not {wanted}: correct the digest")


def _received(url: str, target: pathlib.Path) -> Iterator[bytes]:
  try:
    with urllib.request.urlopen(url, timeout=30) as response:
      missing = int(response.headers.get("Content-Length") or 0)
      while block := response.read(files_lib.BLOCK):
        missing -= len(block)
        yield block
    if missing > 0:
      raise ConnectionError(f"the last {missing} bytes are missing")
  except (OSError, ValueError, http.client.HTTPException) as error:
    raise errors.UserError(
      f"cannot download {url}: {error}\n"
      f"download it by other means and give its path, or put it at {target}"
    ) from error
