"""The start of a run, and the programs that train a network or count n-grams."""

import importlib

# Former names of modules that moved to `charrnn.sweeps`, and their new names.
_FORMER = {"sweep": "trials", "spaces": "spaces"}


def __getattr__(name: str):
  """Return a module by its former name, which experiment files of version 0.1.0 import."""
  if name not in _FORMER:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return importlib.import_module(f"charrnn.sweeps.{_FORMER[name]}")
