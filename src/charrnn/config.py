"""The fields of a config: defaults, validation, JSON conversion, and values chosen for a corpus.

An experiment file returns `default()` with some fields changed. When a run starts, `resolve` fills
in the fields that are still None. The resolved config is frozen and stored as config.json.
"""

import ctypes
import importlib
import json
import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import config_dict

from charrnn import errors, runtime
from charrnn.data import splits, tokenizers


class Bounds(NamedTuple):
  """The numbers that a field accepts, with a description for messages."""

  description: str
  accepts: Callable[[float], bool]
  maximum: float = 2**31 - 1  # of whole numbers: JAX counts in 32 bits

  def problem(self, value: float) -> str | None:
    """Return what is wrong with a number, or None. JAX computes in float32, so round it first."""
    if isinstance(value, float) and not math.isfinite(value := ctypes.c_float(value).value):
      return "must be a finite number (float32)"
    if isinstance(value, int) and value > self.maximum:
      return f"must be at most {self.maximum}"
    return None if self.accepts(value) else f"must be {self.description}"


FINITE = Bounds("a finite number", math.isfinite)
AT_LEAST_0 = Bounds("at least 0", lambda value: value >= 0)
AT_LEAST_1 = Bounds("at least 1", lambda value: value >= 1)
ABOVE_0 = Bounds("above 0", lambda value: value > 0)
SEED = Bounds("from 0 to 4294967295", lambda value: 0 <= value < 2**32, math.inf)
DEVICES = AT_LEAST_0._replace(maximum=4096)  # JAX needs a second to start this many
POSITION = AT_LEAST_0._replace(maximum=math.inf)  # a position in a corpus
SHARE = Bounds("above 0 and at most 1", lambda value: 0 < value <= 1)
FRACTION = Bounds("at least 0 and below 1", lambda value: 0 <= value < 1)
PROBABILITY = Bounds("from 0 to 1", lambda value: 0 <= value <= 1)
# The choices of a field: literal values, or MODULE:NAME for a registry whose keys are the values.
# A registry is imported only when a value is checked.
TOKENIZERS = ("data.tokenizers:KINDS",)
SPLITS = ("data.splits:SPLITS",)
DOCUMENTS = ("data.tokenizers:ENDS",)
CELLS = ("models.cells:CELLS", "models:KINDS")
INITS = ("models.rnn:INITIALIZERS",)
POSITIONS = ("models.transformer:POSITIONS",)
DTYPES = ("float32", "bfloat16")
UNROLL = ("auto", "scan", "native", "cudnn")
OPTIMIZERS = ("training.optimizer:OPTIMIZERS",)
SCHEDULES = ("training.optimizer:SCHEDULES",)
TRACKERS = ("runs.tracking:TRACKERS",)
# Values of `Field.resume`, which says whether a run may be resumed with another value of the field.
FIXED = "no"
FREE = "yes"  # The field does not affect what is computed, except for rounding.
LENGTH = "unless the whole schedule depends on it"


class Field(NamedTuple):
  """One field of a config."""

  name: str  # the dotted name
  value: Any  # the default value; or a type, if the default is None and `resolve` fills it in
  help: str
  values: Bounds | tuple[str, ...] = AT_LEAST_0  # the bounds of a number, or the choices
  resume: str = FIXED

  @property
  def default(self) -> Any:
    return None if isinstance(self.value, type) else self.value

  @property
  def type(self) -> type:
    return self.value if isinstance(self.value, type) else type(self.value)

  def problem(self, value: Any) -> str | None:
    """Return what is wrong with the type or size of a value, or None."""
    if value is None:
      return None if self.default is None else "must have a value"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if type(value) not in ((int, float) if self.type is float else (self.type,)):
      return f"must be {names[self.type]}"
    is_number = isinstance(self.values, Bounds) and self.type in (int, float)
    return self.values.problem(value) if is_number else None

  @property
  def choices(self) -> tuple[str, ...]:
    """The values that the field accepts, or an empty tuple if they cannot be enumerated."""
    choices: list[str] = []
    for each in () if isinstance(self.values, Bounds) else self.values:
      module, _, name = each.partition(":")
      choices += getattr(importlib.import_module(f"charrnn.{module}"), name) if name else [each]
    return tuple(choices)


