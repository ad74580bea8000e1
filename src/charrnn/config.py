"""The fields of a config: defaults, checks, JSON, and the values that are chosen for a corpus.

An experiment file returns `default()` with values of its own. `resolve` gives the fields that are
None a value, once. The resolved config is frozen and stored as config.json.
"""

import dataclasses
import difflib
import enum
import importlib
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
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


class Resume(enum.StrEnum):
  """Whether a run may be resumed with another value of a field."""

  FIXED = "no"
  FREE = "yes"  # it does not decide what is computed next, except for rounding
  LENGTH = "unless schedule.name is cosine"  # the cosine ends at the last step


NETWORK, NGRAM = "network", "ngram"  # kinds of models
ANY = (NETWORK, NGRAM)


@dataclasses.dataclass(frozen=True)
class Field:
  """One field of a config."""

  name: str  # dotted
  value: Any  # the default; a type stands for None, which `resolve` fills in
  help: str
  bounds: Bounds = AT_LEAST_0  # of numbers
  choices: tuple[str, ...] = ()  # values, or registries as MODULE:NAME that are imported to check
  resume: Resume = Resume.FIXED
  models: tuple[str, ...] = (NETWORK,)  # the kinds that use it

  @property
  def default(self) -> Any:
    return None if isinstance(self.value, type) else self.value

  @property
  def type(self) -> type:
    return self.value if isinstance(self.value, type) else type(self.value)


def _text(key, value, text, **options):
  return Field(f"text.{key}", value, text, models=ANY, **options)


def _free(name, value, text, **options):
  return Field(name, value, text, resume=Resume.FREE, **options)


