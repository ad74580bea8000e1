"""Parser of the command line of launch.py: an experiment file, overrides, and other flags."""

import contextlib
import hashlib
import importlib.machinery
import os
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_dict, config_flags

from charrnn import config as config_lib
from charrnn import console, errors, files, process


class CommandLine(NamedTuple):
  """A parsed command line of launch.py."""

  config: config_dict.ConfigDict
  overrides: dict[str, Any]  # the fields that the command line overrides, by dotted name
  experiment: str  # stem of the experiment file's name
  variant: str
  flags: flags.FlagValues
  argument: str = ""  # the value of --config: FILE or FILE:VARIANT
  module: types.ModuleType | None = None  # the experiment file; None for a config.json
  original: Any = None  # the runs.provenance.Original that a rerun repeats
  fetch: bool = True  # whether a corpus may be downloaded


def parse(argv: Sequence[str], define: Callable = lambda flag_values: None) -> CommandLine:
  """Return the parsed command line of launch.py.

  The value of --config is FILE or FILE:VARIANT for an experiment file, or the config.json of a run.
  `define(flag_values)` adds other flags. Raises UserError if the command line is wrong.
  """
  argument, argv = _take_config(_expand(argv))
  path, colon, variant = _split(argument)
  is_stored, path = path.endswith(".json"), _locate(path)
  _check(path, argv)
  module = None
  if is_stored:
    config = _stored_config(path)
  else:
    config, module = _experiment(path, *([variant] if colon else []))
  values = flags.FlagValues()
  config_flags.DEFINE_config_dict("config", config, "", flag_values=values, sys_argv=argv)
  define(values)
  try:
    rest = values(argv)
  except flags.UnrecognizedFlagError as error:
    names = [f"--{name}" for name in values if not name.startswith("config")]
    hint = errors.suggestion(f"--{error.flagname}", [*names, "--config"], "see launch.py --help")
    raise errors.UserError(f"unknown option --{error.flagname}{hint}") from error
  except Exception as error:  # ml_collections raises several kinds of errors.
    raise errors.UserError(_flag_message(error)) from error
  if len(rest) > 1:
    raise errors.UserError(f"{rest[1]!r} is not an option: write options as --name=value")
  overrides = config_flags.get_override_values(values["config"])
  file = pathlib.Path(path)
  title = file.resolve().parent.name if file.name == "config.json" else file.stem
  line = CommandLine(values.config, overrides, title, variant, values, argument, module)
  return line._replace(fetch=not is_stored)  # A config.json may come from somebody else.


def _expand(argv: Sequence[str]) -> list[str]:
  """Return the arguments with the content of flag files in place of --flagfile=FILE."""
  try:
    return [*argv[:1], *flags.FlagValues().read_flags_from_files(argv[1:])]
  except flags.Error as error:
    raise errors.UserError(errors.first_line(error).removeprefix("ERROR:: ")) from error


def _flag_message(error: Exception) -> str:
  """Return the message of an error in an option, without the names of Python's functions."""
  line = errors.first_line(error)
  match = re.match(r"flag (--.*): (invalid literal for int|could not convert)", line)
  if not match:
    return line
  return f"{match[1]}: must be a {'whole ' if 'int' in match[2] else ''}number"


def run_name(line: CommandLine) -> str:
  """Return experiment[-variant][-field=value...] as a name that is safe for a folder.

  Fields that may change when a run is resumed are not part of the name.
  """
  fields = [
    f"{name}={value}" for name, value in line.overrides.items() if not config_lib.is_free(name)
  ]
  name = "-".join([line.experiment, *filter(None, [line.variant]), *fields])
  safe = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", name).strip("_.")
  if len(safe) <= 100:
    return safe
  return f"{safe[:90]}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def experiment_files(folder: pathlib.Path = pathlib.Path()) -> list[str]:
  """Return the paths of the experiment files in the folder `experiments` of a folder."""
  paths = (folder / "experiments").glob("*.py")
  return sorted(str(path) for path in paths if path.stem != "common")


def _split(argument: str) -> tuple[str, str, str]:
  """Return the path of the value FILE or FILE:VARIANT of --config, the colon, and the variant.

  Both may contain colons: the path is the shortest one that is a file. If there is none, it is the
  shortest one that ends like a file, so that a message can name it.
  """
  paths = [argument[: match.start()] for match in re.finditer(r":|\Z", argument)]
  files_first = [path for path in paths if os.path.isfile(_locate(path))]
  files_first += [path for path in paths if path.endswith((".py", ".json"))]
  path = (files_first or paths)[0]
  return path, *argument.removeprefix(path).partition(":")[1:]


def _locate(path: str) -> str:
  """Return the path of an experiment file; `experiments/NAME.py` may be one of charrnn's own."""
  own = os.path.join(process.launching_folder(), path)
  is_own = not os.path.isfile(path) and os.path.dirname(path) == "experiments"
  return own if is_own and os.path.isfile(own) else path