# The table is formatted by hand: a field has one to four lines.
# fmt: off
FIELDS = (
  Field("seed", 1, "Random seed of the initial parameters, dropout and samples.", SEED),
  Field("init_from", "",
    "Run directory whose best weights training starts from, or a weights file (.safetensors, "
    ".npz); empty: random weights. The vocabulary may differ."),
  Field("text.source", "shakespeare",
    "Corpus: a name that `charrnn corpus` lists, or a file, folder, glob or URL[#sha256=HEX]."),
  Field("text.valid_source", "",
    "Source of the validation split; empty: a part of `text.source`. Only for `char` and `byte`."),
  Field("text.test_source", "",
    "Source of the test split; empty: a part of `text.source`. Only for `char` and `byte`."),
  Field("text.tokenizer", "char",
    "`char`: one token per distinct character of the corpus. `byte`: one token per byte value. "
    "`word`: frequent words of the training split, and `<UNK>`. `bpe`: byte pair encoding, learned "
    "from the training split.", TOKENIZERS),
  Field("text.vocab_size", int,
    "Maximum number of tokens. Chosen from the corpus length. Only for `word` and `bpe`.",
    AT_LEAST_1),
  Field("text.min_count", 0,
    "Replace a character or word that occurs less often than this in the training split by "
    "`<UNK>`; 0: no character, and words that occur once. Only for `char` and `word`."),
  Field("text.vocabulary", "corpus",
    "`corpus`: the vocabulary of the corpus. `init_from`: that of the run or file that `init_from` "
    "names, and for `char` the other characters of the corpus.", ("corpus", "init_from")),
  Field("text.encoding", "utf-8",
    "Encoding of the files, as named in Python. Ignored by the tokenizer `byte`."),
  Field("text.newlines", "keep",
    "`keep` leaves line ends unchanged; `lf` converts CRLF and CR to LF.", ("keep", "lf")),
  Field("text.limit", 0,
    "Use only the first N characters of the corpus; 0: use the whole corpus.", POSITION),
  Field("text.documents", "none",
    "Division of the corpus into documents, before which the state is reset: `none`, `lines`, "
    "`files`, or `blank_lines` (documents are separated by blank lines). The tokenizer must be "
    "`char` or `byte`.", DOCUMENTS),
  Field("text.split", "tail",
    "Splitting method of nanoGPT (`tail`), torch-rnn (`middle`) or char-rnn (`streams`, only for "
    "`char` and `byte`).", SPLITS),
  Field("text.valid_fraction", 0.05,
    "Fraction of the corpus in the validation split; 0: none. Without effect if "
    "`text.valid_source` is set.", FRACTION),
  Field("text.test_fraction", 0.05,
    "Fraction of the corpus in the test split; 0: none. Without effect if `text.test_source` is "
    "set.", FRACTION),
  Field("model.cell", "lstm",
    "Cell of a recurrent network, `transformer` for a GPT-style decoder, or `ngram` for an n-gram "
    "model.", CELLS),
  Field("model.order", int,
    "Maximum order of the n-gram; the best order is stored. Only for `ngram`.", AT_LEAST_1),
  Field("model.layers", int,
    "Number of recurrent layers, or of blocks of a transformer. Chosen from the corpus length.",
    AT_LEAST_1._replace(maximum=1000)),
  Field("model.hidden", int,
    "Number of units per layer, or width of a transformer. Chosen from the corpus length.",
    AT_LEAST_1),
  Field("model.embed", 0,
    "Width of the learned token embedding; 0: one-hot input. Only for recurrent networks."),
  Field("model.heads", int,
    "Number of attention heads; twice as many must divide `model.hidden`. Chosen from the corpus "
    "length. Only for `transformer`.", AT_LEAST_1),
  Field("model.context", int,
    "Number of tokens that a token attends to in each layer, itself included. Chosen from the "
    "corpus length. Only for `transformer`.", AT_LEAST_1._replace(maximum=2**20)),
  Field("model.positions", "rotary",
    "`rotary`: relative, by rotation of queries and keys; `learned`: an embedding of the position "
    "modulo `model.context`. Only for `transformer`.", POSITIONS),
  Field("model.tie", False,
    "Use the weights of the embedding in the output layer. Only for `transformer`."),
  Field("model.dropout", float,
    "Dropout rate of each layer's output, and in a transformer of the embedding and of the outputs "
    "of attention and MLP; 0: off. Chosen from the corpus length.", FRACTION),
  Field("model.residual", False,
    "Add the input of each layer but the first to its output. Only for recurrent networks with "
    "several layers."),
  Field("model.input_dropout", 0.0,
    "Dropout rate of the embedding; 0: off. Only for recurrent networks with an embedding.",
    FRACTION),
  Field("model.weight_drop", 0.0,
    "Rate at which the recurrent weights W_hh are set to zero, with one mask for a whole batch; 0: "
    "off. Only for recurrent networks.", FRACTION),
  Field("model.init", "modern",
    "Initial weights. `uniform`: U(-0.08, 0.08), as in char-rnn. `modern`: scaled input weights "
    "and orthogonal recurrent weights. Only for recurrent networks.", INITS),
  Field("model.forget_bias", 1.0,
    "Initial bias of the forget gate `f` of a cell. Only for recurrent networks.", FINITE),
  Field("model.compute_dtype", str,
    "Data type of matrix products; sums are float32. cuDNN uses TF32 instead. Chosen from the "
    "device: bfloat16 if the hardware supports it, else float32.", DTYPES),
  Field("model.unroll", "auto",
    "Implementation of recurrent layers. `scan`: JAX; `native`: C++, only on CPUs; `cudnn`: "
    "NVIDIA's LSTM, in TF32; `auto`: the fastest that is available.", UNROLL, FREE),
  Field("batch_size", int,
    "Number of streams in a batch, over all devices. Chosen from the corpus length.", AT_LEAST_1),
  Field("window", 64,
    "Tokens per stream and step: the length of truncated backpropagation through time.",
    AT_LEAST_1),
  Field("accumulate", 1,
    "Split each batch into N parts and average their gradients, to save memory; 1: no split.",
    AT_LEAST_1),
  Field("remat", 0,
    "Store every N-th state of a window and recompute the others, to save memory; 0: store all. N "
    "must divide `window`."),
  Field("carry_reset", 0.0,
    "Probability that a stream starts a window without the carry of its previous one; 1: windows "
    "are independent.", PROBABILITY),
  Field("epochs", float,
    "Maximum number of passes over the training split. Chosen from the corpus length.",
    ABOVE_0, LENGTH),
  Field("max_steps", 0, "Maximum number of steps; 0: train for `epochs`.", resume=LENGTH),
  Field("cpu_devices", 0,
    "Number of devices that the CPU is divided into; 0: one with the native layers, otherwise "
    "chosen from the cores, `batch_size` and `model.hidden`.", DEVICES, FREE),
  Field("optimizer.name", "adam", "Optimizer that updates the parameters.", OPTIMIZERS),
  Field("optimizer.learning_rate", float,
    "Peak learning rate. Chosen from the corpus length.", ABOVE_0),
  Field("optimizer.b1", 0.9,
    "Decay rate of the mean of gradients. Only for `adam`, `adamw`, and the AdamW part of `muon`.",
    FRACTION),
  Field("optimizer.b2", 0.99,
    "Decay rate of the mean of squared gradients. Only for `adam`, `adamw`, and the AdamW part of "
    "`muon`.", FRACTION),
  Field("optimizer.decay", 0.95,
    "Decay rate of the mean of squared gradients. Only for `rmsprop`.", FRACTION),
  Field("optimizer.momentum", 0.0,
    "Momentum; 0: plain gradient descent. Only for `sgd`.", FRACTION),
  Field("optimizer.weight_decay", 0.0,
    "Weight decay of matrices, not of biases. Only for `muon`, and for `adamw`, which requires a "
    "value above 0."),
  Field("optimizer.eps", 1e-8,
    "Constant added to the denominators of updates. Not for `sgd`.", ABOVE_0),
  Field("optimizer.average", 0.0,
    "Decay rate of a moving average of the parameters, which is evaluated and saved; 0: off.",
    FRACTION),
  Field("optimizer.clip_element", 0.0, "Clip each element of the gradient to [-x, x]; 0: off."),
  Field("optimizer.clip_norm", 1.0,
    "Maximum norm of the gradient; larger gradients are scaled down. 0: off."),
  Field("schedule.name", "cosine",
    "Shape of the learning rate schedule after the warm-up.", SCHEDULES),
  Field("schedule.warmup_steps", 50,
    "Number of steps in which the learning rate rises linearly; 0: none."),
  Field("schedule.final_fraction", 0.01,
    "Final learning rate, relative to the peak. Only for `cosine` and `wsd`."),
  Field("schedule.decay_fraction", 0.2,
    "Share of all steps in which the learning rate decays, at the end. Only for `wsd`.", SHARE),
  Field("schedule.decay", 0.97,
    "Factor applied to the learning rate once per epoch. Only for `epoch_decay`."),
  Field("schedule.decay_after", 10.0,
    "Number of epochs before the first decay. Only for `epoch_decay`."),
  Field("schedule.halve_every", 5.0,
    "Number of epochs between halvings. Only for `halving`.", ABOVE_0),
  Field("log_every", 20,
    "Number of steps between lines of training metrics in metrics.jsonl.", AT_LEAST_1, FREE),
  Field("tracker", "none",
    "Service that receives a copy of the metrics: Weights & Biases or MLflow. TensorBoard's event "
    "file is always written.", TRACKERS, FREE),
  Field("eval_every", int,
    "Number of steps between evaluations; each saves a checkpoint. Chosen as a tenth of all steps, "
    "rounded up.", AT_LEAST_1),
  Field("eval_streams", 64,
    "Approximate number of streams that an evaluation scores in parallel.", AT_LEAST_1),
  Field("eval_burn_in", 512,
    "Maximum number of tokens that each evaluation stream reads as context before it scores."),
  Field("patience", 0,
    "Stop after N evaluations in a row without a new lowest validation loss; 0: never.",
    resume=FREE),
  Field("diverged", 3.0,
    "Stop if the training loss exceeds N times the first logged loss.", AT_LEAST_1, FREE),
  Field("checkpoint_every", 0,
    "Steps between extra checkpoints; 0: save at evaluations only.", resume=FREE),
  Field("keep", 3,
    "Number of newest checkpoints to keep, in addition to the best.", AT_LEAST_1, FREE),
  Field("sample.length", 300,
    "Number of tokens in the sample that each evaluation writes; 0: no sample.", resume=FREE),
  Field("sample.temperature", 0.8, "Sampling temperature at evaluations; 0: greedy.", resume=FREE),
  Field("sample.prime", "", "Prompt of the samples at evaluations; empty: no prompt.", resume=FREE),
)
# fmt: on
BY_NAME = {field.name: field for field in FIELDS}
SECTIONS = tuple(dict.fromkeys(name.partition(".")[0] for name in BY_NAME if "." in name))
# Former names of fields, which are still accepted in command lines, experiments and stored configs.
FORMER = {"text.alphabet": "text.tokenizer"}
_FORMER_KEYS = {old.rpartition(".")[2]: new.rpartition(".")[2] for old, new in FORMER.items()}


