"""The fields of a config: defaults, checks, JSON, and the values that are chosen for a corpus.

An experiment file returns `default()` with values of its own. `resolve` gives the fields that are
None a value, once. The resolved config is frozen and stored as config.json.
"""

import difflib
import importlib
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import config_dict

from charrnn import errors
from charrnn.data import splits


class Bounds(NamedTuple):
  """A condition on numbers, and its name in messages."""

  words: str
  holds: Callable[[float], bool]


FINITE = Bounds("a finite number", math.isfinite)
AT_LEAST_0 = Bounds("at least 0", lambda value: value >= 0)
AT_LEAST_1 = Bounds("at least 1", lambda value: value >= 1)
ABOVE_0 = Bounds("above 0", lambda value: 0 < value < math.inf)
FRACTION = Bounds("at least 0 and below 1", lambda value: 0 <= value < 1)
# Choices: values, and registries as MODULE:NAME, which are imported only to check a value.
TOKENIZERS = ("data.tokenizers:KINDS",)
SPLITS = ("data.splits:SPLITS",)
CELLS = ("models.cells:CELLS", "ngram")
INITS = ("models.rnn:INITIALIZERS",)
DTYPES = ("float32", "bfloat16")
UNROLL = ("auto", "scan", "cudnn")
OPTIMIZERS = ("training.optimizer:OPTIMIZERS",)
SCHEDULES = ("training.optimizer:SCHEDULES",)
# Whether a run may be resumed with another value of a field.
FIXED = "no"
FREE = "yes"  # it does not decide what is computed next, except for rounding
LENGTH = "unless the schedule depends on the length of training"


class Field(NamedTuple):
  """One field of a config."""

  name: str  # dotted
  value: Any  # the default; a type stands for None, which `resolve` fills in
  help: str
  values: Bounds | tuple[str, ...] = AT_LEAST_0  # of numbers; or choices
  resume: str = FIXED

  @property
  def default(self) -> Any:
    return None if isinstance(self.value, type) else self.value

  @property
  def type(self) -> type:
    return self.value if isinstance(self.value, type) else type(self.value)

  @property
  def choices(self) -> tuple[str, ...]:
    """The only values that the field may have; empty if there are others."""
    known: list[str] = []
    for each in () if isinstance(self.values, Bounds) else self.values:
      module, _, name = each.partition(":")
      known += getattr(importlib.import_module(f"charrnn.{module}"), name) if name else [each]
    return tuple(known)


