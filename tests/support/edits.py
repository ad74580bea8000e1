"""Deliberate changes of the JSON files of a run."""

import contextlib

from charrnn import errors, files
from charrnn.cli import verify
from charrnn.runs import run as run_lib


def change(run, name, function):
  """Call `function` with the content of a file of a run, and accept what it changes."""
  value = files.read_sealed(run / name)
  function(value)
  files.write_json(run / name, files.seal(value))
  with contextlib.suppress(errors.UserError):  # The new content may be invalid.
    list(verify.accept(run_lib.Run(run)))
