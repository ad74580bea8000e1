"""The start of a run: its directory, corpus, config and devices, before anything is compiled."""

import contextlib
import pathlib

from charrnn import command_line, errors, files, models, runtime
from charrnn import config as config_lib
from charrnn.data import batches
from charrnn.runs import lock
from charrnn.runs import run as run_lib


def run(line: command_line.CommandLine, workdir: pathlib.Path, distributed: bool = False) -> int:
  """Train, or count, what a command line describes in `workdir`, or resume; return the exit code.

  Everything that can be wrong with the command line is found before JAX compiles anything.
  """
  if (workdir / "sweep.json").exists():
    raise errors.UserError(f"{workdir} is a sweep: give another --workdir")
  watch = runtime.Stopwatch()
  watch.mark("python and flags")
  is_trained = models.has_gradient(line.config.model)
  if not is_trained:
    _check_count(line, distributed)
  config_lib.check(line.config)
  with contextlib.ExitStack() as locks:
    if not distributed:
      locks.enter_context(lock.hold(workdir))
    path = workdir / "config.json"
    stored = files.read_json(path) if path.exists() else None
    corpus = run_lib.load_corpus(line.config)
    if is_trained:
      line, chosen = _resolve(line, corpus, stored, watch, distributed)
    else:
      runtime.start()
      chosen = {}
    # From here on with JAX: errors above are reported without its seconds of importing.
    from charrnn.launching import programs
    from charrnn.runs import checkpoints
    from charrnn.training import loop

    programs.check_sample(line.config, corpus.tokenizer)
    newest = max(checkpoints.steps(workdir / "checkpoints"), default=-1)
    with runtime.together(newest):
      if distributed and loop.is_main():
        locks.enter_context(lock.hold(workdir))
      if stored:
        config_lib.check_resumable(stored, config_lib.to_json(line.config))
        run_lib.Run(workdir).check_corpus(corpus)
    splits = config_lib.split(line.config, len(corpus.ids))
    job = programs.Job(line, workdir, corpus, splits)
    return programs.train(job, chosen, watch) if is_trained else programs.count(job)


def _check_count(line, distributed):
  """Raise UserError for fields of an n-gram that are missing, and for those that it cannot use."""
  if distributed:
    raise errors.UserError("--distributed: one process counts an ngram: leave it out")
  used = config_lib.used_fields(line.config)
  for field in config_lib.FIELDS:
    name, value = field.name, line.config[field.name]
    if name not in used and (name in line.overrides or value != field.default):
      raise errors.UserError(
        f"--config.{name}={value}: an ngram has no use for it: leave it out, or start from "
        "experiments/ngram.py"
      )
  for name in sorted(used):
    if line.config[name] is None:
      raise errors.UserError(f"--config.{name} is missing: an ngram of this text needs it")


def _resolve(line, corpus, stored, watch, distributed):
  """Return the command line with its resolved config, and the values chosen by amount of text."""
  source = None
  if line.config.init_from and not stored:
    source = config_lib.to_json(run_lib.Run.open(line.config.init_from).config)

  def start_device(config):
    # The error about a text that is too short comes before JAX starts.
    spans = config_lib.split(config, len(corpus.ids)).train
    length = sum(stop - start for start, stop in spans)
    batches.check_length(length, config.batch_size, config.window)
    watch.mark("text")
    runtime.start()
    parts = config.accumulate * (runtime.join_processes() if distributed else 1)
    with contextlib.suppress(RuntimeError):  # in a notebook, the devices may have started already
      runtime.set_cpu_devices(config.cpu_devices, config.batch_size, parts, config.model.hidden)
    from charrnn.training import steps

    return steps.device()

  config, chosen = config_lib.resolve(
    line.config, len(corpus.ids), stored=stored, source=source, device=start_device
  )
  return line._replace(config=config), chosen
