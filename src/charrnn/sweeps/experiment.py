"""What an experiment file says besides its config, in functions: sweeps, a space, resources."""

import importlib.util
import inspect
import types
from collections.abc import Callable
from typing import Any

from charrnn import command_line, errors


def module(line: command_line.CommandLine) -> types.ModuleType:
  """The experiment file of a command line as a module."""
  path = line.argument.partition(":")[0]
  spec = importlib.util.spec_from_file_location("charrnn_experiment", path)
  if spec is None:
    raise errors.UserError(f"{path} is the config of one run: name an experiment file")
  module = importlib.util.module_from_spec(spec)
  with command_line.importable_folder(path):
    spec.loader.exec_module(module)  # it was read before, for its get_config
  return module


def called(
  module: types.ModuleType, function: str, variant: str, *arguments, into: Callable = list
) -> Any:
  """What a function of the file gives; it is told the variant if it asks for it.

  `into` reads the result, which a generator computes only then.
  """
  where = f"{module.__file__}, {function}()"
  try:
    call = getattr(module, function)
    asks = "variant" in inspect.signature(call).parameters
    return into(call(*arguments, **({"variant": variant} if asks else {})))
  except errors.UserError as error:
    raise errors.UserError(f"{where}: {error}") from error
  except (Exception, SystemExit) as error:  # whatever an experiment file may raise
    text = (str(error).splitlines() or [""])[0]
    raise errors.UserError(f"{where}: {type(error).__name__}: {text}") from error
