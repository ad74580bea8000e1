"""`charrnn eval`: the loss of a run on a split of its corpus, or on texts."""

import json
import math
import pathlib

from charrnn import errors

HELP = "the loss of a run on a split of its corpus or on files, in nats and bits a character"


def add_arguments(parser):
  parser.add_argument("run", metavar="RUN", help="a run directory")
  parser.add_argument("files", metavar="FILE", nargs="*", help="texts to score instead of a split")
  parser.add_argument(
    "--split", choices=("train", "valid", "test"), default="valid", help="default: valid"
  )
  parser.add_argument("--step", type=int, help="a kept step; default: the best")
  parser.add_argument(
    "--streams",
    type=int,
    default=64,
    help="readers side by side, each given 512 characters of the past (default 64); "
    "1 reads from the first to the last character with the state carried all along",
  )
  parser.add_argument("--json", action="store_true", help="exact values, one JSON object")


def run(args):
  if args.streams < 1:
    raise errors.UserError(f"--streams={args.streams}: must be at least 1")
  from charrnn import startup
  from charrnn.training import runs

  texts = [_read(path) for path in args.files]
  config = runs.read_config(args.run)
  startup.keep_memory()
  startup.import_jax()
  startup.set_cpu_devices(0, args.streams, 1)
  loaded = runs.load(args.run, args.step)
  if args.files:
    ids = [_encode(loaded.alphabet, path, text) for path, text in zip(args.files, texts)]
    targets = [(path, array, [(0, len(array))]) for path, array in zip(args.files, ids)]
  else:
    corpus, segments = _split(config, args.split)
    if corpus.alphabet.symbols != loaded.alphabet.symbols:
      raise errors.UserError(
        f"the corpus {config.text.source} is no longer the one that {args.run} was trained on: "
        "its alphabet differs"
      )
    targets = [(f"{args.split} ({config.text.split} split)", corpus.ids, segments)]
  results = [_score(loaded, args.streams, *target) for target in targets]
  if args.json:
    print(json.dumps({"run": str(args.run), "step": loaded.step, "results": results}))
    return
  print(f"{args.run}, step {loaded.step}")
  for result in results:
    print(
      f"{result['characters']:>12,} characters  {result['nats']:.4f} nats  {result['bits']:.4f} "
      f"bits  perplexity {result['perplexity']:.3f}  {result['text']}"
    )


def _read(path):
  try:
    data = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
  if len(data) < 2:
    raise errors.UserError(f"{path} has fewer than two characters: there is nothing to predict")
  return data


def _encode(alphabet, path, data):
  if alphabet.kind == "byte":
    return alphabet.encode_points(memoryview(data).cast("B"))
  try:
    return alphabet.encode(data.decode("utf-8"))
  except UnicodeDecodeError as error:
    raise errors.UserError(f"{path} is not UTF-8 at byte {error.start}: convert it") from error
  except errors.UserError as error:
    raise errors.UserError(f"{path}: {error}") from error


def _split(config, name):
  from charrnn.text import corpora, splits

  text = config.text
  corpus = corpora.load(
    text.source, alphabet=text.alphabet, encoding=text.encoding, newlines=text.newlines
  )
  parts = splits.split(
    len(corpus.ids),
    text.split,
    text.valid_fraction,
    text.test_fraction,
    streams=config.batch_size,
    window=config.window,
  )
  segments = getattr(parts, name)
  if not segments:
    raise errors.UserError(f"the {text.split} split of this run has no {name} part")
  return corpus, segments


def _score(loaded, readers, text, ids, segments):
  from charrnn.training import evaluate, steps

  nats = evaluate.evaluate(
    steps.make_eval_step(loaded.model),
    loaded.model,
    loaded.params,
    ids,
    segments,
    readers=readers,
    window=256,
    burn_in=512,
  )
  count = sum(stop - max(start, 1) for start, stop in segments)
  return {
    "text": text,
    "characters": count,
    "nats": nats,
    "bits": nats / math.log(2),
    "perplexity": math.exp(nats),
  }
