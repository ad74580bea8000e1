"""`charrnn eval`: the loss of a run on a split of its corpus, or on texts."""

import json
import math

from charrnn import errors
from charrnn.commands import texts as texts_lib

HELP = "the loss of a run on a split of its corpus or on files, in nats and bits a character"


def add_arguments(parser):
  parser.add_argument("run", metavar="RUN", help="a run directory")
  parser.add_argument("files", metavar="FILE", nargs="*", help="texts to score instead of a split")
  parser.add_argument("--split", choices=("train", "valid", "test"), help="default: valid")
  parser.add_argument("--step", type=int, help="a kept step; default: the best")
  parser.add_argument(
    "--streams",
    type=int,
    help="readers side by side, each given some text before its part (default: as in training); "
    "1 reads from the first to the last character with the state carried all along",
  )
  parser.add_argument("--json", action="store_true", help="exact values, one JSON object")


def run(args):
  if args.streams is not None and args.streams < 1:
    raise errors.UserError(f"--streams={args.streams}: must be at least 1")
  if args.split and args.files:
    raise errors.UserError(f"--split={args.split} and files: choose one or the other")
  from charrnn import startup
  from charrnn.training import runs

  config = runs.read_config(args.run)
  texts = [texts_lib.read(path, config.text) for path in args.files]
  streams = args.streams or config.eval_streams
  startup.keep_memory()
  startup.import_jax()
  startup.set_cpu_devices(0, streams, 1)
  loaded = runs.load(args.run, args.step)
  if args.files:
    ids = [texts_lib.encode(loaded.alphabet, path, text) for path, text in zip(args.files, texts)]
    targets = [(path, array, [(0, len(array))]) for path, array in zip(args.files, ids)]
  else:
    name = args.split or "valid"
    corpus = runs.load_corpus(config)
    runs.check_same_text(loaded.path, corpus)
    segments = getattr(runs.split(config, len(corpus.ids)), name)
    if not segments:
      raise errors.UserError(f"the {config.text.split} split of this run has no {name} part")
    targets = [(f"{name} ({config.text.split} split)", corpus.ids, segments)]
  results = [_score(loaded, streams, *target) for target in targets]
  if args.json:
    print(json.dumps({"run": str(args.run), "step": loaded.step, "results": results}))
    return
  print(f"{args.run}, step {loaded.step}")
  for result in results:
    print(
      f"{result['characters']:>12,} characters  {result['nats']:.4f} nats  {result['bits']:.4f} "
      f"bits  perplexity {result['perplexity']:.3f}  {result['text']}"
    )


def _score(loaded, readers, text, ids, segments):
  from charrnn.training import evaluate, steps

  nats = evaluate.evaluate(
    steps.make_eval_step(loaded.model),
    loaded.model,
    loaded.params,
    ids,
    segments,
    readers=readers,
    window=loaded.config.window,
    burn_in=loaded.config.eval_burn_in,
  )
  count = sum(stop - max(start, 1) for start, stop in segments)
  return {
    "text": text,
    "characters": count,
    "nats": nats,
    "bits": nats / math.log(2),
    "perplexity": math.exp(nats),
  }
