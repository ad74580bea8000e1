"""The program that trains a network and the program that counts n-grams.

Both programs write config.json, run.json, metrics.jsonl, samples, checkpoints and loss.png to the
run directory. If training diverges, diverged.txt contains the reason. In an n-gram run the steps
are orders: metrics.jsonl contains the loss of each order up to model.order, and the checkpoint is
the model of the best order. Counting takes minutes at most, so it is not resumed.
"""

import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from charrnn import command_line, console, errors, files, models, runtime
from charrnn import config as config_lib
from charrnn.data import batches, corpora, tokenizers
from charrnn.data import splits as splits_lib
from charrnn.evaluation import score
from charrnn.models import ngram
from charrnn.runs import checkpoints, metrics, provenance, tracking, weights
from charrnn.runs import run as run_lib
from charrnn.runs import status as status_lib
from charrnn.sampling import sampler, streaming
from charrnn.training import loop, steps

MAX_TOKENS = 20  # maximum number of new or lost tokens in the log
SHOWN_LINES = 6  # maximum number of lines of a sample in the log
Source = run_lib.Run | weights.Weights  # of initial weights
# The remedy for a lack of memory in training. Raising `accumulate` does not change the result.
LESS_MEMORY = (
  "free some memory, raise --config.accumulate, or lower --config.batch_size, --config.window or "
  "--config.model.hidden"
)


class Job(NamedTuple):
  """A run to train or count. The config of its command line is resolved."""

  line: command_line.CommandLine
  workdir: pathlib.Path
  corpus: corpora.Corpus
  splits: splits_lib.Splits
  rollback: bool = False  # whether training rolls back when it diverges
  last: float = math.inf  # the last step from which the run can be resumed
  end: float = math.inf  # the time limit, on the clock of time.monotonic

  @property
  def config(self):
    return self.line.config

  @property
  def identity(self) -> dict[str, Any]:
    return provenance.identity(self.config, self.corpus.tokenizer, self.corpus.provenance)

  @property
  def title(self) -> str:
    return f"{self.line.experiment} {self.line.variant}".strip()

  @property
  def unit(self) -> str:
    return tokenizers.unit(self.config.text.tokenizer)


def train(job: Job, defaults: dict[str, Any], watch: runtime.Stopwatch) -> int:
  """Train a network, or resume its training; return the exit code.

  `defaults` contains the config values that depend on the size of the corpus. `watch` measures the
  startup time.
  """
  watch.mark("jax")
  steps.check_memory(job.config, job.corpus.tokenizer.vocab_size, steps.all_devices())
  try:
    return _train(job, defaults, watch)
  except (MemoryError, RuntimeError) as error:  # The check knows only a lower bound.
    if (text := errors.lack_of_memory(error, LESS_MEMORY)) is None:
      raise
    raise errors.UserError(text) from error


def _train(job, defaults, watch) -> int:
  config, corpus = job.config, job.corpus
  end_id = corpus.tokenizer.end_id
  arguments = corpus.ids, job.splits.train, config.batch_size, config.window
  if end_id is None:
    windows = batches.TrainingWindows(*arguments)
  else:
    windows = batches.DocumentWindows(*arguments, end_id=end_id, seed=config.seed)
  model = models.make(corpus.tokenizer.vocab_size, config.model, reset_id=end_id)
  trainer = loop.Trainer(
    config,
    job.workdir,
    model,
    windows,
    evaluators=[_validation(job, model)],
    writers=[lambda params, step: write_sample(job, model, jax.device_get(params), step)],
    rolls_back=job.rollback,
    identity=job.identity,
    eval_tokens=sum(stop - start for start, stop in job.splits.valid),
  )
  _announce(job, defaults, trainer)
  # A run that is resumed usually no longer needs the source of its initial weights.
  source = functools.cache(lambda: weights.open_source(config.init_from))

  def init_params(fresh):
    params = transferred_params(source(), config.model, fresh, corpus.tokenizer)
    _announce_rate(source(), trainer.peak_rate, "optimizer.learning_rate" in defaults)
    return params

  state, record = trainer.restore(init_params if config.init_from else None, job.last), None
  trackers: Sequence[tracking.Tracker] = ()
  if loop.is_main():
    devices = trainer.train_step.devices.text
    layers = model.implementation
    weights_of = source if config.init_from else None
    record = provenance.record_launch(job.line, job.workdir, corpus, devices, layers, weights_of)
    trackers = _trackers(job, record)
  watch.mark("parameters")

  def on_first_step():
    watch.mark("first step")
    if record:
      loop.say(provenance.record_startup(job.workdir, record, watch.seconds()))

  def on_rollback(rollback, number):
    if record:
      provenance.record_rollback(job.workdir, record, rollback, number)

  diverged = status_lib.diverged_file(job.workdir)
  if loop.is_main():
    files.remove(diverged)
  try:
    _, interrupted = trainer.train(state, on_first_step, on_rollback, trackers, job.end)
  except errors.DivergedError as error:
    if loop.is_main():
      files.write_text(diverged, f"{error}\n")
      _plot(job)
    raise
  if loop.is_main():
    _plot(job)
  if interrupted:
    return status_lib.STOPPED_CODE
  end = trainer.loop_state
  if end.best_loss is not None:
    best = console.nats_and_bits(end.best_loss, end.best_bits)
    loop.say(f"\nbest validation loss {best} per {job.unit}, at step {end.best_step}")
  loop.say(f"training time: {console.duration(end.seconds)}")
  _show_next_commands(job)
  return 0


