"""An n-gram run: one count of the text in the place of training, in a run directory like any other.

Its steps are orders: metrics.jsonl has the loss of each up to model.order, and the best one's model
is the checkpoint. A count takes minutes at most, so that one that was stopped starts again.
"""

import numpy as np

from charrnn import config as config_lib
from charrnn import console, errors, runtime
from charrnn.launching import record
from charrnn.models import ngram
from charrnn.runs import lock, provenance
from charrnn.runs import run as run_lib


def run(line, workdir, distributed=False):
  """Counts the text of `line.config` in `workdir`; returns the exit code."""
  _check(line, distributed)
  config = line.config
  with lock.hold(workdir):
    stored = record.stored(workdir)
    corpus = run_lib.load_corpus(config)
    record.check_sample(config, corpus.tokenizer)
    parts = config_lib.split(config, len(corpus.ids))
    ngram.check_order("--config.model.order", config.model.order, parts.train)
    runtime.start()
    if stored:
      config_lib.check_resumable(stored, config_lib.to_json(config))
      run_lib.Run(workdir).check_corpus(corpus)
    return _count(line, workdir, corpus, parts)


def _check(line, distributed):
  """Raises UserError for what is missing, and for all that is set and would not be used."""
  config = line.config
  if distributed:
    raise errors.UserError("--distributed: one process counts an ngram: leave it out")
  used = config_lib.used_fields(config)
  for field in config_lib.FIELDS:
    name, value = field.name, config[field.name]
    if name not in used and (name in line.overrides or value != field.default):
      raise errors.UserError(
        f"--config.{name}={value}: an ngram has no use for it: leave it out, or start from "
        "experiments/ngram.py"
      )
  for name in sorted(used):
    if config[name] is None:
      raise errors.UserError(f"--config.{name} is missing: an ngram of this text needs it")
  config_lib.check(config)


def _count(line, workdir, corpus, parts):
  from charrnn.runs import checkpoints, metrics
  from charrnn.training import loop, steps

  found = checkpoints.read_newest(workdir / "checkpoints", loop.say)
  counted = None if found else _fit(line.config, workdir, corpus, parts)
  provenance.record_launch(line, workdir, corpus, steps.all_devices().text)
  meta = found[1] if found else _keep(line.config, workdir, corpus, parts, counted)
  if parts.valid:
    metrics.plot(workdir, f"{line.experiment} {line.variant}".strip(), "order")
    loss = console.nats_and_bits(meta["valid_loss"])
    loop.say(f"\nbest validation loss {loss} per character, of order {meta['step']}")
  loop.say(f"{'finished before' if found else 'finished'}: the run is in {workdir}")
  record.next_commands(loop.say, workdir, parts)
  return 0


def _fit(config, workdir, corpus, parts):
  from charrnn.training import loop

  length = sum(stop - start for start, stop in parts.train)
  loop.say(f"corpus    {corpus.name}: {length:,} of {len(corpus.ids):,} characters to count")
  loop.say(f"run       {workdir}")

  def progress(n, strings):
    loop.say(f"order {n:3}  {strings:11,} strings counted")

  return ngram.fit(
    corpus.ids, config.model.order, corpus.tokenizer.vocab_size, parts.train, progress
  )


def _keep(config, workdir, corpus, parts, counted):
  """Writes the loss of every order, a sample, and the best order's checkpoint; returns its meta."""
  from charrnn.runs import checkpoints, metrics
  from charrnn.training import loop, steps

  # Without a validation part, as with networks, the last is the best.
  losses = counted.losses(corpus.ids, parts.valid) if parts.valid else np.array([])
  log = metrics.MetricsLog(workdir, 0)
  for order, loss in enumerate(losses, 1):
    loop.say(f"order {order:3}  validation {console.nats_and_bits(loss)}")
    log.write(order, {"valid/loss": float(loss)})
  log.close()
  best = int(np.argmin(losses)) + 1 if len(losses) else counted.order
  params = counted.params(best)
  model = ngram.Model(corpus.tokenizer.vocab_size, best)
  record.sample(config, workdir, model, corpus.tokenizer, params, best)
  meta = {"valid_loss": float(losses[best - 1]) if len(losses) else None}
  writer = checkpoints.Writer(workdir / "checkpoints", keep=1)
  writer.save(best, steps.TrainState(np.int32(best), params, (), ()), meta)
  writer.close()
  return meta | {"step": best}
