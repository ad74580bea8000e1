"""`charrnn ladder`: one table and one picture of runs with different models and tokenizers."""

import pathlib
import time
from typing import Any

import jax

from charrnn import console, errors, files
from charrnn.cli import arguments
from charrnn.evaluation import context, score
from charrnn.runs import run as run_lib
from charrnn.runs.status import RunStatus
from charrnn.sampling import sampler
from charrnn.scorecards import report, systems
from charrnn.sweeps import comparison, ladder

HELP = """\
compare models and tokenizers: losses, costs, use of the context, and samples

The runs need the same text and splits; models and tokenizers may differ. For each finished run,
measure the loss on the validation and test splits in bits per byte, the speed of sampling one text,
and the memory of its carry. On the validation split, measure the loss by the distance from the
start of the context, which is reset every 2048 bytes, and how well closing brackets and quotes are
predicted, by the distance from their openers. With --domain, also compare samples with held-out
text, as `charrnn scorecard` does. Write ladder.md, ladder.json and ladder.png."""


def add_arguments(parser):
  add = parser.add_argument
  text = "a sweep of experiments/ladder.py, or other directories with runs"
  add("targets", metavar="RUN|SWEEP", nargs="+", help=text)
  add("--domain", choices=tuple(report.DOMAINS), help="also measure the metrics of this domain")
  text = "number of samples from each model for these metrics (default: 20)"
  add("--num", metavar="N", type=int, default=20, help=text)
  add("--length", metavar="N", type=int, default=1000, help="tokens of a sample (default: 1000)")
  arguments.add_corpus(parser, "the corpus of the runs, if it has moved")
  arguments.add_out(parser, "output folder (default: ladder/ in the first target)")
  arguments.add_seed(parser)
  arguments.add_json(parser, "print ladder.json to stdout instead of the tables")


def run(args):
  sampler.check(length=args.length, num=args.num, seed=args.seed)
  errors.check("--length", args.length, args.length >= 1, "must be at least 1")
  compared = comparison.compare(comparison.read_runs(comparison.find_runs(args.targets)))
  runs = [each for each in compared.runs if each.status == RunStatus.FINISHED and each.best]
  if not runs:
    raise errors.UserError(f"{args.targets[0]}: no run has finished: train one to the end")
  if not compared.compares:
    raise errors.UserError("the runs have different texts or splits: compare them separately")
  out = files.output_folder(args.out, pathlib.Path(args.targets[0]) / "ladder")
  opened = [run_lib.Run.open(each.path, None, args.corpus, args.fetch) for each in runs]
  run_lib.use_devices(opened[0], opened[0].config.eval_streams)
  with console.Progress() as progress:
    rows = [_measure(args, each, loaded, progress) for each, loaded in zip(runs, opened)]
    cards = _scorecards(args, opened, progress) if args.domain else {}
  for row, loaded in zip(rows, opened):
    row["scorecard"] = cards.get(loaded.path)
  result = {"text": opened[0].corpus().name, "domain": args.domain, "runs": ladder.order(rows)}
  with files.replace_in_folder(out) as new:
    files.write_json(new / "ladder.json", result)
    files.write_text(new / "ladder.md", ladder.markdown(result))
    ladder.plot(result, new / "ladder.png")
  unfinished = [each.name for each in compared.runs if each not in runs]
  if unfinished:
    console.say(f"left out, because they have not finished: {errors.some(unfinished, 5)}")
  arguments.show(args, result, [*ladder.lines(result), "", f"tables and picture: {out}"])


def _measure(args, compared: comparison.ComparedRun, run, progress) -> dict[str, Any]:
  """Return the facts, losses, speeds and one sample of a run."""
  update, run = progress(f"scoring {run.path}"), run.load()
  corpus, splits, config = run.corpus(), run.splits(), run.config
  reading = {"window": config.window, "streams": config.eval_streams}
  reading |= {"burn_in": config.eval_burn_in, "progress": update}
  spans = {"valid": splits.valid, "test": splits.test}
  scores = {
    name: score.score(run.model, run.params, corpus.ids, each, **reading)._replace(text=corpus)
    for name, each in spans.items()
    if each
  }
  documents = [document.start for document in corpus.documents]
  starts = context.context_starts(corpus, splits.valid, documents)
  reading |= {"streams": 1, "burn_in": 0, "starts": starts}  # one stream for each context
  restarted = score.score(run.model, run.params, corpus.ids, splits.valid, **reading)
  m = config.model
  carry = jax.eval_shape(lambda: run.model.initial_carry(1))
  trained, last = compared.rate, compared.last
  per_token = corpus.size(splits.train).bytes / sum(b - a for a, b in splits.train)
  return {
    "run": compared.name,
    "name": f"{run.model.order}-gram" if m.cell == "ngram" else m.cell,
    "tokenizer": config.text.tokenizer,
    "step": run.step,
    "vocab_size": run.tokenizer.vocab_size,
    "parameters": compared.parameters,
    "flops": last.flops if compared.has_gradient else None,
    "seconds": last.seconds,
    "train_bytes": last.characters and last.characters * per_token / compared.characters_per_token,
    "train_bytes_per_second": trained and trained * per_token,
    "carry_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(carry)),
    **{name: scores[name].bits_per_byte if name in scores else None for name in spans},
    "positions": context.loss_by_position(restarted._replace(text=corpus)),
    "closers": context.closers(scores["valid"], documents),
    **_sample(args, run, progress),
  }


def _sample(args, run, progress) -> dict[str, Any]:
  """Return one sample and the bytes per second of a second one, when programs are compiled."""
  progress(f"sampling from {run.path}")
  options = {"num": 1, "length": args.length, "settings": sampler.Settings()}
  first, second = {"seed": args.seed}, {"seed": (args.seed + 1) % sampler.MAX_SEED}
  (text,) = sampler.sample_texts(run, **options, **first)
  start = time.perf_counter()
  (timed,) = sampler.sample_texts(run, **options, **second)
  rate = len(timed.encode("utf-8", "replace")) / (time.perf_counter() - start)
  return {"sample": text, "sample_bytes_per_second": rate}


def _scorecards(args, runs, progress) -> dict[pathlib.Path, dict[str, Any]]:
  """Return the distances from held-out text, by path of the run and metric."""
  domain, distances = report.DOMAINS[args.domain], {}
  for kind in dict.fromkeys(run.config.text.tokenizer for run in runs):
    paths = [run.path for run in runs if run.config.text.tokenizer == kind]
    size = {"num": args.num, "length": args.length, "seed": args.seed}
    settings = systems.Settings(list(map(str, paths)), order=0, **size)
    samples = systems.sample(settings, domain, progress, args.corpus, args.fetch)
    card = report.build(domain, samples, args.seed)
    for path, name in zip(paths, systems.target_names(paths)):
      distances[path] = {
        row["name"]: {key: row["systems"][name][key] for key in ("distance", "noise_floor")}
        for row in card["metrics"]
      }
  return distances