class UnknownFieldError(AttributeError, KeyError):
  """A field that does not exist was read or set."""

  __str__ = Exception.__str__  # KeyError would quote the message.


class Section(config_dict.ConfigDict):
  """A ConfigDict that accepts former names of fields and suggests the nearest name."""

  def _current(self, key):
    """Return the current name of a key; raise UnknownFieldError if it does not exist."""
    key = _FORMER_KEYS.get(key, key)
    if self.is_locked and "." not in key and key not in self:
      raise UnknownFieldError(unknown_field(key))
    return key

  def __getattr__(self, key):
    return super().__getattr__(key if key.startswith("_") else self._current(key))

  def __getitem__(self, key):
    return super().__getitem__(self._current(key))

  def __setattr__(self, key, value):
    super().__setattr__(key if key.startswith("_") else self._current(key), value)

  def __setitem__(self, key, value):
    super().__setitem__(self._current(key), value)


def default() -> config_dict.ConfigDict:
  """Return a config in which every field has its default. It is locked: fields cannot be added."""
  values = {
    field.name: config_dict.placeholder(field.type) if field.default is None else field.default
    for field in FIELDS
  }
  config = Section()
  for name, value in _nest(values).items():
    config[name] = Section(value) if name in SECTIONS else value
  return config.lock()