def _trackers(job, record) -> list[tracking.Tracker]:
  """Return the trackers of a run whose run.json contains `record`."""
  run = tracking.TrackedRun.of(job.workdir, job.config, record)
  return tracking.make(job.config.tracker, run)


def _plot(job, xlabel: str = "training step"):
  """Write loss.png. A failure must not hide the result of the training."""
  try:
    metrics.plot(job.workdir, job.title, xlabel, job.unit)
  except Exception as error:  # matplotlib raises many types of errors.
    loop.say(f"warning: cannot plot the losses of {job.workdir}: {error}")


def _validation(job, model) -> loop.Evaluator:
  """Return an evaluator that computes the loss on the validation split."""
  size = job.corpus.size(batches.scorable_spans(job.splits.valid))

  def evaluator(params, _):
    nats = score.loss(
      model,
      params,
      job.corpus.ids,
      job.splits.valid,
      streams=job.config.eval_streams,
      window=job.config.window,
      burn_in=job.config.eval_burn_in,
    )
    if not math.isnan(nats):
      yield loop.RANKING, nats
      yield loop.PER_BYTE, size.bits_per_byte(nats)

  return evaluator


def _announce(job, defaults, trainer):
  """Report the corpus, the model and the settings of the training."""
  config, corpus = job.config, job.corpus
  train, valid, test = (sum(stop - start for start, stop in spans) for spans in job.splits)
  params = sum(leaf.size for leaf in jax.tree.leaves(trainer.shapes()))
  model, o = trainer.model, config.optimizer
  unit, documents = f"{job.unit}s", errors.plural(len(corpus.documents), "document")
  values = ", ".join(f"{name}={value:g}" for name, value in defaults.items())
  rows = {"defaults": f"chosen for the size of the corpus: {values}"} if defaults else {}
  rows |= {
    "corpus": f"{corpus.name}: {len(corpus.ids):,} {unit} in {documents}, "
    f"vocabulary of {corpus.tokenizer.vocab_size} {unit}",
    **({"unknown": unknown} if (unknown := corpora.unwritable(corpus, job.splits)) else {}),
    "split": f"{config.text.split}: {train:,} training, {valid:,} validation and {test:,} test "
    f"{unit}",
    "model": f"{model.description}, {params:,} parameters, {config.model.compute_dtype} matrix "
    "products",
    "training": f"{o.name}, learning rate {o.learning_rate:g} ({config.schedule.name} schedule), "
    f"batches of {config.batch_size} streams x {config.window} {unit}, {trainer.steps:,} steps "
    f"({trainer.steps / trainer.windows.steps_per_epoch:.2f} epochs)",
    "devices": trainer.train_step.devices.text,
    "layers": model.implementation,
    "run": str(job.workdir),
  }
  for name, value in rows.items():
    loop.say(f"{name:9} {value}")