FIELDS = (
  Field("seed", 1, "Seed of the parameters, of dropout and of samples."),
  Field("init_from", "", "Run directory to take the weights from; its vocabulary may differ."),
  Field("text.source", "shakespeare", "A corpus by name, file, folder, glob or URL[#sha256=HEX]."),
  Field("text.tokenizer", "char", "char: those that occur; byte: all 256 bytes.", TOKENIZERS),
  Field("text.encoding", "utf-8", "Encoding of the source, for the tokenizer char."),
  Field("text.newlines", "keep", "lf: CRLF and CR become LF.", ("keep", "lf")),
  Field("text.limit", 0, "Use only the first N characters; 0: all."),
  Field("text.split", "tail", "As nanoGPT (tail), torch-rnn (middle), char-rnn (streams).", SPLITS),
  Field("text.valid_fraction", 0.05, "Share of the validation split.", FRACTION),
  Field("text.test_fraction", 0.05, "Share of the test split.", FRACTION),
  Field("model.cell", "lstm", "The recurrent cell; ngram: counts instead of a network.", CELLS),
  Field("model.order", int, "ngram: the largest n. The best n up to it is stored.", AT_LEAST_1),
  Field("model.layers", int, "Number of recurrent layers.", AT_LEAST_1),
  Field("model.hidden", int, "Units in each layer.", AT_LEAST_1),
  Field("model.embed", 0, "Width of a learned embedding; 0: one-hot input."),
  Field("model.dropout", float, "Dropout between layers and before the output layer.", FRACTION),
  Field("model.init", "modern", "uniform: U(-0.08, 0.08); modern: scaled and orthogonal.", INITS),
  Field("model.forget_bias", 1.0, "Initial bias of the LSTM's forget gate.", FINITE),
  Field(
    "model.compute_dtype",
    str,
    "Type of matrix products, with float32 sums (cuDNN: TF32). Chosen: bfloat16 if native.",
    DTYPES,
  ),
  Field("model.unroll", "auto", "cudnn: NVIDIA's LSTM, in TF32; auto: if available.", UNROLL, FREE),
  Field("batch_size", int, "Streams that are read in parallel, over all devices.", AT_LEAST_1),
  Field("window", 64, "Sequence length of truncated backpropagation through time.", AT_LEAST_1),
  Field("accumulate", 1, "Split each batch into N parts, to save memory.", AT_LEAST_1),
  Field("remat", 0, "Store every N-th state and recompute the rest, to save memory; 0: off."),
  Field("epochs", float, "Length of training.", ABOVE_0, LENGTH),
  Field("max_steps", 0, "End training at this step; 0: after `epochs`.", resume=LENGTH),
  Field("cpu_devices", 0, "Devices of a CPU; 0: by its cores, batch_size and hidden.", resume=FREE),
  Field("optimizer.name", "adam", "The update rule.", OPTIMIZERS),
  Field("optimizer.learning_rate", float, "Peak learning rate.", ABOVE_0),
  Field("optimizer.b1", 0.9, "adam, adamw: decay of the mean of gradients.", FRACTION),
  Field("optimizer.b2", 0.99, "adam, adamw: decay of the mean of their squares.", FRACTION),
  Field("optimizer.decay", 0.95, "rmsprop: decay of the mean of squares.", FRACTION),
  Field("optimizer.momentum", 0.0, "sgd: momentum.", FRACTION),
  Field("optimizer.weight_decay", 0.0, "adamw: decay of weights, not of biases."),
  Field("optimizer.eps", 1e-8, "Added to denominators.", ABOVE_0),
  Field("optimizer.clip_element", 0.0, "Clip each gradient to [-x, x]; 0: off."),
  Field("optimizer.clip_norm", 1.0, "Clip the norm of all gradients; 0: off."),
  Field("schedule.name", "cosine", "Learning rate by step.", SCHEDULES),
  Field("schedule.warmup_steps", 50, "Steps of linear warm-up."),
  Field("schedule.final_fraction", 0.01, "cosine: share of the learning rate at the end."),
  Field("schedule.decay", 0.97, "epoch_decay: factor per epoch."),
  Field("schedule.decay_after", 10.0, "epoch_decay: epochs before the decay starts."),
  Field("schedule.halve_every", 5.0, "halving: epochs between two halvings.", ABOVE_0),
  Field("log_every", 20, "Steps between two lines of metrics.jsonl.", AT_LEAST_1, FREE),
  Field("eval_every", int, "Steps between evaluations. Chosen: a tenth of all steps.", AT_LEAST_1),
  Field("eval_streams", 64, "Streams that an evaluation reads in parallel.", AT_LEAST_1),
  Field("eval_burn_in", 512, "Tokens that each of these reads before those that it scores."),
  Field("patience", 0, "Stop after N evaluations without a better loss; 0: never.", resume=FREE),
  Field("diverged", 3.0, "Stop at a loss of more than N times the first.", AT_LEAST_1, FREE),
  Field("checkpoint_every", 0, "Steps between further checkpoints; 0: none.", resume=FREE),
  Field("keep", 3, "Newest checkpoints that are kept, besides the best.", AT_LEAST_1, FREE),
  Field("sample.length", 300, "Characters to sample at evaluations; 0: none.", resume=FREE),
  Field("sample.temperature", 0.8, "Temperature of these samples.", resume=FREE),
  Field("sample.prime", "", "Prompt of these samples.", resume=FREE),
)
BY_NAME = {field.name: field for field in FIELDS}
SECTIONS = tuple(dict.fromkeys(name.partition(".")[0] for name in BY_NAME if "." in name))
# Former names, which command lines, experiment files and stored configs may still have.
FORMER = {"text.alphabet": "text.tokenizer"}
_FORMER_KEYS = {old.rpartition(".")[2]: new.rpartition(".")[2] for old, new in FORMER.items()}


class Section(config_dict.ConfigDict):
  """A ConfigDict that accepts former names of fields and suggests the nearest name."""

  def __getattr__(self, key):
    return super().__getattr__(_FORMER_KEYS.get(key, key))

  def __setattr__(self, key, value):
    key = _FORMER_KEYS.get(key, key)
    if self.is_locked and key not in self:
      raise AttributeError(unknown_field(key))
    super().__setattr__(key, value)

  def __setitem__(self, key, value):
    super().__setitem__(_FORMER_KEYS.get(key, key), value)


def default() -> config_dict.ConfigDict:
  """Return a config with the default of every field. No field can be added to it."""
  values = {
    field.name: config_dict.placeholder(field.type) if field.default is None else field.default
    for field in FIELDS
  }
  config = Section()
  for name, value in _nest(values).items():
    config[name] = Section(value) if name in SECTIONS else value
  return config.lock()


def unknown_field(name: str) -> str:
  """Return a message for a field that does not exist."""
  if name in SECTIONS:
    first = next(known for known in BY_NAME if known.startswith(f"{name}."))
    return f"{name} is a section: set one of its fields, such as {first}"
  by_key = {known.rpartition(".")[2]: known for known in reversed(BY_NAME)}
  keys = difflib.get_close_matches(name.rpartition(".")[2], by_key, n=1)
  near = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.8) or [by_key[key] for key in keys]
  hint = f"did you mean {near[0]}?" if near else "docs/config.md lists all fields"
  return f"no field {name!r} in the config: {hint}"


