"""What a launch writes of itself into the run directory, and what it writes with its model."""

import shlex

from charrnn import errors, files
from charrnn.sampling import options


def stored(workdir):
  """The config of the run that is there already; None if there is none."""
  path = workdir / "config.json"
  return files.read_json(path) if path.exists() else None


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
