"""`charrnn rerun`: makes a run a second time from its record, and sees whether it is the same."""

import contextlib
import os
import pathlib
import re
import sys

from charrnn import config as config_lib
from charrnn import errors, files

HELP = """make a run again from its record, and compare

Trains what config.json has in a new directory, on as many devices and cores as there were. What is
different from the record (packages, code, machine) is said before; another text, or other weights
to start from, are refused. In the end all losses and the arrays of the last checkpoint that both
have are compared, to the bit. The same command again goes on where a rerun was stopped.
Exit code 0: identical; 1: different; 2: it cannot be made again; 75: stopped by a signal."""
NUMBERS = ("step", "epoch", "train/loss", "grad_norm", "learning_rate", "valid/loss")
DEVICES = re.compile(r"(\d+) x (.+)")  # as steps.Devices.text has them


def add_arguments(parser):
  parser.add_argument("run", metavar="RUN", help="a run directory")
  parser.add_argument("--workdir", metavar="DIR", help="the new one (default RUN-rerun)")


def run(args):
  from charrnn.launching import record, train
  from charrnn.runs import runs

  path = runs.check(args.run).resolve()
  workdir = pathlib.Path(args.workdir or path.with_name(f"{path.name}-rerun")).resolve()
  about = runs.origin(path)
  launch = _launch(path, about["launches"])
  _check_workdir(path, workdir)
  line = config_lib.parse(["charrnn rerun", f"--config={path / 'config.json'}"])._replace(
    experiment=str(about.get("experiment")),
    variant=str(about.get("variant") or ""),
    overrides=launch.get("overrides", {}),
    original=record.Original(path, launch),
  )
  with _directory(launch):  # paths of texts may be relative
    _use_as_many(path, launch, line.config)
    _check_sources(path, about, line.config)
    try:
      code = train.run(line, workdir)
    except errors.UserError as error:
      if "training diverged" not in str(error):
        raise
      print(f"charrnn rerun: {error}", file=sys.stderr)  # as it may have done before
      code = 0
  return code or _compare(path, workdir)


def _launch(path, launches):
  """The launch that made the run: the first that came to a step."""
  made = [each for each in launches if "startup_seconds" in each] or launches[:1]
  if not DEVICES.match(str(made[0].get("devices"))):
    raise errors.UserError(f"{path / 'run.json'} is damaged: take it from a copy of the same run")
  from charrnn.runs import surroundings

  for number, each in enumerate(made[1:], 2):
    if found := [text.partition(":")[0] for text in surroundings.differences(made[0], each)]:
      names = ", ".join(found)
      print(f"its launch {number} differed from the first in: {names}", file=sys.stderr)
  return made[0]


def _check_workdir(path, workdir):
  from charrnn.runs import metrics

  if not (metrics.read(path) or list(path.glob("checkpoints/[0-9]*"))):
    raise errors.UserError(f"{path} has nothing to compare with yet: launch it first")
  try:
    taken = workdir.exists() and set(os.listdir(workdir)) - {"lock"}
  except OSError as error:
    raise errors.UserError(f"cannot write to {workdir}: {error.strerror}") from error
  if taken:
    again = workdir / "run.json"
    if not again.exists() or files.read_json(again).get("rerun_of") != str(path):
      raise errors.UserError(f"{workdir} has something else in it: give another --workdir")


def _directory(launch):
  """Where the run was launched, if that is still there."""
  directory = launch.get("directory")
  there = isinstance(directory, str) and os.path.isdir(directory)
  return contextlib.chdir(directory) if there else contextlib.nullcontext()


def _check_sources(path, about, config):
  """Raises UserError when the text, or the weights that it began with, are not the same now."""
  from charrnn.launching import record
  from charrnn.runs import runs

  corpus = runs.load_corpus(config)
  if corpus.provenance["sha256"] != about["corpus"]["sha256"]:
    raise errors.UserError(
      f"{corpus.name} is not the text any more that {path} was made with: bring the old one back"
    )
  if "weights" in about and about["weights"] != record.weights(config.init_from):
    raise errors.UserError(
      f"{config.init_from} has not the weights any more that {path} began with: bring them back"
    )


def _use_as_many(path, launch, config):
  """Has JAX find as many devices as the launch had; raises UserError where there are fewer."""
  from charrnn.runs import surroundings
  from charrnn.sweeps import local

  count, kind = DEVICES.match(launch["devices"]).groups()
  if " in " in kind:
    raise errors.UserError(
      f"{path} was made by several processes: launch them with launch.py --distributed "
      f"--config={path / 'config.json'}"
    )
  surroundings.use_cores(launch.get("cores", 0))
  if kind == "cpu":
    if config.model.cell != "ngram":
      config.cpu_devices = int(count)
    return
  if gpus := local.gpu_names():
    if len(gpus) < int(count):
      raise errors.UserError(f"{path} was made on {launch['devices']}: there are {len(gpus)}")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[: int(count)])


def _compare(path, workdir):
  """Says whether two runs have the same numbers, or where they first differ; the exit code."""
  from charrnn.runs import checkpoint, metrics

  theirs, ours = metrics.read(path), metrics.read(workdir)
  for old, new in zip(theirs, ours):
    for name in NUMBERS:
      if old.get(name) != new.get(name):
        print(f"different: step {old['step']}, {name}: {old.get(name)}, now {new.get(name)}")
        return 1
  if len(ours) < len(theirs):
    print(f"different: it ends before step {theirs[len(ours)]['step']}")
    return 1
  told = f"{len(theirs)} lines of metrics.jsonl"
  folders = [each / "checkpoints" for each in (path, workdir)]
  common = set.intersection(*(set(checkpoint.steps(folder)) for folder in folders))
  if not (theirs or common):
    raise errors.UserError(f"{path} was stopped before its first numbers: nothing to compare with")
  if common:
    step = max(common)
    old, new = (checkpoint.read_meta(folder, step)["arrays"] for folder in folders)
    if wrong := sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)):
      print(f"different: step {step}, {', '.join(wrong[:3])}")
      return 1
    told += f", {len(old)} arrays of step {step}"
  print(f"identical: {told}")
  return 0