def unknown_field(name: str) -> str:
  """Return the error message for a field that does not exist."""
  if name in SECTIONS:
    first = next(field for field in BY_NAME if field.startswith(f"{name}."))
    return f"{name} is a section: set one of its fields, for example {first}"
  by_key = {section: section for section in SECTIONS}
  by_key |= {field.rpartition(".")[2]: field for field in reversed(BY_NAME)}
  similar = errors.nearest(name, BY_NAME, cutoff=0.8)
  similar = similar or by_key.get(errors.nearest(name.rpartition(".")[2], by_key))
  hint = f"did you mean {similar}?" if similar else "see docs/config.md for all fields"
  return f"no field {name!r} in the config: {hint}"


def check(config: config_dict.ConfigDict, overrides: Container[str] = ()):
  """Raise UserError for a value that a field does not accept, or that the model does not use.

  `overrides` contains the names of the fields that the command line sets. The model must use these
  even if their value is the default.
  """
  for name, field in BY_NAME.items():
    value = config[name]
    if value is not None and (problem := field.problem(value)):
      raise errors.UserError(f"--config.{name}={value}: {problem}")
    if value not in (None, field.default) and field.choices and value not in field.choices:
      near = errors.nearest(str(value), field.choices)
      hint = f"; did you mean {near}?" if near else ""
      raise errors.UserError(
        f"--config.{name}={value}: use one of {', '.join(field.choices)}{hint}"
      )
  _check_text(config.text)
  if config.remat and config.window % config.remat:
    raise errors.UserError(
      f"--config.remat={config.remat}: must divide --config.window={config.window}"
    )
  if config.text.documents != "none":
    _check_documents(config)
  used = used_fields(config)
  for name, field in BY_NAME.items():
    if name not in used and (name in overrides or config[name] != field.default):
      raise errors.UserError(
        f"--config.{name}={config[name]}: the model {config.model.cell} does not use this field: "
        "remove it, or start from another experiment"
      )