def transferred_params(source: Source, fields, params: models.Params, tokenizer):
  """Return `params` with the weights of a source, matched by token where they depend on it.

  Tokens that are not in the vocabulary of the source keep their values in `params`. `fields` is the
  config.model of the new run. Raises UserError if the shapes of the models differ, or if the
  vocabularies have no token in common.
  """
  source.load()
  for field in ("cell", *models.kind(fields["cell"]).structure):
    ours, theirs = fields[field], source.config.model[field]
    if ours != theirs:
      raise errors.UserError(
        f"--config.init_from={source.path} has model.{field}={theirs}, but this run has {ours}: "
        f"use --config.model.{field}={theirs}"
      )
  axes = models.token_axes(tokenizer.vocab_size, fields)
  pairs, lost = _common_tokens(source, tokenizer)
  new, old = np.array(pairs).T

  def move(axis, fresh, value):
    if axis < 0:
      return value
    moved = np.moveaxis(np.array(fresh), axis, 0)
    moved[new] = np.moveaxis(np.asarray(value), axis, 0)[old]
    return np.moveaxis(moved, 0, axis)

  sizes = jax.tree.map(lambda axis, fresh: fresh.size if axis >= 0 else 0, axes, params)
  common = set(new.tolist())
  added = [repr(token) for n, token in enumerate(tokenizer.tokens) if n not in common]
  total = sum(leaf.size for leaf in jax.tree.leaves(params))
  fresh = sum(jax.tree.leaves(sizes)) * len(added) // tokenizer.vocab_size
  step = "" if source.step is None else f", step {source.step}"
  rows = {
    "weights": f"from {source.path}{step}",
    "taken": f"{total - fresh:,} of {total:,} parameters; {len(pairs)} of {tokenizer.vocab_size} "
    "tokens",
    "new": f"{fresh:,} parameters with random values, of the tokens "
    f"{errors.some(added, MAX_TOKENS, ' ')}"
    if added
    else "no parameters",
    "dropped": f"the tokens {errors.some(lost, MAX_TOKENS, ' ')}, which this run cannot read or "
    "write (--config.text.vocabulary=init_from keeps them)"
    if lost
    else "no tokens",
  }
  for name, value in rows.items():
    loop.say(f"{name:9} {value}")
  return jax.tree.map(move, axes, params, source.params)


def _common_tokens(source: Source, tokenizer) -> tuple[list[tuple[int, int]], list[str]]:
  """Return the pairs (id, id in the source) of common tokens, and the other tokens of the source.

  A source without a vocabulary must have as many tokens as this run, in the same order.
  """
  size, path = tokenizer.vocab_size, source.path
  if source.tokenizer is None:
    count = len(source.params["head"]["b_y"])
    if count != size:
      raise errors.UserError(
        f"--config.init_from={path} has {count} tokens and no vocabulary, but this corpus has "
        f"{size} tokens: add the vocabulary to the file (docs/python.md shows how)"
      )
    loop.say(
      f"warning: {path} has no vocabulary: its tokens are assumed to be those of this corpus"
    )
    return [(n, n) for n in range(size)], []
  tokenizers.check_kind(source.tokenizer.kind, tokenizer.kind, path)
  old_ids = {token: n for n, token in enumerate(source.tokenizer.tokens)}
  pairs = [(n, old_ids[token]) for n, token in enumerate(tokenizer.tokens) if token in old_ids]
  if not pairs:
    raise errors.UserError(
      f"--config.init_from={path} has no token in common with this corpus (its vocabulary has "
      f"{source.tokenizer.vocab_size} tokens, tokenizer {source.tokenizer.kind}): choose another "
      "run"
    )
  ours = set(tokenizer.tokens)
  return pairs, [repr(token) for token in source.tokenizer.tokens if token not in ours]


def _announce_rate(source: Source, rate: float, is_chosen: bool):
  """Report the peak learning rate of a new run, and the last rate of the run `source`."""
  rates = metrics.curve(source.metrics, "learning_rate")
  last = f"; {source.path} ended with {rates[-1][1]:.2g}" if rates else ""
  loop.say(
    f"{'rate':9} {rate:g} at the peak"
    + (f", {config_lib.FINE_TUNING_RATE:g} times that for random weights" if is_chosen else "")
    + last
  )


