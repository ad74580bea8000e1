"""The start of a run, and the programs that train a network or count n-grams."""

import importlib
import runpy
import sys

from charrnn import process

# Former names of modules that moved to `charrnn.sweeps`, and their new names.
_FORMER = {"sweep": "trials", "spaces": "spaces"}


def __getattr__(name: str):
  """Return a module by its former name, which experiment files of version 0.1.0 import."""
  if name not in _FORMER:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return importlib.import_module(f"charrnn.sweeps.{_FORMER[name]}")


def main():
  """Run launch.py, as the program `charrnn-launch` that works without a checkout."""
  program = str(process.launching_folder() / "launch.py")
  sys.argv[0] = program  # The commands of the trials of a sweep begin with it.
  runpy.run_path(program, run_name="__main__")
