"""Sweeps, searches and the comparison of their runs."""

import importlib


def __getattr__(name: str):
  """Resolve the former name of `trials`, which experiment files may still import."""
  if name != "sweep":
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return importlib.import_module("charrnn.sweeps.trials")
