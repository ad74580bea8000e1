"""Experiment files: the fields they set, how a command line overrides them, how they are kept.

An experiment file defines `get_config(variant="")` and returns `default()` with its own values. The
config.json of a run can stand in the place of one.
"""

import hashlib
import json
import os
import pathlib
import re
import traceback
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_dict, config_flags

from charrnn import errors


def default():  # noqa: PLR0915 (a list of fields, not logic)
  """Every field there is. None means: chosen when the text is known, then said and kept."""
  c = config_dict.ConfigDict()
  c.seed = 1  # of the parameters, dropout and samples
  c.init_from = ""  # a run whose weights to start from; its alphabet may be smaller

  c.text = t = config_dict.ConfigDict()
  t.source = "shakespeare"  # a corpus's name, a file, a folder, a glob or a URL[#sha256=HEX]
  t.alphabet = "char"  # char: the characters that occur; byte: all 256 bytes
  t.encoding = "utf-8"  # of the source, for the alphabet char
  t.newlines = "keep"  # keep: as they are; lf: CRLF and CR become LF
  t.limit = 0  # only so many characters, from the beginning; 0: all
  t.split = "tail"  # tail (nanoGPT), middle (torch-rnn) or streams (char-rnn)
  t.valid_fraction = 0.05
  t.test_fraction = 0.05

  c.model = m = config_dict.ConfigDict()
  m.cell = "lstm"  # rnn, gru, lstm or ngram; a count has no field but order, text, seed and sample
  m.order = config_dict.placeholder(int)  # ngram: the longest strings; the best up to it is kept
  m.layers = config_dict.placeholder(int)
  m.hidden = config_dict.placeholder(int)  # units in each layer
  m.embed = 0  # width of a learned embedding; 0: one-hot input
  m.dropout = config_dict.placeholder(float)  # between layers and before the head
  m.init = "modern"  # uniform: U(-0.08, 0.08), 2015's; modern: scaled and orthogonal
  m.forget_bias = 1.0  # where the LSTM's forget gate starts
  # float32 or bfloat16: of the products; sums, states and parameters stay float32.
  # None: bfloat16 where it is native (TPUs, GPUs since Ampere, CPUs with AVX512-BF16 or AMX).
  m.compute_dtype = config_dict.placeholder(str)

  m.unroll = "auto"  # scan; cudnn: NVIDIA's LSTM, in TF32; auto: cudnn where there is one

  c.batch_size = config_dict.placeholder(int)  # streams read side by side, over all devices
  c.window = 64  # characters between updates: the depth of truncated backpropagation
  c.accumulate = 1  # parts a batch is taken in, to save memory
  c.remat = 0  # saves memory: characters between kept states, all else is computed again; 0: off
  c.epochs = config_dict.placeholder(float)
  c.max_steps = 0  # ends training before `epochs` do; 0: does not
  c.cpu_devices = 0  # devices that a CPU poses as; 0: chosen by its cores, batch_size and hidden

  c.optimizer = o = config_dict.ConfigDict()
  o.name = "adam"  # rmsprop, adam, adamw or sgd
  o.learning_rate = config_dict.placeholder(float)
  o.b1 = 0.9  # adam's averages of gradients
  o.b2 = 0.99  # and of their squares
  o.decay = 0.95  # rmsprop's average of squares
  o.momentum = 0.0  # sgd's
  o.weight_decay = 0.0  # adamw's, of weights and not of biases
  o.eps = 1e-8
  o.clip_element = 0.0  # gradients element by element to [-x, x]; 0: not
  o.clip_norm = 1.0  # gradients together to this norm; 0: not

  c.schedule = s = config_dict.ConfigDict()
  s.name = "cosine"  # constant, epoch_decay, halving or cosine
  s.warmup_steps = 50  # the first steps, in which it rises to what the schedule says
  s.final_fraction = 0.01  # cosine: of the learning rate, at the end
  s.decay = 0.97  # epoch_decay: factor an epoch
  s.decay_after = 10.0  # epoch_decay: epochs before it begins
  s.halve_every = 5.0  # halving: epochs between halvings

  c.log_every = 20  # steps between lines of metrics.jsonl
  c.eval_every = config_dict.placeholder(int)  # steps between evaluations on the whole split
  c.eval_streams = 64  # readers of the split side by side, each with its state carried
  c.eval_burn_in = 512  # characters a reader is given of the text before its part
  c.patience = 0  # evaluations without a better loss before training stops early; 0: never
  c.diverged = 3.0  # training stops at a loss above this many times the first, or NaN
  c.checkpoint_every = 0  # steps between checkpoints besides those at evaluations; 0: none
  c.keep = 3  # newest checkpoints kept, besides the best

  c.sample = a = config_dict.ConfigDict()
  a.length = 300  # characters written at every evaluation; 0: none
  a.temperature = 0.8
  a.prime = ""  # what they begin with
  return c.lock()  # a field that is misspelt in an experiment is an error