def _check_text(text: config_dict.ConfigDict):
  """Raise UserError for fields of `config.text` that do not fit together."""
  tokenizers.check_size(text.tokenizer, text.vocab_size)
  if tokenizers.is_trained(text.tokenizer) and text.split == "streams":
    raise errors.UserError(
      f"--config.text.split=streams: needs the tokenizer char or byte, not {text.tokenizer}, whose "
      "vocabulary depends on the split: use tail or middle"
    )
  tokenizers.check_min_count(text.tokenizer, text.min_count)
  if text.min_count and text.split == "streams":
    raise errors.UserError(
      f"--config.text.split=streams: the batch size determines the training split, so rare tokens "
      f"cannot be counted (text.min_count={text.min_count}): use tail or middle"
    )
  tokenizers.check_documents(text.tokenizer, text.documents)


def _check_documents(config: config_dict.ConfigDict):
  """Raise UserError for fields that do not fit a text that is divided into documents."""
  documents, split, unroll = config.text.documents, config.text.split, config.model.unroll
  if not _kind(config.model.cell).has_gradient:
    raise errors.UserError(
      f"--config.text.documents={documents}: the model {config.model.cell} cannot be reset between "
      "documents: use none, or another model"
    )
  if split != "tail":
    raise errors.UserError(
      f"--config.text.split={split}: does not apply to documents, which are shuffled and then "
      f"split (text.documents={documents}): use tail"
    )
  if unroll not in ("auto", "scan"):
    raise errors.UserError(
      f"--config.model.unroll={unroll}: cannot reset the state between documents (text.documents="
      f"{documents}): use auto or scan"
    )


def has_validation(config: config_dict.ConfigDict) -> bool:
  """Return whether the corpus has a validation split, so that a run has validation losses."""
  return bool(config.text.valid_fraction or config.text.valid_source)


def check_rollback(config: config_dict.ConfigDict):
  """Raise UserError if a run cannot return to its checkpoint with the lowest validation loss."""
  if not (_kind(config.model.cell).has_gradient and has_validation(config)):
    raise errors.UserError(
      "--rollback returns to the checkpoint with the lowest validation loss: train a network, with "
      "--config.text.valid_fraction above 0 or --config.text.valid_source"
    )


def is_free(name: str) -> bool:
  """Return whether a run can always be resumed with another value of this field."""
  return name in BY_NAME and BY_NAME[name].resume == FREE


def current_name(name: str) -> str:
  """Return the current dotted name of a field. Accepts former names and the prefix `config.`."""
  name = name.removeprefix("config.")
  return FORMER.get(name, name)


def used_fields(config: config_dict.ConfigDict) -> set[str]:
  """Return the dotted names of the fields that affect a run with this model and split."""
  kind = _kind(config.model.cell)
  names = {"seed", "tracker", "model.cell", *(f"model.{name}" for name in kind.fields)}
  names |= {name for name in BY_NAME if name.startswith(("text.", "sample."))}
  if kind.has_gradient:
    names |= {name for name in BY_NAME if not name.startswith("model.")}
  elif config.text.split == "streams":
    names |= {"batch_size", "window"}
  return names if tokenizers.is_trained(config.text.tokenizer) else names - {"text.vocab_size"}