def check(config: config_dict.ConfigDict):
  """Raise UserError for numbers and names that no program could run with."""
  for name, field in BY_NAME.items():
    if (value := config[name]) in (None, field.default):
      continue
    if field.choices and value not in field.choices:
      raise errors.UserError(f"--config.{name}={value}: use one of {', '.join(field.choices)}")
    if isinstance(field.values, Bounds) and field.type is not str and not field.values.holds(value):
      raise errors.UserError(f"--config.{name}={value}: must be {field.values.words}")
  if config.remat and config.window % config.remat:
    raise errors.UserError(
      f"--config.remat={config.remat}: must divide --config.window={config.window}"
    )


def is_free(name: str) -> bool:
  """Return whether a run may always be resumed with another value of a field."""
  return name in BY_NAME and BY_NAME[name].resume == FREE


def current_name(name: str) -> str:
  """Return the dotted name of a field whose name may be a former one, or begin with `config.`."""
  name = name.removeprefix("config.")
  return FORMER.get(name, name)


def used_fields(config: config_dict.ConfigDict) -> set[str]:
  """Return the names of the fields that have an effect on the model of a config."""
  if config.model.cell != "ngram":
    return BY_NAME.keys() - {"model.order"}
  used = {"seed", "model.cell", "model.order"}
  used |= {name for name in BY_NAME if name.startswith(("text.", "sample."))}
  return used | ({"batch_size", "window"} if config.text.split == "streams" else set())


def to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Return a config as JSON, in the order of FIELDS."""
  values = flatten(json.loads(config.to_json()))
  return _nest({name: values[name] for name in [*BY_NAME, *values] if name in values})


def from_json(value: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Return the config of a run as it was stored; a field that it lacks has its default."""
  config = default()
  with config.ignore_type(), config.unlocked():
    config.update(value)
  return config


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Return nested dicts as one dict by the current dotted name."""
  flat = {}
  for key, child in value.items():
    name = current_name(f"{prefix}{key}")
    flat |= flatten(child, f"{name}.") if isinstance(child, dict) else {name: child}
  return flat


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Return a dict by dotted name as nested dicts."""
  nested: dict[str, Any] = {}
  for name, value in flat.items():
    section, _, key = name.rpartition(".")
    (nested.setdefault(section, {}) if section else nested)[key] = value
  return nested


def short(name: str) -> str:
  """Return the last part of a field's name if it identifies the field, else the whole name."""
  last = name.rpartition(".")[2]
  return last if [each.rpartition(".")[2] for each in BY_NAME].count(last) == 1 else name


