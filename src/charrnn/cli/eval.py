"""`charrnn eval`: the loss of a run on a split of its corpus, or on texts."""

import argparse
import json
import math

from charrnn import console, errors
from charrnn.evaluation import per_character, scored_text, scoring
from charrnn.evaluation import texts as texts_lib

HELP = """\
the loss of a run on a split of its corpus or on files, in nats and bits a character

A character is scored given all that stands before it. The first one of a text has nothing before it
and is not scored. With --state=reset that goes for each document: no state, no learning and no
memory crosses its beginning. With --state=carried the documents are one text.

--dynamic also learns from the text: 20 characters are scored, and then the parameters take a step
that makes them likelier, before the next 20. The run itself stays as it is.

--errors asks why characters got p < 0.5 (arXiv 1506.02078): each error is counted where it first
fits. n-gram: the 1- to 9-grams of the training text know better; memory n: the rest of a word that
stands in the last n characters; rare word: at most 5 times in the training text; word start: the
first character of a word, or after white space or a double quote; punctuation; boost b: p is too
low by up to b."""
RATE = 0.3  # the best of those measured, see training/dynamic.py


def add_arguments(parser):
  add = parser.add_argument
  add("run", metavar="RUN", help="a run directory")
  add("files", metavar="FILE", nargs="*", help="texts to score instead of a split")
  add("--split", choices=("train", "valid", "test"), help="default: valid")
  add("--step", type=int, help="a kept step; default: the best")
  add(
    "--streams",
    type=int,
    help="readers side by side, each given some text before its part (default: as in training); "
    "1 reads from the first to the last character with the state carried all along",
  )
  add(
    "--state",
    choices=("carried", "reset"),
    help="from document to document (default: reset for FILEs, each of which is a document, and "
    "carried for a split)",
  )
  add("--characters", metavar="N", type=int, help="only the first N of the split or of each FILE")
  add(
    "--dynamic",
    metavar="RATE",
    nargs="?",
    type=_rate,
    const=RATE,
    help=f"dynamic evaluation, in one stream (default {RATE}: the best of 5 for Shakespeare)",
  )
  add("--errors", action="store_true", help="count the errors by what would take them away")
  add(
    "--tsv",
    metavar="F",
    help="write a line a character: its place in the text or corpus, itself, nats, p, rank",
  )
  add("--html", metavar="F", help="write a page: the text coloured by surprisal")
  add("--json", action="store_true", help="exact values, one JSON object")


def _rate(text):
  try:
    return float(text)
  except ValueError:
    message = f"{text!r} is not a number: give it as --dynamic={RATE}, or --dynamic last"
    raise argparse.ArgumentTypeError(message) from None


def run(args):
  _check(args)
  from charrnn import runtime
  from charrnn.runs import run as run_lib

  loaded = run_lib.Run.open(args.run, args.step)
  config = loaded.config
  if args.dynamic is not None and config.model.cell == "ngram":
    raise errors.UserError(f"--dynamic: {args.run} is an ngram, which has no gradient to follow")
  files = [(path, texts_lib.read(path, config.text)) for path in args.files]
  streams = args.streams or config.eval_streams
  runtime.start()
  runtime.set_cpu_devices(0, streams, 1)
  loaded.load()
  corpus = loaded.corpus() if args.errors or not files else None
  state = args.state or ("reset" if files else "carried")
  how = {"carried": state == "carried", "characters": args.characters}
  if files:
    text = scored_text.of_files(loaded.tokenizer, files, **how)
  else:
    text = scored_text.of_split(loaded, corpus, args.split or "valid", **how)
  progress = console.Progress()
  try:
    found = _score(args, loaded, text, streams, corpus, progress)
  finally:
    progress.end()
  about = {"run": str(args.run), "step": loaded.step, "state": state, "dynamic": args.dynamic}
  print(json.dumps(about | found) if args.json else "\n".join(_lines(about | found)))


def _score(args, run, text, streams, corpus, progress):
  """The loss of every part of the text and, where asked for, all that is told of characters."""
  if args.dynamic is None and not (args.tsv or args.html or args.errors):
    return scoring.summary(text, scoring.losses(run, text, streams))
  scores = scoring.scores(run, text, streams, args.dynamic, progress)
  found = scoring.summary(text, [each.mean for each in scores])
  if args.errors:
    found["errors"] = scoring.errors_by_type(run, text, scores, corpus, progress)
  per_character.write(args, run, text, scores[0], found["results"][0])
  return found


def _check(args):
  if args.streams is not None and args.streams < 1:
    raise errors.UserError(f"--streams={args.streams}: must be at least 1")
  if args.split and args.files:
    raise errors.UserError(f"--split={args.split} and files: choose one or the other")
  if args.characters is not None and args.characters < 2:
    raise errors.UserError(f"--characters={args.characters}: must be at least 2")
  if args.dynamic is not None:
    if not 0 <= args.dynamic < math.inf:
      raise errors.UserError(f"--dynamic={args.dynamic}: must be 0 or more, and finite")
    if (args.streams or 1) > 1:
      raise errors.UserError(f"--streams={args.streams}: --dynamic has one: leave it out")
  if args.errors and args.split == "train":
    raise errors.UserError(
      "--errors --split=train: what is compared with has read it: take another"
    )
  per_character.check(args)


def _lines(found):
  dynamic = found["dynamic"]
  learning = "" if dynamic is None else f", dynamic evaluation at rate {dynamic:g}"
  yield f"{found['run']}, step {found['step']}{learning}"
  yield from map(scoring.line, found["results"])
  if len(found["results"]) > 1:
    yield scoring.line(found["overall"])
  if "errors" in found:
    from charrnn.evaluation import mistakes

    yield ""
    yield from mistakes.lines(found["errors"])