# A run may be resumed with other values of these, fields or sections: none decides what is computed
# next, but for rounding.
FREE = {
  "log_every",
  "patience",
  "diverged",
  "keep",
  "checkpoint_every",
  "cpu_devices",
  "model.unroll",
  "sample",
}
# And with other values of these, unless the cosine's shape hangs on them.
LENGTH = {"epochs", "max_steps"}


class CommandLine(NamedTuple):
  config: config_dict.ConfigDict
  overrides: dict  # what the command line said, by dotted name
  experiment: str  # the file's stem
  variant: str
  flags: flags.FlagValues
  argument: str = ""  # of --config: the file, and after a colon the variant
  original: Any = None  # runs.provenance.Original: the run that this one repeats


def parse(argv, define=lambda flag_values: None):
  """launch.py's command line; `define` adds flags of the program's own. Raises UserError."""
  argument = _argument(argv)
  stored = argument.endswith(".json")
  path, _, variant = (argument, "", "") if stored else argument.partition(":")
  values = flags.FlagValues()
  try:
    rest = _read(argv, values, define, path if stored else "")
  except errors.UserError:
    raise
  except Exception as error:  # whatever an experiment file may raise
    raise errors.UserError(_message(argv, path, error)) from error
  if len(rest) > 1:
    raise errors.UserError(f"{rest[1]!r} is not an option: options are --name=value")
  if not (stored or values["config"].present):
    raise errors.UserError("--config is missing: try --config=experiments/shakespeare.py")
  if not os.path.isfile(path):
    raise errors.UserError(_missing_message(path))
  config = values.config
  if not (isinstance(config, config_dict.ConfigDict) and _names(config) == _names(default())):
    raise errors.UserError(
      f"{path}: get_config() has to return charrnn.config.default() with values of its own"
    )
  overrides = config_flags.get_override_values(values["config"])
  return CommandLine(config, overrides, _title(path), variant, values, argument)


def _read(argv, values, define, stored):
  """Defines the flags and gives them their values; returns what is left of the command line.

  `stored`: the config.json that --config names, if it does.
  """
  about = {"flag_values": values, "sys_argv": list(argv)}
  if stored:
    about["sys_argv"] = argv = _without_config(argv)
    config_flags.DEFINE_config_dict("config", _stored(stored), "the config", **about)
  else:
    config_flags.DEFINE_config_file("config", None, "experiment file[:variant]", **about)
  define(values)
  return values(argv)


def _stored(path):
  """The config in a config.json. It may lack fields, but has none that is unknown."""
  if not os.path.isfile(path):
    raise errors.UserError(_missing_message(path))
  config = default()
  usual = flatten(config.to_dict())
  try:
    value = json.loads(pathlib.Path(path).read_bytes())
    for name, each in flatten(value).items():
      if name not in usual or (each is None and usual[name] is not None):
        raise errors.UserError(
          f"{path} has {name}={each}: src/charrnn/config.py has all fields there are"
        )
    config.update(value)
  except OSError as error:
    raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
  except (ValueError, AttributeError) as error:  # no JSON, or no object
    raise errors.UserError(f"{path} is damaged: the config.json of a run is wanted") from error
  except TypeError as error:
    raise errors.UserError(f"{path}: {_brief(error)}") from error
  return config


def _title(path):
  """What a run of an experiment file, or of a config.json, is called."""
  path = pathlib.Path(path)
  return path.resolve().parent.name if path.name == "config.json" else path.stem


def _names(config):
  return flatten(config.to_dict()).keys()


def _argument(argv):
  """What stands after the last --config."""
  value = ""
  for arg, after in zip(argv, [*argv[1:], ""]):
    name, equals, rest = arg.lstrip("-").partition("=")
    if arg.startswith("-") and name == "config":
      value = rest if equals else after
  return value


