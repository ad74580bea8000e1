"""Exceptions that are reported to the user in one line, without a traceback."""


class UserError(Exception):
  """An expected failure (exit code 2). The message says what is wrong, where, and what to do."""


class DivergedError(UserError):
  """The error that training has diverged."""