def _take_config(argv: Sequence[str]) -> tuple[str, list[str]]:
  """Return the value of the last --config, and the other arguments with former names replaced."""
  argument, others, words = None, [], iter(argv)
  for word in words:
    dashes, name, equals, value = re.fullmatch(r"(-*)([^=]*)(=?)(.*)", word, re.DOTALL).groups()
    if dashes and name == "config":
      argument = value if equals else next(words, "")
      if not argument or argument.startswith("-"):
        raise errors.UserError("--config has no value: use --config=FILE with an experiment file")
    elif dashes and name.startswith("config."):
      others.append(f"{dashes}config.{config_lib.current_name(name)}{equals}{value}")
    else:
      others.append(word)
  if argument is None:
    file = next((word for word in others[1:] if word.endswith((".py", ".json"))), None)
    names = [word.partition("=")[0] for word in others[1:] if word.startswith("-")]
    near = next((word for word in names if errors.nearest(word, ["--config"], 0.75)), None)
    if near and not near.strip("-").startswith("config."):
      raise errors.UserError(f"unknown option {near}: did you mean --config?")
    if file and not file.startswith("-"):
      raise errors.UserError(f"{file!r} is not an option: use --config={file}")
    if _fields(others):
      raise errors.UserError("--config is missing: use --config=FILE with an experiment file")
    raise errors.UserError("--config is missing: use --config=experiments/shakespeare.py")
  return argument, others


def _fields(argv: Sequence[str]) -> list[str]:
  """Return the names of the fields that a command line overrides."""
  matches = (re.match(r"-+config\.([^=]*)", word) for word in argv)
  return [match[1] for match in matches if match]


def _check(path: str, argv: Sequence[str]):
  """Raise UserError if the experiment file or an overridden field does not exist."""
  if not os.path.isfile(path):
    folder = process.launching_folder()  # Its files are found by their names in any folder.
    names = [pathlib.Path(each).stem for each in experiment_files() or experiment_files(folder)]
    remedy = "check the path"
    if names:
      remedy = f"use experiments/NAME.py, where NAME is one of {', '.join(names)}"
    raise errors.UserError(f"no experiment file {path}: {remedy}")
  for field in _fields(argv):
    if field not in config_lib.BY_NAME:
      raise errors.UserError(config_lib.unknown_field(field))


def _stored_config(path: str) -> config_dict.ConfigDict:
  """Return the config in a config.json. Missing fields get their defaults.

  Raises UserError for a field that does not exist.
  """
  config = config_lib.default()
  defaults = config_lib.flatten(config.to_dict())
  try:
    file = pathlib.Path(path).absolute()
    is_part_of_run = (file.parent / "run.json").exists()
    # No link in a run directory is followed, because the directory may come from somebody else.
    value = files.read_sealed(file) if is_part_of_run else files.read_json(file.resolve())
    if value.pop("sha256", None) not in (None, files.digest(value)):
      console.say(f"{path} was edited after charrnn wrote it: using it as it is")
    for name, each in config_lib.flatten(value).items():
      if name not in defaults:
        raise errors.UserError(f"{path} has {name}={each}: {config_lib.unknown_field(name)}")
      if each is None and defaults[name] is not None:
        raise errors.UserError(f"{path} has {name}={each}: set a value; see docs/config.md")
    config.update(value)
  except (ValueError, AttributeError) as error:
    raise files.damaged(pathlib.Path(path)) from error
  except TypeError as error:
    raise errors.UserError(f"{path}: {errors.first_line(error)}") from error
  return config


def _experiment(path: str, *variant: str) -> tuple[config_dict.ConfigDict, types.ModuleType]:
  """Return the config of an experiment file, and the file as a module."""
  loader = importlib.machinery.SourceFileLoader("charrnn_experiment", path)
  module = types.ModuleType(loader.name)
  module.__file__ = path
  try:
    with _importable_folder(path):
      loader.exec_module(module)
      config = module.get_config(*variant)
  except errors.UserError:
    raise
  except (Exception, SystemExit) as error:  # An experiment file may raise any error.
    raise errors.UserError(_message(path, error)) from error
  is_config = isinstance(config, config_dict.ConfigDict)
  if not is_config or config_lib.flatten(config.to_dict()).keys() != config_lib.BY_NAME.keys():
    raise errors.UserError(
      f"{path}: get_config() must return charrnn.config.default(), possibly with changed values"
    )
  return config, module


@contextlib.contextmanager
def _importable_folder(path: str) -> Iterator[None]:
  """Allow an experiment file to import modules from its folder.

  These modules are removed from sys.modules afterwards, because another folder may contain modules
  with the same names.
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


def _message(path: str, error: BaseException) -> str:
  """Return a one-line message about an error, with its line number in the experiment file."""
  if isinstance(error, SyntaxError):
    return f"{error.filename}, line {error.lineno}: {error.msg}"
  for frame in reversed(traceback.extract_tb(error.__traceback__)):
    if os.path.realpath(frame.filename) == os.path.realpath(path):
      name = "" if isinstance(error, config_lib.UnknownFieldError) else f"{type(error).__name__}: "
      return f"{path}, line {frame.lineno}: {name}{errors.first_line(error)}"
  return f"{path} cannot be read as an experiment file: {errors.first_line(error)}"