def replace(config: config_dict.ConfigDict, values: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Return a copy of a config with other values, by dotted name."""
  config = config_dict.ConfigDict(config).copy_and_resolve_references()
  config.update_from_flattened_dict(values)
  return config


def fill(config: config_dict.ConfigDict, values: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Return a copy of a config in which fields that are None have the values of another (JSON)."""
  values = flatten(values)
  known = values.keys() & BY_NAME.keys()
  return replace(config, {name: values[name] for name in known if config[name] is None})


def check_resumable(old: Mapping[str, Any], new: Mapping[str, Any]):
  """Raise UserError for the first field that must not change and differs in two JSON configs."""
  old, new = flatten(to_json(from_json(old))), flatten(new)
  free = {field.name for field in FIELDS if field.resume == FREE}
  free |= {"text.source"}  # the digest of the corpus is compared, not its name
  length = {field.name for field in FIELDS if field.resume == LENGTH}
  if any(old[name] != new[name] for name in length):
    # Imported here because the optimizer imports JAX, and this module.
    schedules = importlib.import_module("charrnn.training.optimizer").SCHEDULES
    free |= set() if schedules[new["schedule.name"]].uses_steps else length
  remedy = ", with --config.init_from=RUN to start from its weights"
  if "ngram" in (old["model.cell"], new["model.cell"]):
    remedy = ""
  names = sorted((old.keys() | new.keys()) - free)
  for name in ("model.cell", *names):  # the cell first: it decides which of the others are used
    if old.get(name) != new.get(name):
      raise errors.UserError(
        f"this run was made with {name}={old.get(name)} and is asked for with "
        f"{name}={new.get(name)}: give another --workdir{remedy}"
      )


def split(config: config_dict.ConfigDict, length: int) -> splits.Splits:
  """Return the splits of a corpus of `length` tokens."""
  kind, fractions = config.text.split, (config.text.valid_fraction, config.text.test_fraction)
  batch = {"streams": config.batch_size, "window": config.window}
  return splits.split(length, kind, *fractions, **batch)


def steps_per_epoch(config: config_dict.ConfigDict, length: int) -> float:
  """Return the number of updates in an epoch of a corpus of `length` tokens."""
  tokens = sum(stop - start for start, stop in split(config, length).train)
  return tokens / (config.batch_size * config.window)


def total_steps(config: config_dict.ConfigDict, steps_per_epoch: float) -> int:
  """Return the number of updates of a whole run."""
  steps = max(1, round(config.epochs * steps_per_epoch))
  return min(steps, config.max_steps) if config.max_steps else steps


def resolve(
  config: config_dict.ConfigDict,
  length: int,
  *,
  stored: Mapping[str, Any] | None = None,
  source: Mapping[str, Any] | None = None,
  device: Callable[[config_dict.ConfigDict], Any] | None = None,
) -> tuple[config_dict.FrozenConfigDict, dict[str, Any]]:
  """Return a config in which every field that the model uses has a value.

  Also returns the values that depend on the amount of text, by dotted name. `length`: tokens of the
  corpus. `stored`: the config (JSON) of the run that is resumed, and `source` that of the run whose
  weights are taken; both decide what the experiment leaves open. `device(config)` starts JAX and
  returns a device. It is called when all other fields have their values, because the number of CPU
  devices depends on them.
  """
  if stored:
    config = fill(config, stored)
  elif source:
    if source["model"]["cell"] == "ngram":
      raise errors.UserError(
        f"--config.init_from={config.init_from} is an ngram: it has no weights"
      )
    config = fill(config, {"model": source["model"] | {"compute_dtype": None}})
  fractions = config.text.valid_fraction, config.text.test_fraction
  # By the length alone: the split `streams` depends on the batch size, which may be chosen here.
  sizes = _sizes(round(length * (1 - fractions[0] - fractions[1])), config.window)
  chosen = {name: value for name, value in sizes.items() if config[name] is None}
  config = replace(config, chosen)
  steps = total_steps(config, steps_per_epoch(config, length))
  config = fill(config, {"eval_every": max(1, -(-steps // 10))})  # about ten evaluations
  if device:
    config = fill(config, {"model.compute_dtype": _native_dtype(device(config))})
  return config_dict.FrozenConfigDict(config), chosen


# By the number of training characters up to which they apply. Small texts overfit, so they get
# small models and dropout; large texts fill larger models, as far as a few cores can train them.
_SIZE_FIELDS = (
  "model.layers",
  "model.hidden",
  "model.dropout",
  "batch_size",
  "epochs",
  "optimizer.learning_rate",
)
_SIZES = (
  (100_000, (1, 128, 0.3, 8, 30.0, 8e-3)),
  (600_000, (2, 128, 0.3, 16, 20.0, 8e-3)),
  (2_500_000, (2, 256, 0.3, 32, 12.0, 8e-3)),
  (12_000_000, (2, 256, 0.1, 32, 3.6, 8e-3)),
  (60_000_000, (2, 512, 0.1, 64, 2.0, 5e-3)),
  (math.inf, (2, 1024, 0.0, 128, 1.0, 3e-3)),
)


def _sizes(characters: int, window: int) -> dict[str, Any]:
  """Return the sizes of model and training for so many training characters."""
  values = next(values for limit, values in _SIZES if characters <= limit)
  sizes = dict(zip(_SIZE_FIELDS, values))
  # A text of a few lines is too short for many streams.
  while sizes["batch_size"] > 1 and sizes["batch_size"] * window * 20 > characters:
    sizes["batch_size"] //= 2
  return sizes


def _native_dtype(device) -> str:
  if device.platform == "cpu":
    info = pathlib.Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    native = "avx512_bf16" in flags or "amx_bf16" in flags
  else:
    # "9.0" on NVIDIA's, "gfx90a" on AMD's, and nothing on a TPU.
    major = str(getattr(device, "compute_capability", "")).partition(".")[0]
    native = not major.isdigit() or int(major) >= 8
  return "bfloat16" if native else "float32"


def documentation() -> str:
  """Return the table of all fields in Markdown, as it stands in docs/config.md."""
  rows = [("field", "default", "meaning", "values", "may change on resume"), ("---",) * 5]
  for field in FIELDS:
    usual = "chosen" if field.default is None else f"`{json.dumps(field.default)}`"
    usual = "required by ngram" if field.name == "model.order" else usual
    values = ", ".join(f"`{each}`" for each in field.choices)
    values = values or ("text" if field.type is str else field.values.words)
    rows.append((f"`{field.name}`", usual, field.help, values, field.resume))
  return "".join(f"| {' | '.join(row)} |\n" for row in rows)
