"""What a launch writes of itself into the run directory, and what it writes with its model."""

import datetime
import hashlib
import json
import pathlib
import shlex
import sys
from typing import NamedTuple

from charrnn import config as config_lib
from charrnn import errors, files
from charrnn.runs import surroundings
from charrnn.sampling import options


class Original(NamedTuple):
  """A run that is made a second time, and the launch that it came from."""

  path: pathlib.Path
  launch: dict


def stored(workdir):
  """The config of the run that is there already; None if there is none."""
  path = workdir / "config.json"
  return files.read_json(path) if path.exists() else None


def begin(line, workdir, corpus, layout):
  """Writes what decides the result, and adds this launch to run.json; returns what is in that."""
  corpus.tokenizer.save(workdir / "alphabet.json")
  latest = {
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": shlex.join(sys.argv),
    "overrides": line.overrides,
    "devices": layout.text,
    **surroundings.facts(workdir),
  }
  path = workdir / "run.json"
  before = files.read_json(path) if path.exists() else {}
  record = {"experiment": line.experiment, "variant": line.variant, "corpus": corpus.provenance}
  record |= {name: before[name] for name in ("weights", "rerun_of") if name in before}
  if line.config.init_from and not before:
    record["weights"] = weights(line.config.init_from)
  if line.original:
    record["rerun_of"] = str(line.original.path)
    _say_differences(line.original, latest)
  record["launches"] = [*before.get("launches", []), latest]
  files.write_json(path, record)
  # Last: a directory with a config.json is a run directory.
  files.write_json(workdir / "config.json", config_lib.to_json(line.config))
  return record


def first_step(say, workdir, record, seconds):
  """Adds to this launch in run.json where the time went until the first step was done."""
  record["launches"][-1]["startup_seconds"] = seconds
  files.write_json(workdir / "run.json", record)
  phases = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total")
  say(f"first step after {seconds['total']:.1f} s ({phases})")


def weights(path):
  """What a run is begun with that starts from the weights of the run at `path`."""
  from charrnn.runs import checkpoint

  folder = pathlib.Path(path) / "checkpoints"
  if (step := checkpoint.best_step(folder)) is None:
    raise errors.UserError(f"{path} has no whole checkpoint to start from")
  arrays = checkpoint.read_meta(folder, step)["arrays"]
  digests = {name: arrays[name] for name in sorted(arrays) if checkpoint.is_below(name, "params")}
  return {"step": step, "sha256": hashlib.sha256(json.dumps(digests).encode()).hexdigest()}


def _say_differences(original, latest):
  """For who runs it again: what may make it come out otherwise."""
  found = list(surroundings.differences(original.launch, latest))
  for difference in found:
    print(f"different {difference}", file=sys.stderr)
  if not found:
    print("different nothing: machine, packages and code are those of the record", file=sys.stderr)


def check_sample(config, alphabet):
  """What the first evaluation would stumble over, hours later."""
  try:
    options.check(length=config.sample.length, num=1, seed=config.seed)
    options.Settings(config.sample.temperature)
    alphabet.encode(config.sample.prime)
  except errors.UserError as error:
    raise errors.UserError(f"--config.sample (or --config.seed): {error}") from error


def sample(config, workdir, model, alphabet, params, step):
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


def next_commands(say, workdir, parts):
  """Where the curve is, and what to do with the run."""
  folder, picture = shlex.quote(str(workdir)), workdir / "loss.png"
  if picture.exists():
    say(f"loss curve: {picture}")
  say(
    f"\nnext:\n  charrnn sample {folder} --temperature 0.8\n"
    f"  charrnn eval {folder}{' --split test' if parts.test else ''}\n"
    f"  charrnn inspect {folder}"
  )