def _kind(cell: str):
  """Return the `models.Kind` of a model. The package `models` may import this module."""
  return importlib.import_module("charrnn.models").kind(cell)


def to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Return a config as JSON, in the order of FIELDS."""
  values = flatten(json.loads(config.to_json()))
  return _nest({name: values[name] for name in [*BY_NAME, *values] if name in values})


def from_json(value: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Return a config from JSON. Fields that are missing in the JSON get their defaults."""
  config = default()
  with config.ignore_type(), config.unlocked():
    config.update(value)
  return config


def from_stored(value: Mapping[str, Any], name: str) -> config_dict.FrozenConfigDict:
  """Return the resolved config of a run from JSON; raise UserError if it is wrong.

  Fields that are missing in the JSON get their defaults. `name` identifies the file in messages.
  """
  for field, each in flatten(value).items():
    if field not in BY_NAME:
      raise errors.UserError(
        f"{name} has the field {field}, which this version of charrnn does not know: restore it "
        "from a copy, or use the version that wrote it"
      )
    if problem := BY_NAME[field].problem(each):
      raise errors.UserError(f"{name} has {field}={each!r}: {problem}: restore it from a copy")
  config = from_json(value)
  if missing := [field for field in sorted(used_fields(config)) if config[field] is None]:
    raise errors.UserError(f"{name} has no {missing[0]}: restore it from a copy")
  return config_dict.FrozenConfigDict(config)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Flatten nested dicts into one dict with current dotted names as keys."""
  flat = {}
  for key, child in value.items():
    name = current_name(f"{prefix}{key}")
    is_section = isinstance(child, dict) and (child or name in SECTIONS)
    flat |= flatten(child, f"{name}.") if is_section else {name: child}
  return flat


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Convert a dict with dotted names as keys to nested dicts."""
  nested: dict[str, Any] = {}
  for name, value in flat.items():
    section, _, key = name.rpartition(".")
    (nested.setdefault(section, {}) if section else nested)[key] = value
  return nested


def short(name: str) -> str:
  """Return the last part of a field's name if it is unique among all fields, else the full name."""
  last = name.rpartition(".")[2]
  return last if [each.rpartition(".")[2] for each in BY_NAME].count(last) == 1 else name


