"""The start of a run, and the programs that train a network or count an n-gram."""

import importlib

_FORMER = {"sweep": "trials", "spaces": "spaces"}  # modules that moved to `charrnn.sweeps`


def __getattr__(name: str):
  """Resolve former modules, which experiment files of version 0.1.0 import."""
  if name not in _FORMER:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return importlib.import_module(f"charrnn.sweeps.{_FORMER[name]}")