def _without_config(argv):
  """The command line without --config and its value."""
  flag = [arg.lstrip("-") if arg.startswith("-") else "" for arg in argv]
  return [
    arg
    for arg, name, before in zip(argv, flag, ["", *flag])
    if name.partition("=")[0] != "config" and before != "config"
  ]


def _missing_message(path):
  known = sorted(str(p) for p in pathlib.Path("experiments").glob("*.py"))
  return f"no experiment file {path}" + (f": there are {', '.join(known)}" if known else "")


def _message(argv, path, error):
  """One line for what an experiment file, or an override of one of its fields, has raised."""
  text = _brief(error)
  if path and not os.path.isfile(path):
    text = _missing_message(path)
  elif where := _place(path, error):
    text = where
  elif isinstance(error, AttributeError | KeyError):
    field = str(error).strip("\"'")
    text = f"no field {field!r} in the experiment: see src/charrnn/config.py for all there are"
  elif "parsing config file" in text or not isinstance(error, flags.Error):
    last = str(error).strip().splitlines()[-1]
    text = f"{path} cannot be read as an experiment file: {last}"
  elif text.startswith("Unknown command line flag 'config.") and not path:
    text = "--config is missing: it comes before the fields it overrides"
  return text


def _place(path, error):
  """The line of the experiment file at `path` that raised, and what; "" if none did."""
  while error:  # absl wraps what it catches
    if isinstance(error, SyntaxError):
      return f"{path}, line {error.lineno}: {error.msg}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
      if os.path.realpath(frame.filename) == os.path.realpath(path):
        return f"{path}, line {frame.lineno}: {type(error).__name__}: {_brief(error)}"
    error = error.__context__
  return ""


def _brief(error):
  """The first line of an error's text; of ml_collections' without its list of all fields."""
  text = re.sub(r"^'(Key .*?) Other fields present.*", r"\1", str(error), flags=re.DOTALL)
  return (text.splitlines() or [""])[0]


def to_json(config):
  return json.loads(config.to_json())


def from_json(value):
  """The config of a run, as it was resolved; a field that it lacks has its default."""
  config = default()
  with config.ignore_type(), config.unlocked():
    config.update(value)
  return config


def flatten(value, prefix=""):
  """Nested dicts as one dict by dotted name."""
  flat = {}
  for key, child in value.items():
    name = f"{prefix}{key}"
    flat |= flatten(child, f"{name}.") if isinstance(child, dict) else {name: child}
  return flat


def short(name):
  """The last part of a field's dotted name, where no other field ends so."""
  last = name.rpartition(".")[2]
  fields = flatten(default().to_dict())
  return last if [field.rpartition(".")[2] for field in fields].count(last) == 1 else name


def is_in(names, name):
  """Whether a field, by its dotted name, or its section is among `names`."""
  return not names.isdisjoint({name, name.partition(".")[0]})


def check_resumable(old, new):
  """Raises UserError naming the first field that matters and differs between two JSON configs."""
  free = FREE | (LENGTH if new["schedule"]["name"] != "cosine" else set())
  old, new = flatten(to_json(from_json(old))), flatten(new)
  # Not the text's name: its digest tells whether it is the same. The cell first: others hang on it.
  names = sorted((old.keys() | new.keys()) - {"text.source", "model.cell"})
  counts = "ngram" in (old["model.cell"], new["model.cell"])
  remedy = "" if counts else ", with --config.init_from=RUN to start from its weights"
  for name in ("model.cell", *names):
    if old.get(name) != new.get(name) and not is_in(free, name):
      raise errors.UserError(
        f"this run was made with {name}={old.get(name)} and is asked for with "
        f"{name}={new.get(name)}: give another --workdir{remedy}"
      )


def run_name(line):
  """experiment[-variant][-field=value...], safe as the name of a folder.

  Without the fields that a run may be resumed with other values of: it stays the same run.
  """
  fields = [f"{name}={value}" for name, value in line.overrides.items() if not is_in(FREE, name)]
  name = "-".join([line.experiment, *filter(None, [line.variant]), *fields])
  safe = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", name).strip("_.")
  if len(safe) <= 100:
    return safe
  return f"{safe[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
