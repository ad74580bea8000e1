"""Character-level recurrent networks in JAX: training, sampling, scoring and inspection.

`load` and `train` are the entry points for Python programs and notebooks; see docs/python.md.
Importing this package is fast, because JAX is only imported when `load`, `train` or `Run` is used.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["Run", "load", "train"]

_MODULES = ("config", "models")


def __getattr__(name: str):
  if name in __all__:
    return getattr(importlib.import_module("charrnn.api"), name)
  if name in _MODULES:
    return importlib.import_module(f"charrnn.{name}")
  raise AttributeError(f"module 'charrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__, *_MODULES})
