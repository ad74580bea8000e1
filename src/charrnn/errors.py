"""Failures that are reported to the user in one line, without a traceback."""

import difflib
import errno
import re
from collections.abc import Iterable, Sequence

_FREE_SPACE = "free some disk space, and run the same command again"
_DISK = "check the disk or the network, and run the same command again"
REMEDIES = {
  errno.ENOSPC: _FREE_SPACE,
  errno.EDQUOT: _FREE_SPACE,
  errno.EFBIG: "raise the file size limit (ulimit -f), and run the same command again",
  errno.EROFS: "use a folder on another file system",
  errno.ENAMETOOLONG: "use a shorter name",
  errno.EMFILE: "raise the limit on open files (ulimit -n)",
  errno.EAGAIN: "raise the limit on processes (ulimit -u)",
  errno.ENOMEM: "free some memory, or use a machine with more",
  # A disk is failing, or the server of a network file system does not answer.
  **dict.fromkeys(
    (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV), _DISK
  ),
}
CHECK_FOLDER = "check that its folder exists and is writable"
CHECK_PATH = "check the path and its permissions"
# The reasons of RuntimeErrors of JAX and of the libraries of a GPU for a lack of memory.
_NO_MEMORY = re.compile("RESOURCE_EXHAUSTED|out.of.memory|failed to allocate|alloc_failed", re.I)


class UserError(Exception):
  """An expected failure (exit code 2). The message says what is wrong, where, and what to do."""


class DivergedError(UserError):
  """Training has diverged: its loss is too high, or its numbers are not finite."""

  def __init__(self, message: str, *, step: int | None = None, reason: str = ""):
    super().__init__(message)
    self.step, self.reason = step, reason


def check(name: str, value: object, is_valid: bool, rule: str):
  """Raise UserError with the rule for the values of an option, unless its value is valid."""
  if not is_valid:
    raise UserError(f"{name}={value}: {rule}")


def describe(error: OSError, path: object, remedy: str = CHECK_FOLDER) -> str:
  """Return one line about a failed write: the path, the reason and what to do.

  `remedy` is for errors that have no remedy in REMEDIES.
  """
  reason = error.strerror or error
  return f"cannot write to {path}: {reason}: {REMEDIES.get(error.errno, remedy)}"


def is_lack_of_threads(error: Exception) -> bool:
  """Return whether Python raised an error because it could not start a thread."""
  return "can't start new thread" in str(error)


def lack_of_memory(error: Exception, remedy: str = REMEDIES[errno.ENOMEM]) -> str | None:
  """Return one line about a lack of memory, also that of a device; None for other errors."""
  reason = first_line(error)
  is_reason = isinstance(error, RuntimeError) and _NO_MEMORY.search(reason)
  if isinstance(error, MemoryError) or is_reason:
    return f"out of memory{f' ({reason})' if reason else ''}: {remedy}"
  return None


def nearest(name: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
  """Return the choice that a misspelled or shortened name most probably means, or None."""
  name, by_lower = name.lower(), {choice.lower(): choice for choice in reversed(list(choices))}
  matches = [each for each in by_lower if len(name) > 4 and each.startswith(name)]
  matches = matches or difflib.get_close_matches(name, by_lower, n=1, cutoff=cutoff)
  return by_lower[matches[-1]] if matches else None


def suggestion(name: str, choices: Iterable[str], otherwise: str = "") -> str:
  """Return ": did you mean CHOICE?", or ": " and the other remedy if no choice is similar."""
  match = nearest(name, choices)
  remedy = otherwise if match is None else f"did you mean {match}?"
  return f": {remedy}" if remedy else ""


def first_line(error: BaseException) -> str:
  """Return the first line of the message of an error; it may be empty."""
  return str(error).strip().partition("\n")[0]


def some(texts: Sequence[str], limit: int, separator: str = ", ") -> str:
  """Return the first `limit` texts as one text, for example "a, b and 3 more"."""
  more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
  return separator.join(texts[:limit]) + more


def plural(count: int, noun: str) -> str:
  """Return a number and a noun, for example "1 token" or "2 tokens"."""
  return f"{count:,} {noun}{'s' * (count != 1)}"
