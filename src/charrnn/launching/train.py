"""The training program: one run in one directory, from its experiment to its loss curve."""

import contextlib
import math

from charrnn import config as config_lib
from charrnn import console, errors, models, runtime
from charrnn.data import batches
from charrnn.launching import count, record
from charrnn.runs import lock, provenance
from charrnn.runs import run as run_lib
from charrnn.runs import status as status_lib


def run(line, workdir, distributed=False):
  """Trains `line.config` in `workdir`, or goes on there; returns the exit code.

  Everything that can be wrong with what was asked for is found before JAX compiles anything.
  """
  if (workdir / "sweep.json").exists():
    raise errors.UserError(f"{workdir} is a sweep: give another --workdir")
  if not models.has_gradient(line.config.model):
    return count.run(line, workdir, distributed)
  watch = runtime.Stopwatch()
  watch.mark("python and flags")
  config_lib.check(line.config)
  with contextlib.ExitStack() as held:
    if not distributed:
      held.enter_context(lock.hold(workdir))
    stored, source = record.stored(workdir), None
    if line.config.init_from and not stored:
      source = config_lib.to_json(run_lib.Run.open(line.config.init_from).config)
    corpus = run_lib.load_corpus(line.config)
    record.check_sample(line.config, corpus.tokenizer)

    def make_windows(config):
      spans = config_lib.split(config, len(corpus.ids)).train
      return batches.TrainingWindows(corpus.ids, spans, config.batch_size, config.window)

    def start_device(config):
      make_windows(config)  # the error about a text that is too short comes before JAX starts
      watch.mark("text")
      runtime.start()
      processes = runtime.join_processes() if distributed else 1
      runtime.set_cpu_devices(
        config.cpu_devices, config.batch_size, config.accumulate * processes, config.model.hidden
      )
      from charrnn.training import steps

      return steps.device()

    config, chosen = config_lib.resolve(
      line.config, len(corpus.ids), stored=stored, source=source, device=start_device
    )
    line = line._replace(config=config)
    parts = config_lib.split(config, len(corpus.ids))
    windows = make_windows(config)
    import jax

    from charrnn.runs import checkpoints

    newest = max(checkpoints.steps(workdir / "checkpoints"), default=-1)
    with runtime.together(newest):
      if distributed and jax.process_index() == 0:
        held.enter_context(lock.hold(workdir))
      if stored:
        config_lib.check_resumable(stored, config_lib.to_json(config))
        run_lib.Run(workdir).check_corpus(corpus)
    return _train(line, workdir, corpus, parts, windows, chosen, watch)


def _train(line, workdir, corpus, parts, windows, chosen, watch):
  import jax

  from charrnn.evaluation import evaluate
  from charrnn.launching import transfer
  from charrnn.runs import metrics
  from charrnn.training import loop, steps

  watch.mark("jax")
  config, writes = line.config, jax.process_index() == 0
  model = models.make(corpus.tokenizer.vocab_size, config.model)

  def init_params(fresh):
    return transfer.weights(config.init_from, model, fresh, corpus.tokenizer)

  def write_sample(params, step):
    record.sample(config, workdir, model, corpus.tokenizer, jax.device_get(params), step)

  loss_step = steps.LossStep(model)

  def evaluator(params, step):
    nats = evaluate.evaluate(
      loss_step,
      params,
      corpus.ids,
      parts.valid,
      readers=config.eval_streams,
      window=config.window,
      burn_in=config.eval_burn_in,
    )
    if not math.isnan(nats):
      yield "valid/loss", nats

  trainer = loop.Trainer(
    config, workdir, model, windows, evaluators=[evaluator], writers=[write_sample]
  )
  _announce(loop.say, chosen, config, workdir, corpus, parts, trainer)
  state = trainer.restore(init_params if config.init_from else None)
  launched = None
  if writes:
    launched = provenance.record_launch(line, workdir, corpus, trainer.train_step.devices.text)
  watch.mark("parameters")

  def started():
    watch.mark("first step")
    if writes:
      loop.say(provenance.record_startup(workdir, launched, watch.seconds()))

  _, interrupted = trainer.train(state, started)
  if writes:
    metrics.plot(workdir, f"{line.experiment} {line.variant}".strip())
  if interrupted:
    return status_lib.STOPPED_CODE
  _conclude(loop.say, workdir, trainer, parts)
  return 0


def _announce(say, chosen, config, workdir, corpus, parts, trainer):
  import jax

  sizes = [sum(stop - start for start, stop in part) for part in parts]
  params = sum(leaf.size for leaf in jax.tree.leaves(trainer.shapes()))
  m, o = config.model, config.optimizer
  inputs = f"embedding {m.embed}" if m.embed else "one-hot input"
  unit = "bytes" if config.text.tokenizer == "byte" else "characters"
  values = ", ".join(f"{name}={value:g}" for name, value in chosen.items())
  rows = {"chosen": f"by the amount of text: {values}"} if chosen else {}
  rows |= {
    "corpus": f"{corpus.name}: {len(corpus.ids):,} {unit} in {len(corpus.documents)} documents, "
    f"alphabet of {corpus.tokenizer.vocab_size}",
    "split": f"{config.text.split}: {sizes[0]:,} to train, {sizes[1]:,} validation, "
    f"{sizes[2]:,} test",
    "model": f"{m.cell} {m.layers} x {m.hidden}, {inputs}, dropout {m.dropout:g}: {params:,} "
    f"parameters, products in {m.compute_dtype}",
    "training": f"{o.name} {o.learning_rate:g} {config.schedule.name}, {config.batch_size} streams "
    f"x {config.window} characters, {trainer.steps:,} steps "
    f"({trainer.steps / trainer.windows.steps_per_epoch:.2f} epochs)",
    "devices": trainer.train_step.devices.text,
    "run": str(workdir),
  }
  for name, value in rows.items():
    say(f"{name:9} {value}")


def _conclude(say, workdir, trainer, parts):

  memory = trainer.memory
  if memory.best_loss is not None:
    best = console.nats_and_bits(memory.best_loss)
    say(f"\nbest validation loss {best} per character, at step {memory.best_step}")
  say(f"{console.duration(memory.seconds)} of training; the run is in {workdir}")
  record.next_commands(say, workdir, parts)
