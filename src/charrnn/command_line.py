"""The command line of launch.py: an experiment file, overrides of its fields, and other flags."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_dict, config_flags

from charrnn import config as config_lib
from charrnn import errors


class CommandLine(NamedTuple):
  config: config_dict.ConfigDict
  overrides: dict[str, Any]  # fields that the command line sets, by dotted name
  experiment: str  # stem of the experiment file
  variant: str
  flags: flags.FlagValues
  argument: str = ""  # of --config: the file, and after a colon the variant
  original: Any = None  # runs.provenance.Original: the run that this one repeats


def parse(argv: Sequence[str], define: Callable = lambda flag_values: None) -> CommandLine:
  """Return the parsed command line of launch.py.

  The argument of --config is an experiment file, with a variant after a colon, or the config.json
  of a run. `define(flag_values)` adds other flags. Raises UserError.
  """
  argv = [_with_current_name(arg) for arg in argv]
  argument = _argument(argv)
  stored = argument.endswith(".json")
  path, _, variant = (argument, "", "") if stored else argument.partition(":")
  _check_arguments(argv, path)
  values = flags.FlagValues()
  try:
    with importable_folder(path):
      rest = _read(argv, values, define, path if stored else "")
  except errors.UserError:
    raise
  except Exception as error:  # whatever an experiment file may raise
    raise errors.UserError(_message(path, error)) from error
  if len(rest) > 1:
    raise errors.UserError(f"{rest[1]!r} is not an option: options are --name=value")
  config = values.config
  if not (
    isinstance(config, config_dict.ConfigDict) and _names(config) == config_lib.BY_NAME.keys()
  ):
    raise errors.UserError(
      f"{path}: get_config() must return charrnn.config.default() with values of its own"
    )
  overrides = config_flags.get_override_values(values["config"])
  return CommandLine(config, overrides, _title(path), variant, values, argument)


def run_name(line: CommandLine) -> str:
  """Return experiment[-variant][-field=value...], safe as the name of a folder.

  Fields that do not make it another run are left out.
  """
  fields = [
    f"{name}={value}" for name, value in line.overrides.items() if not config_lib.is_free(name)
  ]
  name = "-".join([line.experiment, *filter(None, [line.variant]), *fields])
  safe = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", name).strip("_.")
  if len(safe) <= 100:
    return safe
  return f"{safe[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def importable_folder(path: str) -> Iterator[None]:
  """Let an experiment file import modules beside it while it is read.

  They are forgotten afterwards: another folder may have modules of the same names.
  """
  folder = os.path.dirname(os.path.abspath(path))
  before = set(sys.modules)
  sys.path.insert(0, folder)
  try:
    yield
  finally:
    sys.path.remove(folder)
    for name in set(sys.modules) - before:
      file = getattr(sys.modules[name], "__file__", None)
      if file and os.path.dirname(os.path.abspath(file)) == folder:
        del sys.modules[name]


def experiment_files() -> list[str]:
  """Return the paths of the experiment files in the current folder's `experiments`."""
  paths = pathlib.Path("experiments").glob("*.py")
  return sorted(str(path) for path in paths if path.stem != "common")


def _with_current_name(arg: str) -> str:
  dashes, name, equals, value = re.fullmatch(r"(-*)([^=]*)(=?)(.*)", arg, re.DOTALL).groups()
  if not dashes or not name.startswith("config."):
    return arg
  return f"{dashes}config.{config_lib.current_name(name)}{equals}{value}"


def _argument(argv: Sequence[str]) -> str:
  """Return the value of the last --config."""
  value = ""
  for arg, after in zip(argv, [*argv[1:], ""]):
    name, equals, rest = arg.lstrip("-").partition("=")
    if arg.startswith("-") and name == "config":
      value = rest if equals else after
  return value


def _check_arguments(argv: Sequence[str], path: str):
  """Raise UserError for a file that does not exist and for fields that do not exist."""
  names = [arg.lstrip("-").partition("=")[0] for arg in argv[1:] if arg.startswith("-")]
  fields = [name.removeprefix("config.") for name in names if name.startswith("config.")]
  if "config" not in names:
    example = "--config is missing: try --config=experiments/shakespeare.py"
    late = "--config is missing: it comes before the fields that it overrides"
    raise errors.UserError(late if fields else example)
  if not os.path.isfile(path):
    known = experiment_files()
    raise errors.UserError(
      f"no experiment file {path}" + (f": there are {', '.join(known)}" if known else "")
    )
  for field in fields:
    if field not in config_lib.BY_NAME:
      raise errors.UserError(config_lib.unknown_field(field))


def _read(argv, values, define, stored: str) -> list[str]:
  """Define the flags and set their values; return the rest of the command line.

  `stored`: the config.json that --config names, if it does.
  """
  options = {"flag_values": values, "sys_argv": list(argv)}
  if stored:
    options["sys_argv"] = argv = _without_config(argv)
    config_flags.DEFINE_config_dict("config", _stored_config(stored), "the config", **options)
  else:
    config_flags.DEFINE_config_file("config", None, "experiment file[:variant]", **options)
  define(values)
  return values(argv)


def _without_config(argv: Sequence[str]) -> list[str]:
  """Return the command line without --config and its value."""
  names = [arg.lstrip("-") if arg.startswith("-") else "" for arg in argv]
  return [
    arg
    for arg, name, before in zip(argv, names, ["", *names])
    if name.partition("=")[0] != "config" and before != "config"
  ]


def _stored_config(path: str) -> config_dict.ConfigDict:
  """Return the config in a config.json. It may lack fields, but must have no unknown ones."""
  config = config_lib.default()
  usual = config_lib.flatten(config.to_dict())
  try:
    value = config_lib.with_current_names(json.loads(pathlib.Path(path).read_bytes()))
    for name, each in config_lib.flatten(value).items():
      if name not in usual or (each is None and usual[name] is not None):
        raise errors.UserError(f"{path} has {name}={each}: docs/config.md lists all fields")
    config.update(value)
  except OSError as error:
    raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
  except (ValueError, AttributeError) as error:  # not JSON, or not an object
    raise errors.UserError(f"{path} is damaged: it must be the config.json of a run") from error
  except TypeError as error:
    raise errors.UserError(f"{path}: {_first_line(error)}") from error
  return config


def _title(path: str) -> str:
  """Return the name of an experiment file, or of the run of a config.json."""
  file = pathlib.Path(path)
  return file.resolve().parent.name if file.name == "config.json" else file.stem


def _names(config):
  return config_lib.flatten(config.to_dict()).keys()


def _message(path: str, error: BaseException) -> str:
  """Return one line about an error in an experiment file or in an override of a field."""
  if place := _place(path, error):
    return place
  text = _first_line(error)
  if "parsing config file" in text or not isinstance(error, flags.Error):
    last = (str(error).strip().splitlines() or [""])[-1]
    return f"{path} cannot be read as an experiment file: {last}"
  return text


def _place(path: str, error: BaseException | None) -> str:
  """Return the line of the experiment file at `path` that raised, and the error; "" if none did."""
  while error:  # absl wraps the errors that it catches
    if isinstance(error, SyntaxError):
      return f"{error.filename or path}, line {error.lineno}: {error.msg}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
      if os.path.realpath(frame.filename) == os.path.realpath(path):
        return f"{path}, line {frame.lineno}: {type(error).__name__}: {_first_line(error)}"
    error = error.__context__
  return ""


def _first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [""])[0]
