"""The outcome of a command that ran in this process."""

import json
from typing import NamedTuple


class Result(NamedTuple):
  code: int
  out: str
  err: str

  @property
  def json(self):
    return json.loads(self.out)