OPTIMIZER = "charrnn.training.optimizer"
FIELDS = (
  Field("seed", 1, "Seed of the parameters, of dropout and of samples.", models=ANY),
  Field("init_from", "", "Run directory to take the weights from; its vocabulary may differ."),
  _text("source", "shakespeare", "Name of a corpus, or a file, folder, glob or URL[#sha256=HEX]."),
  _text(
    "tokenizer",
    "char",
    "char: the characters that occur; byte: all 256 bytes. Formerly `text.alphabet`.",
    choices=("charrnn.data.tokenizers:KINDS",),
  ),
  _text("encoding", "utf-8", "Encoding of the source, for the tokenizer char."),
  _text("newlines", "keep", "lf: CRLF and CR become LF.", choices=("keep", "lf")),
  _text("limit", 0, "Use only the first N characters; 0: all."),
  _text(
    "split",
    "tail",
    "How the corpus is split: as nanoGPT (tail), torch-rnn (middle) or char-rnn (streams) does.",
    choices=("charrnn.data.splits:SPLITS",),
  ),
  _text("valid_fraction", 0.05, "Share of the validation split.", bounds=FRACTION),
  _text("test_fraction", 0.05, "Share of the test split.", bounds=FRACTION),
  Field(
    "model.cell",
    "lstm",
    "The recurrent cell; or ngram, which counts the text instead of training a network.",
    choices=("charrnn.models.cells:CELLS", "ngram"),
    models=ANY,
  ),
  Field(
    "model.order",
    int,
    "Length of the longest n-grams. The best order up to it is stored.",
    AT_LEAST_1,
    models=(NGRAM,),
  ),
  Field("model.layers", int, "Number of recurrent layers.", AT_LEAST_1),
  Field("model.hidden", int, "Units in each layer.", AT_LEAST_1),
  Field("model.embed", 0, "Width of a learned embedding; 0: one-hot input."),
  Field("model.dropout", float, "Dropout between layers and before the output layer.", FRACTION),
  Field(
    "model.init",
    "modern",
    "uniform: U(-0.08, 0.08), as in 2015; modern: scaled and orthogonal.",
    choices=("charrnn.models.rnn:INITIALIZERS",),
  ),
  Field("model.forget_bias", 1.0, "Initial bias of the LSTM's forget gate.", FINITE),
  Field(
    "model.compute_dtype",
    str,
    "Type of matrix products; sums, states and parameters stay float32. Chosen: bfloat16 where it "
    "is native (TPUs, GPUs since Ampere, CPUs with AVX512-BF16 or AMX).",
    choices=("float32", "bfloat16"),
  ),
  _free(
    "model.unroll",
    "auto",
    "scan; cudnn: NVIDIA's LSTM, in TF32; auto: cudnn where there is one.",
    choices=("auto", "scan", "cudnn"),
  ),
  Field("batch_size", int, "Streams that are read in parallel, over all devices.", AT_LEAST_1),
  Field("window", 64, "Tokens of a stream in one update, for the truncated gradient.", AT_LEAST_1),
  Field("accumulate", 1, "Split each batch into N parts, to save memory.", AT_LEAST_1),
  Field("remat", 0, "Store every N-th state only and recompute the rest, to save memory; 0: off."),
  Field("epochs", float, "Length of training.", ABOVE_0, resume=Resume.LENGTH),
  Field("max_steps", 0, "End training at this step; 0: after `epochs`.", resume=Resume.LENGTH),
  _free("cpu_devices", 0, "Devices of a CPU; 0: chosen by its cores, batch_size and hidden."),
  Field("optimizer.name", "adam", "The update rule.", choices=(f"{OPTIMIZER}:OPTIMIZERS",)),
  Field("optimizer.learning_rate", float, "The largest one.", ABOVE_0),
  Field("optimizer.b1", 0.9, "adam: decay of the mean of gradients.", FRACTION),
  Field("optimizer.b2", 0.99, "adam: decay of the mean of their squares.", FRACTION),
  Field("optimizer.decay", 0.95, "rmsprop: decay of the mean of squares.", FRACTION),
  Field("optimizer.momentum", 0.0, "sgd: momentum.", FRACTION),
  Field("optimizer.weight_decay", 0.0, "adamw: decay of weights, not of biases."),
  Field("optimizer.eps", 1e-8, "Added to denominators.", ABOVE_0),
  Field("optimizer.clip_element", 0.0, "Clip each gradient to [-x, x]; 0: off."),
  Field("optimizer.clip_norm", 1.0, "Clip the norm of all gradients; 0: off."),
  Field("schedule.name", "cosine", "Learning rate by step.", choices=(f"{OPTIMIZER}:SCHEDULES",)),
  Field("schedule.warmup_steps", 50, "Steps in which the learning rate rises from 0."),
  Field("schedule.final_fraction", 0.01, "cosine: share of the learning rate at the end."),
  Field("schedule.decay", 0.97, "epoch_decay: factor per epoch."),
  Field("schedule.decay_after", 10.0, "epoch_decay: epochs before the decay starts."),
  Field("schedule.halve_every", 5.0, "halving: epochs between two halvings.", ABOVE_0),
  _free("log_every", 20, "Steps between two lines of metrics.jsonl.", bounds=AT_LEAST_1),
  Field("eval_every", int, "Steps between evaluations. Chosen: a tenth of all steps.", AT_LEAST_1),
  Field("eval_streams", 64, "Streams that an evaluation reads in parallel.", AT_LEAST_1),
  Field("eval_burn_in", 512, "Tokens that each of these reads before those that it scores."),
  _free("patience", 0, "Stop after N evaluations without a better loss; 0: never."),
  _free("diverged", 3.0, "Stop at a loss of more than N times the first.", bounds=AT_LEAST_1),
  _free("checkpoint_every", 0, "Steps between checkpoints besides those at evaluations; 0: none."),
  _free("keep", 3, "Newest checkpoints that are kept, besides the best.", bounds=AT_LEAST_1),
  _free("sample.length", 300, "Characters to sample at evaluations; 0: none.", models=ANY),
  _free("sample.temperature", 0.8, "Their temperature.", models=ANY),
  _free("sample.prime", "", "Their prompt.", models=ANY),
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


def default() -> config_dict.ConfigDict:
  """Return a config with the default of every field. No field can be added to it."""
  config = Section()
  for field in FIELDS:
    section, _, key = field.name.rpartition(".")
    if section and section not in config:
      config[section] = Section()
    value = config_dict.placeholder(field.type) if field.default is None else field.default
    (config[section] if section else config)[key] = value
  return config.lock()


def unknown_field(name: str) -> str:
  """Return a message for a field that does not exist."""
  if name in SECTIONS:
    first = next(field.name for field in FIELDS if field.name.startswith(f"{name}."))
    return f"{name} is a section: set one of its fields, such as {first}"
  last = {known.rpartition(".")[2]: known for known in reversed(BY_NAME)}
  near = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.8)
  near = near or [
    last[key] for key in difflib.get_close_matches(name.rpartition(".")[2], last, n=1)
  ]
  hint = f"did you mean {near[0]}?" if near else "docs/config.md lists all fields"
  return f"no field {name!r} in the config: {hint}"


