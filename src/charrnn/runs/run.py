"""Reading of run directories: config, vocabulary, provenance, metrics, status and checkpoints.

All other modules read run directories through `Run`.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from charrnn import config as config_lib
from charrnn import console, errors, files, models, runtime
from charrnn.data import corpora, documents, downloads, encoded, sources, tokenizers
from charrnn.data import splits as splits_lib
from charrnn.runs import checkpoints, lock
from charrnn.runs import metrics as metrics_lib
from charrnn.runs import provenance as provenance_lib
from charrnn.runs import status as status_lib

SEALED = ("config.json", "run.json", "alphabet.json")  # the files that contain their own digest
NO_DIGEST = "the run was written before files had digests"
NGRAM_BYTES = 32  # maximum bytes of an n-gram for each order and each token of the corpus
BEST_TRIES = 10  # maximum number of attempts to read the best step while training replaces it


class DeletedError(errors.UserError):
  """Training deleted a step while it was read."""


class Run:
  """A run directory. Its files are read on first use.

  Reading never writes or locks anything and needs no device, so it works while the run is training.
  A missing or damaged file raises UserError.
  """

  def __init__(
    self,
    path: str | pathlib.Path,
    step: int | None = None,
    corpus: str | Sequence[str] | None = None,
    fetch: bool = False,
  ):
    self.path, self._step, self._fetch = pathlib.Path(path), step, fetch
    self._moved = moved_sources(corpus)

  @classmethod
  def open(
    cls,
    path: str | pathlib.Path,
    step: int | None = None,
    corpus: str | Sequence[str] | None = None,
    fetch: bool = False,
  ) -> "Run":
    """Return the run at `path`; raise UserError if the run or the step does not exist.

    `step` selects the checkpoint of `params`. The default is the best by validation loss; a run
    without validation losses uses the newest. `corpus` is the name, path or URL at which the corpus
    is now, or several for a corpus of several sources; see `moved_sources`. The default is where it
    was when the run was launched. A corpus that only the config of the run names is not downloaded
    unless `fetch` is true.
    """
    check_directory(path)
    run = cls(path, step, corpus, fetch)
    if step is not None and step not in run.steps:
      steps = (
        f"use one of {', '.join(map(str, run.steps))}" if run.steps else "it has no checkpoints yet"
      )
      raise errors.UserError(f"{path} has no step {step}: {steps}")
    return run

  def load(self) -> "Run":
    """Read the parameters now, so that damage is reported before other work; return this run."""
    _ = self._checkpoint
    return self

  @functools.cached_property
  def config(self) -> config_dict.FrozenConfigDict:
    """The resolved config."""
    value = self._read_sealed("config.json")
    return config_lib.from_stored(value, str(self.path / "config.json"))

  @functools.cached_property
  def tokenizer(self) -> tokenizers.Tokenizer:
    """The tokenizer with the vocabulary of the run."""
    value = self._read_sealed("alphabet.json")
    return tokenizers.Tokenizer.from_json(value, str(self.path / "alphabet.json"))

  @functools.cached_property
  def origin(self) -> dict[str, Any]:
    """The content of run.json: the provenance of the corpus, and all launches."""
    return provenance_lib.read(self.path / "run.json", self._has_digests)

  def _read_sealed(self, name: str) -> dict[str, Any]:
    """Return the content of one of SEALED; raise UserError if its digest is wrong or was lost."""
    return files.read_sealed(self.path / name, self._has_digests)

  @functools.cached_property
  def _has_digests(self) -> bool:
    """True if the version that wrote the newest checkpoint writes digests too."""
    newest = checkpoints.newest_meta(self.path / "checkpoints")
    return bool(newest and newest.get("run"))

  @property
  def provenance(self) -> dict[str, Any]:
    """The provenance of the corpus, from run.json."""
    return self.origin["corpus"]

  @functools.cached_property
  def identity(self) -> dict[str, Any]:
    """The config and the digests of vocabulary and corpus, which each checkpoint repeats."""
    return provenance_lib.identity(self.config, self.tokenizer, self.provenance)

  @property
  def unverified(self) -> list[str]:
    """The names of the readable files without a digest, which runs did not always have."""
    names = []
    for name in SEALED:
      with contextlib.suppress(errors.UserError):
        if "sha256" not in files.read_json(self.path / name):
          names.append(name)
    return names

  @property
  def metrics(self) -> list[dict[str, Any]]:
    """The objects in metrics.jsonl, one for each line."""
    return metrics_lib.read(self.path)

  @property
  def steps(self) -> list[int]:
    """The steps of the checkpoints, oldest first, including incomplete ones."""
    return checkpoints.steps(self.path / "checkpoints")

  @property
  def step(self) -> int:
    """The training step of `params`."""
    return self.meta["step"]

  @property
  def meta(self) -> dict[str, Any]:
    """The metadata of the checkpoint that `params` is from."""
    return self._checkpoint[1]

  @property
  def params(self) -> checkpoints.Tree:
    """The verified parameters as nested dicts of NumPy arrays."""
    return self._checkpoint[0]["params"]

  @property
  def weights(self) -> dict[str, Any]:
    """The step of `params` and a digest of them, which identify the initial weights of a run."""
    arrays = self.meta["arrays"]
    params = {name: arrays[name] for name in sorted(arrays) if checkpoints.is_below(name, "params")}
    return {"step": self.step, "sha256": hashlib.sha256(json.dumps(params).encode()).hexdigest()}

  @functools.cached_property
  def model(self) -> models.Model:
    """The model of `params`."""
    tokenizer = self.tokenizer
    return models.restore(
      tokenizer.vocab_size, self.config.model, self.params, reset_id=tokenizer.end_id
    )

  @functools.cached_property
  def steps_per_epoch(self) -> float | None:
    """The number of steps per epoch, not rounded; None for an n-gram run."""
    if not models.has_gradient(self.config.model):
      return None
    return config_lib.steps_per_epoch(self.config, *corpora.layout(self.provenance))

  @property
  def total_steps(self) -> int:
    """The number of steps of the complete run. The steps of an n-gram run are orders."""
    per_epoch = self.steps_per_epoch
    if per_epoch is None:
      return self.config.model.order
    return config_lib.total_steps(self.config, per_epoch)

  @property
  def status(self) -> status_lib.RunStatus:
    """The status of the run, from its lock, outcome.json, metrics and checkpoints.

    This also works for a trial that has no config.json yet.
    """
    if lock.is_held(self.path):
      return status_lib.RunStatus.RUNNING
    outcome = status_lib.read_outcome(self.path)
    status = outcome.status if outcome else status_lib.RunStatus.WAITING
    if not (self.path / "config.json").exists():
      return status
    if status in (status_lib.RunStatus.WAITING, *status_lib.RESUMABLE):
      # Another launch may have resumed the run since outcome.json was written.
      with contextlib.suppress(errors.UserError):
        status = self._result() or status
    return status_lib.RunStatus.STOPPED if status == status_lib.RunStatus.WAITING else status

  def _result(self) -> status_lib.RunStatus | None:
    """Return FINISHED or DIVERGED if metrics and checkpoints say so; None if training can go on."""
    config, steps, lines = self.config, self.steps, self.metrics
    if not models.has_gradient(config.model):  # An n-gram run writes its only checkpoint last.
      return status_lib.RunStatus.FINISHED if steps else None
    if status_lib.diverged_file(self.path).exists():
      return status_lib.RunStatus.DIVERGED
    valid = [loss for _, loss in metrics_lib.curve(lines, "valid/loss")]
    stale = len(valid) - 1 - valid.index(min(valid)) if valid else 0
    is_complete = max([0, *steps, *(line["step"] for line in lines)]) >= self.total_steps
    if is_complete or (config.patience and stale >= config.patience):
      return status_lib.RunStatus.FINISHED
    train = [loss for _, loss in metrics_lib.curve(lines, "train/loss")]
    is_diverged = train and train[-1] > config.diverged * train[0]
    return status_lib.RunStatus.DIVERGED if is_diverged else None

  def corpus(self) -> corpora.Corpus:
    """Return the corpus; raise UserError if it is missing or has changed since training."""
    # A relative path is relative to the directory of a launch.
    launches = self.origin["launches"]
    folders = [launch["directory"] for launch in launches[::-1] if "directory" in launch]
    is_allowed = self._fetch or names_all_sources(self.config, self._moved)
    mode = downloads.Mode.MISSING if is_allowed else downloads.Mode.NONE
    fields = {name: self.config.text[name] for name in SOURCES if self.config.text[name]}
    try:
      with downloads.mode(mode):
        located = {name: sources.locate(each, folders) for name, each in fields.items()}
        moved = {f"text.{name}": each for name, each in (located | self._moved).items()}
        config = config_lib.replace(self.config, moved)
        corpus = load_corpus(config, known=self.tokenizer, options="text.")
    except errors.UserError as error:
      remedy = "or set --corpus to the path of the text"
      if len(fields) > 1:
        names = (f"{name}=PATH" for name in [*fields][1:])
        remedy = (
          f"or set --corpus to the path of each text that has moved (PATH, {', '.join(names)})"
        )
      raise errors.UserError(f"cannot load the corpus of {self.path}: {error}; {remedy}") from error
    if self._moved and not self._is_own(corpus):
      raise errors.UserError(
        f"--corpus={' '.join(self._moved.values())}: is not the text that {self.path} was trained "
        "on: use the path of that text"
      )
    self.check_corpus(corpus)
    return corpus

  def check_corpus(self, corpus: corpora.Corpus):
    """Raise UserError if a corpus is not the one that the run was trained on."""
    if not self._is_own(corpus):
      raise errors.UserError(
        f"{corpus.name} has changed since {self.path} was trained on it: restore the old text, or "
        f"train in another --workdir (add --config.init_from={self.path} to start from its weights)"
      )

  def _is_own(self, corpus: corpora.Corpus) -> bool:
    names = ("sha256", "characters")
    return all(self.provenance[name] == corpus.provenance[name] for name in names)

  def splits(self) -> splits_lib.Splits:
    """Return the spans of the training, validation and test text."""
    return config_lib.split(self.config, *corpora.layout(self.provenance))

  def encode_file(self, path: str, minimum: int = 2, *, skips: bool = False) -> encoded.EncodedText:
    """Return the text of a file, decoded like the corpus; raise UserError if that fails.

    `minimum` is the number of tokens that the text must have. `skips`: skip and report characters
    that are not in the vocabulary, which are an error otherwise.
    """
    text = corpora.read_text(path, **text_settings(self.config))
    if skips and self.tokenizer.unknown_id is None:  # Otherwise, they are scored.
      text = skip_unknown(self.tokenizer, text, path)
    try:
      content = documents.read(self.tokenizer, text, self.config.text.documents)
    except errors.UserError as error:
      raise errors.UserError(f"{path}: {error}") from error
    if len(content.ids) < minimum:
      size = "is empty" if minimum == 1 else f"has fewer than two {self.tokenizer.unit}s"
      raise errors.UserError(f"{path} {size}: use a longer text")
    return content

  def checkpoint(self, step: int, prefix: str = "") -> tuple[checkpoints.Tree, dict[str, Any]]:
    """Return (tree, meta): the verified arrays of a step at or below `prefix`, and its metadata.

    Raises DeletedError if training deleted the step meanwhile, and DamagedError if it is damaged.
    """
    folder = self.path / "checkpoints"
    with self._detect_deletion(step):
      checkpoints.check_identity(folder, checkpoints.read_meta(folder, step), self.identity)
      return checkpoints.read(folder, step, prefix, self._expected)

  def arrays(self, step: int, prefix: str = "") -> checkpoints.Arrays:
    """Return the arrays of a step, verified individually; raise the same errors as `checkpoint`."""
    expected = None
    with contextlib.suppress(errors.UserError):  # The config may be damaged.
      expected = self._expected
    with self._detect_deletion(step):
      arrays = checkpoints.read_arrays(self.path / "checkpoints", step, prefix, expected)
    if arrays.damaged:
      self._check_deletion(step)
    return arrays

  @functools.cached_property
  def _expected(self) -> checkpoints.Expected:
    """The arrays that the config needs."""
    if not models.has_gradient(self.config.model):
      return expected_ngram(self.config, corpora.layout(self.provenance)[0])
    from flax import serialization

    runtime.check_devices()  # JAX starts them to trace the model.
    tree = models.shapes(self.tokenizer.vocab_size, self.config.model, self.config.batch_size)
    return checkpoints.Expected.of(serialization.to_state_dict(tree))

  @functools.cached_property
  def _checkpoint(self) -> tuple[checkpoints.Tree, dict[str, Any]]:
    if self._step is not None:
      return self.checkpoint(self._step, "params")
    if not self.steps:
      config = self.config
      every = [n for n in (config.eval_every, config.checkpoint_every, self.total_steps) if n]
      when = f" (the first is written after step {min(every)})" if config.eval_every else ""
      raise errors.UserError(
        f"{self.path} has no checkpoint yet{when}: wait, or repeat the command that "
        "launched the run"
      )
    for _ in range(BEST_TRIES):
      with contextlib.suppress(DeletedError):  # Training has saved a better step: read that one.
        return self._best_checkpoint()
    raise errors.UserError(
      f"the checkpoints of {self.path} were replaced while they were read: try again"
    )

  def _best_checkpoint(self) -> tuple[checkpoints.Tree, dict[str, Any]]:
    """Return the best checkpoint by validation loss, or the newest intact one if it is damaged.

    Each damaged step that may have been better is reported.
    """
    folder = self.path / "checkpoints"
    findings: list[str] = []
    losses = checkpoints.losses(folder, findings.append)
    for step in dict.fromkeys([checkpoints.best(losses), *sorted(losses, reverse=True)]):
      if step is None:
        continue
      try:
        checkpoint = self.checkpoint(step, "params")
      except checkpoints.DamagedError as error:
        findings.append(error.finding)
        continue
      for finding in findings:
        console.say(f"warning: {finding}: using step {step} instead")
      return checkpoint
    raise errors.UserError(
      f"no checkpoint of {self.path} can be used: {findings[-1]}: restore one from a copy"
    )

  @contextlib.contextmanager
  def _detect_deletion(self, step: int) -> Iterator[None]:
    """Turn a DamagedError into a DeletedError if training has deleted the step."""
    try:
      yield
    except checkpoints.DamagedError as error:
      self._check_deletion(step, error)
      raise

  def _check_deletion(self, step: int, cause: Exception | None = None):
    """Raise DeletedError if training has deleted the step."""
    if self.is_deleted(step):
      text = f"step {step} of {self.path} was deleted while it was read: use another --step"
      raise DeletedError(text) from cause

  def is_deleted(self, step: int) -> bool:
    """Return whether a step is gone. Training renames a step before it deletes its files."""
    return not (self.path / "checkpoints" / str(step)).is_dir()


def skip_unknown(tokenizer: tokenizers.Tokenizer, text: str, name: str) -> str:
  """Return a text without what is not in the vocabulary, and report how often it occurs."""
  text, skipped = tokenizer.skip_unknown(text)
  if skipped:
    console.say(f"{name}: {tokenizers.describe_skipped(skipped, tokenizer.unit)}")
  return text


def expected_ngram(config, length: int) -> checkpoints.Expected:
  """Return the size of an n-gram of a corpus of `length` tokens. Its shapes depend on the text."""
  total = NGRAM_BYTES * config.model.order * length
  return checkpoints.Expected({}, total + checkpoints.SLACK)


def check_exists(path: str | pathlib.Path):
  """Raise UserError if `path` is not a local path, or if it does not exist."""
  files.check_local(path, "copy the run to one first")
  if not os.path.exists(path):
    raise errors.UserError(
      f"{path} does not exist: use a run directory, for example runs/shakespeare"
    )


def check_directory(path: str | pathlib.Path):
  """Raise UserError if `path` is not a run directory."""
  check_exists(path)
  names = os.listdir(path) if os.path.isdir(path) else None
  if names is None:
    raise errors.UserError(f"{path} is a file: use a run directory, for example runs/shakespeare")
  if "config.json" in names:
    return
  for parent in pathlib.Path(path).resolve().parents[:2]:
    if (parent / "config.json").exists():
      name = os.path.relpath(parent)
      step = f" --step {path.name}" if (path := pathlib.Path(path)).name.isdecimal() else ""
      raise errors.UserError(
        f"{path} is a folder of the run {name}: use that, for example charrnn sample {name}{step}"
      )
  if "sweep.json" in names:
    trials = [
      name for name in sorted(names) if os.path.exists(os.path.join(path, name, "run.json"))
    ]
    example = f", for example {os.path.join(path, trials[0])}" if trials else ""
    raise errors.UserError(
      f"{path} is a sweep: use one of its trials{example}, or run charrnn compare {path}"
    )
  if "run.json" in names and "checkpoints" in names:
    raise errors.UserError(
      f"{path} has no config.json: restore it from a copy, or repeat the command that launched the "
      "run, which takes the config from a checkpoint"
    )
  problem = "is not a run directory (no config.json)" if names else "is empty"
  raise errors.UserError(f"{path} {problem}: train a run with python launch.py --config=...")


# Names in a run or sweep directory that training or a user's shell may have written before the
# config.
_BEGUN = re.compile(
  r"\..*|lost\+found|lock|(config|run|alphabet|sweep|outcome)\.json|metrics\.jsonl|checkpoints|"
  r".*\.(log|out|err)|log.*\.txt|nohup.*|diverged\.txt|samples|events\.out.*|damaged|"
  r"uncommitted-.*\.diff"
)


COPY_RUN = "train in one, copy the run afterwards"  # what to do instead of training in a bucket
MAX_PATH = 4096 - 200  # bytes of the path of a run directory; the paths of its files are longer


def check_workdir(path: pathlib.Path):
  """Raise UserError if `path` cannot be a run or sweep directory. Nothing is created."""
  name = str(path)
  if not name.isprintable():
    raise errors.UserError(f"--workdir={name}: contains an unprintable character: use another name")
  files.check_local(path, COPY_RUN, "--workdir")
  if len(os.fsencode(path.absolute())) > MAX_PATH:
    raise errors.UserError(f"--workdir={name}: is longer than {MAX_PATH} bytes: use a shorter path")
  try:
    names = os.listdir(path)
  except FileNotFoundError:
    return
  except OSError as error:
    text = f"cannot write to {path}: {error.strerror}: use another --workdir"
    raise errors.UserError(text) from error
  is_run = {"config.json", "run.json", "sweep.json"} & set(names) or not names
  if not is_run and (others := [each for each in names if not _BEGUN.fullmatch(each)]):
    raise errors.UserError(
      f"--workdir={name}: is not a run directory, and contains {min(others)}: use another one"
    )


SOURCES = ("source", "valid_source", "test_source")  # the fields of `config.text` with sources


def moved_sources(corpus: str | Sequence[str] | None) -> dict[str, str]:
  """Return the sources in values of --corpus, by the fields of `config.text` that they replace.

  A value is the name, path or URL of `source`, or `valid_source=...` or `test_source=...`. Raise
  UserError if a field occurs twice.
  """
  moved: dict[str, str] = {}
  for value in [corpus] if isinstance(corpus, str) else corpus or ():
    field, _, source = value.partition("=")
    field, source = (field, source) if field in SOURCES else (SOURCES[0], value)
    if field in moved:
      raise errors.UserError(f"--corpus={value}: text.{field} is named twice: omit one of them")
    moved[field] = source
  return moved


def names_all_sources(config, moved: Mapping[str, str]) -> bool:
  """Return whether `moved` replaces all sources of a config, so that a user has named them all.

  Other sources are from a run directory, and are not downloaded. Raise UserError if the config does
  not have one of the fields.
  """
  fields = {name for name in SOURCES if config.text[name]}
  if unused := sorted(moved.keys() - fields):
    raise errors.UserError(
      f"--corpus={unused[0]}={moved[unused[0]]}: the run has no text.{unused[0]}: omit it"
    )
  return moved.keys() == fields


def load_corpus(config, **options) -> corpora.Corpus:
  """Load and return the corpus that `config.text` describes; see corpora.load for the options."""
  names = "limit", "vocab_size", "min_count", "documents", "valid_source", "test_source"
  text = config.text
  settings = text_settings(config) | {name: text[name] for name in names}
  settings["split"] = (text.split, text.valid_fraction, text.test_fraction)
  settings["keeps"] = text.vocabulary == "init_from"
  return corpora.load(text.source, **settings, **options)


def text_settings(config) -> dict[str, str]:
  """Return how the files of a corpus are decoded."""
  return {name: config.text[name] for name in ("tokenizer", "encoding", "newlines")}


def common_splits(
  runs: Sequence[Run], remedy: str = "compare them separately"
) -> splits_lib.Splits:
  """Return the splits of several runs; raise UserError if their texts or splits differ."""
  first, *others = runs
  for other in others:
    names = ("sha256", "characters", "alphabet")
    same_text = all(first.provenance.get(name) == other.provenance.get(name) for name in names)
    if not same_text or first.splits() != other.splits():
      raise errors.UserError(
        f"{first.path} and {other.path} have different {'splits' if same_text else 'texts'}: "
        f"{remedy}"
      )
  return first.splits()


def use_cpu():
  """Restrict JAX to the CPU, so that commands that only read use no GPU memory."""
  runtime.start().config.update("jax_platforms", "cpu")


def use_devices(run: Run, streams: int):
  """Start JAX with the devices that score `streams` streams of a text with a run the fastest."""
  runtime.start()
  shares_cores = models.shares_cores({**run.config.model, "unroll": "auto"})
  runtime.set_cpu_devices(0, streams, 1, shares_cores)
