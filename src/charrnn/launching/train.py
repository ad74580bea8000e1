"""The start of a run: its directory, corpus, config and devices are prepared before training."""

import contextlib
import math
import os
import pathlib
from typing import Any

from charrnn import command_line, console, errors, files, models, runtime
from charrnn import config as config_lib
from charrnn.data import batches, corpora, downloads, tokenizers
from charrnn.runs import checkpoints, lock, tracking, weights
from charrnn.runs import run as run_lib


def run(
  line: command_line.CommandLine,
  workdir: pathlib.Path,
  *,
  distributed: bool = False,
  rollback: bool = False,
  time_limit: float | None = None,
) -> int:
  """Train or count the model of a command line in `workdir`, or resume it; return the exit code.

  `rollback`: when training diverges, return to the best checkpoint with a lower learning rate.
  `time_limit`: the minutes from the start of the process within which the run saves and ends.
  Errors in the command line are reported before JAX compiles anything.
  """
  run_lib.check_workdir(workdir)
  if (workdir / "sweep.json").exists():
    raise errors.UserError(f"{workdir} is the directory of a sweep: use another --workdir")
  watch = runtime.Stopwatch()
  end = math.inf if time_limit is None else watch.start + time_limit * 60
  watch.mark("python and flags")
  is_trained = models.has_gradient(line.config.model)
  config_lib.check(line.config, line.overrides)
  tracking.check(line.config.tracker)
  if not is_trained:
    _check_count(line, distributed, time_limit)
  if rollback:
    config_lib.check_rollback(line.config)
  with contextlib.ExitStack() as locks:
    if not distributed:
      locks.enter_context(lock.hold(workdir))
    for folder in (workdir, workdir / "samples"):
      files.remove_temporary(folder)
    stored, changes = _stored_config(workdir), {}
    if stored:  # A change that is refused may also change the corpus, so it is reported first.
      filled = config_lib.fill(line.config, stored)
      changes = config_lib.check_resumable(stored, config_lib.to_json(filled))
    line, known = _vocabulary(line, workdir, stored)
    corpus = load_corpus(line, known)
    line = line._replace(config=config_lib.fill(line.config, _vocab_size(corpus)))
    if is_trained:
      line, defaults = _resolve(line, corpus, stored, watch, distributed)
    else:
      runtime.start()
      runtime.check_devices()
      defaults = {}
    # The modules below import JAX, which takes seconds. The errors above are reported before that.
    from charrnn.launching import programs
    from charrnn.training import loop

    programs.check_sample(line.config, corpus.tokenizer)
    newest = max(checkpoints.steps(workdir / "checkpoints"), default=-1)
    last = math.inf
    with runtime.together(newest):
      if distributed and loop.is_main():
        locks.enter_context(lock.hold(workdir))
      if stored:
        run_lib.Run(workdir).check_corpus(corpus)
        last = _last_step(stored, line.config, corpus) if is_trained else last
    if changes:
      values = (f"{name} {old} -> {new}" for name, (old, new) in changes.items())
      loop.say(f"changed   {', '.join(values)}")
    splits = config_lib.split(line.config, *corpora.layout(corpus.provenance))
    job = programs.Job(line, workdir, corpus, splits, rollback, last, end)
    return programs.train(job, defaults, watch) if is_trained else programs.count(job)


def _vocabulary(line, workdir, stored):
  """Return (line, known): the command line, and the tokenizer that corpora.load uses.

  It is that of the run in `workdir` or of the source of the initial weights. The size of a trained
  vocabulary, which the command line may not repeat, is filled in.
  """
  text, known = line.config.text, None
  is_kept = text.vocabulary == "init_from"
  if stored and (is_kept or tokenizers.is_trained(text.tokenizer)):
    fields = config_lib.from_json(stored).text.to_dict()
    with contextlib.suppress(errors.UserError):
      known = run_lib.Run(workdir).tokenizer
  elif is_kept:
    if not line.config.init_from:
      raise errors.UserError(
        "--config.text.vocabulary=init_from: needs --config.init_from: add it, or remove this"
      )
    source = weights.open_source(line.config.init_from)
    if (known := source.tokenizer) is None:
      raise errors.UserError(
        f"--config.text.vocabulary=init_from: {source.path} has no vocabulary: remove this option"
      )
    tokenizers.check_kind(known.kind, text.tokenizer, line.config.init_from)
    fields = {"vocab_size": known.vocab_size if known.is_trained else None}
    if text.vocab_size not in (None, fields["vocab_size"]):
      raise errors.UserError(
        f"--config.text.vocab_size={text.vocab_size}: {source.path} has {known.vocab_size} tokens: "
        "remove this option, or --config.text.vocabulary=init_from"
      )
  else:
    return line, None
  return line._replace(config=config_lib.fill(line.config, {"text": fields})), known