def count(job: Job) -> int:
  """Count the n-grams of the training split unless the run is finished; return the exit code."""
  order = job.config.model.order
  ngram.check_order("--config.model.order", order, job.splits.train)
  expected = run_lib.expected_ngram(job.config, len(job.corpus.ids))
  newest = checkpoints.read_newest(job.workdir / "checkpoints", loop.say, job.identity, expected)
  counts = None
  if not newest:
    length = sum(stop - start for start, stop in job.splits.train)
    total = len(job.corpus.ids)
    loop.say(f"corpus    {job.corpus.name}: {total:,} {job.unit}s, {length:,} of them for training")
    if unknown := corpora.unwritable(job.corpus, job.splits):
      loop.say(f"unknown   {unknown}")
    loop.say(f"run       {job.workdir}")
    counts = ngram.fit(
      job.corpus.ids,
      order,
      job.corpus.tokenizer.vocab_size,
      job.splits.train,
      lambda n, strings: loop.say(f"order {n:3}  {strings:11,} distinct n-grams"),
    )
  devices = steps.all_devices().text
  record = provenance.record_launch(job.line, job.workdir, job.corpus, devices)
  meta = newest[1] if newest else _store_best_order(job, counts, _trackers(job, record))
  if job.splits.valid:
    _plot(job, "n-gram order")
    loss = console.nats_and_bits(meta["valid_loss"], meta.get("valid_bits_per_byte"))
    loop.say(f"\nbest validation loss {loss} per {job.unit}, at order {meta['step']}")
  if newest:
    loop.say("this run is already finished; nothing was counted")
  _show_next_commands(job)
  return 0


def _store_best_order(job, counts, trackers) -> dict[str, Any]:
  """Log the loss of every order; write a sample and a checkpoint of the best order.

  Return the metadata of the checkpoint.
  """
  corpus, valid = job.corpus, job.splits.valid
  losses = counts.losses(corpus.ids, valid) if valid else np.array([])
  size = corpus.size(batches.scorable_spans(valid))
  with tracking.Log(job.workdir, trackers) as log:
    log.start(1)
    for order, loss in enumerate(losses, 1):
      bits = size.bits_per_byte(float(loss))
      text = f"{console.nats_and_bits(loss, bits)} per {job.unit}"
      loop.say(f"order {order:3}  validation loss {text}")
      log.log(order, {loop.RANKING: float(loss), loop.PER_BYTE: bits})
    # Without a validation split, the highest order counts as the best.
    best = int(np.argmin(losses)) + 1 if len(losses) else counts.order
    params = counts.params(best)
    write_sample(job, ngram.Model(corpus.tokenizer.vocab_size, best), params, best)
    meta = {
      "valid_loss": float(losses[best - 1]) if len(losses) else None,
      "valid_bits_per_byte": size.bits_per_byte(float(losses[best - 1])) if len(losses) else None,
      "run": job.identity,
      "metrics": log.sync(),
    }
    writer = checkpoints.Writer(job.workdir / "checkpoints", keep=1)
    writer.save(best, steps.TrainState(np.int32(best), params, (), ()), meta)
    writer.close()
  return meta | {"step": best}


def check_sample(config, tokenizer: tokenizers.Tokenizer):
  """Raise UserError for values of config.sample that would fail only at the first evaluation."""
  try:
    sampler.check(length=config.sample.length, num=1, seed=config.seed)
    sampler.Settings(config.sample.temperature)
    tokenizer.encode(config.sample.prime)
  except errors.UserError as error:
    raise errors.UserError(f"--config.sample (or --config.seed): {error}") from error


def write_sample(job: Job, model: models.Model, params: models.Params, step: int):
  """Write a sample to samples/STEP.txt and its first lines to the log."""
  c, tokenizer = job.config.sample, job.corpus.tokenizer
  if not c.length:
    return
  prompt_ids = tokenizer.encode(c.prime)
  (sample,) = sampler.sample(
    sampler.Source(model, params, tokenizer),
    prompt_ids,
    num=1,
    length=c.length,
    seed=job.config.seed,
    settings=sampler.Settings(c.temperature),
  )
  text = streaming.TextStream(tokenizer, prompt_ids).prompt + sample.text
  folder = job.workdir / "samples"
  files.make_subfolder(folder)
  files.write_bytes(folder / f"{step}.txt", console.encode(text))
  loop.say(f"  first lines of samples/{step}.txt:")
  for line in text.strip("\n").split("\n")[:SHOWN_LINES]:
    loop.say(f"    {line}")


def _show_next_commands(job):
  loop.say(f"run directory: {job.workdir}")
  folder, picture = console.argument(job.workdir), job.workdir / "loss.png"
  if picture.exists():
    loop.say(f"loss curve: {picture}")
  loop.say(
    f"\nnext:\n  charrnn sample {folder} --temperature 0.8\n"
    f"  charrnn eval {folder}{' --split test' if job.splits.test else ''}\n"
    f"  charrnn inspect {folder}"
  )
