"""The exceptions that a program shows to a person without a traceback."""


class UserError(Exception):
  """An expected failure, in one or two lines that name the thing and the remedy (exit code 2)."""


class DivergedError(UserError):
  """Training has diverged."""