def load_corpus(line: command_line.CommandLine, known=None) -> corpora.Corpus:
  """Load and return the corpus of a command line, with a download only if it allows that.

  See corpora.load for `known`.
  """
  with downloads.mode(downloads.Mode.MISSING if line.fetch else downloads.Mode.NONE):
    return run_lib.load_corpus(line.config, known=known)


def _last_step(stored: dict[str, Any], config, corpus: corpora.Corpus) -> float:
  """Return the last step from which a run with the JSON config `stored` can be resumed.

  If the length of training has changed, this is the last step that is the same for both lengths.
  """
  from charrnn.training import optimizer

  configs = config_lib.from_json(stored), config
  lengths = [
    config_lib.total_steps(c, config_lib.steps_per_epoch(c, *corpora.layout(corpus.provenance)))
    for c in configs
  ]
  if lengths[0] == lengths[1]:
    return math.inf
  return min(optimizer.stable_steps(c.schedule, steps) for c, steps in zip(configs, lengths))


def _vocab_size(corpus: corpora.Corpus) -> dict[str, Any]:
  """Return the maximum size of a trained vocabulary as a part of a JSON config."""
  options = corpus.provenance["options"]
  return {"text": {"vocab_size": options["vocab_size"]}} if "vocab_size" in options else {}


def _stored_config(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Return the config of the run to resume as JSON, or None if the run is new.

  If config.json is missing or damaged, use the copy in the newest checkpoint.
  """
  path, folder = workdir / "config.json", workdir / "checkpoints"
  newest = checkpoints.newest_meta(folder)
  try:
    if os.path.lexists(path) or newest:
      stored = files.read_sealed(path)
      config_lib.from_stored(stored, str(path))
      return stored
  except errors.UserError as error:
    if not newest or not newest.get("run"):
      raise
    stored = newest["run"]["config"]
    config_lib.from_stored(stored, f"checkpoint {newest['step']} in {folder}")
    console.say(f"{error}. Using the copy in checkpoint {newest['step']}")
    return stored
  return None


def _check_count(line, distributed, time_limit):
  """Raise UserError if an n-gram lacks a field that it needs, or for an option of training."""
  if distributed:
    raise errors.UserError("--distributed: n-grams are counted by one process: remove this option")
  if time_limit is not None:
    raise errors.UserError("--time_limit: an n-gram run cannot be resumed: remove this option")
  for name in sorted(config_lib.used_fields(line.config)):
    if line.config[name] is None and name != "text.vocab_size":  # It is chosen with the corpus.
      raise errors.UserError(f"--config.{name} is missing: set it, because this n-gram needs it")


def _resolve(line, corpus, stored, watch, distributed):
  """Return the command line with its resolved config, and the values chosen by corpus size."""
  source = None
  if line.config.init_from and not stored:
    source = config_lib.to_json(weights.open_source(line.config.init_from).config)

  length, boundaries, divided = corpora.layout(corpus.provenance)

  def start_device(config):
    # Report a corpus that is too short before JAX starts.
    spans = config_lib.split(config, length, boundaries, divided).train
    tokens = sum(stop - start for start, stop in spans)
    batches.check_length(tokens, config.batch_size, config.window)
    watch.mark("text")
    runtime.start()
    parts = config.accumulate * (runtime.join_processes() if distributed else 1)
    with contextlib.suppress(RuntimeError):  # In a notebook, JAX may have been started already.
      shares_cores = models.shares_cores(config.model)
      runtime.set_cpu_devices(config.cpu_devices, config.batch_size, parts, shares_cores)
    from charrnn.training import steps

    return steps.device()

  config, defaults = config_lib.resolve(
    line.config,
    length,
    boundaries=boundaries,
    divided=divided,
    stored=stored,
    source=source,
    device=start_device,
  )
  return line._replace(config=config), defaults
