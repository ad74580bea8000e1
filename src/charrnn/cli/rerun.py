"""`charrnn rerun`: repeat a run from its provenance, and compare the results."""

import contextlib
import os
import pathlib
import re
from typing import Any

from charrnn import command_line, console, errors, files
from charrnn import config as config_lib
from charrnn.cli import arguments
from charrnn.data import sources
from charrnn.launching import train
from charrnn.runs import checkpoints, provenance
from charrnn.runs import run as run_lib
from charrnn.runs import weights as weights_lib
from charrnn.sweeps import local

HELP = """repeat a run from its provenance, and compare the results

The command trains with config.json of RUN in a new directory, on as many devices and cores as
before. First it reports what has changed: packages, settings, code and machine. It is an error if
the corpus or the initial weights have changed. At the end, it compares all losses and the arrays of
the last common checkpoint bit by bit. To resume a rerun that was stopped, repeat the command.
Exit code 0: identical; 1: different; 2: the run cannot be repeated; 75: stopped by a signal."""
NUMBERS = ("step", "epoch", "train/loss", "grad_norm", "learning_rate", "valid/loss")
DEVICES = re.compile(r"(\d+) x (.+)")  # number and kind of devices, as in run.json


def add_arguments(parser):
  arguments.add_run(parser)
  arguments.add_corpus(parser)
  parser.add_argument("--workdir", metavar="DIR", help="the new run directory (default: RUN-rerun)")


def run(args):
  run_lib.check_directory(args.run)
  files.check_local(args.workdir or "", run_lib.COPY_RUN, "--workdir")
  original = run_lib.Run.open(path := pathlib.Path(args.run).resolve())
  workdir = pathlib.Path(args.workdir or path.with_name(f"{path.name}-rerun")).resolve()
  launch = _launch(original)
  _check_workdir(original, workdir)
  moved = run_lib.moved_sources(args.corpus)
  _ = original.config  # Raises UserError if config.json does not match its digest.
  line = command_line.parse(["charrnn rerun", f"--config={path / 'config.json'}"])._replace(
    experiment=str(original.origin.get("experiment")),
    variant=str(original.origin.get("variant") or ""),
    overrides=launch.get("overrides", {}),
    original=provenance.Original(path, launch),
    fetch=args.fetch or run_lib.names_all_sources(original.config, moved),
  )
  located = {f"text.{name}": sources.locate(each, [os.getcwd()]) for name, each in moved.items()}
  line = line._replace(config=config_lib.replace(line.config, located))
  # Trackers received the metrics of the original, which the rerun repeats.
  line = line._replace(config=config_lib.replace(line.config, {"tracker": "none"}))
  directory = launch.get("directory")
  exists = isinstance(directory, str) and os.path.isdir(directory)
  # The path of the text may be relative to the directory of the launch.
  with contextlib.chdir(directory) if exists else contextlib.nullcontext():
    line = line._replace(config=_use_same_devices(path, launch, line.config))
    original.check_corpus(train.load_corpus(line))
    weights, source = original.origin.get("weights"), line.config.init_from
    if weights is not None and weights != weights_lib.open_source(source).weights:
      raise errors.UserError(
        f"the weights of {source} have changed since {path} started from them: restore them"
      )
    try:
      code = train.run(line, workdir, rollback="rollbacks" in original.origin)
    except errors.DivergedError as error:
      console.say(f"charrnn rerun: {error}")  # The original may have diverged too.
      code = 0
  return code or _compare(original, run_lib.Run(workdir))


def _launch(run: run_lib.Run) -> dict[str, Any]:
  """Return the first launch that made a step; report later launches that differ from it."""
  launches = run.origin["launches"]
  with_steps = [each for each in launches if "startup_seconds" in each] or launches[:1]
  if not DEVICES.match(str(with_steps[0].get("devices"))):
    raise files.damaged(run.path / "run.json")
  for number, each in enumerate(with_steps[1:], 2):
    if lines := list(provenance.differences(with_steps[0], each)):
      names = ", ".join(line.partition(":")[0] for line in lines)
      console.say(f"launch {number} of the run differs from the first launch in: {names}")
  return with_steps[0]


def _check_workdir(run: run_lib.Run, workdir: pathlib.Path):
  if not (run.metrics or run.steps):
    raise errors.UserError(f"{run.path} has no results to compare with: train it first")
  try:
    is_used = workdir.exists() and set(os.listdir(workdir)) - {"lock"}
  except OSError as error:
    raise errors.UserError(
      f"cannot write to {workdir}: {error.strerror}: use another --workdir"
    ) from error
  if is_used:
    record = workdir / "run.json"
    if not record.exists() or files.read_json(record).get("rerun_of") != str(run.path):
      raise errors.UserError(f"{workdir} is not a rerun of {run.path}: use another --workdir")


def _use_same_devices(path: pathlib.Path, launch, config):
  """Make JAX use as many devices as the launch, or raise UserError; return the config for them."""
  count, kind = DEVICES.match(launch["devices"]).groups()
  if " in " in kind:
    raise errors.UserError(
      f"{path} was trained by several processes: start them yourself with launch.py --distributed "
      f"--config={path / 'config.json'}"
    )
  provenance.use_cores(launch.get("cores", 0))
  if kind == "cpu":
    uses_devices = "cpu_devices" in config_lib.used_fields(config)
    return config_lib.replace(config, {"cpu_devices": int(count)}) if uses_devices else config
  if gpus := local.gpu_names():
    if len(gpus) < int(count):
      raise errors.UserError(
        f"{path} was trained on {launch['devices']}: this machine has only {len(gpus)}; "
        "use a machine with enough devices"
      )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[: int(count)])
  return config


def _compare(original: run_lib.Run, again: run_lib.Run) -> int:
  """Print the first difference between two runs or "identical"; return the exit code."""
  old_lines, new_lines = original.metrics, again.metrics
  for old, new in zip(old_lines, new_lines):
    for name in NUMBERS:
      if old.get(name) != new.get(name):
        values = f"{old.get(name)}, now {new.get(name)}"
        console.show([f"different: step {old['step']}, {name}: {values}"])
        return 1
  if len(new_lines) < len(old_lines):
    console.show([f"different: the rerun ends before step {old_lines[len(new_lines)]['step']}"])
    return 1
  compared = f"{errors.plural(len(old_lines), 'line')} of metrics.jsonl"
  common = set(original.steps) & set(again.steps)
  if not (old_lines or common):
    raise errors.UserError(
      f"{original.path} was stopped before its first result, so there is nothing to compare with: "
      "resume it first"
    )
  if common:
    step, folders = max(common), (run.path / "checkpoints" for run in (original, again))
    old, new = (checkpoints.read_meta(folder, step)["arrays"] for folder in folders)
    if wrong := sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)):
      console.show([f"different: step {step}, {', '.join(wrong[:3])}"])
      return 1
    compared += f", {errors.plural(len(old), 'array')} at step {step}"
  console.show([f"identical: {compared}"])
  return 0
