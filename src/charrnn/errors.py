"""Exceptions that are reported to the user without a traceback."""


class UserError(Exception):
  """An expected failure (exit code 2). The message says what is wrong, where, and what to do."""


class DivergedError(UserError):
  """Training has diverged: its loss is too high, or its updates are not finite."""