def replace(config: config_dict.ConfigDict, values: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Return a copy of a config with the given values, whose keys are dotted names."""
  config = config_dict.ConfigDict(config).copy_and_resolve_references()
  config.update_from_flattened_dict(values)
  return config


def fill(config: config_dict.ConfigDict, values: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Return a copy of a config whose None fields are filled in from a JSON config."""
  values = flatten(values)
  names = values.keys() & BY_NAME.keys()
  return replace(config, {name: values[name] for name in names if config[name] is None})


def check_resumable(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
  """Return the fields in which two JSON configs differ, each with its old and its new value.

  Raises UserError if one of them must not change on resume.
  """
  section = from_json(new).schedule
  old, new = flatten(to_json(from_json(old))), flatten(new)
  free = {field.name for field in FIELDS if field.resume == FREE}
  free |= {"text.source"}  # Callers compare the corpus by digest, not by name.
  length = {field.name for field in FIELDS if field.resume == LENGTH}
  schedule = new["schedule.name"]
  if any(old[name] != new[name] for name in length):
    # Import late: the optimizer module imports this one, and it imports JAX, which is slow.
    optimizer = importlib.import_module("charrnn.training.optimizer")
    free |= length if optimizer.stable_steps(section, AT_LEAST_1.maximum) else set()
  remedy = "; add --config.init_from=RUN to start from its weights"
  if not all(_kind(cell).has_gradient for cell in (old["model.cell"], new["model.cell"])):
    remedy = ""
  changes = {
    n: (old.get(n), new.get(n)) for n in old.keys() | new.keys() if old.get(n) != new.get(n)
  }
  for name in ("model.cell", *sorted(changes)):  # The cell determines which fields are used.
    if name in changes.keys() - free:
      because = (
        f" with --config.schedule.name={schedule}, whose learning rates depend on the length of "
        "training"
      )
      raise errors.UserError(
        f"--config.{name}={new.get(name)}: the run has {name}={old.get(name)}, which cannot change "
        f"on resume{because if name in length else ''}: use another --workdir{remedy}"
      )
  return {name: changes[name] for name in BY_NAME if name in changes}


# Pairs (character, token), see corpora.Corpus: positions of a text whose tokens are not characters.
Boundaries = Sequence[tuple[int, int]]


def split(
  config: config_dict.ConfigDict,
  length: int,
  boundaries: Boundaries = (),
  divided: splits.Splits | None = None,
) -> splits.Splits:
  """Return the splits of a corpus of `length` tokens.

  They are spans of tokens. With `boundaries`, the text is divided by its characters. `divided` are
  the splits of a corpus whose documents determine them.
  """
  if divided:
    return divided
  kind, fractions = config.text.split, (config.text.valid_fraction, config.text.test_fraction)
  batch = {"streams": config.batch_size, "window": config.window}
  characters = boundaries[-1][0] if boundaries else length
  divided = splits.split(characters, kind, *fractions, **batch)
  try:
    return divided.map(dict(boundaries)) if boundaries else divided
  except KeyError as error:
    raise errors.UserError(
      f"the corpus has no boundary at character {error}: restore run.json from a copy of the run"
    ) from error


def steps_per_epoch(config: config_dict.ConfigDict, length: int, *layout) -> float:
  """Return the number of steps per epoch, not rounded, for a corpus of `length` tokens.

  See `split` for the other arguments.
  """
  tokens = sum(stop - start for start, stop in split(config, length, *layout).train)
  return tokens / (config.batch_size * config.window)


def total_steps(config: config_dict.ConfigDict, steps_per_epoch: float) -> int:
  """Return the number of steps of a complete run."""
  steps = max(1, round(config.epochs * steps_per_epoch))
  steps = min(steps, config.max_steps) if config.max_steps else steps
  if steps > AT_LEAST_1.maximum:
    raise errors.UserError(
      f"--config.epochs={config.epochs:g} is {steps:.1e} steps: use at most {AT_LEAST_1.maximum}, "
      "or set --config.max_steps"
    )
  return steps


class Sizes(NamedTuple):
  """The values that `resolve` chooses for the fields of a model."""

  names: tuple[str, ...]
  rows: tuple[tuple[float, tuple], ...]  # maximum number of training tokens, and the values


def resolve(
  config: config_dict.ConfigDict,
  length: int,
  *,
  boundaries: Boundaries = (),
  divided: splits.Splits | None = None,
  stored: Mapping[str, Any] | None = None,
  source: Mapping[str, Any] | None = None,
  device: Callable[[config_dict.ConfigDict], Any] | None = None,
) -> tuple[config_dict.FrozenConfigDict, dict[str, Any]]:
  """Return (config, chosen): the resolved config, and the values chosen from the corpus length.

  In the resolved config, every field that the model uses has a value. `chosen` has dotted names as
  keys. `length` is the number of tokens in the corpus. See `split` for `boundaries` and `divided`.

  Fields that are None take their values from `stored`, the JSON config of the run that is resumed.
  A new run takes the fields of its model from `source`, the JSON config of the run that provides
  the initial weights. All other values are chosen from the corpus length and the device.

  `device(config)` starts JAX and returns a device. It is called after all other fields are filled
  in, because the number of CPU devices depends on them.
  """
  if stored:
    config = fill(config, stored)
  elif source:
    if not _kind(source["model"]["cell"]).has_gradient:
      raise errors.UserError(
        f"--config.init_from={config.init_from} is an n-gram run, which has no weights: use "
        "a run of a network"
      )
    names = [name for name in _kind(config.model.cell).fields if name != "compute_dtype"]
    values = {name: source["model"].get(name) for name in names}
    config = fill(config, {"model": {k: v for k, v in values.items() if v is not None}})
  fractions = config.text.valid_fraction, config.text.test_fraction
  # Estimate the training length from the fractions. The exact length cannot be computed yet: the
  # split `streams` depends on the batch size, which may be chosen here.
  training = round(length * (1 - fractions[0] - fractions[1]))
  if divided:
    training = sum(stop - start for start, stop in divided.train)
  sizes = sizes_for(config.model.cell, training, config.window)
  if source and not stored:
    sizes["optimizer.learning_rate"] *= FINE_TUNING_RATE
  chosen = {name: value for name, value in sizes.items() if config[name] is None}
  if "model.heads" in chosen:
    hidden = chosen.get("model.hidden", config.model.hidden)
    chosen["model.heads"] = _heads(hidden, chosen["model.heads"])
  config = replace(config, chosen)
  steps = total_steps(config, steps_per_epoch(config, length, boundaries, divided))
  config = fill(config, {"eval_every": max(1, -(-steps // 10))})  # at most ten evaluations
  if device:
    config = fill(config, {"model.compute_dtype": _native_dtype(device(config))})
  return config_dict.FrozenConfigDict(config), chosen


# The peak learning rate of a run that starts from the weights of another one, relative to that of a
# run from random weights. docs/training.md has the measurement.
FINE_TUNING_RATE = 0.5

# Each row: a maximum number of training tokens, and the values of the fields up to that number.
# Small corpora overfit, so they get small models and more dropout. Models for large corpora are
# limited by what a few CPU cores can train.
_TRAINING_FIELDS = ("model.dropout", "batch_size", "epochs", "optimizer.learning_rate")
RECURRENT_SIZES = Sizes(
  ("model.layers", "model.hidden", *_TRAINING_FIELDS),
  (
    (100_000, (1, 128, 0.3, 8, 30.0, 8e-3)),
    (600_000, (2, 128, 0.3, 16, 20.0, 8e-3)),
    (2_500_000, (2, 256, 0.3, 32, 12.0, 8e-3)),
    (12_000_000, (2, 256, 0.1, 32, 3.6, 8e-3)),
    (60_000_000, (2, 512, 0.1, 64, 2.0, 5e-3)),
    (math.inf, (2, 1024, 0.0, 128, 1.0, 3e-3)),
  ),
)
TRANSFORMER_SIZES = Sizes(
  ("model.layers", "model.hidden", "model.heads", "model.context", *_TRAINING_FIELDS),
  (
    (100_000, (2, 128, 4, 64, 0.3, 8, 30.0, 2e-3)),
    (600_000, (3, 128, 4, 64, 0.2, 16, 20.0, 2e-3)),
    (2_500_000, (4, 192, 6, 128, 0.2, 32, 12.0, 2e-3)),
    (12_000_000, (4, 192, 6, 128, 0.1, 32, 3.6, 2e-3)),
    (60_000_000, (6, 384, 6, 256, 0.1, 64, 2.0, 1e-3)),
    (math.inf, (8, 512, 8, 256, 0.0, 128, 1.0, 6e-4)),
  ),
)
SIZES = {"transformer": TRANSFORMER_SIZES}  # by cell; all others are recurrent


def sizes_for(cell: str, length: int, window: int) -> dict[str, Any]:
  """Return the values of the fields that are chosen for `length` training tokens."""
  names, rows = SIZES.get(cell, RECURRENT_SIZES)
  values = next(values for limit, values in rows if length <= limit)
  sizes = dict(zip(names, values))
  # Halve the batch until an epoch has at least 20 steps: short texts cannot feed many streams.
  while sizes["batch_size"] > 1 and sizes["batch_size"] * window * 20 > length:
    sizes["batch_size"] //= 2
  return sizes


def _heads(hidden: int, maximum: int) -> int:
  """Return the greatest number of attention heads, up to a maximum, that fits the width."""
  return next((n for n in range(maximum, 1, -1) if hidden % (2 * n) == 0), 1)


def _native_dtype(device) -> str:
  """Return bfloat16 if the hardware supports it natively, else float32."""
  if device.platform == "cpu":
    flags = runtime.cpu_info().get("flags", "")
    native = "avx512_bf16" in flags or "amx_bf16" in flags
  else:
    # compute_capability is "9.0" on an NVIDIA GPU, "gfx90a" on an AMD GPU, and absent on a TPU.
    major = str(getattr(device, "compute_capability", "")).partition(".")[0]
    native = not major.isdigit() or int(major) >= 8
  return "bfloat16" if native else "float32"


def documentation() -> str:
  """Return the Markdown table of all fields, which docs/config.md must contain."""
  rows = [("field", "default", "meaning", "values", "may change on resume"), ("---",) * 5]
  for field in FIELDS:
    default = "chosen" if field.default is None else f"`{json.dumps(field.default)}`"
    default = "required for `ngram`" if field.name == "model.order" else default
    values = ", ".join(f"`{each}`" for each in field.choices)
    values = values or {str: "text", bool: "`true`, `false`"}.get(field.type)
    values = values or field.values.description
    rows.append((f"`{field.name}`", default, field.help, values, field.resume))
  return "".join(f"| {' | '.join(row)} |\n" for row in rows)