def check(config: config_dict.ConfigDict):
  """Raise UserError for numbers and names that no program could run with."""
  for field in FIELDS:
    value = config[field.name]
    if value is None:
      continue
    if field.choices and value != field.default and value not in (known := choices(field)):
      raise errors.UserError(f"--config.{field.name}={value}: use one of {', '.join(known)}")
    if isinstance(value, int | float) and not field.bounds.holds(value):
      raise errors.UserError(f"--config.{field.name}={value}: must be {field.bounds.words}")
  if config.remat and config.window % config.remat:
    raise errors.UserError(
      f"--config.remat={config.remat}: must divide --config.window={config.window}"
    )


def choices(field: Field) -> tuple[str, ...]:
  """Return the values that a field may have."""
  known: list[str] = []
  for each in field.choices:
    module, _, registry = each.partition(":")
    known += getattr(importlib.import_module(module), registry) if registry else [each]
  return tuple(known)


def is_free(name: str) -> bool:
  """Return whether a run may always be resumed with another value of a field."""
  return name in BY_NAME and BY_NAME[name].resume == Resume.FREE


def current_name(name: str) -> str:
  """Return the dotted name of a field whose name may be a former one, or begin with `config.`."""
  name = name.removeprefix("config.")
  return FORMER.get(name, name)


def used_fields(config: config_dict.ConfigDict) -> set[str]:
  """Return the names of the fields that have an effect on the model of a config."""
  names = {field.name for field in FIELDS if _kind(config) in field.models}
  return names | ({"batch_size", "window"} if config.text.split == "streams" else set())


def _kind(config) -> str:
  return NGRAM if config.model.cell == "ngram" else NETWORK


def to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Return a config as JSON, in the order of FIELDS."""
  values = flatten(json.loads(config.to_json()))
  nested: dict[str, Any] = {}
  for name in dict.fromkeys([*BY_NAME, *values]):
    section, _, key = name.rpartition(".")
    if name in values:
      (nested.setdefault(section, {}) if section else nested)[key] = values[name]
  return nested


def from_json(value: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Return the config of a run as it was stored; a field that it lacks has its default."""
  config = default()
  with config.ignore_type(), config.unlocked():
    config.update(with_current_names(value))
  return config


def with_current_names(value: Mapping[str, Any]) -> dict[str, Any]:
  """Return a stored config with the current names of its fields."""
  return {
    key: {_FORMER_KEYS.get(name, name): each for name, each in child.items()}
    if isinstance(child, dict)
    else child
    for key, child in value.items()
  }


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Return nested dicts as one dict by dotted name."""
  flat = {}
  for key, child in value.items():
    name = f"{prefix}{key}"
    flat |= flatten(child, f"{name}.") if isinstance(child, dict) else {name: child}
  return flat


def short(name: str) -> str:
  """Return the last part of a field's name if it identifies the field, else the whole name."""
  last = name.rpartition(".")[2]
  return last if [each.rpartition(".")[2] for each in BY_NAME].count(last) == 1 else name


