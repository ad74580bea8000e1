"""The training program: one run in one directory, from its experiment to its loss curve."""

import contextlib
import datetime
import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys

from charrnn import config as config_lib
from charrnn import errors, startup
from charrnn.sampling import options
from charrnn.text import streams
from charrnn.training import runs, sizing

PACKAGES = ("charrnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
INTERRUPTED = 75  # EX_TEMPFAIL: the same command goes on


def run(line, workdir, distributed=False):
  """Trains `line.config` in `workdir`, or goes on there; returns the exit code.

  Everything that can be wrong with what was asked for is found before JAX compiles anything.
  """
  watch = startup.Stopwatch()
  watch.mark("python and flags")
  config = line.config
  sizing.check(config)
  with contextlib.ExitStack() as held:
    if not distributed:
      held.enter_context(startup.lock(workdir))
    stored = _stored(workdir)
    if stored:
      sizing.fill_from(config, stored)
    elif config.init_from:
      source = config_lib.to_json(runs.read_config(config.init_from))
      sizing.fill_from(config, {"model": source["model"] | {"compute_dtype": None}})
    corpus = runs.load_corpus(config)
    _check_sample(config, corpus.alphabet)
    _fill_sizes(config, len(corpus.ids))
    parts = runs.split(config, len(corpus.ids))
    windows = streams.Windows(corpus.ids, parts.train, config.batch_size, config.window)
    sizing.fill_length(config, windows.steps_per_epoch)
    watch.mark("text")
    startup.keep_memory()
    jax = startup.import_jax()
    processes = startup.join_processes() if distributed else 1
    startup.set_cpu_devices(
      config.cpu_devices, config.batch_size, config.accumulate * processes, config.model.hidden
    )
    writes = jax.process_index() == 0
    if distributed and writes:
      held.enter_context(startup.lock(workdir))
    from charrnn.training import steps

    sizing.fill_dtype(config, steps.device())
    if stored:
      config_lib.check_resumable(stored, config_lib.to_json(config))
      runs.check_same_text(workdir, corpus)
    return _train(line, workdir, corpus, parts, windows, writes, watch)


def _stored(workdir):
  path = workdir / "config.json"
  return runs.read_json(path) if path.exists() else None


def _check_sample(config, alphabet):
  """What the first evaluation would stumble over, hours later."""
  try:
    options.check(length=config.sample.length, num=1, seed=config.seed)
    options.Settings(config.sample.temperature)
    alphabet.encode(config.sample.prime)
  except errors.UserError as error:
    raise errors.UserError(f"--config.sample (or --config.seed): {error}") from error


def _fill_sizes(config, length):
  """Chooses what the experiment leaves to the amount of text, and says it."""
  # By the length alone: the `streams` split hangs on the batch, which may be chosen here.
  text = config.text
  chosen = sizing.fill(config, round(length * (1 - text.valid_fraction - text.test_fraction)))
  if chosen:
    values = ", ".join(f"{name}={value:g}" for name, value in chosen.items())
    print(f"chosen    by the amount of text: {values}", file=sys.stderr)


def _train(line, workdir, corpus, parts, windows, writes, watch):
  import jax

  from charrnn.models import network
  from charrnn.training import loop, metrics, steps, transfer

  watch.mark("jax")
  config = line.config
  layout = steps.devices()
  steps.check_batch(config.batch_size, config.accumulate, layout)
  model = network.make(corpus.alphabet.size, **config.model)

  def init_params(fresh):
    return transfer.weights(config.init_from, model, fresh, corpus.alphabet)

  def write_sample(params, step):
    _write_sample(config, workdir, model, corpus.alphabet, jax.device_get(params), step)

  trainer = loop.Trainer(config, workdir, model, windows, parts.valid, loop.say, write_sample)
  _announce(loop.say, config, workdir, corpus, parts, trainer)
  state = trainer.restore(init_params if config.init_from else None)
  record = _record(line, workdir, corpus, layout) if writes else None
  watch.mark("parameters")

  def started():
    watch.mark("first step")
    if writes:
      _record_start(loop.say, workdir, record, watch.seconds())

  _, interrupted = trainer.train(state, started)
  if writes:
    metrics.draw(workdir, f"{line.experiment} {line.variant}".strip())
  if interrupted:
    return INTERRUPTED
  _conclude(loop.say, workdir, trainer, parts)
  return 0


def _record(line, workdir, corpus, layout):
  """Writes what decides the result, and adds this launch to run.json; returns what is in that."""
  corpus.alphabet.save(workdir / "alphabet.json")
  launch = {
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": shlex.join(sys.argv),
    "overrides": line.overrides,
    "python": platform.python_version(),
    "platform": platform.platform(),
    "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    "devices": layout.text,
    "git": _git_commit(),
  }
  path = workdir / "run.json"
  launches = runs.read_json(path).get("launches", []) if path.exists() else []
  provenance = {"experiment": line.experiment, "variant": line.variant, "corpus": corpus.provenance}
  record = {**provenance, "launches": [*launches, launch]}
  runs.write_json(path, record)
  # Last: a directory with a config.json is a run directory.
  runs.write_json(workdir / "config.json", config_lib.to_json(line.config))
  return record


def _record_start(say, workdir, record, seconds):
  """Adds to this launch in run.json where the time went until the first step was done."""
  record["launches"][-1]["startup_seconds"] = seconds
  runs.write_json(workdir / "run.json", record)
  phases = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total")
  say(f"first step after {seconds['total']:.1f} s ({phases})")


def _git_commit():
  """The commit of this code, with + if its files are changed; None outside of git."""

  def git(*arguments):
    command = ["git", "-C", str(pathlib.Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

  try:
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD").strip() + ("+" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return None


def _write_sample(config, workdir, model, alphabet, params, step):
  """samples/STEP.txt, and its first lines for whoever watches."""
  if not config.sample.length:
    return
  from charrnn.sampling import generate, stream
  from charrnn.training import loop

  prompt_ids = alphabet.encode(config.sample.prime)
  blocks = generate.generate(
    model,
    params,
    prompt_ids if len(prompt_ids) else [alphabet.default_id()],
    length=config.sample.length,
    num=1,
    seed=config.seed,
    settings=options.Settings(config.sample.temperature),
  )
  reader = stream.Reader(alphabet, prompt_ids)
  text = reader.prompt + "".join(piece for (piece,) in stream.texts(blocks, [reader]))
  folder = workdir / "samples"
  folder.mkdir(exist_ok=True)
  (folder / f"{step}.txt").write_bytes(text.encode("utf-8", "replace"))
  for shown in text.strip("\n").split("\n")[:6]:
    loop.say(f"    {shown.translate(stream.VISIBLE)}")


def _announce(say, config, workdir, corpus, parts, trainer):
  from charrnn.training import state

  sizes = [sum(stop - start for start, stop in part) for part in parts]
  params = state.count(trainer.shapes())
  m, o = config.model, config.optimizer
  inputs = f"embedding {m.embed}" if m.embed else "one-hot input"
  unit = "bytes" if config.text.alphabet == "byte" else "characters"
  rows = {
    "corpus": f"{corpus.name}: {len(corpus.ids):,} {unit} in {len(corpus.documents)} documents, "
    f"alphabet of {corpus.alphabet.size}",
    "split": f"{config.text.split}: {sizes[0]:,} to train, {sizes[1]:,} validation, "
    f"{sizes[2]:,} test",
    "model": f"{m.cell} {m.layers} x {m.hidden}, {inputs}, dropout {m.dropout:g}: {params:,} "
    f"parameters, products in {m.compute_dtype}",
    "training": f"{o.name} {o.learning_rate:g} {config.schedule.name}, {config.batch_size} streams "
    f"x {config.window} characters, {trainer.steps:,} steps "
    f"({trainer.steps / trainer.windows.steps_per_epoch:.2f} epochs)",
    "devices": trainer.layout.text,
    "run": str(workdir),
  }
  for name, value in rows.items():
    say(f"{name:9} {value}")


def _conclude(say, workdir, trainer, parts):
  from charrnn.training import metrics

  memory = trainer.memory
  if memory.best_loss is not None:
    best = metrics.nats_and_bits(memory.best_loss)
    say(f"\nbest validation loss {best} per character, at step {memory.best_step}")
  say(f"{metrics.duration(memory.seconds)} of training; the run is in {workdir}")
  folder = shlex.quote(str(workdir))
  say(
    f"loss curve: {workdir / 'loss.png'}\n\nnext:\n"
    f"  charrnn sample {folder} --temperature 0.8\n"
    f"  charrnn eval {folder}{' --split test' if parts.test else ''}\n"
    f"  charrnn inspect {folder}"
  )
