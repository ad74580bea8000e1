"""The result of a command that ran in this process."""

import json
from typing import NamedTuple


class Result(NamedTuple):
  """The exit code, stdout and stderr of a command."""

  code: int
  out: str
  err: str

  @property
  def json(self):
    """The value of stdout as JSON."""
    return json.loads(self.out)