def replace(config: config_dict.ConfigDict, values: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Return a copy of a config with other values, by dotted name."""
  config = config_dict.ConfigDict(config).copy_and_resolve_references()
  for name, value in values.items():
    section, _, key = name.rpartition(".")
    (config[section] if section else config)[key] = value
  return config


def fill(config: config_dict.ConfigDict, values: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Return a copy of a config in which fields that are None have these values, by dotted name."""
  known = values.keys() & BY_NAME.keys()
  return replace(config, {name: values[name] for name in known if config[name] is None})


def fill_stored(config: config_dict.ConfigDict, stored: Mapping[str, Any]):
  """Return a copy of a config in which fields that are None are as in a stored config (JSON)."""
  return fill(config, flatten(with_current_names(stored)))


def check_resumable(old: Mapping[str, Any], new: Mapping[str, Any]):
  """Raise UserError for the first field that must not change and differs in two JSON configs."""
  allowed = {Resume.FREE} if new["schedule"]["name"] == "cosine" else {Resume.FREE, Resume.LENGTH}
  free = {field.name for field in FIELDS if field.resume in allowed}
  # The digest of the corpus is compared, not its name.
  free |= {"text.source"}
  old, new = flatten(to_json(from_json(old))), flatten(new)
  names = sorted((old.keys() | new.keys()) - free - {"model.cell"})
  remedy = ", with --config.init_from=RUN to start from its weights"
  if NGRAM in (old["model.cell"], new["model.cell"]):
    remedy = ""
  for name in ("model.cell", *names):  # the cell first: it decides which of the others are used
    if old.get(name) != new.get(name):
      raise errors.UserError(
        f"this run was made with {name}={old.get(name)} and is asked for with "
        f"{name}={new.get(name)}: give another --workdir{remedy}"
      )


def split(config: config_dict.ConfigDict, length: int) -> splits.Splits:
  """Return the splits of a corpus of `length` tokens."""
  text = config.text
  return splits.split(
    length,
    text.split,
    text.valid_fraction,
    text.test_fraction,
    streams=config.batch_size,
    window=config.window,
  )


def steps_per_epoch(config: config_dict.ConfigDict, length: int) -> float:
  """Return the number of updates in an epoch of a corpus of `length` tokens."""
  tokens = sum(stop - start for start, stop in split(config, length).train)
  return tokens / (config.batch_size * config.window)


def total_steps(config: config_dict.ConfigDict, steps_per_epoch: float) -> int:
  """Return the number of updates of a whole run."""
  steps = max(1, round(config.epochs * steps_per_epoch))
  return min(steps, config.max_steps) if config.max_steps else steps


class Resolved(NamedTuple):
  config: config_dict.FrozenConfigDict
  chosen: dict[str, Any]  # the values that depend on the amount of text, by dotted name


def resolve(
  config: config_dict.ConfigDict,
  length: int,
  *,
  stored: Mapping[str, Any] | None = None,
  source: Mapping[str, Any] | None = None,
  device: Callable[[config_dict.ConfigDict], Any] | None = None,
) -> Resolved:
  """Return a config in which every field that the model uses has a value.

  `length`: tokens of the corpus. `stored`: the config (JSON) of the run that is resumed, and
  `source` that of the run whose weights are taken; both decide what the experiment leaves open.
  `device(config)` starts JAX and returns a device. It is called when all other fields have their
  values, because the number of CPU devices depends on them.
  """
  if stored:
    config = fill_stored(config, stored)
  elif source:
    if source["model"]["cell"] == "ngram":
      raise errors.UserError(
        f"--config.init_from={config.init_from} is an ngram: it has no weights"
      )
    config = fill_stored(config, {"model": {**source["model"], "compute_dtype": None}})
  fractions = config.text.valid_fraction, config.text.test_fraction
  # By the length alone: the split `streams` depends on the batch size, which may be chosen here.
  sizes = _sizes(round(length * (1 - fractions[0] - fractions[1])), config.window)
  chosen = {name: value for name, value in sizes.items() if config[name] is None}
  config = fill(config, chosen)
  steps = total_steps(config, steps_per_epoch(config, length))
  config = fill(config, {"eval_every": max(1, -(-steps // 10))})  # about ten evaluations
  if device:
    config = fill(config, {"model.compute_dtype": _native_dtype(device(config))})
  return Resolved(config_dict.FrozenConfigDict(config), chosen)


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
    try:
      info = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
      info = ""
    native = "avx512_bf16" in info or "amx_bf16" in info
  else:
    # "9.0" on NVIDIA's, "gfx90a" on AMD's, and nothing on a TPU.
    major = str(getattr(device, "compute_capability", "")).partition(".")[0]
    native = not major.isdigit() or int(major) >= 8
  return "bfloat16" if native else "float32"


def documentation() -> str:
  """Return the table of all fields in Markdown, as it stands in docs/config.md."""
  return "\n".join(_rows()) + "\n"


def _rows() -> Iterable[str]:
  yield "| field | default | meaning | values | may change on resume |"
  yield "|---|---|---|---|---|"
  for field in FIELDS:
    usual = "chosen" if field.default is None else f"`{json.dumps(field.default)}`"
    if field.name == "model.order":
      usual = "required by ngram"
    if field.choices:
      values = ", ".join(f"`{each}`" for each in choices(field))
    else:
      values = "text" if field.type is str else field.bounds.words
    yield f"| `{field.name}` | {usual} | {field.help} | {values} | {field.resume} |"
