"""Failures that are reported to the user in one line, without a traceback."""

import errno

_FREE_SPACE = "free some disk space, and run the same command again"
REMEDIES = {
  errno.ENOSPC: _FREE_SPACE,
  errno.EDQUOT: _FREE_SPACE,
  errno.EFBIG: "raise the limit of the file size (ulimit -f), and run the same command again",
  errno.EROFS: "use a folder on another file system",
  errno.ENAMETOOLONG: "use a shorter name",
  errno.EMFILE: "raise the limit of open files (ulimit -n)",
  errno.EAGAIN: "raise the limit of processes (ulimit -u)",
  errno.ENOMEM: "use a machine with more memory",
}


class UserError(Exception):
  """An expected failure (exit code 2). The message says what is wrong, where, and what to do."""


class DivergedError(UserError):
  """Training has diverged: its loss is too high, or its updates are not finite."""


def describe(error: OSError, path: object, remedy: str = "check its folder") -> str:
  """Return one line with the path, the reason and the remedy of an error of writing.

  `remedy` is for errors that have no remedy in REMEDIES.
  """
  reason = error.strerror or error
  return f"cannot write to {path}: {reason}: {REMEDIES.get(error.errno, remedy)}"
